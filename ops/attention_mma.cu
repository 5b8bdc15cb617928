// Attention by the tensor cores of one warp at a time (mma.sync, sm_80): bf16, head_dim 32, 64 or 128.
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
#include <cmath>

#include "core/launch.cuh"
#include "ops/attention_cuda.h"
#include "ops/tensor_core.cuh"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMoving = 64;  // rows of a stage
constexpr float kLog2E = 1.4426950408889634f;

template <int kHeadDim>
constexpr int kRowTiles = kHeadDim <= 64 ? 2 : 1;
template <int kHeadDim>
constexpr int kFixed = 4 * 16 * kRowTiles<kHeadDim>;  // rows of the block's side

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

// ---- Forward. Block (query tile, last first: they take longest; head; batch row).

template <int kHeadDim>
struct SoftmaxState {
  float maximum[kRowTiles<kHeadDim>][2];  // of the rows' raw scores, so far
  float sum[kRowTiles<kHeadDim>][2];      // of exp(score - maximum), this lane's columns only
};

// Replaces raw scores by exp(scale (score - maximum)) and brings state and result to the new maximum.
template <int kHeadDim, int kTiles>
__device__ __forceinline__ void Softmax(Scores<kHeadDim, kTiles>& scores, float scale_log2,
                                        SoftmaxState<kHeadDim>& state, Result<kHeadDim>& result) {
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float old = state.maximum[r][half];
      float maximum = old;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        maximum = fmaxf(maximum, fmaxf(scores[r][n][2 * half], scores[r][n][2 * half + 1]));
      }
      maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 1));
      maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 2));
      state.maximum[r][half] = maximum;  // Finite from the first tile on: every row sees key 0.
      const float shift = maximum * scale_log2;
      const float correction = Exp2(old * scale_log2 - shift);
      float sum = state.sum[r][half] * correction;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          scores[r][n][i] = Exp2(scores[r][n][i] * scale_log2 - shift);
          sum += scores[r][n][i];
        }
      }
      state.sum[r][half] = sum;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        result[r][n][2 * half] *= correction;
        result[r][n][2 * half + 1] *= correction;
      }
    }
  }
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

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 2)
    MmaForwardKernel(const Bf16* q, const Bf16* k, const Bf16* v, Bf16* y, float* log_sum_exp,
                     const Sizes sizes) {
  constexpr int kTiles = kMoving / 8;
  const int b = blockIdx.z, h = blockIdx.y,
            first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kFixed<kHeadDim>;
  const int kv_head = h / (sizes.heads / sizes.kv_heads);
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * kRowTiles<kHeadDim>;
  const int64_t q_stride = int64_t{sizes.heads} * kHeadDim, kv_stride = int64_t{sizes.kv_heads} * kHeadDim;
  k += sizes.Key<kHeadDim>(b, kv_head);
  v += sizes.Key<kHeadDim>(b, kv_head);

  char* shared = DynamicShared();
  const uint32_t q_tile = SharedAddress(shared);
  const uint32_t stages = q_tile + TileBytes<kHeadDim>(kFixed<kHeadDim>);
  constexpr uint32_t kOneTile = TileBytes<kHeadDim>(kMoving), kStage = 2 * kOneTile;

  CopyTile<kHeadDim, kFixed<kHeadDim>>(q + sizes.Query<kHeadDim>(b, h), q_stride, first, sizes.time, q_tile);
  CopyTile<kHeadDim, kMoving>(k, kv_stride, 0, sizes.time, stages);
  CopyTile<kHeadDim, kMoving>(v, kv_stride, 0, sizes.time, stages + kOneTile);
  CommitCopies();

  Fragments<kHeadDim> q_fragments;
  Result<kHeadDim> result = {};
  SoftmaxState<kHeadDim> state;
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
    state.maximum[r][0] = state.maximum[r][1] = -INFINITY;
    state.sum[r][0] = state.sum[r][1] = 0;
  }
  const float scale_log2 = sizes.scale * kLog2E;
  const int keys = min(first + kFixed<kHeadDim>, sizes.time);
  const int query = first + warp_row;  // the warp's first
  for (int key = 0; key < keys; key += kMoving) {
    const uint32_t stage = stages + key / kMoving % 2 * kStage;
    WaitForCopies<0>();
    __syncthreads();  // This stage is there, and the other one has been read by all warps.
    if (key == 0) LoadFragments<kHeadDim>(q_fragments, q_tile, warp_row);
    if (key + kMoving < keys) {
      const uint32_t next = stages + (key / kMoving + 1) % 2 * kStage;
      CopyTile<kHeadDim, kMoving>(k, kv_stride, key + kMoving, sizes.time, next);
      CopyTile<kHeadDim, kMoving>(v, kv_stride, key + kMoving, sizes.time, next + kOneTile);
      CommitCopies();
    }
    if (key > query + 16 * kRowTiles<kHeadDim> - 1) continue;  // Behind all of the warp's queries.
    Scores<kHeadDim, kTiles> scores;
    MultiplyByColumns<kHeadDim, kTiles>(q_fragments, stage, 0, scores);
    if (key + kMoving - 1 > query) MaskKeys<kHeadDim, kTiles>(scores, query, key, -INFINITY);
    Softmax<kHeadDim, kTiles>(scores, scale_log2, state, result);
    AddProduct<kHeadDim, kTiles>(scores, stage + kOneTile, 0, result);
  }

  float factor[kRowTiles<kHeadDim>][2];
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = state.sum[r][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      factor[r][half] = 1.0f / sum;
      const int row = query + 16 * r + 8 * half + lane / 4;
      if (lane % 4 == 0 && row < sizes.time) {
        log_sum_exp[(int64_t{b} * sizes.heads + h) * sizes.time + row] =
            state.maximum[r][half] * sizes.scale + __logf(sum);
      }
    }
  }
  StoreResult<kHeadDim>(result, factor, shared, warp_row, y + sizes.Query<kHeadDim>(b, h), q_stride, first,
                        sizes.time);
}

