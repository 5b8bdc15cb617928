// What enters a tile of time: decoupled look-back (Merrill & Garland 2016, "Single-pass parallel prefix scan
// with decoupled look-back").
//
// The state comes from the nearest tile before that has already published what leaves it (its prefix),
// through the aggregates of those in between. What leaves tile k is always gain_k * (what leaves tile k - 1)
// + sum_k, in this order and rounding, whichever block computes it; so results do not depend on who was
// first. Tiles are handed out by a ticket, oldest first, which makes sure that whoever is waited for is
// running.
#ifndef HM11_SCAN_LINEAR_RECURRENCE_LOOKBACK_CUH_
#define HM11_SCAN_LINEAR_RECURRENCE_LOOKBACK_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "scan/linear_recurrence_kernels.cuh"

namespace hm11::cuda {

__device__ __forceinline__ unsigned LoadStatus(const unsigned* status) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(status) : "memory");
  return value;
}

__device__ __forceinline__ void StoreStatus(unsigned* status, unsigned value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(status), "r"(value) : "memory");
}

// For kLanes lanes (1, or a whole warp) of kChannels neighbouring channels each: publishes the tile's
// aggregate, finds what enters the tile, publishes what leaves it. `lane` is the calling thread's among them.
template <int kLanes, int kChannels>
__device__ __forceinline__ void LookBack(const TileDescriptors& descriptors, int64_t lines, int64_t line,
                                         int tile, int lane, const float (&gain)[kChannels],
                                         const float (&sum)[kChannels], float (&entering)[kChannels]) {
  constexpr int kLine = kLanes * kChannels;
  const auto at = [&](int of_tile) { return (of_tile * lines + line) * kLine + lane * kChannels; };
  const auto status = [&](int of_tile) { return descriptors.status + of_tile * lines + line; };
  const auto sync = [] {
    if constexpr (kLanes == 32) __syncwarp();
  };
  const auto await = [&](int of_tile) {
    unsigned value = kInvalid;
    if (lane == 0) {
      do {
        value = LoadStatus(status(of_tile));
      } while (value == kInvalid);
    }
    if constexpr (kLanes == 32) value = __shfl_sync(0xffffffffu, value, 0);
    return value;
  };
  const auto publish = [&](unsigned value) {
    __threadfence();
    sync();
    if (lane == 0) StoreStatus(status(tile), value);
  };
  if (tile > 0) {
    unsigned before = 0;
    if (lane == 0) before = LoadStatus(status(tile - 1));
    if constexpr (kLanes == 32) before = __shfl_sync(0xffffffffu, before, 0);
    int from = tile - 1;
    if (before != kPrefixAvailable) {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        descriptors.gains[at(tile) + i] = gain[i];
        descriptors.sums[at(tile) + i] = sum[i];
      }
      publish(kAggregateAvailable);
      while (await(from) != kPrefixAvailable) --from;
    }
    sync();
#pragma unroll
    for (int i = 0; i < kChannels; ++i) entering[i] = __ldcg(descriptors.carries + at(from) + i);
    for (int between = from + 1; between < tile; ++between) {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        entering[i] = fmaf(__ldcg(descriptors.gains + at(between) + i), entering[i],
                           __ldcg(descriptors.sums + at(between) + i));
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kChannels; ++i) descriptors.carries[at(tile) + i] = fmaf(gain[i], entering[i], sum[i]);
  publish(kPrefixAvailable);
}

// The next tile of the whole grid: a block's dynamic ticket.
__device__ __forceinline__ int64_t TakeTileTicket(const TileDescriptors& descriptors) {
  __shared__ unsigned ticket;
  if (threadIdx.x == 0) ticket = atomicAdd(descriptors.ticket, 1u);
  __syncthreads();
  return ticket;
}

// One token of the recurrence on a carry: forward returns the state, backward dh.
template <bool kBackward>
__device__ __forceinline__ float Advance(float gate, float value, float& carry) {
  if constexpr (kBackward) {
    const float dh = value + carry;
    carry = gate * dh;
    return dh;
  } else {
    carry = fmaf(gate, carry, value);
    return carry;
  }
}

}  // namespace hm11::cuda

#endif  // HM11_SCAN_LINEAR_RECURRENCE_LOOKBACK_CUH_
