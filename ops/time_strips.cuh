// Time strips: how kernels over [batch, time, channels] that look a few steps back or ahead are laid out.
//
// A sequence is cut into strips of kStripSteps steps. A thread walks along one strip for a pack of
// neighbouring channels and carries what it looks back at in registers; a warp is 32 packs side by side, a
// block kStripThreads / 32 strips. What a strip's ends share with its neighbours is fetched twice, the second
// time from the L2 cache.
#ifndef HM11_OPS_TIME_STRIPS_CUH_
#define HM11_OPS_TIME_STRIPS_CUH_

#include <algorithm>
#include <cstdint>

#include "core/launch.cuh"
#include "ops/packs.cuh"

namespace hm11::cuda {

inline constexpr int kStripSteps = 64;
inline constexpr int kStripsABlock = 8;
inline constexpr int kStripGroup = 4;  // Steps fetched at once.

struct StripLayout {
  int64_t strips;  // of all sequences
  int strips_a_sequence;
  int time;
  int channels;
};

// A strip's steps [begin, end) and the row of its sequence's step 0.
struct Strip {
  int64_t row;
  int64_t sequence;
  int begin;
  int end;
};

inline StripLayout MakeStripLayout(int64_t batch, int64_t time, int64_t channels) {
  const int64_t strips = CeilDiv<int64_t>(time, kStripSteps);
  return {batch * strips, static_cast<int>(strips), static_cast<int>(time), static_cast<int>(channels)};
}

__device__ __forceinline__ Strip StripAt(const StripLayout& layout, int64_t index) {
  const int64_t sequence = index / layout.strips_a_sequence;
  const int begin = static_cast<int>(index % layout.strips_a_sequence) * kStripSteps;
  return {sequence * layout.time, sequence, begin, min(begin + kStripSteps, layout.time)};
}

// Blocks of 32 x kStripsABlock threads: x over the packs of channels, y over strips. `strip_blocks`, the y
// extent, may be fewer than it takes for all strips: kernels stride.
inline LaunchShape StripShape(const StripLayout& layout, int pack, int64_t strip_blocks) {
  const int64_t packs = CeilDiv<int64_t>(layout.channels, pack);
  return {
      .blocks = dim3(static_cast<unsigned>(CeilDiv<int64_t>(packs, 32)), static_cast<unsigned>(strip_blocks)),
      .threads = dim3(32, kStripsABlock)};
}

// The most blocks along y.
inline int64_t AllStripBlocks(const StripLayout& layout) {
  return std::min<int64_t>(CeilDiv<int64_t>(layout.strips, kStripsABlock), 65535);
}

// Adds one number a channel over the strips of the block, in order, and stores the sums at to[channel].
template <int N>
__device__ __forceinline__ void StoreStripSums(const float (&sums)[N], int channel, int channels, float* to) {
  __shared__ float shared[kStripsABlock][32 * N];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < N; ++i) shared[threadIdx.y][threadIdx.x + 32 * i] = sums[i];
  __syncthreads();
  if (threadIdx.y != 0 || channel >= channels) return;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float sum = 0;
#pragma unroll
    for (int strip = 0; strip < kStripsABlock; ++strip) sum += shared[strip][threadIdx.x + 32 * i];
    to[channel + i] = sum;
  }
}

}  // namespace hm11::cuda

#endif  // HM11_OPS_TIME_STRIPS_CUH_