// ---- Backward. Scores are computed again in steps of 32 columns, which leaves registers for two results.

constexpr int kStep = 32;
constexpr int kStepTiles = kStep / 8;

// Block (key tile, kv head, batch row): the fixed side are keys, the moving side queries of all heads that
// read the kv head, so that scores are transposed: rows keys, columns queries. A row of log_sum_exp or delta
// is then a number a column. Queries from `time` on have q = dy = 0 and, by that, no effect.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, kHeadDim <= 64 ? 2 : 1)
    MmaKeyGradientKernel(const Bf16* q, const Bf16* k, const Bf16* v, const Bf16* dy,
                         const float* log_sum_exp, const float* delta, Bf16* dk, Bf16* dv,
                         const Sizes sizes) {
  const int b = blockIdx.z, kv_head = blockIdx.y, first = blockIdx.x * kFixed<kHeadDim>;
  const int group = sizes.heads / sizes.kv_heads;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * kRowTiles<kHeadDim>;
  const int64_t q_stride = int64_t{sizes.heads} * kHeadDim, kv_stride = int64_t{sizes.kv_heads} * kHeadDim;

  char* shared = DynamicShared();
  constexpr uint32_t kFixedTile = TileBytes<kHeadDim>(kFixed<kHeadDim>),
                     kOneTile = TileBytes<kHeadDim>(kMoving);
  constexpr uint32_t kStage = 2 * kOneTile + 2 * kMoving * sizeof(float);  // q, dy, log_sum_exp, delta
  const uint32_t k_tile = SharedAddress(shared), v_tile = k_tile + kFixedTile;

  const int key = first + warp_row;  // the warp's first
  const int first_query = first / kMoving * kMoving;
  const int tiles_a_head = (sizes.time - first_query + kMoving - 1) / kMoving;
  const auto copy_stage = [&](int index, uint32_t stage) {
    const int h = kv_head * group + index / tiles_a_head;
    const int query = first_query + index % tiles_a_head * kMoving;
    const int64_t row = (int64_t{b} * sizes.heads + h) * sizes.time;
    CopyTile<kHeadDim, kMoving>(q + sizes.Query<kHeadDim>(b, h), q_stride, query, sizes.time, stage);
    CopyTile<kHeadDim, kMoving>(dy + sizes.Query<kHeadDim>(b, h), q_stride, query, sizes.time,
                                stage + kOneTile);
    CopyNumbers(log_sum_exp + row, query, sizes.time, stage + 2 * kOneTile);
    CopyNumbers(delta + row, query, sizes.time, stage + 2 * kOneTile + kMoving * 4);
  };
  CopyTile<kHeadDim, kFixed<kHeadDim>>(k + sizes.Key<kHeadDim>(b, kv_head), kv_stride, first, sizes.time,
                                       k_tile);
  CopyTile<kHeadDim, kFixed<kHeadDim>>(v + sizes.Key<kHeadDim>(b, kv_head), kv_stride, first, sizes.time,
                                       v_tile);
  copy_stage(0, v_tile + kFixedTile);
  CommitCopies();

  Result<kHeadDim> dk_result = {}, dv_result = {};
  const float scale_log2 = sizes.scale * kLog2E;
  for (int index = 0; index < group * tiles_a_head; ++index) {
    const uint32_t stage_offset = 2 * kFixedTile + index % 2 * kStage, stage = k_tile + stage_offset;
    const float* stage_log_sum_exp = reinterpret_cast<const float*>(shared + stage_offset + 2 * kOneTile);
    const float* stage_delta = stage_log_sum_exp + kMoving;
    WaitForCopies<0>();
    __syncthreads();
    if (index + 1 < group * tiles_a_head) {
      copy_stage(index + 1, v_tile + kFixedTile + (index + 1) % 2 * kStage);
      CommitCopies();
    }
    const int stage_query = first_query + index % tiles_a_head * kMoving;
#pragma unroll 1
    for (int step = 0; step < kMoving; step += kStep) {
      const int query = stage_query + step;
      if (query + kStep - 1 < key) continue;  // Before all of the warp's keys.
      Scores<kHeadDim, kStepTiles> p, ds;
      {
        Fragments<kHeadDim> fragments;
        LoadFragments<kHeadDim>(fragments, k_tile, warp_row);
        MultiplyByColumns<kHeadDim, kStepTiles>(fragments, stage, step, p);
        LoadFragments<kHeadDim>(fragments, v_tile, warp_row);
        MultiplyByColumns<kHeadDim, kStepTiles>(fragments, stage + kOneTile, step, ds);
      }
      const bool diagonal = query < key + 16 * kRowTiles<kHeadDim> - 1;
#pragma unroll
      for (int n = 0; n < kStepTiles; ++n) {
        const int column = step + 8 * n + 2 * (lane % 4);
        const float2 shift = *reinterpret_cast<const float2*>(stage_log_sum_exp + column);
        const float2 column_delta = *reinterpret_cast<const float2*>(stage_delta + column);
#pragma unroll
        for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float p_i = Exp2(p[r][n][i] * scale_log2 - (i % 2 ? shift.y : shift.x) * kLog2E);
            const int row = key + 16 * r + 8 * (i / 2) + lane / 4;
            p[r][n][i] = diagonal && row > stage_query + column + i % 2 ? 0.0f : p_i;
            ds[r][n][i] = p[r][n][i] * (ds[r][n][i] - (i % 2 ? column_delta.y : column_delta.x));
          }
        }
      }
      AddProduct<kHeadDim, kStepTiles>(p, stage + kOneTile, step, dv_result);
      AddProduct<kHeadDim, kStepTiles>(ds, stage, step, dk_result);
    }
  }

  float factor[kRowTiles<kHeadDim>][2];
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) factor[r][0] = factor[r][1] = sizes.scale;
  const int64_t head = sizes.Key<kHeadDim>(b, kv_head);
  StoreResult<kHeadDim>(dk_result, factor, shared, warp_row, dk + head, kv_stride, first, sizes.time);
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) factor[r][0] = factor[r][1] = 1.0f;
  StoreResult<kHeadDim>(dv_result, factor, shared, warp_row, dv + head, kv_stride, first, sizes.time);
}

