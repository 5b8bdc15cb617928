// The selective scan's backward pass on a GPU: sums over states and over channels, in a block and over
// blocks.
#ifndef HM11_SCAN_SELECTIVE_SCAN_BACKWARD_SUMS_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_BACKWARD_SUMS_CUH_

#include <cstdint>

#include "core/device.h"
#include "core/launch.cuh"
#include "core/special_functions.cuh"
#include "scan/scan_math.cuh"
#include "scan/selective_scan_backward_tile.cuh"
#include "scan/selective_scan_tiles.cuh"

namespace hm11::cuda {

// The derivative of softplus at v, from softplus(v) itself: 1 - e^-softplus(v). For 16 bits the first term of
// its series where that would cancel.
template <typename T>
__device__ __forceinline__ float SigmoidOfSoftplus(float softplus) {
  if (sizeof(T) == 4) return -expm1f(-softplus);
  constexpr float kSmall = 1.0f / 1024.0f;
  const float rest = 1.0f - Exp2(-kLog2E * softplus);
  return softplus < kSmall ? softplus : rest;
}

// What is left once a token and channel, for kHeld tokens: a lane does kSumChannels neighbouring channels of
// one token.
template <typename T, typename Shape>
struct ChannelSums {
  static constexpr int kChannels = Shape::kSumChannels;
  const ThreadPlace<Shape> self;
  // The lanes of a lane group have one token each, as in OuterFactors: with a channel a lane the addresses are
  // those, too.
  const int token = self.lane % kHeld;
  const int in_warp = self.lane / kHeld * kChannels;  // the first channel's place
  const int in_block = self.warp * Shape::kWarpChannels + in_warp;
  const int channel = in_warp / 2 * 8 + self.warp * 2 + in_warp % 2;  // in the block
  float d[kChannels], dd[kChannels] = {}, ddelta_bias[kChannels] = {};
  const float* parts;  // the first lane group's, of the lane's token and channels

  __device__ __forceinline__ explicit ChannelSums(BackwardTile<T, Shape>& tile)
      : parts(KeptAddress(&tile.parts[self.warp][token][in_warp].x)) {}

  // Once the block's d is in shared memory.
  __device__ __forceinline__ void LoadChannels(const BackwardTile<T, Shape>& tile) {
    LoadShared(&tile.d[channel], d);
  }

  // Sums over states of tokens from the sequence's token `first` on, from one number a lane group to one a
  // channel, and from them the gradients of x and delta. Only this warp's shared memory is touched; the parts
  // must have been written before a __syncwarp(), and may be written again behind another.
  __device__ __forceinline__ void Finish(const BackwardOperands<T>& p, int first, const float* row, T* x) {
    float totals[2 * kChannels];
    LoadShared(parts, totals);
#pragma unroll
    for (int g = 1; g < Shape::kStateGroups; ++g) {
      float part[2 * kChannels];
      LoadShared(parts + 2 * g * Shape::kWarpChannels, part);
#pragma unroll
      for (int i = 0; i < 2 * kChannels; ++i) totals[i] += part[i];
    }
    constexpr int kRows = Shape::kTile * Shape::kChannelStride;
    float step[kChannels], dy[kChannels];
    LoadShared(row, step);
    LoadShared(row + kDy * kRows, dy);
    T* const ddelta = x + Shape::kTile * Shape::kBlockChannels;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const float dinput = totals[2 * i + 1], from = ToFloat(x[i]), dout = dy[i];
      float dstep = fmaf(from, dinput, totals[2 * i] * kLn2);
      // Past the end of time a step of 0 has a gradient too, of which softplus makes 0.
      if (Shape::HasSoftplus(p)) {
        dstep *= SigmoidOfSoftplus<T>(step[i]);
      } else if (first + token >= p.time) {
        dstep = 0.0f;
      }
      dd[i] = fmaf(dout, from, dd[i]);
      ddelta_bias[i] += dstep;
      x[i] = FromFloat<T>(fmaf(step[i], dinput, d[i] * dout));
      ddelta[i] = FromFloat<T>(dstep);
    }
  }

