// Leaky ReLU squared: the door and the CPU path.
#include "ops/leaky_relu_squared.h"

#include "ops/door.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

template <typename T>
void CpuForward(const LeakyReluSquaredArgs<T>& a) {
  const T* x = a.x.data();
  T* y = a.y.data();
  ParallelFor(a.x.size(), MinRows(1), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = (x[i] > 0 ? x[i] : x[i] / 4) * x[i];
  });
}

template <typename T>
void CpuBackward(const LeakyReluSquaredGradArgs<T>& a) {
  const T* x = a.x.data();
  const T* dy = a.dy.data();
  T* dx = a.dx.data();
  ParallelFor(a.x.size(), MinRows(1), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) dx[i] = (x[i] > 0 ? 2 * x[i] : x[i] / 2) * dy[i];
  });
}

}  // namespace

template <typename T>
void LeakyReluSquaredForward(Arena& arena, const LeakyReluSquaredArgs<T>& args) {
  HM_CHECK_EQ(args.y.shape(), args.x.shape());
  const Device& device = arena.device();
  if (device.is_plan() || args.x.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::LeakyReluSquaredForward(device, args);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuForward(args);
  }
  FailNoHalf<T>("LeakyReluSquaredForward", device);
}

template <typename T>
void LeakyReluSquaredBackward(Arena& arena, const LeakyReluSquaredGradArgs<T>& args) {
  HM_CHECK_EQ(args.dy.shape(), args.x.shape());
  HM_CHECK_EQ(args.dx.shape(), args.x.shape());
  const Device& device = arena.device();
  if (device.is_plan() || args.x.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::LeakyReluSquaredBackward(device, args);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuBackward(args);
  }
  FailNoHalf<T>("LeakyReluSquaredBackward", device);
}

template void LeakyReluSquaredForward<double>(Arena&, const LeakyReluSquaredArgs<double>&);
template void LeakyReluSquaredForward<float>(Arena&, const LeakyReluSquaredArgs<float>&);
template void LeakyReluSquaredForward<Bf16>(Arena&, const LeakyReluSquaredArgs<Bf16>&);
template void LeakyReluSquaredBackward<double>(Arena&, const LeakyReluSquaredGradArgs<double>&);
template void LeakyReluSquaredBackward<float>(Arena&, const LeakyReluSquaredGradArgs<float>&);
template void LeakyReluSquaredBackward<Bf16>(Arena&, const LeakyReluSquaredGradArgs<Bf16>&);

}  // namespace hm11
