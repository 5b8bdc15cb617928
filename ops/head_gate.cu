// Gated attention on a GPU: a warp a row and head, blocks striding over rows so that a block keeps one
// partial sum of dbias for each head.
#include <algorithm>

#include "core/launch.cuh"
#include "ops/head_gate.h"
#include "ops/packs.cuh"
#include "ops/sums.h"

namespace hm11::cuda {
namespace {

constexpr int kWarps = 8;

template <typename T>
__global__ void ForwardKernel(const T* x, const T* gate, const float* bias, int64_t count, int heads,
                              int width, T* y) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (item >= count) return;
  const float g = Sigmoid(static_cast<float>(gate[item]) + bias[item % heads]);
  for (int d = threadIdx.x % 32; d < width; d += 32) {
    y[item * width + d] = static_cast<T>(g * static_cast<float>(x[item * width + d]));
  }
}

// Block b does rows b, b + blocks, ...; its warps share the heads of a row, and each warp keeps the sums of
// its own.
template <typename T>
__global__ void BackwardKernel(const T* x, const T* gate, const float* bias, const T* dy, int64_t rows,
                               int heads, int width, T* dx, T* dgate, float* partials) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int head = warp; head < heads; head += kWarps) {
    float sum = 0;
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
      const int64_t item = row * heads + head;
      const float g = Sigmoid(static_cast<float>(gate[item]) + bias[head]);
      float dot = 0;
      for (int d = lane; d < width; d += 32) {
        const float upstream = static_cast<float>(dy[item * width + d]);
        dot = fmaf(upstream, static_cast<float>(x[item * width + d]), dot);
        dx[item * width + d] = static_cast<T>(g * upstream);
      }
      const float change = g * (1 - g) * WarpSum(dot);
      if (lane == 0) dgate[item] = static_cast<T>(change);
      sum += change;
    }
    if (lane == 0) partials[static_cast<int64_t>(blockIdx.x) * heads + head] = sum;
  }
}

}  // namespace

template <typename T>
void HeadGateForward(const Device& device, const HeadGateArgs<T>& args) {
  const int64_t count = args.gate.size();
  Launch(device, {.blocks = static_cast<unsigned>(CeilDiv<int64_t>(count, kWarps)), .threads = kWarps * 32},
         ForwardKernel<T>, args.x.data(), args.gate.data(), args.bias.data(), count,
         static_cast<int>(args.x.dim(1)), static_cast<int>(args.x.dim(2)), args.y.data());
}

template <typename T>
void HeadGateBackward(const Device& device, const HeadGateGradArgs<T>& args, Tensor<float> partials) {
  const int64_t rows = args.x.dim(0), heads = args.x.dim(1);
  const int64_t blocks = PartialBlocks(device, rows, 1, 8);
  Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kWarps * 32}, BackwardKernel<T>,
         args.x.data(), args.gate.data(), args.bias.data(), args.dy.data(), rows, static_cast<int>(heads),
         static_cast<int>(args.x.dim(2)), args.dx.data(), args.dgate.data(), partials.data());
  AddColumnSums(device, partials.data(), blocks, 1, heads, {GroupDestination{args.dbias.data(), 1}});
}

template void HeadGateForward<float>(const Device&, const HeadGateArgs<float>&);
template void HeadGateForward<Bf16>(const Device&, const HeadGateArgs<Bf16>&);
template void HeadGateBackward<float>(const Device&, const HeadGateGradArgs<float>&, Tensor<float>);
template void HeadGateBackward<Bf16>(const Device&, const HeadGateGradArgs<Bf16>&, Tensor<float>);

}  // namespace hm11::cuda