  // The gradients of d and delta_bias.
  __device__ __forceinline__ void Store(const BackwardOperands<T>& p, const BackwardPlace& place) {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
#pragma unroll
      for (int lanes = 1; lanes < kHeld; lanes *= 2) {
        dd[i] += __shfl_xor_sync(0xffffffffu, dd[i], lanes);
        ddelta_bias[i] += __shfl_xor_sync(0xffffffffu, ddelta_bias[i], lanes);
      }
      if (token == 0 && place.channel_begin + channel + i < p.inner) {
        const int64_t row = (int64_t{place.segment} * p.batch + place.batch) * p.inner;
        p.dd[row + place.channel_begin + channel + i] = dd[i];
        p.ddelta_bias[row + place.channel_begin + channel + i] = ddelta_bias[i];
      }
    }
  }
};

// The sums over channels, from the accumulators through shared memory to a row for every token and block.
template <typename T, typename Shape>
struct ColumnSums {
  static constexpr bool kPairs = kPairSums<T, Shape>;
  static constexpr int kStride = kColumnSumStride<T, Shape>;
  static constexpr int kFours = 2 * Shape::kStates / 4;
  static constexpr int kBuffer =
      Shape::kWarps * Shape::kSets * Shape::kGroup * kStride;  // numbers of a group's buffer
  float* from_accumulators;  // where the thread's numbers of the group's first tokens go
  const float* of_sets;      // those that the thread sums over sets
  T* rows;                   // where they go
  int other = kBuffer;       // from the group's buffer to the other one

  __device__ __forceinline__ ColumnSums(const BackwardOperands<T>& p, const BackwardPlace& place,
                                        const ThreadPlace<Shape>& self, BackwardTile<T, Shape>& tile)
      : from_accumulators(
            KeptAddress(&tile.column_sums[0][self.warp * Shape::kSets + self.set]
                                         [kPairs ? self.quad / 2 : 2 * self.quad % Shape::kStateGroups]
                                         [self.state_begin + (kPairs ? self.quad % 2 * 2 : 0)])),
        of_sets(KeptAddress(&tile.column_sums[0][0][threadIdx.x / kFours][threadIdx.x % kFours * 4])) {
    const int token = place.tile_end * Shape::kTile - Shape::kGroup;
    const int64_t row = (int64_t{place.channel_block} * p.batch + place.batch) * p.time + token;
    rows = p.dcolumns + row * (2 * Shape::kStates) + threadIdx.x * 4;
  }

  // The sums over a set's channels of kStateGroups tokens, from the group's token `first` on, out of the
  // accumulators into shared memory. Row g of an accumulator belongs to the set of lane group g, and so does
  // column g: what lies in rows of one set and columns of another is nothing.
  __device__ __forceinline__ void Add(const ThreadPlace<Shape>& self, int first,
                                      const BackwardAccumulators<Shape>& sums) const {
    constexpr int kStates = Shape::kThreadStates;
    if (Shape::kSets == 1 || 2 * self.quad / Shape::kStateGroups == self.set) {
#pragma unroll
      for (int which = 0; which < 2; ++which) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          float values[kStates];
#pragma unroll
          for (int j = 0; j < kStates; ++j) values[j] = sums[which][j / 2][j % 2 * 2 + odd];
          StoreShared(from_accumulators + (first + odd) * kStride + which * Shape::kStates, values);
        }
      }
    }
  }

  // The same of two tokens, the group's `first` and the one behind, out of what PairFactors has added up. Of
  // four states the second and the third change places.
  __device__ __forceinline__ void AddPair(int first, const BackwardAccumulators<Shape>& sums) const {
#pragma unroll
    for (int which = 0; which < 2; ++which) {
#pragma unroll
      for (int j = 0; j < Shape::kStatePairs; j += 2) {
        const float values[2] = {sums[which][j][0] + sums[which][j][3],
                                 sums[which][j + 1][0] + sums[which][j + 1][3]};
        StoreShared(from_accumulators + first * kStride + which * Shape::kStates + 2 * j, values);
      }
    }
  }

  // The sums over the block's channels of the group, whose first token is the sequence's token `first`, out
  // of those of its sets. Then to the group before.
  __device__ __forceinline__ void Store(const BackwardOperands<T>& p, int first) {
#pragma unroll
    for (int i = 0; i < CeilDiv(Shape::kGroup * kFours, Shape::kThreads); ++i) {
      const unsigned item = i * Shape::kThreads + threadIdx.x;
      const int t = static_cast<int>(item / kFours);
      if (Shape::kGroup * kFours % Shape::kThreads != 0 && t >= Shape::kGroup) break;
      constexpr int kItemTokens = Shape::kThreads / kFours;
      float sum[4];
      LoadShared(of_sets + i * kItemTokens * kStride, sum);
#pragma unroll
      for (int set = 1; set < Shape::kWarps * Shape::kSets; ++set) {
        float part[4];
        LoadShared(of_sets + (set * Shape::kGroup + i * kItemTokens) * kStride, part);
#pragma unroll
        for (int k = 0; k < 4; ++k) sum[k] += part[k];
      }
      const float in_order[4] = {sum[0], sum[kPairs ? 2 : 1], sum[kPairs ? 1 : 2], sum[3]};
      if (first + t < p.time) {
        StateVector<T, 4>::Of(in_order).Store(rows + i * Shape::kThreads * 4, 0, 4, true);
      }
    }
    rows -= Shape::kGroup * 2 * Shape::kStates;
    if (Shape::kGroupBuffers == 2) {
      from_accumulators += other;
      of_sets += other;
      other = -other;
    }
  }
};

