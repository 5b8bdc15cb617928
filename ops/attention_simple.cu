// Attention in float arithmetic for any type and head_dim <= 128: what the fast kernels are compared with,
// and what runs where they do not fit.
//
// All three kernels work on tiles of 32 queries by 32 keys in blocks of four warps. Lane j of warp w has the
// scores of key j with queries 8w..8w+7; for products over keys (or queries) a warp has eight rows of the
// result and lane j their channels j, j+32, j+64, j+96. Tiles lie in shared memory as float, rows one number
// longer than head_dim so that a column is read without bank conflicts.
#include <cmath>

#include "core/launch.cuh"
#include "ops/attention_cuda.h"
#include "ops/packs.cuh"
#include "ops/tensor_core.cuh"

namespace hm11::cuda {
namespace {

constexpr int kTile = 32;
constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = kTile / kWarps;  // rows of a tile that are one warp's
constexpr int kChannels = 4;           // channels of a lane: head_dim <= 128

struct Sizes {
  int time, heads, kv_heads, head_dim;
  float scale;

  __device__ int64_t QueryRow(int b, int t, int h) const { return (int64_t{b} * time + t) * heads + h; }
  __device__ int64_t KeyRow(int b, int t, int h) const { return (int64_t{b} * time + t) * kv_heads + h; }
  __device__ int tile_stride() const { return head_dim + 1; }
};

__device__ inline float WarpMaximum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  return value;
}

// Rows [first, first + kTile) of a head into shared memory, zeros from `time` on.
template <typename T>
__device__ void LoadTile(const T* data, int64_t row0, int heads, int first, const Sizes& sizes, float* tile) {
  for (int i = threadIdx.x; i < kTile * sizes.head_dim; i += kThreads) {
    const int row = i / sizes.head_dim, d = i % sizes.head_dim;
    const bool valid = first + row < sizes.time;
    tile[row * sizes.tile_stride() + d] =
        valid ? static_cast<float>(data[(row0 + int64_t{row} * heads) * sizes.head_dim + d]) : 0.0f;
  }
}

__device__ inline float DotRows(const float* a, const float* b, int head_dim) {
  float sum = 0;
  for (int d = 0; d < head_dim; ++d) sum += a[d] * b[d];
  return sum;
}

template <typename T>
__device__ void StoreRow(const float (&values)[kChannels], float factor, T* row, int head_dim) {
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    const int d = threadIdx.x % 32 + 32 * c;
    if (d < head_dim) row[d] = static_cast<T>(values[c] * factor);
  }
}

// sums[r] += weight_r row, for the channels of this lane.
__device__ __forceinline__ void AddRow(float weight, const float* row, int head_dim,
                                       float (&sums)[kChannels]) {
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    const int d = threadIdx.x % 32 + 32 * c;
    if (d < head_dim) sums[c] += weight * row[d];
  }
}

