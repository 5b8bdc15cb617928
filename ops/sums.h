// Sums in a fixed order. Over rows in two stages: a partial sum for each chunk of rows, then the partials in
// order.
//
// A chunk is a ParallelFor chunk on the CPU and a block's share of rows on a GPU. No float atomics anywhere,
// so the bits repeat: on the CPU with any number of threads, on a GPU for one model of GPU (its
// multiprocessors set the number of blocks).
#ifndef HM11_OPS_SUMS_H_
#define HM11_OPS_SUMS_H_

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/arena.h"
#include "core/device.h"
#include "core/parallel.h"
#include "core/tensor.h"

namespace hm11 {

// The most partial sums an op keeps.
inline constexpr int64_t kMaxPartials = 1024;

// Scratch for partial sums over `rows` of something, `cols` numbers each, on either device. Uninitialized.
template <typename A>
Tensor<A> NewPartials(Arena& arena, int64_t rows, int64_t cols) {
  return arena.New<A>({std::min(rows, kMaxPartials), cols});
}

// Calls function(chunk, begin, end) for each of ChunkCount(count, min_chunk) chunks of [0, count), some at
// once.
template <typename F>
void ForChunks(int64_t count, int64_t min_chunk, F&& function) {
  if (count <= 0) return;
  const int64_t chunks = ChunkCount(count, min_chunk);
  ParallelFor(chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      function(chunk, chunk * count / chunks, (chunk + 1) * count / chunks);
    }
  });
}

// Rows that make a chunk worth a thread's while, for `work` numbers a row.
inline int64_t MinRows(int64_t work) { return std::max<int64_t>(1, 8192 / std::max<int64_t>(work, 1)); }

// to[c] += sum over p of partials[p * stride + c], p in order. What was there, large beside each partial where
// gradients have gathered, is rounded once.
template <typename A>
void AddPartials(const A* partials, int64_t count, int64_t stride, int64_t cols, A* to) {
  constexpr int64_t kStrip = 64;
  for (int64_t begin = 0; begin < cols; begin += kStrip) {
    const int64_t width = std::min(kStrip, cols - begin);
    A sums[kStrip] = {};
    for (int64_t p = 0; p < count; ++p) {
      for (int64_t c = 0; c < width; ++c) sums[c] += partials[p * stride + begin + c];
    }
    for (int64_t c = 0; c < width; ++c) to[begin + c] += sums[c];
  }
}

// The sum of function(i) over [0, count) in 16 interleaved parts, which a compiler may do at once.
template <typename A, typename F>
A LaneSum(int64_t count, F&& function) {
  constexpr int kLanes = 16;
  A lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += function(i + lane);
  }
  for (int lane = 0; i < count; ++i, ++lane) lanes[lane] += function(i);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

namespace cuda {

// Blocks for a kernel that strides over `items` of work, `items_per_block` of them at a time, and leaves one
// partial sum a block: as many as the GPU holds at once, at most kMaxPartials and at most `items`.
int64_t PartialBlocks(const Device& device, int64_t items, int64_t items_per_block,
                      int64_t blocks_per_multiprocessor);

// Where a group of column sums is added: number c of it at to[c * stride]. Null: nowhere.
struct GroupDestination {
  float* to = nullptr;
  int64_t stride = 1;
};
inline constexpr int kMaxGroups = 5;
using GroupDestinations = std::array<GroupDestination, kMaxGroups>;

// Adds, for each group g and column c, the sum over p < count of partials[(p * groups + g) * cols + c].
void AddColumnSums(const Device& device, const float* partials, int64_t count, int groups, int64_t cols,
                   const GroupDestinations& destinations);

// to[0] += the sum over i < count of numbers[i * stride]. A few thousand numbers at most: one block adds them.
void AddNumbers(const Device& device, const float* numbers, int64_t count, int64_t stride, float* to);

}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_SUMS_H_
