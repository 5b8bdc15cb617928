// Soft-capped cross entropy on a GPU: a warp a row, four packs of logits of each lane on their way at once.
//
// Bound by arithmetic, but not by much: a logit costs two visits to the special function unit, which takes 16
// a cycle on a multiprocessor and so 8 logits, where memory delivers some 10 in Bf16 (132
// multiprocessors, 4.8 TB/s).
#include "core/launch.cuh"
#include "ops/cross_entropy.h"
#include "ops/packs.cuh"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = kThreads / 32;  // a block
constexpr int kGroup = 4;             // packs fetched at once

// tanh by the quotient of its continued fraction's seventh convergent, which is within 3e-7 (relative) up to
// |x| = 2, 1.1e-6 up to 3 and 1e-4 beyond, where it is held at the last. Enough for logits stored in Bf16,
// whose own steps are far coarser; float takes the exact form beyond 2.
template <typename T>
__device__ __forceinline__ float CapTanh(float x) {
  const float held = fminf(fmaxf(x, -4.97f), 4.97f);
  const float z = held * held;
  const float above = fmaf(fmaf(z + 378.0f, z, 17325.0f), z, 135135.0f);
  const float below = fmaf(fmaf(fmaf(28.0f, z, 3150.0f), z, 62370.0f), z, 135135.0f);
  const float quotient = __fdividef(held * above, below);
  if constexpr (!std::is_same_v<T, Bf16>) {
    if (fabsf(x) > 2.0f) return tanhf(x);
  }
  return quotient;
}

// Calls function(column, values) for the N-number packs of a row, kGroup of them fetched before the first is
// used.
template <int N, typename T, typename F>
__device__ __forceinline__ void ForPacks(const T* row, int vocab, F&& function) {
  for (int base = threadIdx.x % 32 * N; base < vocab; base += 32 * N * kGroup) {
    Pack<T, N> packs[kGroup] = {};
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      if (base + k * 32 * N < vocab) packs[k] = Fetch<N>(row + base + k * 32 * N);
    }
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      if (base + k * 32 * N >= vocab) continue;
      float values[N];
      Unpack(packs[k], values);
      function(base + k * 32 * N, values);
    }
  }
}

// What the row's exponentials are relative to.
template <int N, typename T>
__device__ __forceinline__ float Reference(const T* row, int vocab, float cap) {
  if (cap <= static_cast<float>(kMaxFixedCap)) return cap;
  float largest = -INFINITY;
  ForPacks<N>(row, vocab, [&](int, const float(&values)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) largest = fmaxf(largest, values[i]);
  });
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
  }
  return cap * CapTanh<T>(largest / cap);
}

template <int N, typename T>
__device__ __forceinline__ float LogNormalizer(const T* row, int vocab, float cap) {
  const float inverse = 1 / cap;
  const float reference = Reference<N>(row, vocab, cap);
  float sums[N] = {};
  ForPacks<N>(row, vocab, [&](int, const float(&values)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) sums[i] += __expf(fmaf(cap, CapTanh<T>(values[i] * inverse), -reference));
  });
  float sum = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) sum += sums[i];
  return reference + logf(WarpSum(sum));
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    ForwardKernel(int64_t rows, int vocab, const T* logits, const int32_t* targets, float cap, float* losses,
                  float* log_normalizers) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / 32;
  if (r >= rows) return;
  const T* row = logits + r * vocab;
  const float log_normalizer = LogNormalizer<N>(row, vocab, cap);
  if (threadIdx.x % 32 != 0) return;
  log_normalizers[r] = log_normalizer;
  const int target = targets[r];
  losses[r] = target < 0 ? 0 : log_normalizer - cap * CapTanh<T>(static_cast<float>(row[target]) / cap);
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    BackwardKernel(int64_t rows, int vocab, const T* logits, const int32_t* targets, float cap,
                   const float* log_normalizers, float dloss, T* dlogits) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / 32;
  if (r >= rows) return;
  const int target = targets[r];
  const float scale = target < 0 ? 0 : dloss;
  const float log_normalizer = log_normalizers[r];
  const float inverse = 1 / cap;
  ForPacks<N>(logits + r * vocab, vocab, [&](int column, const float(&values)[N]) {
    float out[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float tanh = CapTanh<T>(values[i] * inverse);
      const float p = __expf(fmaf(cap, tanh, -log_normalizer)) - (column + i == target ? 1.0f : 0.0f);
      out[i] = scale * p * fmaf(-tanh, tanh, 1.0f);
    }
    Store<N>(out, dlogits + r * vocab + column);
  });
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    LogSoftmaxKernel(int64_t rows, int vocab, const T* logits, float cap, float* log_probs) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / 32;
  if (r >= rows) return;
  const T* row = logits + r * vocab;
  const float log_normalizer = LogNormalizer<N>(row, vocab, cap);
  const float inverse = 1 / cap;
  ForPacks<N>(row, vocab, [&](int column, const float(&values)[N]) {
    float out[N];
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = fmaf(cap, CapTanh<T>(values[i] * inverse), -log_normalizer);
    Store<N>(out, log_probs + r * vocab + column);
  });
}