// db and dc of a token: the sum over blocks of channels, in order. A thread has 16 bytes of a row.
template <typename T>
__global__ void __launch_bounds__(256)
    SumColumnsKernel(const T* __restrict__ parts, int channel_blocks, int64_t rows, int padded_states,
                     int states, T* db, int64_t db_stride, T* dc, int64_t dc_stride, bool vectors) {
  constexpr int kVector = kVectorSize<T>;
  const int row_vectors = 2 * padded_states / kVector;
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= rows * row_vectors) return;
  const int64_t row = index / row_vectors;
  const int column = static_cast<int>(index % row_vectors) * kVector;
  float sum[kVector] = {};
#pragma unroll 8
  for (int block = 0; block < channel_blocks; ++block) {
    const auto part =
        LoadRow(parts + (block * rows + row) * (2 * padded_states), column, 2 * padded_states, true);
#pragma unroll
    for (int k = 0; k < kVector; ++k) sum[k] += part[k];
  }
  RowVector<T> total = {};
#pragma unroll
  for (int k = 0; k < kVector; ++k) total.Set(k, sum[k]);
  if (column < padded_states) {
    StoreRow(db + row * db_stride, column, states, vectors, total);
  } else {
    StoreRow(dc + row * dc_stride, column - padded_states, states, vectors, total);
  }
}

// A gradient that is a sum over segments and batch rows: to[i] += the sum over parts of from[part * size + i].
struct PartSums {
  const float* from;  // [parts, size]
  int64_t size;       // 0: nobody asks for it
  float* to;          // [size]
};
struct AllPartSums {
  PartSums of[3];  // da_log, dd, ddelta_bias
};

constexpr int kPartColumns = 32;
constexpr int kPartSlices = 4;

__host__ __device__ __forceinline__ int64_t PartBlocks(const PartSums& sums) {
  return CeilDiv<int64_t>(sums.size, kPartColumns);
}

// A block owns kPartColumns columns of one gradient; its warps take every kPartSlices-th part each, and the warps'
// sums are added in order.
static __global__ void __launch_bounds__(kPartColumns* kPartSlices)
    AddPartsKernel(const __grid_constant__ AllPartSums all, int64_t parts) {
  __shared__ float slices[kPartSlices][kPartColumns];
  int64_t block = blockIdx.x;
  int which = 0;
  while (block >= PartBlocks(all.of[which])) block -= PartBlocks(all.of[which++]);
  const PartSums& sums = all.of[which];
  const int64_t column = block * kPartColumns + threadIdx.x;
  float sum = 0.0f;
  if (column < sums.size) {
#pragma unroll 8
    for (int64_t part = threadIdx.y; part < parts; part += kPartSlices) {
      sum += sums.from[part * sums.size + column];
    }
  }
  slices[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= sums.size) return;
#pragma unroll
  for (int slice = 1; slice < kPartSlices; ++slice) sum += slices[slice][threadIdx.x];
  sums.to[column] += sum;
}

// In one launch: dd and ddelta_bias are a few blocks, which would leave most of a GPU idle.
inline void AddParts(const Device& device, const AllPartSums& all, int64_t parts) {
  int64_t blocks = 0;
  for (const PartSums& sums : all.of) blocks += PartBlocks(sums);
  Launch(device, {.blocks = dim3(static_cast<unsigned>(blocks)), .threads = dim3(kPartColumns, kPartSlices)},
         AddPartsKernel, all, parts);
}

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_BACKWARD_SUMS_CUH_
