// Benchmarks of work on a device: timed by events on a GPU, reported in GB/s and TFLOP/s.
//
//   void BM_Thing(benchmark::State& state) {
//     Device device = BenchmarkDevice();
//     ...
//     TimeOnDevice(state, device, [&](int64_t i) { Thing(arena, buffers[i % buffers.size()]); });
//     SetThroughput(state, bytes, operations);
//   }
//   BENCHMARK(BM_Thing)->UseManualTime();
//
// Call i should use buffers of its own where all of them would fit in a cache; Rotations() says how many.
#ifndef HM11_TESTING_DEVICE_BENCHMARK_H_
#define HM11_TESTING_DEVICE_BENCHMARK_H_

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>

#include "core/arena.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "testing/device_timer.h"

namespace hm11 {

// HM11_DEVICE, or else the first GPU where there is one and the CPU where not. Opened once.
Device BenchmarkDevice();

// Calls run with a number of the type that is benchmarked there: Bf16() on a GPU, float() on the CPU.
template <typename F>
void OnDevice(F&& run) {
  if (BenchmarkDevice().is_cuda()) {
    run(Bf16());
  } else {
    run(float());
  }
}

// Times run(i) for i = 0, 1, ...: on a GPU ten calls between two events, so that launching hides behind
// running. Two calls before the first timed one warm up.
template <typename F>
void TimeOnDevice(benchmark::State& state, const Device& device, F&& run) {
  const int64_t calls = device.is_cuda() ? 10 : 1;
  int64_t i = 0;
  for (; i < 2; ++i) run(i);
  device.Synchronize();
  DeviceTimer timer(device);
  for (auto _ : state) {
    timer.Start();
    for (int64_t call = 0; call < calls; ++call) run(i++);
    state.SetIterationTime(timer.StopSeconds() / static_cast<double>(calls));
  }
}

// How many sets of buffers of `bytes` each it takes to defeat a 64 MB cache.
inline int64_t Rotations(int64_t bytes) {
  return std::clamp<int64_t>((int64_t{256} << 20) / std::max<int64_t>(bytes, 1), 1, 16);
}

// Counters GB/s and TFLOP/s from what one call moves and computes; 0 leaves a counter out.
void SetThroughput(benchmark::State& state, double bytes, double operations = 0);

// Fills a tensor on the device with random normal numbers (a block of them, repeated: this is for speed, not
// for statistics).
template <typename T>
void FillRandom(const Device& device, Tensor<T> tensor, double deviation = 1);
template <typename T>
Tensor<T> NewRandom(Arena& arena, const Shape& shape, double deviation = 1) {
  const Tensor<T> tensor = arena.New<T>(shape);
  FillRandom(arena.device(), tensor, deviation);
  return tensor;
}

}  // namespace hm11

#endif  // HM11_TESTING_DEVICE_BENCHMARK_H_
