// The split into heads inside the product before it, on the blocks of ops/resident_product.cuh.
//
// A block's 128 columns are two heads of 64 channels. Four lanes have a row of a head between them, so its norm
// takes two shuffles; a channel's partner in RoPE is in the same lane, a few groups of 8 columns on. A warp stores
// its 16 rows itself, a head at a time: those of q and k first as they are, for backward, then what becomes of them.
#ifndef HM11_OPS_HEADS_PRODUCT_CUH_
#define HM11_OPS_HEADS_PRODUCT_CUH_

#include <cstdint>

#include "ops/resident_product.cuh"

namespace hm11::cuda::heads {

using resident::Shared;
using resident::Sizes;
using resident::Work;

inline constexpr int kThreads = resident::kGroups * 128 + 32;  // with the producer's warp
inline constexpr int kHeadDim = 64;
inline constexpr int kBlockHeads = resident::kBlockCols / kHeadDim;
inline constexpr int kWarpRows = 16;
inline constexpr float kEpsilon = 1e-6f;

// Absent operands are null.
struct Operands {
  int rows, time, heads, kv_heads;
  float factor;  // of the sums, where they are of 8-bit terms
  const float* q_gain;
  const float* cosines;  // [time, rope_dims / 2]
  const float* sines;
  const Bf16* value_embedding;
  const float* ve_layer_scale;
  const float* ve_scale;
  const Bf16* first_v;
  const float* residual;
};

struct Maps {
  TileMap x, weight;
  TileMap qkv, q, k, v;  // boxes of a warp's rows
};

// What a lane has of a head: c[n] as in hopper.cuh, n up to 8.
using Head = float (&)[8][4];

// Those of the pairs of groups n and n + kPairs, laid out as group n, of rows `row` and row + 8.
template <int kPairs>
struct Angles {
  float cosines[kPairs][4], sines[kPairs][4];

  __device__ __forceinline__ Angles(const Operands& operands, int row) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t at = int64_t{(row + 8 * half) % operands.time} * (8 * kPairs) + threadIdx.x % 4 * 2;
#pragma unroll
      for (int n = 0; n < kPairs; ++n) {
        Fetch(operands.cosines + at + 8 * n, cosines[n] + 2 * half);
        Fetch(operands.sines + at + 8 * n, sines[n] + 2 * half);
      }
    }
  }
  __device__ __forceinline__ static void Fetch(const float* from, float* to) {
    const float2 two = __ldg(reinterpret_cast<const float2*>(from));
    to[0] = two.x;
    to[1] = two.y;
  }
};

template <int kPairs>
__device__ __forceinline__ void NormAndTurn(const Angles<kPairs>& angles, float gain, Head c) {
  float factors[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      sum = fmaf(c[n][2 * half], c[n][2 * half], fmaf(c[n][2 * half + 1], c[n][2 * half + 1], sum));
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    factors[half] = gain * rsqrtf(sum / kHeadDim + kEpsilon);
  }
#pragma unroll
  for (int n = 0; n < kPairs; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float first = c[n][i], second = c[n + kPairs][i];
      c[n][i] = first * angles.cosines[n][i] + second * angles.sines[n][i];
      c[n + kPairs][i] = second * angles.cosines[n][i] - first * angles.sines[n][i];
    }
  }
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) c[n][i] *= factors[i / 2];
  }
}

// What a lane reads of a head of v in another matrix, at the places of its sums: on its way before the product.
using Pairs = uint32_t (&)[2][8];

__device__ __forceinline__ void FetchHead(const Operands& operands, const Bf16* from, int row, int head,
                                          Pairs pairs) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t here = min(row + 8 * half, operands.rows - 1);  // Rows beyond are not stored.
    const Bf16* const at = from + (here * operands.kv_heads + head) * kHeadDim + threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < 8; ++n) pairs[half][n] = __ldg(reinterpret_cast<const uint32_t*>(at + 8 * n));
  }
}

// c = scale * what is in pairs + own * c.
__device__ __forceinline__ void Mix(float scale, const uint32_t (&pairs)[2][8], float own, Head c) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      c[n][2 * half] = fmaf(scale, LowOf(pairs[half][n]), own * c[n][2 * half]);
      c[n][2 * half + 1] = fmaf(scale, HighOf(pairs[half][n]), own * c[n][2 * half + 1]);
    }
  }
}

// Stores a warp's rows of heads, each from one of the warp's two slabs of shared memory in turn.
struct Sender {
  const Shared& shared;
  int group;
  int slab = 0;

