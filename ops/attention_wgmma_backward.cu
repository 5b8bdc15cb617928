// Attention backward for compute capability 9.0: the gradient of q, then those of k and v. The first makes delta =
// dy . y besides, of the rows it has anyway, for both.
//
// Gradients is SeparateGradients or PackedGradients: where they go.
#include "core/check.h"
#include "core/special_functions.cuh"
#include "ops/attention_wgmma.cuh"
#include "ops/attention_wgmma_gradients.cuh"

namespace hm11::cuda {
namespace wgmma {
namespace {

// ---- The gradient of q.

using QueryWork = Work<kBackwardGroups, false>;
template <typename Gradients>
using QueryShared = Shared<kBackwardGroups, 2, 0, Gradients::kSources>;

// One item's key tiles. The product of ds with the keys runs on while the next tile's scores are computed.
template <typename SharedMemory>
__device__ __forceinline__ void QueryGradientItem(const SharedMemory& shared, uint32_t q_tile,
                                                  uint32_t dy_tile, int steps, float scale_log2,
                                                  const float (&shift)[2], const float (&delta)[2],
                                                  Cursor& stage, Product64& result) {
  Rows64 ds_rows = {};
  Cursor before;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    Product64 scores, ds;
    WaitBarrier(shared.StageFull(stage.index), stage.parity);
    FenceProducts();
    MultiplyTiles<false>(q_tile, shared.Stage(stage.index, 0), scores);
    CommitProducts();
    MultiplyTiles<false>(dy_tile, shared.Stage(stage.index, 1), ds);
    CommitProducts();
    WaitForProducts<2>(result);
    KeepUntilHere(ds_rows);
    if (step > 0) ArriveWarp(shared.StageEmpty(before.index));
    WaitForProducts<1>(scores);
    if (step == steps - 1) MaskDiagonal(scores);
    ForEach([&](int n, int i, int, int) { scores[n][i] = Exp2(scores[n][i] * scale_log2 - shift[i / 2]); });
    WaitForProducts<0>(ds);
    ForEach([&](int n, int i, int, int) { ds[n][i] = scores[n][i] * (ds[n][i] - delta[i / 2]); });
    Pack(ds, ds_rows);
    FenceProducts();
    AddRowsTimesTile(ds_rows, shared.Stage(stage.index, 0), result);
    CommitProducts();
    before = stage;
    stage.Advance(kStages);
  }
  WaitForProducts<0>(result);
  KeepUntilHere(ds_rows);
  ArriveWarp(shared.StageEmpty(before.index));
}

// delta of the lane's two rows, the same in the four lanes of a row, from the stages that bring y.
template <typename SharedMemory>
__device__ __forceinline__ void MakeDelta(const SharedMemory& shared, int group, uint32_t dy_tile,
                                          Cursor& stage, float (&delta)[2]) {
  SkipStages(shared, group / 2, stage);
  WaitBarrier(shared.StageFull(stage.index), stage.parity);
  const uint32_t y_tile = shared.Stage(stage.index, group % 2);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float dot = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const int byte = threadIdx.x % 4 * 4;
      const uint32_t y = *reinterpret_cast<const uint32_t*>(ChunkOf(y_tile, LaneRow(half), n) + byte);
      const uint32_t dy = *reinterpret_cast<const uint32_t*>(ChunkOf(dy_tile, LaneRow(half), n) + byte);
      dot = fmaf(LowOf(dy), LowOf(y), fmaf(HighOf(dy), HighOf(y), dot));
    }
    delta[half] = RowSum(dot);
  }
  ArriveWarp(shared.StageEmpty(stage.index));
  stage.Advance(kStages);
  SkipStages(shared, kItemStages<kBackwardGroups> - 1 - group / 2, stage);
}

