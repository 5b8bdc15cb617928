// Attention forward for compute capability 9.0.
#include "core/special_functions.cuh"
#include "ops/attention_wgmma.cuh"

namespace hm11::cuda {
namespace wgmma {
namespace {

using ForwardWork = Work<kForwardGroups, false>;
using ForwardShared = Shared<kForwardGroups, 1, 0>;

// Probabilities are taken relative to a score of the row that is at most 2^8 from its maximum so far: the
// result has to follow a new maximum only when it is that far above, which is rare after the first tiles.
constexpr float kMostAbove = 8;

struct SoftmaxRows {
  float reference[2] = {-INFINITY, -INFINITY};  // of raw scores
  float sum[2] = {0, 0};                        // of exp(scale (score - reference)), this lane's columns only
  float correction[2] = {1, 1};                 // from the reference before to this one
};

// Replaces raw scores by exp(scale (score - reference)).
__device__ __forceinline__ void Softmax(Product64& scores, float scale_log2, SoftmaxRows& rows) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float maximum = fmaxf(scores[0][2 * half], scores[0][2 * half + 1]);
#pragma unroll
    for (int n = 1; n < 8; ++n) maximum = fmaxf(maximum, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
    maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 1));
    maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 2));
    const float old = rows.reference[half];
    if ((maximum - old) * scale_log2 > kMostAbove)
      rows.reference[half] = maximum;  // Always on the first tile.
    const float shift = rows.reference[half] * scale_log2;
    rows.correction[half] = Exp2(old * scale_log2 - shift);
    float sums[2] = {0, 0};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& score = scores[n][2 * half + i];
        score = Exp2(score * scale_log2 - shift);
        sums[i] += score;
      }
    }
    rows.sum[half] = rows.sum[half] * rows.correction[half] + (sums[0] + sums[1]);
  }
}

__device__ __forceinline__ void FollowReference(const SoftmaxRows& rows, Product64& result) {
  if (!__any_sync(0xffffffffu, rows.correction[0] != 1 || rows.correction[1] != 1)) return;
  ForEach([&](int n, int i, int, int) { result[n][i] *= rows.correction[i / 2]; });
}

// One item's row of key tiles 0 .. steps - 1, the last of which is the diagonal. The next tile's scores are
// asked for together with this tile's product with the values, and turned into probabilities while that runs.
// (The wait for it stands at the loop's head because ptxas would move one in the body up before the
// exponentials.)
__device__ __forceinline__ void ForwardItem(const ForwardShared& shared, uint32_t q_tile, int steps,
                                            float scale_log2, Cursor& stage, Product64& result,
                                            SoftmaxRows& rows) {
  Product64 scores;
  Rows64 p = {};
  WaitBarrier(shared.StageFull(stage.index), stage.parity);
  FenceProducts();
  MultiplyTiles<false>(q_tile, shared.Stage(stage.index, 0), scores);
  CommitProducts();
  WaitForProducts<0>(scores);
  if (steps == 1) MaskDiagonal(scores);
  Softmax(scores, scale_log2, rows);
  Cursor before;
#pragma unroll 1
  for (int step = 1; step < steps; ++step) {
    WaitForProducts<0>(result);
    KeepUntilHere(p);
    if (step > 1) ArriveWarp(shared.StageEmpty(before.index));
    FollowReference(rows, result);
    Pack(scores, p);
    before = stage;
    stage.Advance(kStages);
    WaitBarrier(shared.StageFull(stage.index), stage.parity);
    FenceProducts();
    MultiplyTiles<false>(q_tile, shared.Stage(stage.index, 0), scores);
    CommitProducts();
    AddRowsTimesTile(p, shared.Stage(before.index, 1), result);
    CommitProducts();
    WaitForProducts<1>(scores);
    if (step == steps - 1) MaskDiagonal(scores);
    Softmax(scores, scale_log2, rows);
  }
  WaitForProducts<0>(result);
  KeepUntilHere(p);
  if (steps > 1) ArriveWarp(shared.StageEmpty(before.index));
  FollowReference(rows, result);
  Pack(scores, p);
  FenceProducts();
  AddRowsTimesTile(p, shared.Stage(stage.index, 1), result);
  CommitProducts();
  WaitForProducts<0>(result);
  KeepUntilHere(p);
  ArriveWarp(shared.StageEmpty(stage.index));
  stage.Advance(kStages);
}

