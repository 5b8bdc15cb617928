// ShiftTargets on the GPU: one thread a target.
#include "core/launch.cuh"
#include "ops/shift_targets.h"

namespace hm11::cuda {
namespace {

__global__ void ShiftTargetsKernel(const int32_t* targets, int64_t size, int64_t time, int64_t shift,
                                   int32_t* shifted) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < size) shifted[i] = i % time + shift < time ? targets[i + shift] : -1;
}

}  // namespace

void ShiftTargets(const Device& device, Tensor<const int32_t> targets, int64_t shift,
                  Tensor<int32_t> shifted) {
  const unsigned blocks = static_cast<unsigned>(CeilDiv<int64_t>(targets.size(), 256));
  Launch(device, {.blocks = blocks, .threads = 256}, ShiftTargetsKernel, targets.data(), targets.size(),
         targets.dim(1), shift, shifted.data());
}

}  // namespace hm11::cuda