template <typename Gradients>
__device__ inline void ConsumeQueryGradient(const QueryWork& work, const QueryShared<Gradients>& shared,
                                            const float* log_sum_exp, float* delta,
                                            const Gradients& gradients) {
  const Sizes& sizes = work.sizes;
  const int group = Uniform(threadIdx.x / 128);
  Cursor fixed, stage;
  for (;; fixed.Advance(2)) {
    const int index = AwaitTask(shared, fixed);
    if (index < 0) return;
    const Task task = work.At(index);
    const int item = task.first_item + group, last = work.LastItem(task);
    const int steps = item <= last ? work.Tile(item) + 1 : 0;
    if (steps > 0) {
      const int h = work.Head(task, item), first = work.Tile(item) * kTileRows;
      const uint32_t q_tile = shared.Fixed(fixed.index, group, 0),
                     dy_tile = shared.Fixed(fixed.index, group, 1);
      float shift[2], row_delta[2];
      const int64_t numbers = (int64_t{task.b} * sizes.heads + h) * sizes.time;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first + LaneRow(half);
        shift[half] = row < sizes.time ? log_sum_exp[numbers + row] * kLog2E : 0.0f;
      }
      MakeDelta(shared, group, dy_tile, stage, row_delta);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first + LaneRow(half);
        if (threadIdx.x % 4 == 0 && row < sizes.time) delta[numbers + row] = row_delta[half];
      }
      Product64 result;
      SetZero(result);
      QueryGradientItem(shared, q_tile, dy_tile, steps, sizes.scale * kLog2E, shift, row_delta, stage,
                        result);
      SyncThreads(1 + group, 128);  // All of the warpgroup is done with q and dy.
      gradients.StoreQueries(sizes, {task.b, h, PerLane(first)}, q_tile, shared.Source(fixed.index, group),
                             result);
      FenceForUnits();
    } else {
      SkipStages(shared, kItemStages<kBackwardGroups>, stage);
    }
    SkipStages(shared, work.Tile(last) + 1 - steps, stage);
    ArriveWarp(shared.FixedEmpty(fixed.index));
  }
}

// What the kernels read.
struct Operands {
  TileMap q, k, v, y, dy;
  const float* log_sum_exp;
  float* delta;  // by the first kernel for the second
};

template <typename Gradients>
__global__ void __launch_bounds__(Threads(kBackwardGroups), 1)
    WgmmaQueryGradientKernel(const __grid_constant__ Operands x, const __grid_constant__ Gradients gradients,
                             unsigned* counter, const Sizes sizes) {
  if constexpr (kIsHopper) {
    const QueryWork work = {sizes};
    const QueryShared<Gradients> shared;
    shared.Init(1);
    if (threadIdx.x / 128 == kBackwardGroups) {
      ShrinkRegisters<kBackwardProducerRegisters>();
      if (threadIdx.x % 128 == 0) {
        ProduceKeys<kBackwardGroups, 2, Gradients::kSources, true>(work, shared, {&x.q, &x.dy}, x.k, x.v,
                                                                   counter, gradients.source_map(), &x.y);
      }
    } else {
      GrowRegisters<kBackwardRegisters>();
      ConsumeQueryGradient(work, shared, x.log_sum_exp, x.delta, gradients);
    }
  }
}

// ---- The gradients of k and v: keys and values stay, queries and dy stream, of one head after the other.
// Scores are transposed: rows keys, columns queries; so log_sum_exp and delta are numbers a column, which
// stream too. Queries from `time` on have q = dy = 0 and numbers 0: p = 1, but no effect.

using KeyWork = Work<kBackwardGroups, true>;
template <typename Gradients>
using KeyShared = Shared<kBackwardGroups, 2, 2 * kTileRows, Gradients::kSources>;

// By all lanes of the producer's warp.
template <typename Gradients>
__device__ inline void ProduceQueries(const KeyWork& work, const KeyShared<Gradients>& shared,
                                      const Operands& x, const Gradients& gradients, unsigned* counter) {
  const Sizes& sizes = work.sizes;
  const int lane = threadIdx.x % 32;
  Cursor fixed, stage;
  for (;; fixed.Advance(2)) {
    const int index = __shfl_sync(0xffffffffu, lane == 0 ? TakeTask(counter, work.tasks()) : 0, 0);
    WaitBarrier(shared.FixedEmpty(fixed.index), fixed.parity ^ 1);
    const bool is_over = index >= work.tasks();
    const uint32_t fixed_full = shared.FixedFull(fixed.index);
    if (lane == 0) {
      shared.TaskIndex(fixed.index) = is_over ? -1 : index;
      if (is_over) Arrive(fixed_full);
    }
    if (is_over) return;
    const Task task = work.At(index);
    if (lane == 0) {
      const int last = work.LastItem(task);
      ArriveAndExpect(fixed_full, (last - task.first_item + 1) * (2 + Gradients::kSources) * kTileBytes);
#pragma unroll 1
      for (int item = task.first_item; item <= last; ++item) {
        const int group = item - task.first_item;
        const int row = item * kTileRows;
        CopyTile(shared.Fixed(fixed.index, group, 0), x.k, fixed_full, row, task.kv_head, task.b);
        CopyTile(shared.Fixed(fixed.index, group, 1), x.v, fixed_full, row, task.kv_head, task.b);
        if constexpr (Gradients::kSources > 0) {
          CopyTile(shared.Source(fixed.index, group), *gradients.source_map(), fixed_full, row,
                   sizes.heads + task.kv_head, task.b);
        }
      }
    }
    for (int h = task.kv_head * sizes.group(); h < (task.kv_head + 1) * sizes.group(); ++h) {
      const int64_t numbers = (int64_t{task.b} * sizes.heads + h) * sizes.time;
#pragma unroll 1
      for (int tile = task.first_item; tile < sizes.tiles(); ++tile) {
        float values[4];  // Asked for before the wait.
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = tile * kTileRows + i % 2 * 32 + lane;
          values[i] = row >= sizes.time ? 0.0f
                      : i < 2           ? x.log_sum_exp[numbers + row] * kLog2E
                                        : x.delta[numbers + row];
        }
        WaitBarrier(shared.StageEmpty(stage.index), stage.parity ^ 1);
        const uint32_t full = shared.StageFull(stage.index);
#pragma unroll
        for (int i = 0; i < 4; ++i) shared.StageNumbers(stage.index)[i * 32 + lane] = values[i];
        if (lane == 0) {
          ArriveAndExpect(full, 2 * kTileBytes);
          CopyTile(shared.Stage(stage.index, 0), x.q, full, tile * kTileRows, h, task.b);
          CopyTile(shared.Stage(stage.index, 1), x.dy, full, tile * kTileRows, h, task.b);
        } else {
          Arrive(full);
        }
        stage.Advance(kStages);
      }
    }
  }
}

