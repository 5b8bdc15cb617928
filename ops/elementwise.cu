// Add, cast and sums on a GPU.
#include "ops/elementwise.cuh"
#include "ops/elementwise.h"
#include "ops/sums.h"

namespace hm11::cuda {
namespace {

struct AddScaled {
  float scale;
  __device__ float operator()(float x, float y) const { return fmaf(scale, x, y); }
};
struct Same {
  __device__ float operator()(float x, float) const { return x; }
};

constexpr int kThreads = 512;
constexpr int kUnroll = 4;

// Threads stride over packs of four numbers and keep a sum for each place in a pack; one partial a block.
// `packed`: x begins on a 16-byte boundary.
template <bool kSquares>
__global__ void __launch_bounds__(kThreads)
    PartialSumsKernel(const float* x, int64_t size, bool packed, float* partials) {
  __shared__ float scratch[32];
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  const auto term = [](float value) { return kSquares ? value * value : value; };
  const int64_t packs = packed ? size / 4 : 0;
  float sums[4] = {};
#pragma unroll kUnroll
  for (int64_t pack = thread; pack < packs; pack += threads) {
    float values[4];
    Load<4>(x + pack * 4, values);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += term(values[i]);
  }
  for (int64_t i = packs * 4 + thread; i < size; i += threads) sums[0] += term(x[i]);
  const float sum = BlockSum<kThreads>((sums[0] + sums[1]) + (sums[2] + sums[3]), scratch);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kMaxPartials)
    TotalKernel(const float* partials, int64_t count, float factor, float* sum) {
  __shared__ float scratch[32];
  const float total = BlockSum<kMaxPartials>(threadIdx.x < count ? partials[threadIdx.x] : 0.0f, scratch);
  if (threadIdx.x == 0) sum[0] = factor * total;
}

}  // namespace

template <typename T>
void AddTo(const Device& device, Tensor<const T> x, float scale, Tensor<T> y) {
  MapElements(device, x.size(), AddScaled{scale}, x.data(), static_cast<const T*>(y.data()), y.data());
}

template <typename From, typename To>
void Cast(const Device& device, Tensor<const From> x, Tensor<To> y) {
  MapElements(device, x.size(), Same(), x.data(), static_cast<const From*>(nullptr), y.data());
}

template <typename A>
void Sum(const Device& device, Tensor<const A> x, bool squares, A factor, Tensor<A> partials, A* sum) {
  const int64_t blocks = PartialBlocks(device, x.size(), int64_t{kThreads} * 4 * kUnroll, 4);
  Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kThreads},
         squares ? PartialSumsKernel<true> : PartialSumsKernel<false>, x.data(), x.size(),
         IsAligned(x.data()), partials.data());
  Launch(device, {.blocks = 1, .threads = static_cast<unsigned>(kMaxPartials)}, TotalKernel, partials.data(),
         blocks, factor, sum);
}
template void Sum(const Device&, Tensor<const float>, bool, float, Tensor<float>, float*);

template void AddTo<float>(const Device&, Tensor<const float>, float, Tensor<float>);
template void AddTo<Bf16>(const Device&, Tensor<const Bf16>, float, Tensor<Bf16>);
template void Cast<float, Bf16>(const Device&, Tensor<const float>, Tensor<Bf16>);
template void Cast<Bf16, float>(const Device&, Tensor<const Bf16>, Tensor<float>);

}  // namespace hm11::cuda