  __device__ __forceinline__ void Send(Head c, const TileMap& map, int row, int head) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    if (lane == 0) WaitForStores<1>();
    __syncwarp();
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      const uint32_t pairs[4] = {PackBf16(c[n][0], c[n][1]), PackBf16(c[n][2], c[n][3]),
                                 PackBf16(c[n + 1][0], c[n + 1][1]), PackBf16(c[n + 1][2], c[n + 1][3])};
      StoreMatrices(resident::MatrixRow(shared, group, 8 * slab + n), pairs);
    }
    FenceForUnits();
    __syncwarp();
    if (lane == 0) {
      StoreBox(map, shared.Results(group, slab) + warp * kWarpRows * kHeadDim * 2, head * kHeadDim, row);
      CommitStores();
    }
    slab ^= 1;
  }
};

// `row`: the warp's first; `slot`: which of a row's heads, queries first, then keys, then values; `ahead`: of a value,
// what FetchHead brought of first_v, or else of the value embedding.
template <int kPairs>
__device__ __forceinline__ void Finish(const Operands& operands, const Maps& maps,
                                       const Angles<kPairs>& angles, int row, int slot, Pairs ahead, Head c,
                                       Sender& sender) {
  const int heads = operands.heads, value = slot - heads - operands.kv_heads;
  if (value >= 0) {
    const bool mixes = operands.first_v != nullptr;
    if (mixes) sender.Send(c, maps.qkv, row, slot);
    if (operands.value_embedding != nullptr) {
      const float scale = *operands.ve_layer_scale * *operands.ve_scale;
      if (mixes) {
        uint32_t pairs[2][8];
        FetchHead(operands, operands.value_embedding, row + threadIdx.x % 32 / 4, value, pairs);
        Mix(scale, pairs, 1, c);
      } else {
        Mix(scale, ahead, 1, c);
      }
    }
    if (mixes) Mix(operands.residual[0], ahead, operands.residual[1], c);
    sender.Send(c, maps.v, row, value);
  } else {
    sender.Send(c, maps.qkv, row, slot);
    const bool is_query = slot < heads;
    NormAndTurn(angles, is_query ? operands.q_gain[slot] : 1.0f, c);
    sender.Send(c, is_query ? maps.q : maps.k, row, is_query ? slot : slot - heads);
  }
}

template <typename In, int kPairs>
__device__ void Consume(const Sizes& sizes, const Work& work, const Shared& shared, const Maps& maps,
                        const Operands& operands) {
  const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
  const int first_slot = work.FirstCol() / kHeadDim;
  const Bf16* const other = operands.first_v != nullptr ? operands.first_v : operands.value_embedding;
  Sender sender = {shared, group};
  WaitBarrier(shared.WeightsFull(), 0);
#pragma unroll 1
  for (int tile = group; work.Row(tile) < sizes.rows; tile += resident::kGroups) {
    const int row = work.Row(tile) + threadIdx.x / 32 % 4 * kWarpRows;
    const Angles<kPairs> angles(operands, row + threadIdx.x % 32 / 4);
    uint32_t ahead[kBlockHeads][2][8];
#pragma unroll
    for (int head = 0; head < kBlockHeads; ++head) {
      const int value = first_slot + head - operands.heads - operands.kv_heads;
      if (value >= 0 && other != nullptr) {
        FetchHead(operands, other, row + threadIdx.x % 32 / 4, value, ahead[head]);
      }
    }
    resident::Sums c;
    resident::Multiply<In, false>(sizes, shared, group, tile, c);
    if constexpr (sizeof(In) == 1) ScaleSums(operands.factor, c);
#pragma unroll
    for (int head = 0; head < kBlockHeads; ++head) {
      Finish(operands, maps, angles, row, first_slot + head, ahead[head], reinterpret_cast<Head>(c[8 * head]),
             sender);
    }
  }
  if (threadIdx.x % 32 == 0) WaitForStores<0>();
}

// In clusters of two.
template <typename In, int kPairs>
__global__ void __launch_bounds__(kThreads, 1)
    ProductKernel(const __grid_constant__ Maps maps, const Sizes sizes, const Operands operands) {
  if constexpr (kIsHopper) {
    const Shared shared;
    const Work work(sizes);
    shared.Init();
    SyncCluster();
    if (threadIdx.x / 128 < resident::kGroups) {
      Consume<In, kPairs>(sizes, work, shared, maps, operands);
    } else if (threadIdx.x % 32 == 0) {
      resident::Produce<In, false>(sizes, work, shared, maps.x, maps.weight);
    }
    __syncwarp();
    SyncCluster();  // The other block may still copy to this one, and arrive at its barriers.
  }
}

}  // namespace hm11::cuda::heads

#endif  // HM11_OPS_HEADS_PRODUCT_CUH_