// Block (query tile, head, batch row).
template <typename T>
__global__ void __launch_bounds__(kThreads)
    SimpleForwardKernel(const T* q, const T* k, const T* v, T* y, float* log_sum_exp, const Sizes sizes) {
  const int b = blockIdx.z, h = blockIdx.y, first = blockIdx.x * kTile;
  const int kv_head = h / (sizes.heads / sizes.kv_heads);
  const int lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * kRows, stride = sizes.tile_stride();
  float* shared = reinterpret_cast<float*>(DynamicShared());
  float* q_tile = shared;
  float* k_tile = q_tile + kTile * stride;
  float* v_tile = k_tile + kTile * stride;
  LoadTile(q, sizes.QueryRow(b, first, h), sizes.heads, first, sizes, q_tile);

  float sums[kRows][kChannels] = {}, maximum[kRows], total[kRows] = {};
  for (float& m : maximum) m = -INFINITY;
  for (int key = 0; key < first + kTile && key < sizes.time; key += kTile) {
    __syncthreads();
    LoadTile(k, sizes.KeyRow(b, key, kv_head), sizes.kv_heads, key, sizes, k_tile);
    LoadTile(v, sizes.KeyRow(b, key, kv_head), sizes.kv_heads, key, sizes, v_tile);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool visible = key + lane <= first + row0 + r && key + lane < sizes.time;
      const float dot = DotRows(q_tile + (row0 + r) * stride, k_tile + lane * stride, sizes.head_dim);
      const float score = visible ? dot * sizes.scale : -INFINITY;
      const float old = maximum[r];
      maximum[r] = fmaxf(old, WarpMaximum(score));  // Finite: key 0 is in the first tile and always visible.
      const float p = expf(score - maximum[r]), correction = expf(old - maximum[r]);
      total[r] = total[r] * correction + WarpSum(p);
#pragma unroll
      for (int c = 0; c < kChannels; ++c) sums[r][c] *= correction;
#pragma unroll 2
      for (int j = 0; j < kTile; ++j) {
        AddRow(__shfl_sync(0xffffffffu, p, j), v_tile + j * stride, sizes.head_dim, sums[r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int t = first + row0 + r;
    if (t >= sizes.time) continue;
    StoreRow(sums[r], 1.0f / total[r], y + sizes.QueryRow(b, t, h) * sizes.head_dim, sizes.head_dim);
    if (lane == 0) {
      log_sum_exp[(int64_t{b} * sizes.heads + h) * sizes.time + t] = maximum[r] + logf(total[r]);
    }
  }
}

// What a backward block holds of one tile pair.
struct BackwardTiles {
  float *q, *k, *v, *dy, *p, *ds;
  __device__ BackwardTiles(float* shared, int stride)
      : q(shared),
        k(q + kTile * stride),
        v(k + kTile * stride),
        dy(v + kTile * stride),
        p(dy + kTile * stride),
        ds(p + kTile * (kTile + 1)) {}
};
int64_t BackwardSharedBytes(int64_t head_dim) {
  return (4 * kTile * (head_dim + 1) + 2 * kTile * (kTile + 1)) * int64_t{sizeof(float)};
}

// p and ds of the tile pair (queries from `first`, keys from `key`); `row` is the offset of the head's query
// `first` in log_sum_exp and delta.
__device__ inline void BackwardScores(const BackwardTiles& tiles, const float* log_sum_exp,
                                      const float* delta, int64_t row, int first, int key,
                                      const Sizes& sizes) {
  const int lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * kRows, stride = sizes.tile_stride();
  for (int i = row0; i < row0 + kRows; ++i) {
    const bool visible = key + lane <= first + i && first + i < sizes.time;
    float p = 0, ds = 0;
    if (visible) {
      const float score =
          DotRows(tiles.q + i * stride, tiles.k + lane * stride, sizes.head_dim) * sizes.scale;
      p = expf(score - log_sum_exp[row + i]);
      const float dp = DotRows(tiles.dy + i * stride, tiles.v + lane * stride, sizes.head_dim);
      ds = p * (dp - delta[row + i]) * sizes.scale;
    }
    tiles.p[i * (kTile + 1) + lane] = p;
    tiles.ds[i * (kTile + 1) + lane] = ds;
  }
}

// What both kernels of the backward pass read.
template <typename T>
struct GradOperands {
  const T *q, *k, *v, *dy;
  const float *log_sum_exp, *delta;
};

// Block (key tile, kv head, batch row): sums over the query heads that read the kv head and over query tiles,
// in that order.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    SimpleKeyGradientKernel(const GradOperands<T> p, T* dk, T* dv, const Sizes sizes) {
  const int b = blockIdx.z, kv_head = blockIdx.y, key = blockIdx.x * kTile;
  const int group = sizes.heads / sizes.kv_heads;
  const int row0 = threadIdx.x / 32 * kRows, stride = sizes.tile_stride();
  float* shared = reinterpret_cast<float*>(DynamicShared());
  const BackwardTiles tiles(shared, stride);
  LoadTile(p.k, sizes.KeyRow(b, key, kv_head), sizes.kv_heads, key, sizes, tiles.k);
  LoadTile(p.v, sizes.KeyRow(b, key, kv_head), sizes.kv_heads, key, sizes, tiles.v);

  float dk_sums[kRows][kChannels] = {}, dv_sums[kRows][kChannels] = {};
  for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    for (int first = key; first < sizes.time; first += kTile) {
      __syncthreads();
      LoadTile(p.q, sizes.QueryRow(b, first, h), sizes.heads, first, sizes, tiles.q);
      LoadTile(p.dy, sizes.QueryRow(b, first, h), sizes.heads, first, sizes, tiles.dy);
      __syncthreads();
      BackwardScores(tiles, p.log_sum_exp, p.delta, (int64_t{b} * sizes.heads + h) * sizes.time + first,
                     first, key, sizes);
      __syncthreads();
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll 2
        for (int i = 0; i < kTile; ++i) {
          AddRow(tiles.ds[i * (kTile + 1) + row0 + r], tiles.q + i * stride, sizes.head_dim, dk_sums[r]);
          AddRow(tiles.p[i * (kTile + 1) + row0 + r], tiles.dy + i * stride, sizes.head_dim, dv_sums[r]);
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int t = key + row0 + r;
    if (t >= sizes.time) continue;
    StoreRow(dk_sums[r], 1.0f, dk + sizes.KeyRow(b, t, kv_head) * sizes.head_dim, sizes.head_dim);
    StoreRow(dv_sums[r], 1.0f, dv + sizes.KeyRow(b, t, kv_head) * sizes.head_dim, sizes.head_dim);
  }
}

// Block (query tile, head, batch row).
template <typename T>
__global__ void __launch_bounds__(kThreads)
    SimpleQueryGradientKernel(const GradOperands<T> p, T* dq, const Sizes sizes) {
  const int b = blockIdx.z, h = blockIdx.y, first = blockIdx.x * kTile;
  const int kv_head = h / (sizes.heads / sizes.kv_heads);
  const int row0 = threadIdx.x / 32 * kRows, stride = sizes.tile_stride();
  float* shared = reinterpret_cast<float*>(DynamicShared());
  const BackwardTiles tiles(shared, stride);
  LoadTile(p.q, sizes.QueryRow(b, first, h), sizes.heads, first, sizes, tiles.q);
  LoadTile(p.dy, sizes.QueryRow(b, first, h), sizes.heads, first, sizes, tiles.dy);

  float dq_sums[kRows][kChannels] = {};
  for (int key = 0; key < first + kTile && key < sizes.time; key += kTile) {
    __syncthreads();
    LoadTile(p.k, sizes.KeyRow(b, key, kv_head), sizes.kv_heads, key, sizes, tiles.k);
    LoadTile(p.v, sizes.KeyRow(b, key, kv_head), sizes.kv_heads, key, sizes, tiles.v);
    __syncthreads();
    BackwardScores(tiles, p.log_sum_exp, p.delta, (int64_t{b} * sizes.heads + h) * sizes.time + first, first,
                   key, sizes);
    __syncwarp();  // A warp reads the rows of ds that it wrote.
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll 2
      for (int j = 0; j < kTile; ++j) {
        AddRow(tiles.ds[(row0 + r) * (kTile + 1) + j], tiles.k + j * stride, sizes.head_dim, dq_sums[r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int t = first + row0 + r;
    if (t < sizes.time) {
      StoreRow(dq_sums[r], 1.0f, dq + sizes.QueryRow(b, t, h) * sizes.head_dim, sizes.head_dim);
    }
  }
}

template <typename T>
Sizes SizesOf(const AttentionArgs<T>& args) {
  const int64_t head_dim = args.q.dim(3);
  return {.time = static_cast<int>(args.q.dim(1)),
          .heads = static_cast<int>(args.q.dim(2)),
          .kv_heads = static_cast<int>(args.k.dim(2)),
          .head_dim = static_cast<int>(head_dim),
          .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim)))};
}

dim3 Blocks(const Sizes& sizes, int heads, int64_t batch) {
  return dim3(static_cast<unsigned>(CeilDiv(sizes.time, kTile)), static_cast<unsigned>(heads),
              static_cast<unsigned>(batch));
}

}  // namespace

template <typename T>
void SimpleAttentionForward(const Device& device, const AttentionArgs<T>& args) {
  const Sizes sizes = SizesOf(args);
  Launch(device,
         {.blocks = Blocks(sizes, sizes.heads, args.q.dim(0)),
          .threads = kThreads,
          .shared_bytes = 3 * kTile * (sizes.head_dim + 1) * int64_t{sizeof(float)}},
         SimpleForwardKernel<T>, args.q.data(), args.k.data(), args.v.data(), args.y.data(),
         args.log_sum_exp.data(), sizes);
}

template <typename T>
void SimpleAttentionBackward(const Device& device, const AttentionGradArgs<T>& args,
                             Tensor<const float> delta) {
  const AttentionArgs<T>& x = args.forward;
  const Sizes sizes = SizesOf(x);
  const int64_t shared_bytes = BackwardSharedBytes(sizes.head_dim), batch = x.q.dim(0);
  const GradOperands<T> operands = {x.q.data(),     x.k.data(),           x.v.data(),
                                    args.dy.data(), x.log_sum_exp.data(), delta.data()};
  Launch(device,
         {.blocks = Blocks(sizes, sizes.kv_heads, batch), .threads = kThreads, .shared_bytes = shared_bytes},
         SimpleKeyGradientKernel<T>, operands, args.dk.data(), args.dv.data(), sizes);
  Launch(device,
         {.blocks = Blocks(sizes, sizes.heads, batch), .threads = kThreads, .shared_bytes = shared_bytes},
         SimpleQueryGradientKernel<T>, operands, args.dq.data(), sizes);
}

#define HM11_INSTANTIATE(T)                                                     \
  template void SimpleAttentionForward(const Device&, const AttentionArgs<T>&); \
  template void SimpleAttentionBackward(const Device&, const AttentionGradArgs<T>&, Tensor<const float>)
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
#undef HM11_INSTANTIATE

}  // namespace hm11::cuda
