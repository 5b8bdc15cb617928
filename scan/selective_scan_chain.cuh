// The chained scan over segments of time (Yan, Long & Zhang 2013, "StreamScan"; Merrill & Garland 2016,
// "Single-pass parallel prefix scan with decoupled look-back", which names it and takes dynamic block tickets
// as here).
//
// Segments hand on their state instead of being scanned side by side. Blocks take tickets in the order of
// segments, each as an SM has room for it, and a block begins with the state that the block of the segment
// before left. There is no look-back over aggregates, as in the linear recurrence: segments of one row are
// never scanned at once. Whole sequences would be too few blocks to fill all SMs to the end: forward, batch
// 48 with 1024 channels is 768 blocks where 528 run at a time. A segment has as many tokens as all behind it,
// so that the last ones are short.
#ifndef HM11_SCAN_SELECTIVE_SCAN_CHAIN_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_CHAIN_CUH_

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>

#include "core/launch.cuh"
#include "scan/selective_scan.h"

namespace hm11::cuda {

struct ChainedScan {
  float* states = nullptr;  // [batch, inner, state]; null when segments are not chained
  // Device::counters(): of blocks that have begun; then, [batch, channel_blocks], of segments that have ended.
  unsigned* counters = nullptr;
};

inline constexpr int kShortestChainedScan = 128;

// 1: the sequence is too short for one.
inline int ChainedSegments(int64_t time) {
  int segments = 1;
  while ((time >> segments) >= kShortestChainedScan) ++segments;
  return segments;
}

// Where a segment begins, forward; and where it ends, backward, when the first is the last in time.
__device__ __forceinline__ int ChainedSegmentBegin(int time, int segment) {
  constexpr int kChunk = static_cast<int>(kSelectiveScanChunk);
  return segment == 0 ? 0 : CeilDiv(time - (time >> segment), kChunk) * kChunk;
}
__device__ __forceinline__ int ChainedSegmentEnd(int time, int segment) {
  constexpr int kChunk = static_cast<int>(kSelectiveScanChunk);
  return segment == 0 ? time : CeilDiv(time >> segment, kChunk) * kChunk;
}

// The block's dynamic ticket, through `shared`. The hardware promises no order of blocks; a counter does, so
// that whoever waits waits for a block that runs or has ended. The last block turns it back to 0.
__device__ __forceinline__ int TakeBlockTicket(const ChainedScan& chain, int* shared) {
  if (chain.states == nullptr) return static_cast<int>(blockIdx.x);
  if (threadIdx.x == 0) *shared = static_cast<int>(atomicInc(chain.counters, gridDim.x - 1));
  __syncthreads();
  return *shared;
}

// A segment takes milliseconds at most; one that is waited for a minute is a fault, which ends the kernel
// with a message instead of holding the GPU for ever.
inline constexpr uint64_t kLongestWaitNanoseconds = 60ull * 1000 * 1000 * 1000;

__device__ __forceinline__ uint64_t GpuNanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

inline __device__ __noinline__ void FailAwait(int index, int segments, unsigned ended) {
  printf("selective scan: block %d waited a minute for segment %d of channels %d, %u have ended\n",
         static_cast<int>(blockIdx.x), segments, index, ended);
  __trap();
}

// Until `segments` segments have ended of the channels with this index, batch row * channel_blocks + channel
// block; what their blocks wrote is then visible to this one. Of `all` segments the last is the last to wait: it
// turns the counter back to 0.
__device__ __forceinline__ void AwaitSegments(const ChainedScan& chain, int index, int segments, int all) {
  if (threadIdx.x == 0) {
    unsigned count = 0;
    const uint64_t begin = GpuNanoseconds();
    while (true) {
      asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(count) : "l"(chain.counters + 1 + index) : "memory");
      if (count >= static_cast<unsigned>(segments)) break;
      if (GpuNanoseconds() - begin > kLongestWaitNanoseconds) FailAwait(index, segments, count);
      __nanosleep(100);
    }
    if (segments == all - 1) chain.counters[1 + index] = 0;
  }
  __syncthreads();
}

// Now so many have ended, and what this block wrote is theirs.
__device__ __forceinline__ void EndSegment(const ChainedScan& chain, int index, int segments) {
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(chain.counters + 1 + index),
                 "r"(static_cast<unsigned>(segments))
                 : "memory");
  }
}

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_CHAIN_CUH_