// One tile of queries against one of keys.
template <typename SharedMemory>
__device__ __forceinline__ void KeyGradientStep(const SharedMemory& shared, uint32_t k_tile, uint32_t v_tile,
                                                bool diagonal, float scale_log2, const Cursor& stage,
                                                Product64& dk, Product64& dv) {
  Product64 p, ds;
  Rows64 p_rows, ds_rows;
  const uint32_t q_tile = shared.Stage(stage.index, 0), dy_tile = shared.Stage(stage.index, 1);
  const float* numbers = shared.StageNumbers(stage.index) + threadIdx.x % 4 * 2;
  WaitBarrier(shared.StageFull(stage.index), stage.parity);
  FenceProducts();
  MultiplyTiles<false>(k_tile, q_tile, p);
  CommitProducts();
  MultiplyTiles<false>(v_tile, dy_tile, ds);
  CommitProducts();
  WaitForProducts<1>(p);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 shift = *reinterpret_cast<const float2*>(numbers + 8 * n);
#pragma unroll
    for (int i = 0; i < 4; ++i) p[n][i] = Exp2(p[n][i] * scale_log2 - (i % 2 ? shift.y : shift.x));
  }
  if (diagonal) {
    ForEach([&](int n, int i, int row, int column) {
      if (row > column) p[n][i] = 0;
    });
  }
  Pack(p, p_rows);
  FenceProducts();
  AddRowsTimesTile(p_rows, dy_tile, dv);
  CommitProducts();
  WaitForProducts<1>(ds);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 delta = *reinterpret_cast<const float2*>(numbers + kTileRows + 8 * n);
#pragma unroll
    for (int i = 0; i < 4; ++i) ds[n][i] = p[n][i] * (ds[n][i] - (i % 2 ? delta.y : delta.x));
  }
  Pack(ds, ds_rows);
  FenceProducts();
  AddRowsTimesTile(ds_rows, q_tile, dk);
  CommitProducts();
  WaitForProducts<0>(dk);
  WaitForProducts<0>(dv);
  KeepUntilHere(p_rows);
  KeepUntilHere(ds_rows);
}

template <typename Gradients>
__device__ inline void ConsumeKeyGradient(const KeyWork& work, const KeyShared<Gradients>& shared,
                                          const Gradients& gradients) {
  const Sizes& sizes = work.sizes;
  const int group = Uniform(threadIdx.x / 128);
  Cursor fixed, stage;
  for (;; fixed.Advance(2)) {
    const int index = AwaitTask(shared, fixed);
    if (index < 0) return;
    const Task task = work.At(index);
    const int item = task.first_item + group;
    const uint32_t k_tile = shared.Fixed(fixed.index, group, 0), v_tile = shared.Fixed(fixed.index, group, 1);
    Product64 dk_sum, dv_sum;
    SetZero(dk_sum);
    SetZero(dv_sum);
    for (int h = 0; h < sizes.group(); ++h) {
      SkipStages(shared, min(group, sizes.tiles() - task.first_item), stage);  // Queries before these keys.
#pragma unroll 1
      for (int tile = item; tile < sizes.tiles(); ++tile) {
        KeyGradientStep(shared, k_tile, v_tile, tile == item, sizes.scale * kLog2E, stage, dk_sum, dv_sum);
        ArriveWarp(shared.StageEmpty(stage.index));
        stage.Advance(kStages);
      }
    }
    if (item <= work.LastItem(task)) {
      SyncThreads(1 + group, 128);  // All of the warpgroup is done with the keys and values.
      gradients.StoreKeys(sizes, {task.b, task.kv_head, item * kTileRows}, k_tile, v_tile,
                          shared.Source(fixed.index, group), dk_sum, dv_sum);
      FenceForUnits();
    }
    ArriveWarp(shared.FixedEmpty(fixed.index));
  }
}