// Block (query tile, last first; head; batch row).
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, kHeadDim <= 64 ? 2 : 1)
    MmaQueryGradientKernel(const Bf16* q, const Bf16* k, const Bf16* v, const Bf16* dy,
                           const float* log_sum_exp, const float* delta, Bf16* dq, const Sizes sizes) {
  const int b = blockIdx.z, h = blockIdx.y,
            first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kFixed<kHeadDim>;
  const int kv_head = h / (sizes.heads / sizes.kv_heads);
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * kRowTiles<kHeadDim>;
  const int64_t q_stride = int64_t{sizes.heads} * kHeadDim, kv_stride = int64_t{sizes.kv_heads} * kHeadDim;
  k += sizes.Key<kHeadDim>(b, kv_head);
  v += sizes.Key<kHeadDim>(b, kv_head);

  char* shared = DynamicShared();
  constexpr uint32_t kFixedTile = TileBytes<kHeadDim>(kFixed<kHeadDim>),
                     kOneTile = TileBytes<kHeadDim>(kMoving);
  constexpr uint32_t kStage = 2 * kOneTile;
  const uint32_t q_tile = SharedAddress(shared), dy_tile = q_tile + kFixedTile, stages = dy_tile + kFixedTile;
  const int64_t head = sizes.Query<kHeadDim>(b, h);
  CopyTile<kHeadDim, kFixed<kHeadDim>>(q + head, q_stride, first, sizes.time, q_tile);
  CopyTile<kHeadDim, kFixed<kHeadDim>>(dy + head, q_stride, first, sizes.time, dy_tile);
  CopyTile<kHeadDim, kMoving>(k, kv_stride, 0, sizes.time, stages);
  CopyTile<kHeadDim, kMoving>(v, kv_stride, 0, sizes.time, stages + kOneTile);
  CommitCopies();

  const int query = first + warp_row;  // the warp's first
  float shift[kRowTiles<kHeadDim>][2], row_delta[kRowTiles<kHeadDim>][2];
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = query + 16 * r + 8 * half + lane / 4;
      const int64_t at = (int64_t{b} * sizes.heads + h) * sizes.time + row;
      shift[r][half] = row < sizes.time ? log_sum_exp[at] * kLog2E : 0.0f;
      row_delta[r][half] = row < sizes.time ? delta[at] : 0.0f;
    }
  }
  Result<kHeadDim> result = {};
  const float scale_log2 = sizes.scale * kLog2E;
  const int keys = min(first + kFixed<kHeadDim>, sizes.time);
  for (int stage_key = 0; stage_key < keys; stage_key += kMoving) {
    const uint32_t stage = stages + stage_key / kMoving % 2 * kStage;
    WaitForCopies<0>();
    __syncthreads();
    if (stage_key + kMoving < keys) {
      const uint32_t next = stages + (stage_key / kMoving + 1) % 2 * kStage;
      CopyTile<kHeadDim, kMoving>(k, kv_stride, stage_key + kMoving, sizes.time, next);
      CopyTile<kHeadDim, kMoving>(v, kv_stride, stage_key + kMoving, sizes.time, next + kOneTile);
      CommitCopies();
    }
#pragma unroll 1
    for (int step = 0; step < kMoving; step += kStep) {
      const int key = stage_key + step;
      if (key > query + 16 * kRowTiles<kHeadDim> - 1) break;  // Behind all of the warp's queries.
      Scores<kHeadDim, kStepTiles> p, ds;
      {
        Fragments<kHeadDim> fragments;
        LoadFragments<kHeadDim>(fragments, q_tile, warp_row);
        MultiplyByColumns<kHeadDim, kStepTiles>(fragments, stage, step, p);
        LoadFragments<kHeadDim>(fragments, dy_tile, warp_row);
        MultiplyByColumns<kHeadDim, kStepTiles>(fragments, stage + kOneTile, step, ds);
      }
      if (key + kStep - 1 > query) MaskKeys<kHeadDim, kStepTiles>(p, query, key, -INFINITY);
#pragma unroll
      for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
        for (int n = 0; n < kStepTiles; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            ds[r][n][i] =
                Exp2(p[r][n][i] * scale_log2 - shift[r][i / 2]) * (ds[r][n][i] - row_delta[r][i / 2]);
          }
        }
      }
      AddProduct<kHeadDim, kStepTiles>(ds, stage, step, result);
    }
  }
  float factor[kRowTiles<kHeadDim>][2];
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) factor[r][0] = factor[r][1] = sizes.scale;
  StoreResult<kHeadDim>(result, factor, shared, warp_row, dq + head, q_stride, first, sizes.time);
}

