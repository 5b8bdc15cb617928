// Backward of attention with its heads, beside the ops apart.
//
// On a GPU Bf16, 32 x 2048 positions; on a CPU float, 512. 8 and 4 heads of 64, RoPE on 16. The arguments say whether
// a value embedding and a first layer's values were mixed in.
#include <benchmark/benchmark.h>

#include "ops/attention.h"
#include "ops/attention_heads.h"
#include "ops/attention_of_heads.h"
#include "testing/device_benchmark.h"

namespace hm11 {
namespace {

constexpr int64_t kHeads = 8, kKvHeads = 4, kHeadDim = 64, kWidth = (kHeads + 2 * kKvHeads) * kHeadDim;

template <typename T>
AttentionOfHeadsGradArgs<T> NewArgs(Arena& arena, int64_t batch, int64_t time, bool embedding, bool first_v) {
  const Shape query = {batch, time, kHeads, kHeadDim}, key = {batch, time, kKvHeads, kHeadDim};
  const int64_t rows = batch * time;
  AttentionOfHeadsGradArgs<T> args;
  AttentionHeadsArgs<T>& forward = args.heads.forward;
  forward.batch = batch;
  forward.time = time;
  forward.rope_dims = 16;
  forward.qkv = NewRandom<T>(arena, {rows, kWidth});
  forward.q_gain = NewRandom<Accum<T>>(arena, {kHeads});
  forward.q = arena.New<T>(query);
  forward.k = arena.New<T>(key);
  forward.v = arena.New<T>(key);
  args.heads.dqkv = arena.New<T>({rows, kWidth});
  args.heads.dq_gain = NewRandom<Accum<T>>(arena, {kHeads});
  if (embedding) {
    forward.value_embedding = NewRandom<T>(arena, {rows, kKvHeads * kHeadDim});
    forward.ve_layer_scale = forward.ve_scale = NewRandom<Accum<T>>(arena, {1});
    args.heads.dvalue_embedding = arena.New<T>({rows, kKvHeads * kHeadDim});
    args.heads.dve_layer_scale = args.heads.dve_scale = NewRandom<Accum<T>>(arena, {1});
  }
  if (first_v) {
    forward.first_v = NewRandom<T>(arena, key);
    forward.residual = NewRandom<Accum<T>>(arena, {2});
    args.heads.dfirst_v = NewRandom<T>(arena, key);
    args.heads.dresidual = NewRandom<Accum<T>>(arena, {2});
  }
  AttentionHeadsForward<T>(arena, forward);
  args.attention = {.q = forward.q,
                    .k = forward.k,
                    .v = forward.v,
                    .y = arena.New<T>(query),
                    .log_sum_exp = arena.New<Accum<T>>({batch, kHeads, time})};
  AttentionForward<T>(arena, args.attention);
  args.dy = NewRandom<T>(arena, query);
  return args;
}

template <typename T>
void Time(benchmark::State& state, const Device& device, int64_t batch, int64_t time, bool apart) {
  const int64_t rows = batch * time;
  Arena arena(device, rows * 9 * kWidth * static_cast<int64_t>(sizeof(T)) + (int64_t{64} << 20));
  const AttentionOfHeadsGradArgs<T> args =
      NewArgs<T>(arena, batch, time, state.range(0) != 0, state.range(1) != 0);
  AttentionHeadsGradArgs<T> heads = args.heads;
  const Tensor<T> dq = arena.New<T>(args.dy.shape()), dk = arena.New<T>(args.attention.k.shape()),
                  dv = arena.New<T>(args.attention.k.shape());
  heads.dq = dq;
  heads.dk = dk;
  heads.dv = dv;
  TimeOnDevice(state, device, [&](int64_t) {
    if (apart) {
      AttentionBackward<T>(arena, {.forward = args.attention, .dy = args.dy, .dq = dq, .dk = dk, .dv = dv});
      AttentionHeadsBackward<T>(arena, heads);
    } else {
      AttentionOfHeadsBackward<T>(arena, args);
    }
  });
  SetThroughput(state, 0, 5.0 * static_cast<double>(args.dy.size() * time));
}

void BM_Backward(benchmark::State& state, bool apart) {
  const Device device = BenchmarkDevice();
  if (device.is_cuda()) return Time<Bf16>(state, device, 32, 2048, apart);
  Time<float>(state, device, 1, 512, apart);
}

void Extras(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"embedding", "first_v"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  benchmark->Args({0, 0})->Args({1, 0})->Args({0, 1});
}
BENCHMARK_CAPTURE(BM_Backward, in_one, false)->Apply(Extras);
BENCHMARK_CAPTURE(BM_Backward, apart, true)->Apply(Extras);

}  // namespace
}  // namespace hm11
