// The work between the MLP's products on a GPU, as a pass of its own.
//
// A thread has one word of signs and the 32 numbers it is about, in pairs: four neighbours read 16 bytes of a
// row at a time. For the shapes and GPUs that mlp_wgmma.cu does not serve.
#include "core/launch.cuh"
#include "ops/mlp_cuda.h"
#include "ops/packs.cuh"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 256;

// Calls function(offset of the number, bit of the word) for this thread's word of signs, which it returns the
// offset of; negative beyond the last.
template <typename F>
__device__ __forceinline__ int64_t ForWord(int64_t rows, int width, F&& function) {
  const int words = static_cast<int>(SignWords(width));
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= rows * words) return -1;
  const int64_t row = index / words;
  const int word = static_cast<int>(index % words), first = word / 4 * 128 + word % 4 * 2;
#pragma unroll
  for (int n = 0; n < 16; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = first + 8 * n + i;
      if (column < width) function(row * width + column, 31 - 16 * i - n);
    }
  }
  return index;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) SquareKernel(int64_t rows, int width, T* a, uint32_t* negative) {
  uint32_t signs = 0;
  const int64_t word = ForWord(rows, width, [&](int64_t at, int bit) {
    const float h = static_cast<float>(a[at]);
    signs |= static_cast<uint32_t>(h < 0) << bit;
    a[at] = static_cast<T>((h > 0 ? h : 0.25f * h) * h);
  });
  if (word >= 0 && negative != nullptr) negative[word] = signs;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    DerivativeKernel(int64_t rows, int width, const T* a, const uint32_t* negative, T* dh) {
  const int64_t word = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const uint32_t signs = word < rows * SignWords(width) ? negative[word] : 0;
  ForWord(rows, width, [&](int64_t at, int bit) {
    const float slope = (signs >> bit & 1 ? -1.0f : 2.0f) * sqrtf(static_cast<float>(a[at]));
    dh[at] = static_cast<T>(slope * static_cast<float>(dh[at]));
  });
}

LaunchShape ShapeFor(const Shape& matrix) {
  return {.blocks = static_cast<unsigned>(CeilDiv<int64_t>(matrix[0] * SignWords(matrix[1]), kThreads)),
          .threads = kThreads};
}

}  // namespace

template <typename T>
void SquareLeaky(const Device& device, Tensor<T> activated, Tensor<uint32_t> negative) {
  Launch(device, ShapeFor(activated.shape()), SquareKernel<T>, activated.dim(0),
         static_cast<int>(activated.dim(1)), activated.data(), Data(negative));
}

template <typename T>
void TimesDerivative(const Device& device, Tensor<const T> activated, Tensor<const uint32_t> negative,
                     Tensor<T> dh) {
  Launch(device, ShapeFor(dh.shape()), DerivativeKernel<T>, dh.dim(0), static_cast<int>(dh.dim(1)),
         activated.data(), negative.data(), dh.data());
}

#define HM11_INSTANTIATE(T)                                              \
  template void SquareLeaky(const Device&, Tensor<T>, Tensor<uint32_t>); \
  template void TimesDerivative(const Device&, Tensor<const T>, Tensor<const uint32_t>, Tensor<T>)
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
#undef HM11_INSTANTIATE

}  // namespace hm11::cuda
