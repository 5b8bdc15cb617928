// Attention for compute capability 9.0: products of warpgroups with operands in shared memory (wgmma), tiles
// brought by the copy unit. bf16, head_dim 64.
//
// All three kernels are built alike. A block stays on a multiprocessor and takes pieces of work from a
// counter until there are none. One warp, the producer, runs ahead: it takes the piece, copies the tiles that
// stay for its duration (two buffers, so that the next piece's come while this one is worked on) and streams
// the others through a ring of stages. The warpgroups, the consumers, have 64 rows each of what stays, and do
// not wait for each other but by way of the ring: while one is at its exponentials others have the tensor
// cores.
//
// Which block does a piece does not change its result: every sum is made by one warpgroup in a fixed order.
// Gradients of q on one hand and of k and v on the other are made by kernels of their own, each computing
// scores again: 7 products instead of 5, but no sums across blocks.
#include <cmath>

#include "core/launch.cuh"
#include "ops/attention_cuda.h"
#include "ops/hopper.cuh"
#include "ops/tensor_core.cuh"

namespace hm11::cuda {
namespace {

constexpr int kForwardGroups = 4;  // warpgroups of consumers
constexpr int kBackwardGroups = 3;
constexpr int kStages = 4;
// Heads worked on at once: their keys and values should lie in the L2 cache together (0.5 MB each at 2048).
constexpr int kSection = 32;
constexpr float kLog2E = 1.4426950408889634f;

// A warpgroup is launched for the producer too, so that registers can be moved: it needs few. Totals are what
// the launch takes: 640 threads of 96, 512 of 128.
constexpr int Threads(int groups) { return (groups + 1) * 128; }
constexpr int kForwardRegisters = 112, kForwardProducerRegisters = 32;
constexpr int kBackwardRegisters = 160, kBackwardProducerRegisters = 32;
static_assert(4 * kForwardRegisters + kForwardProducerRegisters <= 5 * 96);
static_assert(3 * kBackwardRegisters + kBackwardProducerRegisters <= 4 * 128);

struct Sizes {
  int batch, time, heads, kv_heads;
  float scale;

  __host__ __device__ int group() const { return heads / kv_heads; }
  __host__ __device__ int tiles() const { return (time + kTileRows - 1) / kTileRows; }
};

// What a block works on at a time: consecutive items of one kv head, one a warpgroup. An item is a tile of
// queries of one head, tiles before heads; or, with kKeys, a tile of keys.
struct Piece {
  int b, kv_head;
  int first_item;
};

template <int kGroups, bool kKeys>
struct Work {
  Sizes sizes;

  __host__ __device__ int items() const { return kKeys ? sizes.tiles() : sizes.tiles() * sizes.group(); }
  __host__ __device__ int pieces_a_head() const { return (items() + kGroups - 1) / kGroups; }
  __host__ __device__ int pieces() const { return sizes.batch * sizes.kv_heads * pieces_a_head(); }

  // Piece `index` in the order of work: sections of heads, in each the longest pieces first.
  __device__ Piece At(int index) const {
    const int section = index / (kSection * pieces_a_head());
    const int first_head = section * kSection;
    const int section_heads = min(kSection, sizes.batch * sizes.kv_heads - first_head);
    const int in_section = index - first_head * pieces_a_head();
    const int rank = in_section / section_heads, head = first_head + in_section % section_heads;
    return {.b = head / sizes.kv_heads,
            .kv_head = head % sizes.kv_heads,
            .first_item = kGroups * (kKeys ? rank : pieces_a_head() - 1 - rank)};
  }
  __device__ int Tile(int item) const { return kKeys ? item : item / sizes.group(); }
  __device__ int Head(const Piece& piece, int item) const {
    return kKeys ? piece.kv_head : piece.kv_head * sizes.group() + item % sizes.group();
  }
  __device__ int LastItem(const Piece& piece) const { return min(piece.first_item + kGroups, items()) - 1; }
};

// Shared memory: two buffers of kFixed tiles a warpgroup, the ring of two tiles a stage, numbers that go with
// a stage, barriers.
template <int kGroups, int kFixed, int kStageNumbers>
struct Shared {
  static constexpr uint32_t kFixedBytes = kGroups * kFixed * kTileBytes;
  static constexpr uint32_t kStageBytes = 2 * kTileBytes;
  static constexpr uint32_t kRing = 2 * kFixedBytes;
  static constexpr uint32_t kNumbers = kRing + kStages * kStageBytes;
  static constexpr uint32_t kBarriers = kNumbers + kStages * kStageNumbers * 4;
  static constexpr uint32_t kPieces = kBarriers + 8 * (2 * kStages + 4);
  static constexpr uint32_t kBytes = kPieces + 2 * 4;

