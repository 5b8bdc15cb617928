// The projection of attention with its heads, beside the two ops one after the other.
//
// On a GPU Bf16 with tuning, 32 x 2048 positions; on a CPU float, 512. 8 and 4 heads of 64 from 512 channels,
// RoPE on 16. The arguments say whether a value embedding and a first layer's values are mixed in.
#include <benchmark/benchmark.h>

#include "ops/attention_heads.h"
#include "ops/heads_product.h"
#include "ops/matmul.h"
#include "ops/tuned_benchmark.h"
#include "testing/device_benchmark.h"

namespace hm11 {
namespace {

constexpr int64_t kIn = 512, kHeads = 8, kKvHeads = 4, kHeadDim = 64, kWidth = (kHeads + 2 * kKvHeads) * 64;

template <typename T>
void Time(benchmark::State& state, const Device& device, int64_t batch, int64_t time, bool apart) {
  const int64_t rows = batch * time;
  Arena arena(device, rows * 4 * kWidth * static_cast<int64_t>(sizeof(T)) + (int64_t{16} << 20));
  const Shape key = {batch, time, kKvHeads, kHeadDim};
  MatmulThenAttentionHeadsArgs<T> args = {.x = NewRandom<T>(arena, {rows, kIn}),
                                          .weight = NewRandom<T>(arena, {kWidth, kIn}, 0.05),
                                          .qkv = arena.New<T>({rows, kWidth}),
                                          .heads = {.batch = batch,
                                                    .time = time,
                                                    .rope_dims = 16,
                                                    .q_gain = NewRandom<Accum<T>>(arena, {kHeads}),
                                                    .q = arena.New<T>({batch, time, kHeads, kHeadDim}),
                                                    .k = arena.New<T>(key),
                                                    .v = arena.New<T>(key)}};
  if (state.range(0) != 0) {
    args.heads.value_embedding = NewRandom<T>(arena, {rows, kKvHeads * kHeadDim});
    args.heads.ve_layer_scale = args.heads.ve_scale = NewRandom<Accum<T>>(arena, {1});
  }
  AttentionHeadsArgs<T> heads = args.heads;
  heads.qkv = args.qkv;
  TimeTunedOnDevice(state, device, [&](int64_t) {
    if (apart) {
      MatmulForward<T>(arena, {.x = args.x, .weight = args.weight, .y = args.qkv});
      AttentionHeadsForward<T>(arena, heads);
    } else {
      MatmulThenAttentionHeads<T>(arena, args);
    }
  });
  SetThroughput(state, 0, 2.0 * static_cast<double>(rows * kWidth * kIn));
}

void BM_Heads(benchmark::State& state, bool apart) {
  const Device device = BenchmarkDevice();
  if (device.is_cuda()) return Time<Bf16>(state, device, 32, 2048, apart);
  Time<float>(state, device, 1, 512, apart);
}

void Extras(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"embedding"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  benchmark->Arg(0)->Arg(1);
}
BENCHMARK_CAPTURE(BM_Heads, product, false)->Apply(Extras);
BENCHMARK_CAPTURE(BM_Heads, apart, true)->Apply(Extras);

}  // namespace
}  // namespace hm11