LaunchShape RowShape(int64_t rows) {
  return {.blocks = static_cast<unsigned>(CeilDiv<int64_t>(rows, kRows)), .threads = kThreads};
}

template <typename T>
bool Packed(int64_t vocab, const void* logits, const void* out) {
  return vocab % kPackSize<T> == 0 && AllAligned(logits, out);
}

}  // namespace

template <typename T>
void CrossEntropyForward(const Device& device, const CrossEntropyArgs<T>& a) {
  const int64_t rows = a.logits.dim(0), vocab = a.logits.dim(1);
  const bool packed = Packed<T>(vocab, a.logits.data(), nullptr);
  Launch(device, RowShape(rows), packed ? ForwardKernel<T, kPackSize<T>> : ForwardKernel<T, 1>, rows, vocab,
         a.logits.data(), a.targets.data(), a.soft_cap, a.losses.data(), a.log_normalizer.data());
}

template <typename T>
void CrossEntropyBackward(const Device& device, const CrossEntropyGradArgs<T>& a) {
  const int64_t rows = a.logits.dim(0), vocab = a.logits.dim(1);
  const bool packed = Packed<T>(vocab, a.logits.data(), a.dlogits.data());
  Launch(device, RowShape(rows), packed ? BackwardKernel<T, kPackSize<T>> : BackwardKernel<T, 1>, rows, vocab,
         a.logits.data(), a.targets.data(), a.soft_cap, a.log_normalizer.data(), a.dloss, a.dlogits.data());
}

template <typename T>
void SoftCapLogSoftmax(const Device& device, Tensor<const T> logits, float soft_cap,
                       Tensor<float> log_probs) {
  const int64_t rows = logits.dim(0), vocab = logits.dim(1);
  const bool packed = Packed<T>(vocab, logits.data(), log_probs.data());
  Launch(device, RowShape(rows), packed ? LogSoftmaxKernel<T, kPackSize<T>> : LogSoftmaxKernel<T, 1>, rows,
         vocab, logits.data(), soft_cap, log_probs.data());
}

template void CrossEntropyForward<float>(const Device&, const CrossEntropyArgs<float>&);
template void CrossEntropyForward<Bf16>(const Device&, const CrossEntropyArgs<Bf16>&);
template void CrossEntropyBackward<float>(const Device&, const CrossEntropyGradArgs<float>&);
template void CrossEntropyBackward<Bf16>(const Device&, const CrossEntropyGradArgs<Bf16>&);
template void SoftCapLogSoftmax<float>(const Device&, Tensor<const float>, float, Tensor<float>);
template void SoftCapLogSoftmax<Bf16>(const Device&, Tensor<const Bf16>, float, Tensor<float>);

}  // namespace hm11::cuda