  uint32_t base = SharedAddress(DynamicShared());

  __device__ uint32_t Fixed(int buffer, int group, int which) const {
    return base + buffer * kFixedBytes + (group * kFixed + which) * kTileBytes;
  }
  __device__ uint32_t Stage(int stage, int which) const {
    return base + kRing + stage * kStageBytes + which * kTileBytes;
  }
  __device__ float* StageNumbers(int stage) const {
    return reinterpret_cast<float*>(DynamicShared() + kNumbers) + stage * kStageNumbers;
  }
  __device__ uint32_t StageFull(int stage) const { return base + kBarriers + 8 * stage; }
  __device__ uint32_t StageEmpty(int stage) const { return base + kBarriers + 8 * (kStages + stage); }
  __device__ uint32_t FixedFull(int buffer) const { return base + kBarriers + 8 * (2 * kStages + buffer); }
  __device__ uint32_t FixedEmpty(int buffer) const {
    return base + kBarriers + 8 * (2 * kStages + 2 + buffer);
  }
  // The piece that a buffer is for; -1: no more.
  __device__ volatile int& PieceIndex(int buffer) const {
    return reinterpret_cast<volatile int*>(DynamicShared() + kPieces)[buffer];
  }

  // By all threads, before anything else.
  __device__ void Init(int stage_producers) const {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < kStages; ++stage) {
        InitBarrier(StageFull(stage), stage_producers);
        InitBarrier(StageEmpty(stage), kGroups * 4);
      }
      for (int buffer = 0; buffer < 2; ++buffer) {
        InitBarrier(FixedFull(buffer), 1);
        InitBarrier(FixedEmpty(buffer), kGroups * 4);
      }
      FenceBarrierInit();
    }
    __syncthreads();
  }
};

// A place in a ring of `size`, and the parity of the ring's current round.
struct Cursor {
  int index = 0;
  uint32_t parity = 0;

  __device__ void Advance(int size) {
    if (++index < size) return;
    index = 0;
    parity ^= 1;
  }
};

// The first lane's value, which tells the compiler that it is the same in all: addresses made from it are
// then computed once a warp.
__device__ __forceinline__ int Uniform(int value) { return __shfl_sync(0xffffffffu, value, 0); }

// One arrival for this warp, when all its lanes are here.
__device__ __forceinline__ void ArriveWarp(uint32_t barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) Arrive(barrier);
}

// ---- What lanes do with a Product64.

__device__ __forceinline__ int WarpRow() { return threadIdx.x / 32 % 4 * 16; }

// Calls function(n, i, row, column) for each of the lane's numbers.
template <typename F>
__device__ __forceinline__ void ForEach(F&& function) {
  const int lane = threadIdx.x % 32, row = WarpRow() + lane / 4, column = lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) function(n, i, row + i / 2 * 8, column + n * 8 + i % 2);
  }
}

__device__ __forceinline__ void SetZero(Product64& x) {
  ForEach([&](int n, int i, int, int) { x[n][i] = 0; });
}

