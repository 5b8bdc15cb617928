// Attention forward and backward in TFLOP/s, counting the unmasked half of the products: 2 of them forward, 5
// backward.
#include <benchmark/benchmark.h>

#include "ops/attention.h"
#include "ops/attention_cuda.h"
#include "testing/device_benchmark.h"

namespace hm11 {
namespace {

// Arguments: batch, time, and on a GPU the kernel (0 is the one that training gets).
template <typename T>
void Run(benchmark::State& state, const Device& device, bool backward) {
  constexpr int64_t kHeads = 8, kKvHeads = 4, kHeadDim = 64;
  const int64_t batch = state.range(0), time = state.range(1);
  const Shape query = {batch, time, kHeads, kHeadDim}, key = {batch, time, kKvHeads, kHeadDim};
  const int64_t bytes = (4 * query.size() + 4 * key.size()) * static_cast<int64_t>(sizeof(T));
  Arena arena = device.is_cuda() ? Arena(device, 2 * bytes + (int64_t{64} << 20)) : Arena::Cpu();
  const Tensor<T> q = arena.New<T>(query), k = arena.New<T>(key), v = arena.New<T>(key),
                  dy = arena.New<T>(query);
  for (const Tensor<T>& tensor : {q, k, v, dy}) FillRandom(device, tensor);
  const AttentionArgs<T> forward = {.q = q,
                                    .k = k,
                                    .v = v,
                                    .y = arena.New<T>(query),
                                    .log_sum_exp = arena.New<Accum<T>>({batch, kHeads, time})};
  const AttentionGradArgs<T> args = {.forward = forward,
                                     .dy = dy,
                                     .dq = arena.New<T>(query),
                                     .dk = arena.New<T>(key),
                                     .dv = arena.New<T>(key)};
  AttentionForward(arena, forward);
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) {
      const auto kernel = static_cast<cuda::AttentionKernel>(state.range(2));
      if (!cuda::Supports<T>(device, kernel, kHeadDim)) return state.SkipWithError("not on this GPU");
      const Tensor<float> delta = cuda::NewDelta(arena, forward);
      TimeOnDevice(state, device, [&](int64_t) {
        if (backward) {
          cuda::AttentionBackward(device, args, delta, kernel);
        } else {
          cuda::AttentionForward(device, forward, kernel);
        }
      });
    }
  }
  if (device.is_cpu()) {
    TimeOnDevice(state, device, [&](int64_t) {
      if (backward) {
        AttentionBackward(arena, args);
      } else {
        AttentionForward(arena, forward);
      }
    });
  }
  const double product = static_cast<double>(batch * kHeads * kHeadDim) * static_cast<double>(time * time);
  SetThroughput(state, static_cast<double>(bytes) / 2, (backward ? 5 : 2) * product);
}

void RunAttention(benchmark::State& state, bool backward) {
  OnDevice([&]<typename T>(T) { Run<T>(state, BenchmarkDevice(), backward); });
}
void BM_AttentionForward(benchmark::State& state) { RunAttention(state, false); }
void BM_AttentionBackward(benchmark::State& state) { RunAttention(state, true); }

void Shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"batch", "time", "kernel"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  if (BenchmarkDevice().is_cpu()) {
    benchmark->Args({1, 512, 0})->Args({1, 2048, 0});
    return;
  }
  benchmark->Args({48, 2048, 0})->Args({8, 2048, 0})->Args({1, 2048, 0})->Args({2, 32768, 0});
  for (const cuda::NamedAttentionKernel& kernel : cuda::kAttentionKernels) {
    benchmark->Args({48, 2048, static_cast<int64_t>(kernel.kernel)});
  }
}
BENCHMARK(BM_AttentionForward)->Apply(Shapes);
BENCHMARK(BM_AttentionBackward)->Apply(Shapes);

}  // namespace
}  // namespace hm11
