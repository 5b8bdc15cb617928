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

// Where a line's tiles publish: of kLanes lanes (1, or a whole warp) of kChannels neighbouring channels each, among
// which `lane` is the calling thread's.
template <int kLanes, int kChannels>
struct PublishedLine {
  const TileDescriptors& descriptors;
  int64_t lines, line;
  int lane;

  __device__ __forceinline__ int64_t At(int tile) const {
    return (tile * lines + line) * (kLanes * kChannels) + lane * kChannels;
  }
  __device__ __forceinline__ unsigned* Status(int tile) const {
    return descriptors.status + tile * lines + line;
  }
  __device__ __forceinline__ void Sync() const {
    if constexpr (kLanes == 32) __syncwarp();
  }
  __device__ __forceinline__ unsigned Await(int tile) const {
    unsigned value = kInvalid;
    if (lane == 0) {
      do {
        value = LoadStatus(Status(tile));
      } while (value == kInvalid);
    }
    if constexpr (kLanes == 32) value = __shfl_sync(0xffffffffu, value, 0);
    return value;
  }
  __device__ __forceinline__ void Publish(int tile, unsigned value) const {
    __threadfence();
    Sync();
    if (lane == 0) StoreStatus(Status(tile), value);
  }
};

// Publishes the tile's aggregate, finds what enters the tile, publishes what leaves it.
template <int kLanes, int kChannels>
__device__ __forceinline__ void LookBack(const PublishedLine<kLanes, kChannels>& published, int tile,
                                         const float (&gain)[kChannels], const float (&sum)[kChannels],
                                         float (&entering)[kChannels]) {
  const TileDescriptors& descriptors = published.descriptors;
  if (tile > 0) {
    unsigned before = 0;
    if (published.lane == 0) before = LoadStatus(published.Status(tile - 1));
    if constexpr (kLanes == 32) before = __shfl_sync(0xffffffffu, before, 0);
    int from = tile - 1;
    if (before != kPrefixAvailable) {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        descriptors.gains[published.At(tile) + i] = gain[i];
        descriptors.sums[published.At(tile) + i] = sum[i];
      }
      published.Publish(tile, kAggregateAvailable);
      while (published.Await(from) != kPrefixAvailable) --from;
    }
    published.Sync();
#pragma unroll
    for (int i = 0; i < kChannels; ++i) entering[i] = __ldcg(descriptors.carries + published.At(from) + i);
    for (int between = from + 1; between < tile; ++between) {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        entering[i] = fmaf(__ldcg(descriptors.gains + published.At(between) + i), entering[i],
                           __ldcg(descriptors.sums + published.At(between) + i));
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    descriptors.carries[published.At(tile) + i] = fmaf(gain[i], entering[i], sum[i]);
  }
  published.Publish(tile, kPrefixAvailable);
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
