// The ceiling of everything bound by memory: a copy on the device, counted as bytes read plus bytes written.
#include <benchmark/benchmark.h>

#include "core/arena.h"
#include "core/device.h"
#include "testing/device_benchmark.h"

namespace hm11 {
namespace {

void BM_Copy(benchmark::State& state) {
  const Device device = BenchmarkDevice();
  const int64_t bytes = state.range(0) << 20;
  const int64_t rotations = Rotations(2 * bytes);
  Arena arena(device, 2 * bytes * rotations);
  const Tensor<char> from = arena.NewZero<char>({rotations, bytes});
  const Tensor<char> to = arena.NewZero<char>({rotations, bytes});
  TimeOnDevice(state, device, [&](int64_t i) {
    device.CopyOnDevice(to.data() + i % rotations * bytes, from.data() + i % rotations * bytes, bytes);
  });
  SetThroughput(state, 2.0 * static_cast<double>(bytes));
}
BENCHMARK(BM_Copy)->ArgName("MiB")->Arg(1)->Arg(32)->Arg(128)->Arg(1024)->UseManualTime();

}  // namespace
}  // namespace hm11
