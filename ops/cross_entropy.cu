// Soft-capped cross entropy on a GPU: a warp a row, four packs of logits of each lane on their way at once. For
// the gradient a row of up to 8192 stays in the registers of one to eight warps between its sum and its
// gradient.
//
// Bound by arithmetic, but not by much: a logit costs two visits to the special function unit, which takes 16
// a cycle on a multiprocessor and so 8 logits, where memory delivers some 10 in Bf16 (132
// multiprocessors, 4.8 TB/s).
#include "core/launch.cuh"
#include "core/special_functions.cuh"
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
__global__ void __launch_bounds__(kThreads) ForwardKernel(int64_t rows, int vocab, const T* logits,
                                                          const int32_t* targets, float cap, float* losses) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / 32;
  if (r >= rows) return;
  const T* row = logits + r * vocab;
  const float log_normalizer = LogNormalizer<N>(row, vocab, cap);
  if (threadIdx.x % 32 != 0) return;
  const int target = targets[r];
  losses[r] = target < 0 ? 0 : log_normalizer - cap * CapTanh<T>(static_cast<float>(row[target]) / cap);
}

template <typename T>
struct GradientOperands {
  int64_t rows;
  int vocab;
  T* logits;  // and then their gradient
  const int32_t* targets;
  float cap;
  float dloss;
  float* losses;
};

// Rows in registers: kWarps warps a row, whose lanes have kGroup packs each; caps up to kMaxFixedCap.
template <typename T, int kWarps>
constexpr int kHeldRow = kWarps * 32 * kGroup* kPackSize<T>;

// A Bf16 logit is known to 2^-9 of itself: the gradient and its loss need no closer a tanh.
template <typename T>
__device__ __forceinline__ float HeldTanh(float x) {
  return std::is_same_v<T, Bf16> ? CoarseTanh(x) : CapTanh<T>(x);
}

template <typename T, int kWarps>
__global__ void __launch_bounds__(kThreads, 3) HeldGradientKernel(GradientOperands<T> p) {
  constexpr int N = kPackSize<T>;
  __shared__ float shared[kRows];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t r = int64_t{blockIdx.x} * (kRows / kWarps) + warp / kWarps;
  const bool active = r < p.rows;
  const int first = (warp % kWarps * 32 + lane) * N;
  T* const row = p.logits + r * p.vocab;
  const auto column = [&](int k) { return first + k * kWarps * 32 * N; };

  Pack<T, N> packs[kGroup] = {};
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    if (active && column(k) < p.vocab) packs[k] = Fetch<N>(row + column(k));
  }
  const int target = active ? p.targets[r] : -1;
  const float inverse = 1 / p.cap, exponent = kLog2E * p.cap;
  const float tanh_of_target = target < 0 ? 0 : HeldTanh<T>(static_cast<float>(row[target]) * inverse);
  float values[kGroup][N];  // exp(capped - cap) (1 - tanh^2)
  float sum = 0;
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    Unpack(packs[k], values[k]);
    if (column(k) >= p.vocab) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float tanh = HeldTanh<T>(values[k][i] * inverse);
      const float e = Exp2(fmaf(exponent, tanh, -exponent));
      sum += e;
      values[k][i] = e * fmaf(-tanh, tanh, 1.0f);
    }
  }
  sum = WarpSum(sum);
  if constexpr (kWarps > 1) {
    if (lane == 0) shared[warp] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += shared[warp / kWarps * kWarps + w];
  } else {
    __syncwarp();  // The target has been read.
  }
  if (!active) return;
  const float scale = target < 0 ? 0 : p.dloss / sum;
