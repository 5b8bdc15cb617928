// Benchmarks of ops that have matrix products in them: timed with the products tuned, as training runs them.
#ifndef HM11_OPS_TUNED_BENCHMARK_H_
#define HM11_OPS_TUNED_BENCHMARK_H_

#include <benchmark/benchmark.h>

#include <utility>

#include "ops/matmul.h"
#include "testing/device_benchmark.h"

namespace hm11 {

// As TimeOnDevice(); the products' kernels are chosen in the calls that warm up.
template <typename F>
void TimeTunedOnDevice(benchmark::State& state, const Device& device, F&& run) {
  TuneMatmuls(device, true);
  TimeOnDevice(state, device, std::forward<F>(run));
  TuneMatmuls(device, false);
}

}  // namespace hm11

#endif  // HM11_OPS_TUNED_BENCHMARK_H_
