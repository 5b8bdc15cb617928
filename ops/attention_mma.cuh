// What the kernels of attention by the tensor cores of one warp at a time share (mma.sync, sm_80): bf16,
// head_dim 32, 64 or 128.
//
// All kernels have four warps. A warp owns kRowTiles 16-row tiles of the block's fixed side (queries, or keys
// where dk and dv are made) and the whole width of the moving side, so that a row's maximum and sum stay in
// four lanes and scores never leave registers: accumulators of one product, rounded to bf16, are the first
// operand of the next. The moving side comes through two shared-memory stages: while one is worked on the
// next is copied by cp.async. Rows lie in shared memory in 16-byte chunks, swizzled so that the eight rows of
// a matrix load touch all banks once.
//
// 32 rows a warp are what registers allow; each matrix load then feeds two products, which balances loads
// from shared memory with the tensor cores.
#ifndef HM11_OPS_ATTENTION_MMA_CUH_
#define HM11_OPS_ATTENTION_MMA_CUH_

#include <cmath>

#include "core/launch.cuh"
#include "ops/attention_cuda.h"
#include "ops/tensor_core.cuh"

namespace hm11::cuda::mma {

inline constexpr int kThreads = 128;
inline constexpr int kMoving = 64;  // rows of a stage

template <int kHeadDim>
inline constexpr int kRowTiles = kHeadDim <= 64 ? 2 : 1;
template <int kHeadDim>
inline constexpr int kFixed = 4 * 16 * kRowTiles<kHeadDim>;  // rows of the block's side

struct Sizes {
  int time, heads, kv_heads;
  float scale;

  template <int kHeadDim>
  __device__ int64_t Query(int b, int h) const {  // offset of the head's row 0
    return (int64_t{b} * time * heads + h) * kHeadDim;
  }
  template <int kHeadDim>
  __device__ int64_t Key(int b, int h) const {
    return (int64_t{b} * time * kv_heads + h) * kHeadDim;
  }
};

// Byte offset of a 16-byte chunk in a tile of rows of kHeadDim numbers. Eight consecutive rows, same chunk,
// fall into eight different 16-byte columns of the 128-byte line of banks.
template <int kHeadDim>
__device__ __forceinline__ uint32_t Swizzled(int row, int chunk) {
  constexpr int kChunks = kHeadDim / 8;
  const int mask = kChunks >= 8 ? row & 7 : (row >> 1) & 3;
  return static_cast<uint32_t>((row * kChunks + (chunk ^ mask)) * 16);
}

template <int kHeadDim>
constexpr int TileBytes(int rows) {
  return rows * kHeadDim * 2;
}

// Starts copying rows [first, first + kRows) of a head, zeros from `time` on. `head` is its row 0, rows are
// `stride` numbers apart.
template <int kHeadDim, int kRows>
__device__ __forceinline__ void CopyTile(const Bf16* head, int64_t stride, int first, int time,
                                         uint32_t tile) {
  constexpr int kChunks = kHeadDim / 8;
#pragma unroll
  for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
    const int index = static_cast<int>(threadIdx.x) + i * kThreads;
    const int row = index / kChunks, chunk = index % kChunks;
    const bool valid = first + row < time;
    CopyAsync16(tile + Swizzled<kHeadDim>(row, chunk), head + (valid ? first + row : 0) * stride + chunk * 8,
                valid);
  }
}

// Starts copying a stage's numbers of a [time] row, zeros from `time` on.
__device__ __forceinline__ void CopyNumbers(const float* numbers, int first, int time, uint32_t to) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < kMoving) CopyAsync4(to + t * 4, numbers + (first + t < time ? first + t : 0), first + t < time);
}

// Keys and values of a head as the moving side: two stages of a tile each.
template <int kHeadDim>
struct MovingKeys {
  static constexpr uint32_t kTile = TileBytes<kHeadDim>(kMoving), kStage = 2 * kTile;

  const Bf16 *k, *v;
  int64_t stride;
  int time;