// Rounded to bf16, as the first operand of a product over x's columns.
__device__ __forceinline__ void Pack(const Product64& x, Rows64& rows) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    rows[step][0] = PackBf16(x[2 * step][0], x[2 * step][1]);
    rows[step][1] = PackBf16(x[2 * step][2], x[2 * step][3]);
    rows[step][2] = PackBf16(x[2 * step + 1][0], x[2 * step + 1][1]);
    rows[step][3] = PackBf16(x[2 * step + 1][2], x[2 * step + 1][3]);
  }
}

// Writes a warpgroup's tile times a factor for each of a lane's two rows to rows [first, ...) of a head, by
// way of `staging`, a tile of shared memory that all of the warpgroup is done with.
__device__ __forceinline__ void StoreTile(const Product64& x, const float (&factor)[2], uint32_t staging,
                                          Bf16* head, int64_t stride, int first, int time) {
  char* tile = DynamicShared() + (staging - SharedAddress(DynamicShared()));
  const auto chunk_at = [=](int row, int chunk) { return tile + row * 128 + (chunk ^ (row & 7)) * 16; };
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = WarpRow() + half * 8 + lane / 4;
      *reinterpret_cast<uint32_t*>(chunk_at(row, n) + lane % 4 * 4) =
          PackBf16(x[n][2 * half] * factor[half], x[n][2 * half + 1] * factor[half]);
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = WarpRow() + i * 4 + lane / 8, chunk = lane % 8;
    if (first + row < time) {
      *reinterpret_cast<uint4*>(head + (first + row) * stride + chunk * 8) =
          *reinterpret_cast<const uint4*>(chunk_at(row, chunk));
    }
  }
}

using ForwardWork = Work<kForwardGroups, false>;
using ForwardShared = Shared<kForwardGroups, 1, 0>;

// ---- The producer of forward and of the gradient of q: queries (and dy) stay, keys and values stream.

template <int kGroups, int kFixed>
__device__ void ProduceKeys(const Work<kGroups, false>& work, const Shared<kGroups, kFixed, 0>& shared,
                            const TileMap* const (&fixed_maps)[kFixed], const TileMap& k_map,
                            const TileMap& v_map, int* counter) {
  Cursor fixed, stage;
  for (;;) {
    const int index = atomicAdd(counter, 1);
    WaitBarrier(shared.FixedEmpty(fixed.index), fixed.parity ^ 1);
    if (index >= work.pieces()) {
      shared.PieceIndex(fixed.index) = -1;
      Arrive(shared.FixedFull(fixed.index));
      return;
    }
    shared.PieceIndex(fixed.index) = index;
    const Piece piece = work.At(index);
    const int last = work.LastItem(piece);
    ArriveAndExpect(shared.FixedFull(fixed.index), (last - piece.first_item + 1) * kFixed * kTileBytes);
#pragma unroll 1
    for (int item = piece.first_item; item <= last; ++item) {
      for (int which = 0; which < kFixed; ++which) {
        CopyTile(shared.Fixed(fixed.index, item - piece.first_item, which), *fixed_maps[which],
                 shared.FixedFull(fixed.index), work.Tile(item) * kTileRows, work.Head(piece, item), piece.b);
      }
    }
#pragma unroll 1
    for (int tile = 0; tile <= work.Tile(last); ++tile) {
      WaitBarrier(shared.StageEmpty(stage.index), stage.parity ^ 1);
      const uint32_t full = shared.StageFull(stage.index);
      ArriveAndExpect(full, 2 * kTileBytes);
      CopyTile(shared.Stage(stage.index, 0), k_map, full, tile * kTileRows, piece.kv_head, piece.b);
      CopyTile(shared.Stage(stage.index, 1), v_map, full, tile * kTileRows, piece.kv_head, piece.b);
      stage.Advance(kStages);
    }
    fixed.Advance(2);
  }
}

// ---- Forward.

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

