// Heads and exclusive attention in GB/s: 98,304 positions of 8/4 heads of 64 in bf16 on a GPU, 512 in float
// on a CPU. The argument says whether a value embedding and a first layer's values are mixed in.
#include <benchmark/benchmark.h>

#include "ops/attention_heads.h"
#include "ops/exclusive_attention.h"
#include "testing/device_benchmark.h"

namespace hm11 {
namespace {

constexpr int64_t kHeads = 8, kKvHeads = 4, kHeadDim = 64;

template <typename T>
void RunHeads(benchmark::State& state, const Device& device, int64_t batch, int64_t time, bool backward) {
  const bool extras = state.range(0) != 0;
  const int64_t rows = batch * time, width = (kHeads + 2 * kKvHeads) * kHeadDim, values = kKvHeads * kHeadDim;
  const Shape query = {batch, time, kHeads, kHeadDim}, key = {batch, time, kKvHeads, kHeadDim};
  Arena arena(device, 8 * rows * width * static_cast<int64_t>(sizeof(T)) + (int64_t{16} << 20));
  const auto random = [&](Shape shape) { return NewRandom<T>(arena, shape); };
  const auto one = [&](int64_t count) { return arena.NewZero<Accum<T>>({count}); };
  AttentionHeadsArgs<T> forward = {.batch = batch,
                                   .time = time,
                                   .rope_dims = 16,
                                   .qkv = random({rows, width}),
                                   .q_gain = one(kHeads),
                                   .q = arena.New<T>(query),
                                   .k = arena.New<T>(key),
                                   .v = arena.New<T>(key)};
  AttentionHeadsGradArgs<T> args = {.forward = forward,
                                    .dq = random(query),
                                    .dk = random(key),
                                    .dv = random(key),
                                    .dqkv = arena.New<T>({rows, width}),
                                    .dq_gain = one(kHeads)};
  int64_t moved = (backward ? 3 : 2) * rows * width;  // numbers; backward does not read v
  if (backward) moved -= rows * values;
  if (extras) {
    forward.value_embedding = random({rows, values});
    forward.ve_layer_scale = forward.ve_scale = one(1);
    forward.first_v = random(key);
    forward.residual = one(2);
    args.forward = forward;
    args.dvalue_embedding = arena.New<T>({rows, values});
    args.dve_layer_scale = args.dve_scale = one(1);
    args.dfirst_v = random(key);
    args.dresidual = one(2);
    moved += (backward ? 6 : 2) * rows * values;
  }
  TimeOnDevice(state, device, [&](int64_t) {
    if (backward) {
      AttentionHeadsBackward(arena, args);
    } else {
      AttentionHeadsForward(arena, forward);
    }
  });
  SetThroughput(state, static_cast<double>(moved) * sizeof(T));
}

template <typename T>
void RunExclusive(benchmark::State& state, const Device& device, int64_t batch, int64_t time, bool backward) {
  const Shape query = {batch, time, kHeads, kHeadDim}, key = {batch, time, kKvHeads, kHeadDim};
  Arena arena(device, 5 * query.size() * static_cast<int64_t>(sizeof(T)) + (int64_t{1} << 20));
  const Tensor<T> x = arena.New<T>(query), dy = arena.New<T>(query), y = arena.New<T>(query);
  const Tensor<T> v = arena.New<T>(key), dv = arena.New<T>(key);
  for (const Tensor<T>& tensor : {x, dy, v}) FillRandom(device, tensor);
  TimeOnDevice(state, device, [&](int64_t) {
    if (backward) {
      ExclusiveAttentionBackward<T>(arena, {.x = x, .v = v, .dy = dy, .dx = y, .dv = dv});
    } else {
      ExclusiveAttentionForward<T>(arena, {.x = x, .v = v, .y = y});
    }
  });
  const int64_t moved = backward ? 3 * query.size() + 2 * key.size() : 2 * query.size() + key.size();
  SetThroughput(state, static_cast<double>(moved) * sizeof(T));
}

void BM_AttentionHeads(benchmark::State& state, bool backward) {
  const Device device = BenchmarkDevice();
  if (device.is_cuda()) return RunHeads<Bf16>(state, device, 48, 2048, backward);
  RunHeads<float>(state, device, 1, 512, backward);
}
void BM_ExclusiveAttention(benchmark::State& state, bool backward) {
  const Device device = BenchmarkDevice();
  if (device.is_cuda()) return RunExclusive<Bf16>(state, device, 48, 2048, backward);
  RunExclusive<float>(state, device, 1, 512, backward);
}

BENCHMARK_CAPTURE(BM_AttentionHeads, forward, false)->ArgName("extras")->Arg(0)->Arg(1)->UseManualTime();
BENCHMARK_CAPTURE(BM_AttentionHeads, backward, true)->ArgName("extras")->Arg(0)->Arg(1)->UseManualTime();
BENCHMARK_CAPTURE(BM_ExclusiveAttention, forward, false)->UseManualTime();
BENCHMARK_CAPTURE(BM_ExclusiveAttention, backward, true)->UseManualTime();

}  // namespace
}  // namespace hm11