__device__ inline void ConsumeForward(const ForwardWork& work, const ForwardShared& shared, Bf16* y,
                                      float* log_sum_exp) {
  const Sizes& sizes = work.sizes;
  const int group = Uniform(threadIdx.x / 128), lane = threadIdx.x % 32;
  Cursor fixed, stage;
  for (;; fixed.Advance(2)) {
    const int index = AwaitTask(shared, fixed);
    if (index < 0) return;
    const Task task = work.At(index);
    const int item = task.first_item + group, last = work.LastItem(task);
    const int steps = item <= last ? work.Tile(item) + 1 : 0;
    if (steps > 0) {
      const uint32_t q_tile = shared.Fixed(fixed.index, group, 0);
      Product64 result;
      SetZero(result);
      SoftmaxRows rows;
      ForwardItem(shared, q_tile, steps, sizes.scale * kLog2E, stage, result, rows);

      const int h = work.Head(task, item), first = work.Tile(item) * kTileRows;
      float factor[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = rows.sum[half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        factor[half] = 1.0f / sum;
        const int row = first + WarpRow() + 8 * half + lane / 4;
        if (lane % 4 == 0 && row < sizes.time) {
          log_sum_exp[(int64_t{task.b} * sizes.heads + h) * sizes.time + row] =
              rows.reference[half] * sizes.scale + __logf(sum);
        }
      }
      SyncThreads(1 + group, 128);  // All of the warpgroup is done with the queries.
      StoreHead(result, factor, q_tile, y, sizes.heads, {task.b, h, first}, sizes.time);
      FenceForUnits();
    }
    SkipStages(shared, work.Tile(last) + 1 - steps, stage);
    ArriveWarp(shared.FixedEmpty(fixed.index));
  }
}

__global__ void __launch_bounds__(Threads(kForwardGroups), 1)
    WgmmaForwardKernel(const __grid_constant__ TileMap q_map, const __grid_constant__ TileMap k_map,
                       const __grid_constant__ TileMap v_map, Bf16* y, float* log_sum_exp, unsigned* counter,
                       const Sizes sizes) {
  if constexpr (kIsHopper) {
    const ForwardWork work = {sizes};
    const ForwardShared shared;
    shared.Init(1);
    if (threadIdx.x / 128 == kForwardGroups) {
      ShrinkRegisters<kForwardProducerRegisters>();
      if (threadIdx.x % 128 == 0) {
        ProduceKeys<kForwardGroups, 1>(work, shared, {&q_map}, k_map, v_map, counter);
      }
    } else {
      GrowRegisters<kForwardRegisters>();
      ConsumeForward(work, shared, y, log_sum_exp);
    }
  }
}

}  // namespace
}  // namespace wgmma

void WgmmaAttentionForward(const Device& device, const AttentionArgs<Bf16>& args) {
  const wgmma::Sizes sizes = wgmma::SizesOf(args);
  Launch(device,
         wgmma::ShapeFor(device, wgmma::kForwardGroups, wgmma::ForwardWork{sizes}.tasks(),
                         wgmma::ForwardShared::kBytes),
         wgmma::WgmmaForwardKernel, wgmma::MapOf(args.q), wgmma::MapOf(args.k), wgmma::MapOf(args.v),
         args.y.data(), args.log_sum_exp.data(), device.counters(), sizes);
}

}  // namespace hm11::cuda
