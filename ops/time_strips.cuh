// Time strips: how kernels over [batch, time, channels] that look a few steps back or ahead are laid out.
//
// A sequence is cut into strips of 64 steps, or of more where that still fills the GPU. A thread walks along one
// strip for a pack of neighbouring channels and carries what it looks back at in registers; a warp is 32 packs
// side by side, a block kStripsABlock strips. What a strip's ends share with its neighbours is fetched twice, the
// second time from the L2 cache.
#ifndef HM11_OPS_TIME_STRIPS_CUH_
#define HM11_OPS_TIME_STRIPS_CUH_

#include <algorithm>
#include <cstdint>

#include "core/launch.cuh"
#include "ops/packs.cuh"

namespace hm11::cuda {

inline constexpr int kStripSteps = 64;  // the fewest, but for short sequences
inline constexpr int kStripsABlock = 8;
inline constexpr int kStripGroup = 4;  // Steps fetched at once.

struct StripLayout {
  int strips;  // of all sequences
  int strips_a_sequence;
  int steps;  // a strip
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

// Strips of about `steps` steps.
inline StripLayout MakeStripLayout(int64_t batch, int64_t time, int64_t channels,
                                   int64_t steps = kStripSteps) {
  const auto strips = static_cast<int>(CeilDiv<int64_t>(time, steps));
  return {.strips = static_cast<int>(batch) * strips,
          .strips_a_sequence = strips,
          .steps = static_cast<int>(steps),
          .time = static_cast<int>(time),
          .channels = static_cast<int>(channels)};
}

// The first step of a strip waits, and its ends are fetched twice: long strips cost less. These are as long as
// they can be while there are twice the blocks, of packs of `pack` channels, that the GPU holds with `blocks` on a
// multiprocessor.
inline StripLayout LongStripLayout(const Device& device, int64_t batch, int64_t time, int64_t channels,
                                   int pack, int64_t blocks) {
  constexpr int64_t kWaves = 2;
  constexpr int64_t kMultiple = 8;  // so that groups of steps come out even
  const int64_t column_blocks = CeilDiv<int64_t>(channels, 32 * pack);
  const int64_t strips = device.multiprocessors() * blocks * kWaves * kStripsABlock / column_blocks;
  const int64_t strips_a_sequence =
      std::clamp<int64_t>(strips / batch, 1, CeilDiv<int64_t>(time, kStripSteps));
  const int64_t steps = CeilDiv<int64_t>(CeilDiv<int64_t>(time, strips_a_sequence), kMultiple) * kMultiple;
  return MakeStripLayout(batch, time, channels, steps);
}

__device__ __forceinline__ Strip StripAt(const StripLayout& layout, int index) {
  const int sequence = index / layout.strips_a_sequence;
  const int begin = index % layout.strips_a_sequence * layout.steps;
  return {int64_t{sequence} * layout.time, sequence, begin, min(begin + layout.steps, layout.time)};
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

// Adds kGroups numbers a channel over the strips of the block, in order, and stores the sums at
// to[group * channels + channel]. Every thread of the block calls it, once.
template <int kGroups, int N>
__device__ __forceinline__ void StoreStripSums(const float (&sums)[kGroups][N], int channels, float* to) {
  constexpr int kColumns = 32 * N;
  __shared__ __align__(16) float shared[kStripsABlock][kGroups][kColumns];
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    Store<N>(sums[group], shared[threadIdx.y][group] + threadIdx.x * N);
  }
  __syncthreads();
  for (int at = threadIdx.y * 32 + threadIdx.x; at < kGroups * kColumns; at += 32 * kStripsABlock) {
    const int group = at / kColumns;
    const int channel = blockIdx.x * kColumns + at % kColumns;
    if (channel >= channels) continue;
    float sum = 0;
#pragma unroll
    for (int strip = 0; strip < kStripsABlock; ++strip) sum += shared[strip][group][at % kColumns];
    to[group * channels + channel] = sum;
  }
}

}  // namespace hm11::cuda

#endif  // HM11_OPS_TIME_STRIPS_CUH_
