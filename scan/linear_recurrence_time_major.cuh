// The linear recurrence over [batch, length, channels] on a GPU.
#ifndef HM11_SCAN_LINEAR_RECURRENCE_TIME_MAJOR_CUH_
#define HM11_SCAN_LINEAR_RECURRENCE_TIME_MAJOR_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "scan/linear_recurrence_kernels.cuh"
#include "scan/linear_recurrence_lookback.cuh"
#include "scan/scan_math.cuh"

namespace hm11::cuda {

// A thread's part of a time-major tile: kChannels neighbouring channels of kTokens tokens, in registers.
template <typename T, int kChannels, int kTokens, int kWarps, bool kBackward>
struct TimeMajorThread {
  using Vector = RowVector<T, kChannels>;
  static constexpr int kLine = 32 * kChannels;
  using Effects = float[2][kWarps][kLine];  // gains and sums of the block's warps

  int warp, lane;
  int64_t row, channel;
  bool inside;
  int64_t first;  // token of the thread's first, in the order of the scan
  Vector gates[kTokens], values[kTokens], states[kBackward ? kTokens : 1];
  float gain[kChannels], sum[kChannels], carry[kChannels];

  __device__ __forceinline__ TimeMajorThread(const RecurrenceOperands<T>& p, int tile, int64_t line,
                                             int64_t lines_per_row)
      : warp(static_cast<int>(threadIdx.x) / 32),
        lane(static_cast<int>(threadIdx.x) % 32),
        row(line / lines_per_row),
        channel(line % lines_per_row * kLine + lane * kChannels),
        inside(channel < p.channels),
        first(int64_t{tile} * (kWarps * kTokens) + warp * kTokens) {}

  __device__ __forceinline__ int64_t Offset(const RecurrenceOperands<T>& p, int64_t index) const {
    return (row * p.length + (p.descending ? p.length - 1 - index : index)) * p.channels + channel;
  }

  __device__ __forceinline__ void Load(const RecurrenceOperands<T>& p) {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      if (inside && first + i < p.length) {
        gates[i] = Vector::Load(p.gates + Offset(p, first + i));
        values[i] = Vector::Load(p.values + Offset(p, first + i));
        if constexpr (kBackward) {
          if (first + i + 1 < p.length) states[i] = Vector::Load(p.states + Offset(p, first + i + 1));
        }
      } else {  // Changes nothing.
        gates[i] = Vector::Filled(1.0f);
        values[i] = Vector::Filled(0.0f);
      }
    }
  }

  // The effect of the thread's tokens, and the carry that the first tile begins with.
  __device__ __forceinline__ void Reduce(const RecurrenceOperands<T>& p, int tile, Effects& effects) {
#pragma unroll
    for (int k = 0; k < kChannels; ++k) {
      gain[k] = 1.0f;
      sum[k] = 0.0f;
      carry[k] = inside && tile == 0 && p.first_carry != nullptr
                     ? p.first_carry[row * p.channels + channel + k]
                     : 0.0f;
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        gain[k] *= gates[i][k];
        Advance<kBackward>(gates[i][k], values[i][k], sum[k]);
      }
      effects[0][warp][lane * kChannels + k] = gain[k];
      effects[1][warp][lane * kChannels + k] = sum[k];
    }
  }

  // Warp 0's gain and sum become the block's.
  __device__ __forceinline__ void ReduceWarps(const Effects& effects) {
#pragma unroll
    for (int k = 0; k < kChannels; ++k) {
#pragma unroll
      for (int w = 1; w < kWarps; ++w) {
        const float next = effects[0][w][lane * kChannels + k];
        gain[k] *= next;
        sum[k] = fmaf(next, sum[k], effects[1][w][lane * kChannels + k]);
      }
    }
  }

  // From what enters the tile to what enters the thread's tokens.
  __device__ __forceinline__ void Enter(const Effects& effects, const float (&carries)[kLine]) {
#pragma unroll
    for (int k = 0; k < kChannels; ++k) {
      carry[k] = carries[lane * kChannels + k];
      for (int w = 0; w < warp; ++w) {
        carry[k] = fmaf(effects[0][w][lane * kChannels + k], carry[k], effects[1][w][lane * kChannels + k]);
      }
    }
  }

  // The state before token i in forward's order.
  __device__ __forceinline__ float StateBefore(const RecurrenceOperands<T>& p, int i, int k) const {
    float before = states[i][k];
    if (first + i + 1 >= p.length) {
      before = inside && p.initial_state != nullptr && first + i < p.length
                   ? p.initial_state[row * p.channels + channel + k]
                   : 0.0f;
    }
    return before;
  }

  __device__ __forceinline__ void Finish(const RecurrenceOperands<T>& p) {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      Vector out = {}, dgates = {};
#pragma unroll
      for (int k = 0; k < kChannels; ++k) {
        const float result = Advance<kBackward>(gates[i][k], values[i][k], carry[k]);
        out.Set(k, Storable<T>(result));
        if constexpr (kBackward) dgates.Set(k, Storable<T>(result * StateBefore(p, i, k)));
      }
      if (inside && first + i < p.length) {
        out.Store(p.out + Offset(p, first + i));
        if constexpr (kBackward) dgates.Store(p.dgates + Offset(p, first + i));
      }
    }
  }
};

// [batch, length, channels]. A block has kWarps x kTokens tokens of one batch row and 32 x kChannels channels
// (512 bytes of a row). A thread reads its kChannels channels of kTokens tokens, all at once, so that an SM
// has some 100 KB on their way, which is what hides the latency of memory; the warps' effects are put in
// order in shared memory, warp 0 looks back for the block, and every thread runs its tokens once more, from
// registers, and writes. Bytes: each input once, each output once.
template <typename T, int kChannels, int kTokens, int kWarps, bool kBackward>
__global__ void __launch_bounds__(32 * kWarps)
    TimeMajorKernel(const __grid_constant__ RecurrenceOperands<T> p, TileDescriptors descriptors,
                    int64_t lines_per_row, int tiles) {
  using Thread = TimeMajorThread<T, kChannels, kTokens, kWarps, kBackward>;
  __shared__ float effects[2][kWarps][Thread::kLine];
  __shared__ float carries[Thread::kLine];
  const int64_t lines = lines_per_row * p.batch;
  const int64_t place = tiles > 1 ? TakeTileTicket(descriptors) : int64_t{blockIdx.x};
  const int tile = static_cast<int>(place / lines);
  const int64_t line = place % lines;
  Thread thread(p, tile, line, lines_per_row);
  thread.Load(p);
  thread.Reduce(p, tile, effects);
  __syncthreads();
  if (thread.warp == 0) {
    if (tiles > 1) {
      thread.ReduceWarps(effects);
      LookBack(PublishedLine<32, kChannels>{descriptors, lines, line, thread.lane}, tile, thread.gain,
               thread.sum, thread.carry);
    }
#pragma unroll
    for (int k = 0; k < kChannels; ++k) carries[thread.lane * kChannels + k] = thread.carry[k];
  }
  __syncthreads();
  thread.Enter(effects, carries);
  thread.Finish(p);
  if (thread.inside && p.last_carry != nullptr && tile == tiles - 1 && thread.warp == kWarps - 1) {
#pragma unroll
    for (int k = 0; k < kChannels; ++k) {
      p.last_carry[thread.row * p.channels + thread.channel + k] = thread.carry[k];
    }
  }
}

}  // namespace hm11::cuda

#endif  // HM11_SCAN_LINEAR_RECURRENCE_TIME_MAJOR_CUH_