// On the tile where queries and keys are the same positions.
__device__ __forceinline__ void MaskDiagonal(Product64& scores) {
  ForEach([&](int n, int i, int row, int column) {
    if (column > row) scores[n][i] = -INFINITY;
  });
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

// Stages of a piece that other warpgroups have use for.
template <typename SharedMemory>
__device__ __forceinline__ void SkipStages(const SharedMemory& shared, int count, Cursor& stage) {
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    WaitBarrier(shared.StageFull(stage.index), stage.parity);
    ArriveWarp(shared.StageEmpty(stage.index));
    stage.Advance(kStages);
  }
}

__device__ void ConsumeForward(const ForwardWork& work, const ForwardShared& shared, Bf16* y,
                               float* log_sum_exp) {
  const Sizes& sizes = work.sizes;
  const int group = Uniform(threadIdx.x / 128), lane = threadIdx.x % 32;
  Cursor fixed, stage;
  for (;; fixed.Advance(2)) {
    WaitBarrier(shared.FixedFull(fixed.index), fixed.parity);
    const int index = Uniform(shared.PieceIndex(fixed.index));
    if (index < 0) return;
    const Piece piece = work.At(index);
    const int item = piece.first_item + group, last = work.LastItem(piece);
    const int steps = item <= last ? work.Tile(item) + 1 : 0;
    if (steps > 0) {
      const uint32_t q_tile = shared.Fixed(fixed.index, group, 0);
      Product64 result;
      SetZero(result);
      SoftmaxRows rows;
      ForwardItem(shared, q_tile, steps, sizes.scale * kLog2E, stage, result, rows);

      const int h = work.Head(piece, item), first = work.Tile(item) * kTileRows;
      float factor[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = rows.sum[half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        factor[half] = 1.0f / sum;
        const int row = first + WarpRow() + 8 * half + lane / 4;
        if (lane % 4 == 0 && row < sizes.time) {
          log_sum_exp[(int64_t{piece.b} * sizes.heads + h) * sizes.time + row] =
              rows.reference[half] * sizes.scale + __logf(sum);
        }
      }
      SyncThreads(1 + group, 128);  // All of the warpgroup is done with the queries.
      const int64_t stride = int64_t{sizes.heads} * kTileCols;
      StoreTile(result, factor, q_tile, y + int64_t{piece.b} * sizes.time * stride + h * kTileCols, stride,
                first, sizes.time);
      FenceForUnits();
    }
    SkipStages(shared, work.Tile(last) + 1 - steps, stage);
    ArriveWarp(shared.FixedEmpty(fixed.index));
  }
}

__global__ void __launch_bounds__(Threads(kForwardGroups), 1)
    WgmmaForwardKernel(const __grid_constant__ TileMap q_map, const __grid_constant__ TileMap k_map,
                       const __grid_constant__ TileMap v_map, Bf16* y, float* log_sum_exp, int* counter,
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

// ---- The gradient of q.

using QueryWork = Work<kBackwardGroups, false>;
using QueryShared = Shared<kBackwardGroups, 2, 0>;

// One item's key tiles. The product of ds with the keys runs on while the next tile's scores are computed.
__device__ __forceinline__ void QueryGradientItem(const QueryShared& shared, uint32_t q_tile,
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

__device__ void ConsumeQueryGradient(const QueryWork& work, const QueryShared& shared,
                                     const float* log_sum_exp, const float* delta, Bf16* dq) {
  const Sizes& sizes = work.sizes;
  const int group = Uniform(threadIdx.x / 128), lane = threadIdx.x % 32;
  Cursor fixed, stage;
  for (;; fixed.Advance(2)) {
    WaitBarrier(shared.FixedFull(fixed.index), fixed.parity);
    const int index = Uniform(shared.PieceIndex(fixed.index));
    if (index < 0) return;
    const Piece piece = work.At(index);
    const int item = piece.first_item + group, last = work.LastItem(piece);
    const int steps = item <= last ? work.Tile(item) + 1 : 0;
    if (steps > 0) {
      const int h = work.Head(piece, item), first = work.Tile(item) * kTileRows;
      float shift[2], row_delta[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first + WarpRow() + 8 * half + lane / 4;
        const int64_t at = (int64_t{piece.b} * sizes.heads + h) * sizes.time + row;
        shift[half] = row < sizes.time ? log_sum_exp[at] * kLog2E : 0.0f;
        row_delta[half] = row < sizes.time ? delta[at] : 0.0f;
      }
      const uint32_t q_tile = shared.Fixed(fixed.index, group, 0),
                     dy_tile = shared.Fixed(fixed.index, group, 1);
      Product64 result;
      SetZero(result);
      QueryGradientItem(shared, q_tile, dy_tile, steps, sizes.scale * kLog2E, shift, row_delta, stage,
                        result);
      SyncThreads(1 + group, 128);
      const float factor[2] = {sizes.scale, sizes.scale};
      const int64_t stride = int64_t{sizes.heads} * kTileCols;
      StoreTile(result, factor, q_tile, dq + int64_t{piece.b} * sizes.time * stride + h * kTileCols, stride,
                first, sizes.time);
      FenceForUnits();
    }
    SkipStages(shared, work.Tile(last) + 1 - steps, stage);
    ArriveWarp(shared.FixedEmpty(fixed.index));
  }
}

__global__ void __launch_bounds__(Threads(kBackwardGroups), 1)
    WgmmaQueryGradientKernel(const __grid_constant__ TileMap q_map, const __grid_constant__ TileMap k_map,
                             const __grid_constant__ TileMap v_map, const __grid_constant__ TileMap dy_map,
                             const float* log_sum_exp, const float* delta, Bf16* dq, int* counter,
                             const Sizes sizes) {
  if constexpr (kIsHopper) {
    const QueryWork work = {sizes};
    const QueryShared shared;
    shared.Init(1);
    if (threadIdx.x / 128 == kBackwardGroups) {
      ShrinkRegisters<kBackwardProducerRegisters>();
      if (threadIdx.x % 128 == 0) {
        ProduceKeys<kBackwardGroups, 2>(work, shared, {&q_map, &dy_map}, k_map, v_map, counter);
      }
    } else {
      GrowRegisters<kBackwardRegisters>();
      ConsumeQueryGradient(work, shared, log_sum_exp, delta, dq);
    }
  }
}

// ---- The gradients of k and v: keys and values stay, queries and dy stream, of one head after the other.
// Scores are transposed: rows keys, columns queries; so log_sum_exp and delta are numbers a column, which
// stream too. Queries from `time` on have q = dy = 0 and numbers 0: p = 1, but no effect.

using KeyWork = Work<kBackwardGroups, true>;
using KeyShared = Shared<kBackwardGroups, 2, 2 * kTileRows>;

// By all lanes of the producer's warp.
__device__ void ProduceQueries(const KeyWork& work, const KeyShared& shared, const TileMap& q_map,
                               const TileMap& k_map, const TileMap& v_map, const TileMap& dy_map,
                               const float* log_sum_exp, const float* delta, int* counter) {
  const Sizes& sizes = work.sizes;
  const int lane = threadIdx.x % 32;
  Cursor fixed, stage;
  for (;; fixed.Advance(2)) {
    const int index = __shfl_sync(0xffffffffu, lane == 0 ? atomicAdd(counter, 1) : 0, 0);
    WaitBarrier(shared.FixedEmpty(fixed.index), fixed.parity ^ 1);
    const bool is_over = index >= work.pieces();
    const uint32_t fixed_full = shared.FixedFull(fixed.index);
    if (lane == 0) {
      shared.PieceIndex(fixed.index) = is_over ? -1 : index;
      if (is_over) Arrive(fixed_full);
    }
    if (is_over) return;
    const Piece piece = work.At(index);
    if (lane == 0) {
      const int last = work.LastItem(piece);
      ArriveAndExpect(fixed_full, (last - piece.first_item + 1) * 2 * kTileBytes);
#pragma unroll 1
      for (int item = piece.first_item; item <= last; ++item) {
        const int group = item - piece.first_item;
        CopyTile(shared.Fixed(fixed.index, group, 0), k_map, fixed_full, item * kTileRows, piece.kv_head,
                 piece.b);
        CopyTile(shared.Fixed(fixed.index, group, 1), v_map, fixed_full, item * kTileRows, piece.kv_head,
                 piece.b);
      }
    }
    for (int h = piece.kv_head * sizes.group(); h < (piece.kv_head + 1) * sizes.group(); ++h) {
      const int64_t numbers = (int64_t{piece.b} * sizes.heads + h) * sizes.time;
#pragma unroll 1
      for (int tile = piece.first_item; tile < sizes.tiles(); ++tile) {
        float values[4];  // Asked for before the wait.
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = tile * kTileRows + i % 2 * 32 + lane;
          values[i] =
              row < sizes.time ? (i < 2 ? log_sum_exp[numbers + row] * kLog2E : delta[numbers + row]) : 0.0f;
        }
        WaitBarrier(shared.StageEmpty(stage.index), stage.parity ^ 1);
        const uint32_t full = shared.StageFull(stage.index);
#pragma unroll
        for (int i = 0; i < 4; ++i) shared.StageNumbers(stage.index)[i * 32 + lane] = values[i];
        if (lane == 0) {
          ArriveAndExpect(full, 2 * kTileBytes);
          CopyTile(shared.Stage(stage.index, 0), q_map, full, tile * kTileRows, h, piece.b);
          CopyTile(shared.Stage(stage.index, 1), dy_map, full, tile * kTileRows, h, piece.b);
        } else {
          Arrive(full);
        }
        stage.Advance(kStages);
      }
    }
  }
}

// One tile of queries against one of keys.
__device__ __forceinline__ void KeyGradientStep(const KeyShared& shared, uint32_t k_tile, uint32_t v_tile,
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

__device__ void ConsumeKeyGradient(const KeyWork& work, const KeyShared& shared, Bf16* dk, Bf16* dv) {
  const Sizes& sizes = work.sizes;
  const int group = Uniform(threadIdx.x / 128);
  Cursor fixed, stage;
  for (;; fixed.Advance(2)) {
    WaitBarrier(shared.FixedFull(fixed.index), fixed.parity);
    const int index = Uniform(shared.PieceIndex(fixed.index));
    if (index < 0) return;
    const Piece piece = work.At(index);
    const int item = piece.first_item + group;
    const uint32_t k_tile = shared.Fixed(fixed.index, group, 0), v_tile = shared.Fixed(fixed.index, group, 1);
    Product64 dk_sum, dv_sum;
    SetZero(dk_sum);
    SetZero(dv_sum);
    for (int h = 0; h < sizes.group(); ++h) {
      SkipStages(shared, min(group, sizes.tiles() - piece.first_item), stage);  // Queries before these keys.
#pragma unroll 1
      for (int tile = item; tile < sizes.tiles(); ++tile) {
        KeyGradientStep(shared, k_tile, v_tile, tile == item, sizes.scale * kLog2E, stage, dk_sum, dv_sum);
        ArriveWarp(shared.StageEmpty(stage.index));
        stage.Advance(kStages);
      }
    }
    if (item <= work.LastItem(piece)) {
      SyncThreads(1 + group, 128);  // All of the warpgroup is done with the keys and values.
      const int64_t stride = int64_t{sizes.kv_heads} * kTileCols;
      const int64_t head = int64_t{piece.b} * sizes.time * stride + piece.kv_head * kTileCols;
      const float dk_factor[2] = {sizes.scale, sizes.scale}, dv_factor[2] = {1, 1};
      StoreTile(dk_sum, dk_factor, k_tile, dk + head, stride, item * kTileRows, sizes.time);
      StoreTile(dv_sum, dv_factor, v_tile, dv + head, stride, item * kTileRows, sizes.time);
      FenceForUnits();
    }
    ArriveWarp(shared.FixedEmpty(fixed.index));
  }
}

__global__ void __launch_bounds__(Threads(kBackwardGroups), 1)
    WgmmaKeyGradientKernel(const __grid_constant__ TileMap q_map, const __grid_constant__ TileMap k_map,
                           const __grid_constant__ TileMap v_map, const __grid_constant__ TileMap dy_map,
                           const float* log_sum_exp, const float* delta, Bf16* dk, Bf16* dv, int* counter,
                           const Sizes sizes) {
  if constexpr (kIsHopper) {
    const KeyWork work = {sizes};
    const KeyShared shared;
    shared.Init(32);
    if (threadIdx.x / 128 == kBackwardGroups) {
      ShrinkRegisters<kBackwardProducerRegisters>();
      if (threadIdx.x % 128 < 32) {
        ProduceQueries(work, shared, q_map, k_map, v_map, dy_map, log_sum_exp, delta, counter);
      }
    } else {
      GrowRegisters<kBackwardRegisters>();
      ConsumeKeyGradient(work, shared, dk, dv);
    }
  }
}

// ---- Host.

Sizes SizesOf(const AttentionArgs<Bf16>& args) {
  return {.batch = static_cast<int>(args.q.dim(0)),
          .time = static_cast<int>(args.q.dim(1)),
          .heads = static_cast<int>(args.q.dim(2)),
          .kv_heads = static_cast<int>(args.k.dim(2)),
          .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(args.q.dim(3))))};
}

template <typename T>
TileMap MapOf(const Tensor<T>& tensor) {
  return MakeTileMap(tensor.data(), tensor.dim(0), tensor.dim(1), tensor.dim(2));
}

// A block a multiprocessor, as long as there is work for each.
LaunchShape ShapeFor(const Device& device, int groups, int pieces, int64_t shared_bytes) {
  return {.blocks = dim3(
              static_cast<unsigned>(pieces < device.multiprocessors() ? pieces : device.multiprocessors())),
          .threads = dim3(static_cast<unsigned>(Threads(groups))),
          .shared_bytes = shared_bytes};
}

}  // namespace

