// Weights in 8 bits: a thread has 16 bytes of a row, a quarter of a block of 64 terms.
#include "core/launch.cuh"
#include "ops/fp8.cuh"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 256;

// from(term) for the sixteen terms of quarter `quad` of a block.
template <typename To, typename F>
__device__ __forceinline__ uint4 Quarter(int quad, float factor, F&& from) {
  float terms[8][4];
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) terms[n][i] = from(8 * n + 2 * quad + i);
  }
  return Fp8OfSums<To>(terms, 0, factor);
}

template <typename To>
__global__ void __launch_bounds__(kThreads)
    ConvertKernel(int64_t sixteens, const Bf16* __restrict__ from, float factor, uint4* to) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= sixteens) return;
  const Bf16* const block = from + index / 4 * 64;
  to[index] =
      Quarter<To>(static_cast<int>(index % 4), factor, [=](int k) { return static_cast<float>(block[k]); });
}

__global__ void __launch_bounds__(kThreads)
    TransposeKernel(int rows, int cols, const Bf16* __restrict__ from, float factor, uint4* to) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= int64_t{cols} * (rows / 16)) return;
  const int col = static_cast<int>(index % cols), sixteen = static_cast<int>(index / cols);
  const Bf16* const block = from + int64_t{sixteen / 4 * 64} * cols + col;
  to[int64_t{col} * (rows / 16) + sixteen] =
      Quarter<E4m3>(sixteen % 4, factor, [=](int k) { return static_cast<float>(block[int64_t{k} * cols]); });
}

LaunchShape ShapeFor(Tensor<const Bf16> from) {
  return {.blocks = static_cast<unsigned>(CeilDiv<int64_t>(from.size() / 16, kThreads)), .threads = kThreads};
}

}  // namespace

template <typename To>
void ToFp8(const Device& device, Tensor<const Bf16> from, float factor, Tensor<To> to) {
  if (from.empty()) return;
  Launch(device, ShapeFor(from), ConvertKernel<To>, from.size() / 16, from.data(), factor,
         reinterpret_cast<uint4*>(to.data()));
}
template void ToFp8(const Device&, Tensor<const Bf16>, float, Tensor<E4m3>);
template void ToFp8(const Device&, Tensor<const Bf16>, float, Tensor<E5m2>);

void TransposedToFp8(const Device& device, Tensor<const Bf16> from, float factor, Tensor<E4m3> to) {
  if (from.empty()) return;
  Launch(device, ShapeFor(from), TransposeKernel, static_cast<int>(from.dim(0)),
         static_cast<int>(from.dim(1)), from.data(), factor, reinterpret_cast<uint4*>(to.data()));
}

}  // namespace hm11::cuda