#pragma unroll
  for (int k = 0; k < kGroup; ++k) {
    if (column(k) >= p.vocab) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) values[k][i] *= scale;
    Store<N>(values[k], row + column(k));
    const int i = target - column(k);
    if (i < 0 || i >= N) continue;
    // The pack's lane stores this one again.
    const float slope = fmaf(-tanh_of_target, tanh_of_target, 1.0f);
    const float e = Exp2(fmaf(exponent, tanh_of_target, -exponent));
    row[target] = T(slope * fmaf(scale, e, -p.dloss));
    p.losses[r] = p.cap + logf(sum) - p.cap * tanh_of_target;
  }
  if (target < 0 && first == 0) p.losses[r] = 0;
}

// Any row, read twice.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) GradientKernel(GradientOperands<T> p) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / 32;
  if (r >= p.rows) return;
  T* const row = p.logits + r * p.vocab;
  const int target = p.targets[r];
  const float scale = target < 0 ? 0 : p.dloss;
  const float log_normalizer = LogNormalizer<N>(row, p.vocab, p.cap);
  const float inverse = 1 / p.cap;
  if (target < 0 && threadIdx.x % 32 == 0) p.losses[r] = 0;
  ForPacks<N>(row, p.vocab, [&](int column, const float(&values)[N]) {
    float out[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float tanh = CapTanh<T>(values[i] * inverse);
      const bool is_target = column + i == target;
      if (is_target) p.losses[r] = log_normalizer - p.cap * tanh;
      const float difference = __expf(fmaf(p.cap, tanh, -log_normalizer)) - (is_target ? 1.0f : 0.0f);
      out[i] = scale * difference * fmaf(-tanh, tanh, 1.0f);
    }
    Store<N>(out, row + column);
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

template <typename T, int kWarps>
void LaunchHeld(const Device& device, const GradientOperands<T>& p) {
  const int64_t blocks = CeilDiv<int64_t>(p.rows, kRows / kWarps);
  Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kThreads},
         HeldGradientKernel<T, kWarps>, p);
}

}  // namespace

template <typename T>
void CrossEntropyForward(const Device& device, const CrossEntropyArgs<T>& a) {
  const int64_t rows = a.logits.dim(0), vocab = a.logits.dim(1);
  const bool packed = Packed<T>(vocab, a.logits.data(), nullptr);
  Launch(device, RowShape(rows), packed ? ForwardKernel<T, kPackSize<T>> : ForwardKernel<T, 1>, rows, vocab,
         a.logits.data(), a.targets.data(), a.soft_cap, a.losses.data());
}

template <typename T>
void CrossEntropyGradient(const Device& device, const CrossEntropyGradArgs<T>& a) {
  const GradientOperands<T> p = {.rows = a.logits.dim(0),
                                 .vocab = static_cast<int>(a.logits.dim(1)),
                                 .logits = a.logits.data(),
                                 .targets = a.targets.data(),
                                 .cap = a.soft_cap,
                                 .dloss = a.dloss,
                                 .losses = a.losses.data()};
  const bool packed = Packed<T>(p.vocab, p.logits, nullptr);
  if (packed && p.cap <= static_cast<float>(kMaxFixedCap)) {
    if (p.vocab <= kHeldRow<T, 1>) return LaunchHeld<T, 1>(device, p);
    if (p.vocab <= kHeldRow<T, 2>) return LaunchHeld<T, 2>(device, p);
    if (p.vocab <= kHeldRow<T, 4>) return LaunchHeld<T, 4>(device, p);
    if (p.vocab <= kHeldRow<T, 8>) return LaunchHeld<T, 8>(device, p);
  }
  Launch(device, RowShape(p.rows), packed ? GradientKernel<T, kPackSize<T>> : GradientKernel<T, 1>, p);
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
template void CrossEntropyGradient<float>(const Device&, const CrossEntropyGradArgs<float>&);
template void CrossEntropyGradient<Bf16>(const Device&, const CrossEntropyGradArgs<Bf16>&);
template void SoftCapLogSoftmax<float>(const Device&, Tensor<const float>, float, Tensor<float>);
template void SoftCapLogSoftmax<Bf16>(const Device&, Tensor<const Bf16>, float, Tensor<float>);

}  // namespace hm11::cuda
