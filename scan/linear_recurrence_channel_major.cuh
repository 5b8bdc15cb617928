// The linear recurrence over [batch, channels, length] on a GPU.
#ifndef HM11_SCAN_LINEAR_RECURRENCE_CHANNEL_MAJOR_CUH_
#define HM11_SCAN_LINEAR_RECURRENCE_CHANNEL_MAJOR_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "scan/linear_recurrence_kernels.cuh"
#include "scan/linear_recurrence_lookback.cuh"
#include "scan/scan_math.cuh"

namespace hm11::cuda {

// A thread's part of a channel-major tile: kStripes times kTokens neighbouring tokens of one row, in
// registers, a striped arrangement: stripe after stripe over the row's threads.
template <typename T, int kTokens, int kStripes, int kRowThreads, bool kBackward>
struct ChannelMajorThread {
  using Vector = RowVector<T, kTokens>;
  static constexpr int kRowWarps = kRowThreads / 32;
  using Effects = float2[kStripes][kRowWarps];  // gain and sum of the row's warps

  int thread, warp, lane;  // of the row's
  int64_t row;
  bool inside;
  Vector gates[kStripes], values[kStripes], states[kBackward ? kStripes : 1];
  float outside_state[kBackward ? kStripes : 1];  // the token before the stripe's, in forward's order
  float lane_gain[kStripes], lane_sum[kStripes];  // of the warp's lanes before this one

  __device__ __forceinline__ ChannelMajorThread(int64_t of_row, int64_t rows)
      : thread(static_cast<int>(threadIdx.x) % kRowThreads),
        warp(thread / 32),
        lane(thread % 32),
        row(of_row),
        inside(row < rows) {}

  // Stripes lie in memory in their order, or, when descending, in the opposite one; tokens inside them too.
  __device__ __forceinline__ int64_t Begin(const RecurrenceOperands<T>& p, int tile, int tiles,
                                           int stripe) const {
    const int64_t index = (int64_t{tile} * kStripes + stripe) * kRowThreads + thread;
    return (p.descending ? int64_t{tiles} * kStripes * kRowThreads - 1 - index : index) * kTokens;
  }
  __device__ __forceinline__ float Gate(const RecurrenceOperands<T>& p, int stripe, int i) const {
    return p.descending ? gates[stripe][kTokens - 1 - i] : gates[stripe][i];
  }
  __device__ __forceinline__ float Value(const RecurrenceOperands<T>& p, int stripe, int i) const {
    return p.descending ? values[stripe][kTokens - 1 - i] : values[stripe][i];
  }

  __device__ __forceinline__ void Load(const RecurrenceOperands<T>& p, int tile, int tiles) {
#pragma unroll
    for (int stripe = 0; stripe < kStripes; ++stripe) {
      gates[stripe] = Vector::Filled(1.0f);  // Changes nothing.
      values[stripe] = Vector::Filled(0.0f);
      const int64_t token = Begin(p, tile, tiles, stripe);
      if (inside && token < p.length) {
        const int64_t offset = row * p.length + token;
        gates[stripe] = Vector::Load(p.gates + offset);
        values[stripe] = Vector::Load(p.values + offset);
        if constexpr (kBackward) {
          states[stripe] = Vector::Load(p.states + offset);
          const int64_t neighbour = p.descending ? token - 1 : token + kTokens;
          outside_state[stripe] = neighbour >= 0 && neighbour < p.length
                                      ? ToFloat(p.states[row * p.length + neighbour])
                                      : (p.initial_state != nullptr ? p.initial_state[row] : 0.0f);
        }
      }
    }
  }

  // The effects of stripes, scanned over the lanes of a warp.
  __device__ __forceinline__ void Reduce(const RecurrenceOperands<T>& p, Effects& effects) {
#pragma unroll
    for (int stripe = 0; stripe < kStripes; ++stripe) {
      float gain = 1.0f, sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        const float gate = Gate(p, stripe, i);
        const float value = Value(p, stripe, i);
        gain *= gate;
        Advance<kBackward>(gate, value, sum);
      }
#pragma unroll
      for (int distance = 1; distance < 32; distance *= 2) {
        const float gain_before = __shfl_up_sync(0xffffffffu, gain, distance);
        const float sum_before = __shfl_up_sync(0xffffffffu, sum, distance);
        if (lane >= distance) {
          sum = fmaf(gain, sum_before, sum);
          gain *= gain_before;
        }
      }
      if (lane == 31) effects[stripe][warp] = make_float2(gain, sum);
      lane_gain[stripe] = __shfl_up_sync(0xffffffffu, gain, 1);
      lane_sum[stripe] = __shfl_up_sync(0xffffffffu, sum, 1);
      if (lane == 0) {
        lane_gain[stripe] = 1.0f;
        lane_sum[stripe] = 0.0f;
      }
    }
  }