template <typename Gradients>
__global__ void __launch_bounds__(Threads(kBackwardGroups), 1)
    WgmmaKeyGradientKernel(const __grid_constant__ Operands x, const __grid_constant__ Gradients gradients,
                           unsigned* counter, const Sizes sizes) {
  if constexpr (kIsHopper) {
    const KeyWork work = {sizes};
    const KeyShared<Gradients> shared;
    shared.Init(32);
    if (threadIdx.x / 128 == kBackwardGroups) {
      ShrinkRegisters<kBackwardProducerRegisters>();
      if (threadIdx.x % 128 < 32) {
        ProduceQueries(work, shared, x, gradients, counter);
      }
    } else {
      GrowRegisters<kBackwardRegisters>();
      ConsumeKeyGradient(work, shared, gradients);
    }
  }
}

template <typename Gradients>
void Run(const Device& device, const AttentionGradArgs<Bf16>& args, Tensor<float> delta,
         const Gradients& gradients) {
  const AttentionArgs<Bf16>& x = args.forward;
  const Sizes sizes = SizesOf(x);
  const Operands operands = {.q = MapOf(x.q),
                             .k = MapOf(x.k),
                             .v = MapOf(x.v),
                             .y = MapOf(x.y),
                             .dy = MapOf(args.dy),
                             .log_sum_exp = x.log_sum_exp.data(),
                             .delta = delta.data()};
  Launch(device, ShapeFor(device, kBackwardGroups, QueryWork{sizes}.tasks(), QueryShared<Gradients>::kBytes),
         WgmmaQueryGradientKernel<Gradients>, operands, gradients, device.counters(), sizes);
  Launch(device, ShapeFor(device, kBackwardGroups, KeyWork{sizes}.tasks(), KeyShared<Gradients>::kBytes),
         WgmmaKeyGradientKernel<Gradients>, operands, gradients, device.counters(), sizes);
}

MixedValues MixedValuesOf(const PackedHeadsGrad& packed) {
  const AttentionHeadsGradArgs<Bf16>& heads = packed.heads;
  return {.qkv = heads.forward.qkv.data(),
          .value_embedding = heads.forward.value_embedding.data(),
          .ve_layer_scale = heads.forward.ve_layer_scale.data(),
          .ve_scale = heads.forward.ve_scale.data(),
          .first_v = heads.forward.first_v.data(),
          .residual = heads.forward.residual.data(),
          .dvalue_embedding = heads.dvalue_embedding.data(),
          .dfirst_v = heads.dfirst_v.data(),
          .sums = packed.value_sums.data()};
}

template <int kPairs>
void RunPacked(const Device& device, const AttentionGradArgs<Bf16>& args, const PackedHeadsGrad& packed,
               Tensor<float> delta) {
  const AttentionHeadsArgs<Bf16>& forward = packed.heads.forward;
  const int64_t slots = args.dy.dim(2) + 2 * args.forward.k.dim(2);
  Run(device, args, delta,
      PackedGradients<kPairs>{
          .qkv = MakeTileMap(forward.qkv.data(), forward.batch, forward.time, slots),
          .q_gain = forward.q_gain.data(),
          .cosines = packed.angles.data(),
          .sines = packed.angles.data() + packed.angles.size() / 2,
          .dv_from_outside = {packed.dv_from_outside[0].data(), packed.dv_from_outside[1].data()},
          .mixed = MixedValuesOf(packed),
          .dqkv = packed.heads.dqkv.data(),
          .gain_sums = packed.gain_sums.data()});
}

}  // namespace
}  // namespace wgmma

void WgmmaAttentionBackward(const Device& device, const AttentionGradArgs<Bf16>& args, Tensor<float> delta) {
  wgmma::Run(device, args, delta,
             wgmma::SeparateGradients{.dq = args.dq.data(), .dk = args.dk.data(), .dv = args.dv.data()});
}

void WgmmaPackedAttentionBackward(const Device& device, const AttentionGradArgs<Bf16>& args,
                                  const PackedHeadsGrad& packed, Tensor<float> delta) {
  const int64_t rope_dims = packed.heads.forward.rope_dims;
  HM_CHECK(rope_dims == 16 || rope_dims == 32 || rope_dims == 64);
  if (rope_dims == 16) return wgmma::RunPacked<1>(device, args, packed, delta);
  if (rope_dims == 32) return wgmma::RunPacked<2>(device, args, packed, delta);
  wgmma::RunPacked<4>(device, args, packed, delta);
}

}  // namespace hm11::cuda
