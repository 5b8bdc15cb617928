// Matrix times vector on a GPU: a warp a row of the weights, which it reads in packs, once.
#include "core/launch.cuh"
#include "ops/matvec.h"
#include "ops/packs.cuh"

namespace hm11::cuda {
namespace {

constexpr int kWarps = 4;  // a block

template <typename T, int N>
__global__ void __launch_bounds__(kWarps * 32)
    ForwardKernel(int64_t out, int64_t in, const T* weight, const T* x, T* y) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= out) return;
  const T* weights = weight + row * in;
  float sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x % 32 * N; i < in; i += 32 * N) {
    float w[N], values[N];
    Load(weights + i, w);
    Load(x + i, values);
#pragma unroll
    for (int k = 0; k < N; ++k) sum = fmaf(w[k], values[k], sum);
  }
  sum = WarpSum(sum);
  if (threadIdx.x % 32 == 0) y[row] = static_cast<T>(sum);
}

}  // namespace

template <typename T>
void MatvecForward(const Device& device, const MatvecArgs<T>& args) {
  const int64_t out = args.weight.dim(0), in = args.weight.dim(1);
  const LaunchShape shape = {.blocks = dim3(static_cast<unsigned>(CeilDiv<int64_t>(out, kWarps))),
                             .threads = kWarps * 32};
  const bool packed = in % kPackSize<T> == 0 && AllAligned(args.weight.data(), args.x.data());
  Launch(device, shape, packed ? ForwardKernel<T, kPackSize<T>> : ForwardKernel<T, 1>, out, in,
         args.weight.data(), args.x.data(), args.y.data());
}

template void MatvecForward<float>(const Device&, const MatvecArgs<float>&);
template void MatvecForward<Bf16>(const Device&, const MatvecArgs<Bf16>&);

}  // namespace hm11::cuda
