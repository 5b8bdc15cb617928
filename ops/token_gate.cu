// Dynamic token gating on a GPU: a block a row at a time, blocks striding over rows; each thread keeps the
// sums of its columns. An option, off by default: plain loads.
#include "core/launch.cuh"
#include "ops/packs.cuh"
#include "ops/sums.h"
#include "ops/token_gate.h"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 128;

template <typename T>
__device__ float Gate(const T* u, const float* weight, float bias, int dim, float* scratch) {
  float dot = 0;
  for (int d = threadIdx.x; d < dim; d += kThreads) dot = fmaf(weight[d], static_cast<float>(u[d]), dot);
  return Sigmoid(bias + BlockSum<kThreads>(dot, scratch));
}

template <typename T>
__global__ void ForwardKernel(const T* u, const T* x, const float* weight, const float* bias, int dim, T* y) {
  __shared__ float scratch[32];
  const int64_t start = static_cast<int64_t>(blockIdx.x) * dim;
  const float g = Gate(u + start, weight, bias[0], dim, scratch);
  for (int d = threadIdx.x; d < dim; d += kThreads) {
    const float from = static_cast<float>(u[start + d]);
    y[start + d] = static_cast<T>(fmaf(g, static_cast<float>(x[start + d]) - from, from));
  }
}

// partials: [blocks, dim + 1], the last column for the bias; a block zeroes and sums its own.
template <typename T>
__global__ void BackwardKernel(const T* u, const T* x, const float* weight, const float* bias, const T* dy,
                               int64_t rows, int dim, T* du, T* dx, float* partials) {
  __shared__ float scratch[32];
  float* sums = partials + static_cast<int64_t>(blockIdx.x) * (dim + 1);
  for (int d = threadIdx.x; d < dim; d += kThreads) sums[d] = 0;
  float bias_sum = 0;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const int64_t start = row * dim;
    const float g = Gate(u + start, weight, bias[0], dim, scratch);
    float dot = 0;
    for (int d = threadIdx.x; d < dim; d += kThreads) {
      const float upstream = static_cast<float>(dy[start + d]);
      dot = fmaf(upstream, static_cast<float>(x[start + d]) - static_cast<float>(u[start + d]), dot);
    }
    const float dlogit = g * (1 - g) * BlockSum<kThreads>(dot, scratch);
    for (int d = threadIdx.x; d < dim; d += kThreads) {
      const float upstream = static_cast<float>(dy[start + d]);
      sums[d] = fmaf(dlogit, static_cast<float>(u[start + d]), sums[d]);
      du[start + d] = static_cast<T>((1 - g) * upstream);
      dx[start + d] = static_cast<T>(g * upstream);
    }
    bias_sum += dlogit;
  }
  if (threadIdx.x == 0) sums[dim] = bias_sum;
}

// to[c] += sum over blocks of partials[block][c], in order; column dim goes to the bias.
__global__ void FinishKernel(const float* partials, int blocks, int dim, float* dweight, float* dbias) {
  const int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column > dim) return;
  float sum = 0;
  for (int b = 0; b < blocks; ++b) sum += partials[static_cast<int64_t>(b) * (dim + 1) + column];
  *(column < dim ? dweight + column : dbias) += sum;
}

}  // namespace

template <typename T>
void TokenGateForward(const Device& device, const TokenGateArgs<T>& args) {
  Launch(device, {.blocks = static_cast<unsigned>(args.u.dim(0)), .threads = kThreads}, ForwardKernel<T>,
         args.u.data(), args.x.data(), args.weight.data(), args.bias.data(), static_cast<int>(args.u.dim(1)),
         args.y.data());
}

template <typename T>
void TokenGateBackward(const Device& device, const TokenGateGradArgs<T>& args, Tensor<float> partials) {
  const int64_t rows = args.u.dim(0);
  const int dim = static_cast<int>(args.u.dim(1));
  const int64_t blocks = PartialBlocks(device, rows, 1, 8);
  Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kThreads}, BackwardKernel<T>,
         args.u.data(), args.x.data(), args.weight.data(), args.bias.data(), args.dy.data(), rows, dim,
         args.du.data(), args.dx.data(), partials.data());
  Launch(device, {.blocks = static_cast<unsigned>(CeilDiv(dim + 1, kThreads)), .threads = kThreads},
         FinishKernel, partials.data(), static_cast<int>(blocks), dim, args.dweight.data(),
         args.dbias.data());
}

template void TokenGateForward<float>(const Device&, const TokenGateArgs<float>&);
template void TokenGateForward<Bf16>(const Device&, const TokenGateArgs<Bf16>&);
template void TokenGateBackward<float>(const Device&, const TokenGateGradArgs<float>&, Tensor<float>);
template void TokenGateBackward<Bf16>(const Device&, const TokenGateGradArgs<Bf16>&, Tensor<float>);

}  // namespace hm11::cuda