void WgmmaAttentionForward(const Device& device, const AttentionArgs<Bf16>& args, Tensor<int32_t> counters) {
  const Sizes sizes = SizesOf(args);
  device.Zero(counters.data(), counters.size_bytes());
  Launch(device, ShapeFor(device, kForwardGroups, ForwardWork{sizes}.pieces(), ForwardShared::kBytes),
         WgmmaForwardKernel, MapOf(args.q), MapOf(args.k), MapOf(args.v), args.y.data(),
         args.log_sum_exp.data(), counters.data(), sizes);
}

void WgmmaAttentionBackward(const Device& device, const AttentionGradArgs<Bf16>& args,
                            Tensor<const float> delta, Tensor<int32_t> counters) {
  const AttentionArgs<Bf16>& x = args.forward;
  const Sizes sizes = SizesOf(x);
  const TileMap q = MapOf(x.q), k = MapOf(x.k), v = MapOf(x.v), dy = MapOf(args.dy);
  device.Zero(counters.data(), counters.size_bytes());
  Launch(device, ShapeFor(device, kBackwardGroups, KeyWork{sizes}.pieces(), KeyShared::kBytes),
         WgmmaKeyGradientKernel, q, k, v, dy, x.log_sum_exp.data(), delta.data(), args.dk.data(),
         args.dv.data(), counters.data(), sizes);
  Launch(device, ShapeFor(device, kBackwardGroups, QueryWork{sizes}.pieces(), QueryShared::kBytes),
         WgmmaQueryGradientKernel, q, k, v, dy, x.log_sum_exp.data(), delta.data(), args.dq.data(),
         counters.data() + 1, sizes);
}

}  // namespace hm11::cuda
