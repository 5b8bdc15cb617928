// The glue between ops on a GPU: grids that stride over the numbers in 16-byte packs.
#include <algorithm>

#include "core/launch.cuh"
#include "ops/elementwise.h"
#include "ops/packs.cuh"
#include "ops/sums.h"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 256;

// What fits on the GPU a few times over; longer tensors are strided over.
unsigned Blocks(const Device& device, int64_t items) {
  return static_cast<unsigned>(
      std::min<int64_t>(CeilDiv<int64_t>(items, kThreads), device.multiprocessors() * int64_t{16}));
}

template <typename T, int N>
__global__ void AddToKernel(const T* x, float scale, int64_t packs, T* y) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t p = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; p < packs; p += step) {
    float a[N], b[N];
    Load<N>(x + p * N, a);
    Load<N>(y + p * N, b);
#pragma unroll
    for (int i = 0; i < N; ++i) b[i] = fmaf(scale, a[i], b[i]);
    Store<N>(b, y + p * N);
  }
}

template <typename From, typename To, int N>
__global__ void CastKernel(const From* x, int64_t packs, To* y) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t p = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; p < packs; p += step) {
    float values[N];
    Load<N>(x + p * N, values);
    Store<N>(values, y + p * N);
  }
}

// One partial sum a block; a thread's share is fixed by the grid.
template <bool kSquared, int N>
__global__ void PartialSumKernel(const float* x, int64_t packs, float* partials) {
  __shared__ float scratch[32];
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  float sum = 0;
  for (int64_t p = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; p < packs; p += step) {
    float values[N];
    Load<N>(x + p * N, values);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += kSquared ? values[i] * values[i] : values[i];
  }
  sum = BlockSum<kThreads>(sum, scratch);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void FinishSumKernel(const float* partials, int count, float factor, float* sum) {
  __shared__ float scratch[32];
  float total = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) total += partials[i];
  total = BlockSum<kThreads>(total, scratch);
  if (threadIdx.x == 0) sum[0] = factor * total;
}

}  // namespace

template <typename T>
void AddTo(const Device& device, Tensor<const T> x, float scale, Tensor<T> y) {
  constexpr int N = kPackSize<T>;
  const int64_t size = x.size();
  if (size % N == 0 && AllAligned(x.data(), y.data())) {
    Launch(device, {.blocks = Blocks(device, size / N), .threads = kThreads}, AddToKernel<T, N>, x.data(),
           scale, size / N, y.data());
  } else {
    Launch(device, {.blocks = Blocks(device, size), .threads = kThreads}, AddToKernel<T, 1>, x.data(), scale,
           size, y.data());
  }
}
template void AddTo<float>(const Device&, Tensor<const float>, float, Tensor<float>);
template void AddTo<Bf16>(const Device&, Tensor<const Bf16>, float, Tensor<Bf16>);

template <typename From, typename To>
void Cast(const Device& device, Tensor<const From> x, Tensor<To> y) {
  constexpr int N = 8;
  const int64_t size = x.size();
  if (size % N == 0 && AllAligned(x.data(), y.data())) {
    Launch(device, {.blocks = Blocks(device, size / N), .threads = kThreads}, CastKernel<From, To, N>,
           x.data(), size / N, y.data());
  } else {
    Launch(device, {.blocks = Blocks(device, size), .threads = kThreads}, CastKernel<From, To, 1>, x.data(),
           size, y.data());
  }
}
template void Cast<float, Bf16>(const Device&, Tensor<const float>, Tensor<Bf16>);
template void Cast<Bf16, float>(const Device&, Tensor<const Bf16>, Tensor<float>);

void Sum(const Device& device, Tensor<const float> x, float factor, bool squared, Tensor<float> partials,
         Tensor<float> sum) {
  const bool packed = x.size() % 4 == 0 && IsAligned(x.data());
  const int64_t items = packed ? x.size() / 4 : x.size();
  const int64_t blocks = std::clamp<int64_t>(CeilDiv<int64_t>(items, kThreads), 1, partials.size());
  const auto kernel = squared ? (packed ? PartialSumKernel<true, 4> : PartialSumKernel<true, 1>)
                              : (packed ? PartialSumKernel<false, 4> : PartialSumKernel<false, 1>);
  Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kThreads}, kernel, x.data(), items,
         partials.data());
  Launch(device, {.blocks = 1, .threads = kThreads}, FinishSumKernel, partials.data(),
         static_cast<int>(blocks), factor, sum.data());
}

}  // namespace hm11::cuda