// ---- Host.

template <int kHeadDim>
dim3 Blocks(int time, int heads, int64_t batch) {
  return dim3(static_cast<unsigned>(CeilDiv(time, kFixed<kHeadDim>)), static_cast<unsigned>(heads),
              static_cast<unsigned>(batch));
}

Sizes SizesOf(const AttentionArgs<Bf16>& args) {
  return {.time = static_cast<int>(args.q.dim(1)),
          .heads = static_cast<int>(args.q.dim(2)),
          .kv_heads = static_cast<int>(args.k.dim(2)),
          .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(args.q.dim(3))))};
}

template <int kHeadDim>
void Forward(const Device& device, const AttentionArgs<Bf16>& args) {
  const Sizes sizes = SizesOf(args);
  Launch(device,
         {.blocks = Blocks<kHeadDim>(sizes.time, sizes.heads, args.q.dim(0)),
          .threads = kThreads,
          .shared_bytes = TileBytes<kHeadDim>(kFixed<kHeadDim>) + 4 * TileBytes<kHeadDim>(kMoving)},
         MmaForwardKernel<kHeadDim>, args.q.data(), args.k.data(), args.v.data(), args.y.data(),
         args.log_sum_exp.data(), sizes);
}

template <int kHeadDim>
void Backward(const Device& device, const AttentionGradArgs<Bf16>& args, Tensor<const float> delta) {
  const AttentionArgs<Bf16>& x = args.forward;
  const Sizes sizes = SizesOf(x);
  const int64_t batch = x.q.dim(0);
  const int64_t shared_bytes = 2 * TileBytes<kHeadDim>(kFixed<kHeadDim>) + 4 * TileBytes<kHeadDim>(kMoving);
  Launch(device,
         {.blocks = Blocks<kHeadDim>(sizes.time, sizes.kv_heads, batch),
          .threads = kThreads,
          .shared_bytes = shared_bytes + 4 * kMoving * int64_t{sizeof(float)}},
         MmaKeyGradientKernel<kHeadDim>, x.q.data(), x.k.data(), x.v.data(), args.dy.data(),
         x.log_sum_exp.data(), delta.data(), args.dk.data(), args.dv.data(), sizes);
  Launch(device,
         {.blocks = Blocks<kHeadDim>(sizes.time, sizes.heads, batch),
          .threads = kThreads,
          .shared_bytes = shared_bytes},
         MmaQueryGradientKernel<kHeadDim>, x.q.data(), x.k.data(), x.v.data(), args.dy.data(),
         x.log_sum_exp.data(), delta.data(), args.dq.data(), sizes);
}

}  // namespace

void MmaAttentionForward(const Device& device, const AttentionArgs<Bf16>& args) {
  const int64_t head_dim = args.q.dim(3);
  (head_dim == 32 ? Forward<32> : head_dim == 64 ? Forward<64> : Forward<128>)(device, args);
}

void MmaAttentionBackward(const Device& device, const AttentionGradArgs<Bf16>& args,
                          Tensor<const float> delta) {
  const int64_t head_dim = args.dq.dim(3);
  (head_dim == 32 ? Backward<32> : head_dim == 64 ? Backward<64> : Backward<128>)(device, args, delta);
}

}  // namespace hm11::cuda
