// Soft-capped cross entropy on a GPU: a warp a row, 16 bytes a lane and access.
//
// Caps up to 40 bound what exp sees well enough: the cap itself is the offset that keeps the sum from
// overflowing, and a row is read once. Under a larger cap the row's largest entry is looked for first.
#include "core/launch.cuh"
#include "ops/cross_entropy.h"
#include "ops/packs.cuh"

namespace hm11::cuda {
namespace {

constexpr int kWarps = 4;

// tanh by exp: (e - 1) / (e + 1), to float's rounding for |x| from 1e-3 on and within 6e-8 below.
__device__ __forceinline__ float FastTanh(float x) {
  const float e = __expf(2.0f * fminf(fmaxf(x, -9.0f), 9.0f));
  return __fdividef(e - 1.0f, e + 1.0f);
}

template <typename T, int N>
__device__ float Offset(const T* row, int64_t vocab, float cap, float inverse) {
  if (cap <= 40.0f) return cap;
  float largest = -3.4e38f;
  for (int64_t v = threadIdx.x % 32; v < vocab; v += 32) largest = fmaxf(largest, static_cast<float>(row[v]));
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
  }
  return cap * FastTanh(largest * inverse);
}

// log sum exp of a row's capped logits; the same in all lanes.
template <typename T, int N>
__device__ float LogNormalizer(const T* row, int64_t vocab, float cap, float inverse) {
  const float offset = Offset<T, N>(row, vocab, cap, inverse);
  float sum = 0;
  for (int64_t v = static_cast<int64_t>(threadIdx.x % 32) * N; v < vocab; v += 32 * N) {
    float logits[N];
    Load<N>(row + v, logits);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += __expf(fmaf(cap, FastTanh(logits[i] * inverse), -offset));
  }
  return offset + logf(WarpSum(sum));
}

template <typename T, int N>
__global__ void ForwardKernel(const T* logits, const int32_t* targets, int64_t rows, int64_t vocab, float cap,
                              float* losses, float* log_normalizer) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  const float inverse = 1.0f / cap;
  const float normalizer = LogNormalizer<T, N>(logits + row * vocab, vocab, cap, inverse);
  if (threadIdx.x % 32 != 0) return;
  const int32_t target = targets[row];
  log_normalizer[row] = normalizer;
  losses[row] = target < 0
                    ? 0.0f
                    : normalizer - cap * FastTanh(static_cast<float>(logits[row * vocab + target]) * inverse);
}

template <typename T, int N>
__global__ void BackwardKernel(const T* logits, const int32_t* targets, const float* log_normalizer,
                               int64_t rows, int64_t vocab, float cap, float dloss, T* dlogits) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  const float inverse = 1.0f / cap, normalizer = log_normalizer[row];
  const int32_t target = targets[row];
  const float scale = target < 0 ? 0.0f : dloss;
  for (int64_t v = static_cast<int64_t>(threadIdx.x % 32) * N; v < vocab; v += 32 * N) {
    float values[N];
    Load<N>(logits + row * vocab + v, values);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float t = FastTanh(values[i] * inverse);
      const float wanted = v + i == target ? 1.0f : 0.0f;
      values[i] = scale * (__expf(fmaf(cap, t, -normalizer)) - wanted) * fmaf(-t, t, 1.0f);
    }
    Store<N>(values, dlogits + row * vocab + v);
  }
}

template <typename T, int N>
__global__ void LogSoftmaxKernel(const T* logits, int64_t rows, int64_t vocab, float cap, float* log_probs) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  const float inverse = 1.0f / cap;
  const float normalizer = LogNormalizer<T, N>(logits + row * vocab, vocab, cap, inverse);
  for (int64_t v = threadIdx.x % 32; v < vocab; v += 32) {
    const float t = FastTanh(static_cast<float>(logits[row * vocab + v]) * inverse);
    log_probs[row * vocab + v] = fmaf(cap, t, -normalizer);
  }
}

LaunchShape RowShape(int64_t rows) {
  return {.blocks = static_cast<unsigned>(CeilDiv<int64_t>(rows, kWarps)), .threads = kWarps * 32};
}

}  // namespace

template <typename T>
void CrossEntropyForward(const Device& device, const CrossEntropyArgs<T>& args) {
  constexpr int N = kPackSize<T>;
  const int64_t rows = args.logits.dim(0), vocab = args.logits.dim(1);
  const auto kernel =
      vocab % N == 0 && IsAligned(args.logits.data()) ? ForwardKernel<T, N> : ForwardKernel<T, 1>;
  Launch(device, RowShape(rows), kernel, args.logits.data(), args.targets.data(), rows, vocab, args.soft_cap,
         args.losses.data(), args.log_normalizer.data());
}

template <typename T>
void CrossEntropyBackward(const Device& device, const CrossEntropyGradArgs<T>& args) {
  constexpr int N = kPackSize<T>;
  const int64_t rows = args.logits.dim(0), vocab = args.logits.dim(1);
  const auto kernel = vocab % N == 0 && AllAligned(args.logits.data(), args.dlogits.data())
                          ? BackwardKernel<T, N>
                          : BackwardKernel<T, 1>;
  Launch(device, RowShape(rows), kernel, args.logits.data(), args.targets.data(), args.log_normalizer.data(),
         rows, vocab, args.soft_cap, args.dloss, args.dlogits.data());
}

template <typename T>
void SoftCapLogSoftmax(const Device& device, Tensor<const T> logits, float soft_cap,
                       Tensor<float> log_probs) {
  constexpr int N = kPackSize<T>;
  const int64_t rows = logits.dim(0), vocab = logits.dim(1);
  const auto kernel =
      vocab % N == 0 && IsAligned(logits.data()) ? LogSoftmaxKernel<T, N> : LogSoftmaxKernel<T, 1>;
  Launch(device, RowShape(rows), kernel, logits.data(), rows, vocab, soft_cap, log_probs.data());
}

#define HM11_INSTANTIATE(T)                                                             \
  template void CrossEntropyForward<T>(const Device&, const CrossEntropyArgs<T>&);      \
  template void CrossEntropyBackward<T>(const Device&, const CrossEntropyGradArgs<T>&); \
  template void SoftCapLogSoftmax<T>(const Device&, Tensor<const T>, float, Tensor<float>);
HM11_INSTANTIATE(float)
HM11_INSTANTIATE(Bf16)
#undef HM11_INSTANTIATE

}  // namespace hm11::cuda
