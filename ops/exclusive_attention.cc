// Exclusive attention: the choice of a device and the CPU path.
#include "ops/exclusive_attention.h"

#include <cmath>

#include "core/dispatch.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

constexpr double kSmallestNorm = 1e-12;

template <typename T>
void CheckShapes(const Tensor<const T>& x, const Tensor<const T>& v) {
  HM_CHECK_EQ(x.rank(), 4);
  HM_CHECK_EQ(v.rank(), 4);
  HM_CHECK_EQ(v.shape(), (Shape{x.dim(0), x.dim(1), v.dim(2), x.dim(3)}));
  HM_CHECK_GE(v.dim(2), int64_t{1});
  HM_CHECK_EQ(x.dim(2) % v.dim(2), int64_t{0});
}

template <typename T>
T DotOf(const T* a, const T* b, int64_t count) {
  return LaneSum<T>(count, [a, b](int64_t i) { return a[i] * b[i]; });
}

template <typename T>
void CpuForward(const ExclusiveAttentionArgs<T>& a) {
  const int64_t head_dim = a.x.dim(3), group = a.x.dim(2) / a.v.dim(2), vectors = a.v.size() / head_dim;
  ParallelFor(vectors, MinRows(group * head_dim), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* v = a.v.data() + i * head_dim;
      const T norm = std::max(std::sqrt(DotOf(v, v, head_dim)), static_cast<T>(kSmallestNorm));
      for (int64_t h = i * group; h < (i + 1) * group; ++h) {
        const T* x = a.x.data() + h * head_dim;
        T* y = a.y.data() + h * head_dim;
        const T factor = DotOf(x, v, head_dim) / norm / norm;
        for (int64_t d = 0; d < head_dim; ++d) y[d] = x[d] - factor * v[d];
      }
    }
  });
}

template <typename T>
void CpuBackward(const ExclusiveAttentionGradArgs<T>& a) {
  const int64_t head_dim = a.x.dim(3), group = a.x.dim(2) / a.v.dim(2), vectors = a.v.size() / head_dim;
  ParallelFor(vectors, MinRows(group * head_dim), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* v = a.v.data() + i * head_dim;
      T* dv = a.dv.data() + i * head_dim;
      const T length = std::sqrt(DotOf(v, v, head_dim));
      const bool is_small = length < static_cast<T>(kSmallestNorm);
      const T inverse = 1 / std::max(length, static_cast<T>(kSmallestNorm));
      std::fill(dv, dv + head_dim, T(0));
      for (int64_t h = i * group; h < (i + 1) * group; ++h) {
        const T* x = a.x.data() + h * head_dim;
        const T* dy = a.dy.data() + h * head_dim;
        T* dx = a.dx.data() + h * head_dim;
        const T p = DotOf(x, v, head_dim) * inverse, q = DotOf(dy, v, head_dim) * inverse;
        const T along = is_small ? 0 : 2 * p * q * inverse;
        for (int64_t d = 0; d < head_dim; ++d) {
          const T dy_d = dy[d];  // dx may be dy.
          dv[d] += (along * v[d] - q * x[d] - p * dy_d) * inverse;
          dx[d] = dy_d - q * inverse * v[d];
        }
      }
    }
  });
}

}  // namespace

template <typename T>
void ExclusiveAttentionForward(Arena& arena, const ExclusiveAttentionArgs<T>& args) {
  const OpScope op("ExclusiveAttentionForward", args.x, args.v, args.y);
  CheckShapes(args.x, args.v);
  HM_CHECK_EQ(args.y.shape(), args.x.shape());
  const Device& device = arena.device();
  if (args.x.empty()) return;
  Dispatch<T>(
      "ExclusiveAttentionForward", device, [&]<typename U>() { CpuForward<U>(args); },
      [&]<typename U>() { cuda::ExclusiveAttentionForward<U>(device, args); });
}

template <typename T>
void ExclusiveAttentionBackward(Arena& arena, const ExclusiveAttentionGradArgs<T>& args) {
  const OpScope op("ExclusiveAttentionBackward", args.x, args.v, args.dy, args.dx, args.dv);
  CheckShapes(args.x, args.v);
  HM_CHECK_EQ(args.dy.shape(), args.x.shape());
  HM_CHECK_EQ(args.dx.shape(), args.x.shape());
  HM_CHECK_EQ(args.dv.shape(), args.v.shape());
  const Device& device = arena.device();
  if (args.x.empty()) return;
  Dispatch<T>(
      "ExclusiveAttentionBackward", device, [&]<typename U>() { CpuBackward<U>(args); },
      [&]<typename U>() { cuda::ExclusiveAttentionBackward<U>(device, args); });
}

#define HM11_INSTANTIATE(T)                                                             \
  template void ExclusiveAttentionForward<T>(Arena&, const ExclusiveAttentionArgs<T>&); \
  template void ExclusiveAttentionBackward<T>(Arena&, const ExclusiveAttentionGradArgs<T>&)
HM11_INSTANTIATE(double);
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
#undef HM11_INSTANTIATE

}  // namespace hm11
