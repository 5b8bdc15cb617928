// Axpy on the CPU: shows that benchmark_binary links.
#include <benchmark/benchmark.h>

#include <vector>

#include "bazel/selftest/axpy.h"

namespace hm11 {
namespace {

void BM_Axpy(benchmark::State& state) {
  const std::vector<float> x(state.range(0), 1.0f);
  std::vector<float> y(x.size());
  for (auto _ : state) {
    Axpy(/*on_gpu=*/false, 1.0f, x, &y);
    benchmark::DoNotOptimize(y.data());
  }
  state.SetBytesProcessed(state.iterations() * x.size() * 3 * sizeof(float));
}
BENCHMARK(BM_Axpy)->Arg(4096);

}  // namespace
}  // namespace hm11
