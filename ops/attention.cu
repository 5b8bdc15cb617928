// Attention on a GPU: the choice of kernels, and delta for those that find it in place.
#include "core/check.h"
#include "core/launch.cuh"
#include "ops/attention_cuda.h"
#include "ops/packs.cuh"

namespace hm11::cuda {
namespace {

// delta[b, h, t] = dy[b, t, h] . y[b, t, h]. Eight lanes a row, each with packs of kPack numbers: bound by
// the reads of y and dy.
constexpr int kDeltaThreads = 256;
constexpr int kDeltaLanes = 8;

template <typename T, int kPack>
__global__ void __launch_bounds__(kDeltaThreads)
    DeltaKernel(const T* y, const T* dy, float* delta, int64_t rows, int time, int heads, int head_dim) {
  const int64_t row = (int64_t{blockIdx.x} * kDeltaThreads + threadIdx.x) / kDeltaLanes;
  const int lane = threadIdx.x % kDeltaLanes;
  float sum = 0;
  if (row < rows) {
    for (int d = lane * kPack; d < head_dim; d += kDeltaLanes * kPack) {
      float a[kPack], b[kPack];
      Load(y + row * head_dim + d, a);
      Load(dy + row * head_dim + d, b);
#pragma unroll
      for (int i = 0; i < kPack; ++i) sum += a[i] * b[i];
    }
  }
#pragma unroll
  for (int offset = kDeltaLanes / 2; offset > 0; offset /= 2)
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (row < rows && lane == 0) {
    const int64_t position = row / heads;  // b time + t
    const int64_t head = row % heads;
    delta[(position / time * heads + head) * time + position % time] = sum;
  }
}

template <typename T>
void Delta(const Device& device, const AttentionGradArgs<T>& args, Tensor<float> delta) {
  const int64_t rows = delta.size();
  const int time = static_cast<int>(args.dy.dim(1)), heads = static_cast<int>(args.dy.dim(2));
  const int head_dim = static_cast<int>(args.dy.dim(3));
  const bool packed =
      head_dim % kPackSize<T> == 0 && IsAligned(args.dy.data()) && IsAligned(args.forward.y.data());
  Launch(device,
         {.blocks = dim3(static_cast<unsigned>(CeilDiv<int64_t>(rows, kDeltaThreads / kDeltaLanes))),
          .threads = kDeltaThreads},
         packed ? DeltaKernel<T, kPackSize<T>> : DeltaKernel<T, 1>, args.forward.y.data(), args.dy.data(),
         delta.data(), rows, time, heads, head_dim);
}

template <typename T>
bool AreAligned(const AttentionArgs<T>& x) {
  return IsAligned(x.q.data()) && IsAligned(x.k.data()) && IsAligned(x.v.data()) && IsAligned(x.y.data());
}
template <typename T>
bool AreAligned(const AttentionGradArgs<T>& x) {
  return AreAligned(x.forward) && IsAligned(x.dy.data()) && IsAligned(x.dq.data()) &&
         IsAligned(x.dk.data()) && IsAligned(x.dv.data());
}

template <typename T>
AttentionKernel Choose(const Device& device, AttentionKernel asked, int64_t head_dim, bool aligned) {
  if (asked != AttentionKernel::kBest) {
    HM_CHECK(Supports<T>(device, asked, head_dim));
    return asked;
  }
  for (const AttentionKernel kernel : {AttentionKernel::kWarpgroup, AttentionKernel::kTensorCore}) {
    if (aligned && Supports<T>(device, kernel, head_dim)) return kernel;
  }
  HM_CHECK(Supports<T>(device, AttentionKernel::kSimple, head_dim));
  return AttentionKernel::kSimple;
}

}  // namespace

template <typename T>
bool Supports(const Device& device, AttentionKernel kernel, int64_t head_dim) {
  switch (kernel) {
    case AttentionKernel::kBest:
    case AttentionKernel::kSimple:
      return head_dim <= 128;
    case AttentionKernel::kTensorCore:
      return std::is_same_v<T, Bf16> && device.compute_capability() >= 80 &&
             (head_dim == 32 || head_dim == 64 || head_dim == 128);
    case AttentionKernel::kWarpgroup:
      return std::is_same_v<T, Bf16> && device.compute_capability() == 90 && head_dim == 64;
  }
  return false;
}

template <typename T>
void AttentionForward(const Device& device, const AttentionArgs<T>& args, AttentionKernel kernel) {
  kernel = Choose<T>(device, kernel, args.q.dim(3), AreAligned(args));
  if constexpr (std::is_same_v<T, Bf16>) {
    if (kernel == AttentionKernel::kWarpgroup) return WgmmaAttentionForward(device, args);
    if (kernel == AttentionKernel::kTensorCore) return MmaAttentionForward(device, args);
  }
  SimpleAttentionForward(device, args);
}

template <typename T>
void AttentionBackward(const Device& device, const AttentionGradArgs<T>& args, Tensor<float> delta,
                       AttentionKernel kernel) {
  kernel = Choose<T>(device, kernel, args.dq.dim(3), AreAligned(args));
  if constexpr (std::is_same_v<T, Bf16>) {
    if (kernel == AttentionKernel::kWarpgroup) return WgmmaAttentionBackward(device, args, delta);
  }
  Delta(device, args, delta);
  if constexpr (std::is_same_v<T, Bf16>) {
    if (kernel == AttentionKernel::kTensorCore) return MmaAttentionBackward(device, args, delta);
  }
  SimpleAttentionBackward(device, args, Tensor<const float>(delta));
}

#define HM11_INSTANTIATE(T)                                                                \
  template bool Supports<T>(const Device&, AttentionKernel, int64_t);                      \
  template void AttentionForward(const Device&, const AttentionArgs<T>&, AttentionKernel); \
  template void AttentionBackward(const Device&, const AttentionGradArgs<T>&, Tensor<float>, AttentionKernel)
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
#undef HM11_INSTANTIATE

}  // namespace hm11::cuda
