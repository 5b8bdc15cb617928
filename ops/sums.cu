// The second stage of sums over rows on a GPU.
#include <algorithm>

#include "core/launch.cuh"
#include "ops/packs.cuh"
#include "ops/sums.h"

namespace hm11::cuda {
namespace {

struct Destinations {
  GroupDestination groups[kMaxGroups];
};

constexpr int kColumns = 32;
constexpr int kSlices = 32;

// A block owns 32 columns of one group; its 32 warps take every 32nd partial each, and the warps' sums are
// added in order. A few MB at most: the partials are still in the L2 cache.
__global__ void __launch_bounds__(kColumns* kSlices)
    AddColumnSumsKernel(const float* partials, int64_t count, int groups, int64_t cols,
                        Destinations destinations) {
  __shared__ float slices[kSlices][kColumns];
  const int group = blockIdx.y;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  const GroupDestination destination = destinations.groups[group];
  if (destination.to == nullptr) return;
  float sum = 0;
  if (column < cols) {
#pragma unroll 4
    for (int64_t p = threadIdx.y; p < count; p += kSlices)
      sum += partials[(p * groups + group) * cols + column];
  }
  slices[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && column < cols) {
    float total = 0;
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) total += slices[slice][threadIdx.x];
    destination.to[column * destination.stride] += total;
  }
}

constexpr int kNumberThreads = 1024;

// One block for all.
__global__ void __launch_bounds__(kNumberThreads)
    AddNumbersKernel(const float* numbers, int64_t count, int64_t stride, float* to) {
  __shared__ float scratch[32];
  float sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kNumberThreads) sum += numbers[i * stride];
  sum = BlockSum<kNumberThreads>(sum, scratch);
  if (threadIdx.x == 0) to[0] += sum;
}

}  // namespace

int64_t PartialBlocks(const Device& device, int64_t items, int64_t items_per_block,
                      int64_t blocks_per_multiprocessor) {
  return std::min(
      {CeilDiv(items, items_per_block), device.multiprocessors() * blocks_per_multiprocessor, kMaxPartials});
}

void AddColumnSums(const Device& device, const float* partials, int64_t count, int groups, int64_t cols,
                   const GroupDestinations& destinations) {
  Destinations parameter;
  std::copy(destinations.begin(), destinations.end(), parameter.groups);
  const dim3 blocks(static_cast<unsigned>(CeilDiv<int64_t>(cols, kColumns)), static_cast<unsigned>(groups));
  Launch(device, {.blocks = blocks, .threads = dim3(kColumns, kSlices)}, AddColumnSumsKernel, partials, count,
         groups, cols, parameter);
}

void AddNumbers(const Device& device, const float* numbers, int64_t count, int64_t stride, float* to) {
  Launch(device, {.blocks = 1, .threads = kNumberThreads}, AddNumbersKernel, numbers, count, stride, to);
}

}  // namespace hm11::cuda
