// Scaled products' passes over the matrix on a GPU: a block a row.
#include "core/launch.cuh"
#include "ops/packs.cuh"
#include "ops/scaled_matmul.h"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    ScaleRowsKernel(int in, const T* weight, const float* scale, T* scaled) {
  const int64_t row = int64_t{blockIdx.x} * in;
  const float factor = scale[blockIdx.x];
  for (int i = threadIdx.x; i < in; i += kThreads) {
    scaled[row + i] = static_cast<T>(factor * static_cast<float>(weight[row + i]));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    AddScaledGradientKernel(int in, const float* g, const T* weight, const float* scale, float* dweight,
                            float* dscale) {
  __shared__ float scratch[32];
  const int64_t row = int64_t{blockIdx.x} * in;
  const float factor = scale[blockIdx.x];
  float sum = 0;
  for (int i = threadIdx.x; i < in; i += kThreads) {
    const float g_i = g[row + i];
    dweight[row + i] += factor * g_i;
    sum += static_cast<float>(weight[row + i]) * g_i;
  }
  sum = BlockSum<kThreads>(sum, scratch);
  if (threadIdx.x == 0) dscale[blockIdx.x] += sum;
}

LaunchShape RowShape(int64_t rows) { return {.blocks = static_cast<unsigned>(rows), .threads = kThreads}; }

}  // namespace

template <typename T>
void ScaleRows(const Device& device, Tensor<const T> weight, Tensor<const float> scale, Tensor<T> scaled) {
  Launch(device, RowShape(weight.dim(0)), ScaleRowsKernel<T>, static_cast<int>(weight.dim(1)), weight.data(),
         scale.data(), scaled.data());
}

template <typename T>
void AddScaledGradient(const Device& device, Tensor<const float> g, Tensor<const T> weight,
                       const OutputScale<T>& columns, Tensor<float> dweight) {
  Launch(device, RowShape(weight.dim(0)), AddScaledGradientKernel<T>, static_cast<int>(weight.dim(1)),
         g.data(), weight.data(), columns.scale.data(), dweight.data(), columns.dscale.data());
}

#define HM11_INSTANTIATE(T)                                                                \
  template void ScaleRows(const Device&, Tensor<const T>, Tensor<const float>, Tensor<T>); \
  template void AddScaledGradient(const Device&, Tensor<const float>, Tensor<const T>,     \
                                  const OutputScale<T>&, Tensor<float>)
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
#undef HM11_INSTANTIATE

}  // namespace hm11::cuda
