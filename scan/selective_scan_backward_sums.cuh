// The selective scan's backward pass on a GPU: sums over states and over channels, in a block and over
// blocks.
#ifndef HM11_SCAN_SELECTIVE_SCAN_BACKWARD_SUMS_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_BACKWARD_SUMS_CUH_

#include <cstdint>

#include "core/device.h"
#include "core/launch.cuh"
#include "scan/scan_math.cuh"
#include "scan/selective_scan_backward_tile.cuh"
#include "scan/selective_scan_tiles.cuh"

namespace hm11::cuda {

__device__ __forceinline__ void StoreFour(float* to, const float (&from)[4]) { StoreShared(to, from); }
__device__ __forceinline__ void StoreFour(Bf16* to, const float (&from)[4]) {
  StateVector<Bf16, 4>::Of(from).Store(to, 0, 4, true);
}

// The sums over states of kHeld tokens, from one number a lane group to one a channel. A lane does
// kSumChannels channels of one token; only this warp's shared memory is touched.
template <typename Shape, typename T>
__device__ __forceinline__ void SumOverStates(const ThreadPlace<Shape>& self, int first_token,
                                              BackwardTile<T, Shape>& tile) {
  constexpr int kChannels = Shape::kSumChannels;
  constexpr int kLanes = 32 / kHeld;
  __syncwarp();
  const int token = self.lane / kLanes;
  const int channel = self.lane % kLanes * kChannels;
  float totals[2 * kChannels] = {};
#pragma unroll
  for (int g = 0; g < Shape::kStateGroups; ++g) {
    float part[2 * kChannels];
    LoadShared(&tile.parts[self.warp][token][g * Shape::kWarpChannels + channel].x, part);
#pragma unroll
    for (int i = 0; i < 2 * kChannels; ++i) totals[i] += part[i];
  }
#pragma unroll
  for (int i = 0; i < kChannels; ++i) totals[2 * i] *= kLn2;
  StoreShared(&tile.sums[first_token + token][self.warp * Shape::kWarpChannels + channel].x, totals);
  __syncwarp();
}

// The sums over a set's channels of kStateGroups tokens from the accumulators to shared memory. Row g of an
// accumulator belongs to the set of lane group g, and so does column g: what lies in rows of one set and
// columns of another is nothing. The stride makes the lanes of a store phase hit all 32 banks.
template <typename Shape>
__device__ __forceinline__ void StoreAccumulators(const ThreadPlace<Shape>& self, int place_in_group,
                                                  float (&dcolumns)[2][Shape::kStatePairs][4],
                                                  float (&columns)[kGroup][Shape::kColumnStride]) {
  constexpr int kStates = Shape::kThreadStates;
  if (Shape::kSets == 1 || 2 * self.quad / Shape::kStateGroups == self.set) {
    const int place = place_in_group + 2 * self.quad % Shape::kStateGroups;
#pragma unroll
    for (int which = 0; which < 2; ++which) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        float values[kStates];
#pragma unroll
        for (int j = 0; j < kStates; ++j) values[j] = dcolumns[which][j / 2][j % 2 * 2 + odd];
        StoreShared(&columns[place + odd][which * Shape::kStates + self.state_begin], values);
      }
    }
  }
#pragma unroll
  for (int which = 0; which < 2; ++which) {
#pragma unroll
    for (int m = 0; m < Shape::kStatePairs; ++m) {
#pragma unroll
      for (int k = 0; k < 4; ++k) dcolumns[which][m][k] = 0.0f;
    }
  }
}

// The sums over the block's channels of kGroup tokens, out of those of its sets.
template <typename Shape, typename T>
__device__ __forceinline__ void StoreColumns(
    const BackwardOperands<T>& p, const BackwardPlace& place, int first_token,
    const float (&columns)[Shape::kWarps * Shape::kSets][kGroup][Shape::kColumnStride]) {
  constexpr int kFours = 2 * Shape::kStates / 4;
  for (int item = static_cast<int>(threadIdx.x); item < kGroup * kFours; item += Shape::kThreads) {
    const int t = item / kFours;
    const int column = item % kFours * 4;
    float sum[4] = {};
#pragma unroll
    for (int set = 0; set < Shape::kWarps * Shape::kSets; ++set) {
      float part[4];
      LoadShared(&columns[set][t][column], part);
#pragma unroll
      for (int k = 0; k < 4; ++k) sum[k] += part[k];
    }
    if (first_token + t < p.time) {
      const int64_t row = (int64_t{place.channel_block} * p.batch + place.batch) * p.time + first_token + t;
      StoreFour(p.dcolumns + row * (2 * Shape::kStates) + column, sum);
    }
  }
}

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

// to[i] += the sum over parts of from[part][i], in order.
static __global__ void __launch_bounds__(128)
    AddPartsKernel(const float* __restrict__ from, int64_t parts, int64_t size, float* to) {
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= size) return;
  float sum = 0.0f;
#pragma unroll 8
  for (int64_t part = 0; part < parts; ++part) sum += from[part * size + index];
  to[index] += sum;
}

inline void AddParts(const Device& device, const float* from, int64_t parts, int64_t size, float* to) {
  Launch(device, {.blocks = dim3(static_cast<unsigned>(CeilDiv<int64_t>(size, 128))), .threads = dim3(128)},
         AddPartsKernel, from, parts, size, to);
}

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_BACKWARD_SUMS_CUH_