  __device__ __forceinline__ MovingKeys(const Bf16* keys, const Bf16* values, const Sizes& sizes, int b,
                                        int kv_head)
      : k(keys + sizes.Key<kHeadDim>(b, kv_head)),
        v(values + sizes.Key<kHeadDim>(b, kv_head)),
        stride(int64_t{sizes.kv_heads} * kHeadDim),
        time(sizes.time) {}
  // That of the tile which begins at `key`, and that of the next.
  __device__ __forceinline__ uint32_t Stage(uint32_t stages, int key) const {
    return stages + key / kMoving % 2 * kStage;
  }
  __device__ __forceinline__ uint32_t NextStage(uint32_t stages, int key) const {
    return stages + (key / kMoving + 1) % 2 * kStage;
  }
  // Starts copying that tile, in one group with all that was asked for before.
  __device__ __forceinline__ void Copy(int key, uint32_t stage) const {
    CopyTile<kHeadDim, kMoving>(k, stride, key, time, stage);
    CopyTile<kHeadDim, kMoving>(v, stride, key, time, stage + kTile);
    CommitCopies();
  }
};

// Fragment of rows [row, row + 16), channels [16 step, 16 step + 16): the first operand of a product.
template <int kHeadDim>
__device__ __forceinline__ void LoadRows(uint32_t (&to)[4], uint32_t tile, int row, int step) {
  const int lane = threadIdx.x % 32;
  LoadMatrices(to, tile + Swizzled<kHeadDim>(row + lane % 16, step * 2 + lane / 16));
}

// The same rows as columns of a second operand over channels: to[0], to[1] for rows [row, row + 8), to[2],
// to[3] for the next eight.
template <int kHeadDim>
__device__ __forceinline__ void LoadAsColumns(uint32_t (&to)[4], uint32_t tile, int row, int step) {
  const int lane = threadIdx.x % 32;
  LoadMatrices(to, tile + Swizzled<kHeadDim>(row + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
}

// Rows [row, row + 16) as the summed axis of a second operand: to[0], to[1] for channels [16 step, + 8),
// to[2], to[3] for the next eight.
template <int kHeadDim>
__device__ __forceinline__ void LoadAsSummed(uint32_t (&to)[4], uint32_t tile, int row, int step) {
  const int lane = threadIdx.x % 32;
  LoadMatricesTransposed(to, tile + Swizzled<kHeadDim>(row + lane % 16, step * 2 + lane / 16));
}

// A warp's tile of scores: kRowTiles x 16 rows by 8 kTiles columns.
template <int kHeadDim, int kTiles>
using Scores = float[kRowTiles<kHeadDim>][kTiles][4];
// And of results, as wide as head_dim.
template <int kHeadDim>
using Result = float[kRowTiles<kHeadDim>][kHeadDim / 8][4];
// The warp's rows of a fixed operand, in registers.
template <int kHeadDim>
using Fragments = uint32_t[kRowTiles<kHeadDim>][kHeadDim / 16][4];

template <int kHeadDim>
__device__ __forceinline__ void LoadFragments(Fragments<kHeadDim>& to, uint32_t tile, int row) {
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step)
      LoadRows<kHeadDim>(to[r][step], tile, row + 16 * r, step);
  }
}

// scores = fixed moving^T: rows [row, row + 8 kTiles) of `tile` are the columns.
template <int kHeadDim, int kTiles>
__device__ __forceinline__ void MultiplyByColumns(const Fragments<kHeadDim>& fixed, uint32_t tile, int row,
                                                  Scores<kHeadDim, kTiles>& scores) {
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[r][n][i] = 0;
    }
  }
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      uint32_t b[4];
      LoadAsColumns<kHeadDim>(b, tile, row + 8 * n, step);
#pragma unroll
      for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
        MultiplyAdd(scores[r][n], fixed[r][step], b[0], b[1]);
        MultiplyAdd(scores[r][n + 1], fixed[r][step], b[2], b[3]);
      }
    }
  }
}