  // What enters the tile, by the row's first thread.
  __device__ __forceinline__ float LookBackRow(const RecurrenceOperands<T>& p,
                                               const TileDescriptors& descriptors, const Effects& effects,
                                               int tile, int tiles, int64_t rows) const {
    float entering[1] = {inside && tile == 0 && p.first_carry != nullptr ? p.first_carry[row] : 0.0f};
    if (tiles > 1 && inside) {
      float gain[1] = {1.0f}, sum[1] = {0.0f};
#pragma unroll
      for (int stripe = 0; stripe < kStripes; ++stripe) {
        for (int w = 0; w < kRowWarps; ++w) {
          const float2 effect = effects[stripe][w];
          gain[0] *= effect.x;
          sum[0] = fmaf(effect.x, sum[0], effect.y);
        }
      }
      LookBack(PublishedLine<1, 1>{descriptors, rows, row, 0}, tile, gain, sum, entering);
    }
    return entering[0];
  }

  // A stripe's tokens from what enters them; returns what leaves.
  __device__ __forceinline__ float FinishStripe(const RecurrenceOperands<T>& p, int64_t token, int stripe,
                                                float carry) const {
    Vector out = {}, dgates = {};
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const float result = Advance<kBackward>(Gate(p, stripe, i), Value(p, stripe, i), carry);
      float dgate = 0.0f;
      if constexpr (kBackward) {
        const float before = i + 1 == kTokens ? outside_state[stripe]
                             : p.descending   ? states[stripe][kTokens - 2 - i]
                                              : states[stripe][i + 1];
        dgate = result * before;
      }
      if (p.descending) {
        out.Set(kTokens - 1 - i, Storable<T>(result));
        if constexpr (kBackward) dgates.Set(kTokens - 1 - i, Storable<T>(dgate));
      } else {
        out.Set(i, Storable<T>(result));
        if constexpr (kBackward) dgates.Set(i, Storable<T>(dgate));
      }
    }
    if (inside && token < p.length) {
      out.Store(p.out + row * p.length + token);
      if constexpr (kBackward) dgates.Store(p.dgates + row * p.length + token);
    }
    return carry;
  }

  // All stripes from what enters the tile; returns what leaves the thread's last token.
  __device__ __forceinline__ float Finish(const RecurrenceOperands<T>& p, const Effects& effects, int tile,
                                          int tiles, float carry) const {
    float last = 0.0f;
#pragma unroll
    for (int stripe = 0; stripe < kStripes; ++stripe) {
      float mine = 0.0f;
#pragma unroll
      for (int w = 0; w < kRowWarps; ++w) {
        if (w == warp) mine = fmaf(lane_gain[stripe], carry, lane_sum[stripe]);
        const float2 effect = effects[stripe][w];
        carry = fmaf(effect.x, carry, effect.y);
      }
      last = FinishStripe(p, Begin(p, tile, tiles, stripe), stripe, mine);
    }
    return last;
  }
};

// [batch, channels, length]: a row a channel. kRowThreads threads share a tile of one row, kStripes times
// kTokens neighbouring tokens each, so that a warp reads 512 bytes at a time. Effects are scanned over lanes
// by shuffles and over warps and stripes in shared memory. Rows that fit one tile need no look-back.
template <typename T, int kTokens, int kStripes, int kRowThreads, int kThreads, bool kBackward>
__global__ void __launch_bounds__(kThreads)
    ChannelMajorKernel(const __grid_constant__ RecurrenceOperands<T> p, TileDescriptors descriptors,
                       int tiles) {
  using Thread = ChannelMajorThread<T, kTokens, kStripes, kRowThreads, kBackward>;
  constexpr int kRows = kThreads / kRowThreads;
  __shared__ float2 effects[kRows][kStripes][Thread::kRowWarps];
  __shared__ float carries[kRows];
  const int64_t rows = p.batch * p.channels;
  const int64_t row_blocks = (rows + kRows - 1) / kRows;
  const int64_t place = tiles > 1 ? TakeTileTicket(descriptors) : int64_t{blockIdx.x};
  const int tile = static_cast<int>(place / row_blocks);
  const int block_row = static_cast<int>(threadIdx.x) / kRowThreads;
  Thread thread(place % row_blocks * kRows + block_row, rows);
  thread.Load(p, tile, tiles);
  thread.Reduce(p, effects[block_row]);
  __syncthreads();
  if (thread.thread == 0) {
    carries[block_row] = thread.LookBackRow(p, descriptors, effects[block_row], tile, tiles, rows);
  }
  __syncthreads();
  const float last = thread.Finish(p, effects[block_row], tile, tiles, carries[block_row]);
  if (thread.inside && p.last_carry != nullptr && tile == tiles - 1 && thread.thread == kRowThreads - 1) {
    p.last_carry[thread.row] = last;
  }
}

}  // namespace hm11::cuda

#endif  // HM11_SCAN_LINEAR_RECURRENCE_CHANNEL_MAJOR_CUH_