// result += scores moving: the columns of `scores`, rounded to bf16, times rows [row, row + 8 kTiles) of
// `tile`.
template <int kHeadDim, int kTiles>
__device__ __forceinline__ void AddProduct(const Scores<kHeadDim, kTiles>& scores, uint32_t tile, int row,
                                           Result<kHeadDim>& result) {
#pragma unroll
  for (int n = 0; n < kTiles; n += 2) {
    uint32_t a[kRowTiles<kHeadDim>][4];
#pragma unroll
    for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
      a[r][0] = PackBf16(scores[r][n][0], scores[r][n][1]);
      a[r][1] = PackBf16(scores[r][n][2], scores[r][n][3]);
      a[r][2] = PackBf16(scores[r][n + 1][0], scores[r][n + 1][1]);
      a[r][3] = PackBf16(scores[r][n + 1][2], scores[r][n + 1][3]);
    }
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      uint32_t b[4];
      LoadAsSummed<kHeadDim>(b, tile, row + 8 * n, step);
#pragma unroll
      for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
        MultiplyAdd(result[r][2 * step], a[r], b[0], b[1]);
        MultiplyAdd(result[r][2 * step + 1], a[r], b[2], b[3]);
      }
    }
  }
}

// Writes the warp's rows of a result, times a factor for each of a lane's rows, to global memory: first into
// the warp's rows of `staging`, from where 16 bytes a lane go out.
template <int kHeadDim>
__device__ __forceinline__ void StoreResult(const Result<kHeadDim>& result,
                                            const float (&factor)[kRowTiles<kHeadDim>][2], char* staging,
                                            int warp_row, Bf16* head, int64_t stride, int first, int time) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  __syncwarp();
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + 16 * r + 8 * half + g;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        *reinterpret_cast<uint32_t*>(staging + Swizzled<kHeadDim>(row, n) + 4 * t) =
            PackBf16(result[r][n][2 * half] * factor[r][half], result[r][n][2 * half + 1] * factor[r][half]);
      }
    }
  }
  __syncwarp();
  constexpr int kChunks = kHeadDim / 8;
#pragma unroll
  for (int i = 0; i < 16 * kRowTiles<kHeadDim> * kChunks / 32; ++i) {
    const int index = lane + 32 * i;
    const int row = warp_row + index / kChunks, chunk = index % kChunks;
    if (first + row < time) {
      *reinterpret_cast<uint4*>(head + (first + row) * stride + chunk * 8) =
          *reinterpret_cast<const uint4*>(staging + Swizzled<kHeadDim>(row, chunk));
    }
  }
}

// The same with one factor.
template <int kHeadDim>
__device__ __forceinline__ void StoreScaled(const Result<kHeadDim>& result, float scale, char* staging,
                                            int warp_row, Bf16* head, int64_t stride, int first, int time) {
  float factor[kRowTiles<kHeadDim>][2];
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) factor[r][0] = factor[r][1] = scale;
  StoreResult<kHeadDim>(result, factor, staging, warp_row, head, stride, first, time);
}

// Sets scores of keys behind their query to `value`. Rows are queries from `query`, columns keys from `key`.
template <int kHeadDim, int kTiles>
__device__ __forceinline__ void MaskKeys(Scores<kHeadDim, kTiles>& scores, int query, int key, float value) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = query + 16 * r + 8 * (i / 2) + lane / 4, col = key + 8 * n + 2 * (lane % 4) + i % 2;
        if (col > row) scores[r][n][i] = value;
      }
    }
  }
}

// ---- Host.

template <int kHeadDim>
dim3 Blocks(int time, int heads, int64_t batch) {
  return dim3(static_cast<unsigned>(CeilDiv(time, kFixed<kHeadDim>)), static_cast<unsigned>(heads),
              static_cast<unsigned>(batch));
}

inline Sizes SizesOf(const AttentionArgs<Bf16>& args) {
  return {.time = static_cast<int>(args.q.dim(1)),
          .heads = static_cast<int>(args.q.dim(2)),
          .kv_heads = static_cast<int>(args.k.dim(2)),
          .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(args.q.dim(3))))};
}

}  // namespace hm11::cuda::mma

#endif  // HM11_OPS_ATTENTION_MMA_CUH_
