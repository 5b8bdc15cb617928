// XSA: the door and the CPU path.
#include "ops/exclusive_attention.h"

#include <algorithm>
#include <cmath>

#include "ops/door.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

constexpr double kMinNorm = 1e-12;

// 1 / max(|v|, 1e-12).
template <typename T>
T InverseNorm(const T* v, int64_t width) {
  return 1 / std::max(std::sqrt(LaneSum<T>(width, [&](int64_t d) { return v[d] * v[d]; })),
                      static_cast<T>(kMinNorm));
}

template <typename T>
void CpuForward(const ExclusiveAttentionArgs<T>& a) {
  const int64_t heads = a.x.dim(2), kv_heads = a.v.dim(2), width = a.x.dim(3), group = heads / kv_heads;
  ParallelFor(a.v.dim(0) * a.v.dim(1), MinRows(heads * width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * kv_heads; i < end * kv_heads; ++i) {
      const T* v = a.v.data() + i * width;
      const T inverse = InverseNorm(v, width);
      for (int64_t h = i * group; h < (i + 1) * group; ++h) {
        const T* x = a.x.data() + h * width;
        T* y = a.y.data() + h * width;
        const T share = inverse * inverse * LaneSum<T>(width, [&](int64_t d) { return x[d] * v[d]; });
        for (int64_t d = 0; d < width; ++d) y[d] = x[d] - share * v[d];
      }
    }
  });
}

// With n = v / |v|: dx = dy - (dy . n) n, dn = -sum over heads of (x . n) dy + (dy . n) x, and dv = (dn - (dn
// . n) n) / |v|, but for |v| under the floor, where n is linear in v.
template <typename T>
void CpuBackward(const ExclusiveAttentionGradArgs<T>& a) {
  const int64_t heads = a.x.dim(2), kv_heads = a.v.dim(2), width = a.x.dim(3), group = heads / kv_heads;
  ParallelFor(a.v.dim(0) * a.v.dim(1), MinRows(heads * width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * kv_heads; i < end * kv_heads; ++i) {
      const T* v = a.v.data() + i * width;
      T* dv = a.dv.data() + i * width;
      const T inverse = InverseNorm(v, width);
      std::fill(dv, dv + width, T{0});
      for (int64_t h = i * group; h < (i + 1) * group; ++h) {
        const T* x = a.x.data() + h * width;
        const T* dy = a.dy.data() + h * width;
        T* dx = a.dx.data() + h * width;
        const T along_x = inverse * LaneSum<T>(width, [&](int64_t d) { return x[d] * v[d]; });
        const T along_dy = inverse * LaneSum<T>(width, [&](int64_t d) { return dy[d] * v[d]; });
        for (int64_t d = 0; d < width; ++d) {
          const T upstream = dy[d];
          dv[d] -= along_x * upstream + along_dy * x[d];
          dx[d] = upstream - along_dy * inverse * v[d];
        }
      }
      const bool floored = inverse >= static_cast<T>(1 / kMinNorm);
      const T along_dn =
          floored ? T{0} : inverse * inverse * LaneSum<T>(width, [&](int64_t d) { return dv[d] * v[d]; });
      for (int64_t d = 0; d < width; ++d) dv[d] = inverse * (dv[d] - along_dn * v[d]);
    }
  });
}

template <typename Args>
void CheckOperands(const Args& args) {
  HM_CHECK_EQ(args.x.rank(), 4);
  HM_CHECK_EQ(args.v.rank(), 4);
  for (int axis : {0, 1, 3}) HM_CHECK_EQ(args.v.dim(axis), args.x.dim(axis));
  HM_CHECK_EQ(args.x.dim(2) % args.v.dim(2), 0);
  HM_CHECK_LE(args.x.dim(3), 128);
}

}  // namespace

template <typename T>
void ExclusiveAttentionForward(Arena& arena, const ExclusiveAttentionArgs<T>& args) {
  CheckOperands(args);
  HM_CHECK_EQ(args.y.shape(), args.x.shape());
  const Device& device = arena.device();
  if (device.is_plan() || args.x.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::ExclusiveAttentionForward(device, args);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuForward(args);
  }
  FailNoHalf<T>("ExclusiveAttentionForward", device);
}

template <typename T>
void ExclusiveAttentionBackward(Arena& arena, const ExclusiveAttentionGradArgs<T>& args) {
  CheckOperands(args);
  HM_CHECK_EQ(args.dy.shape(), args.x.shape());
  HM_CHECK_EQ(args.dx.shape(), args.x.shape());
  HM_CHECK_EQ(args.dv.shape(), args.v.shape());
  const Device& device = arena.device();
  if (device.is_plan() || args.x.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::ExclusiveAttentionBackward(device, args);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuBackward(args);
  }
  FailNoHalf<T>("ExclusiveAttentionBackward", device);
}

template void ExclusiveAttentionForward<double>(Arena&, const ExclusiveAttentionArgs<double>&);
template void ExclusiveAttentionForward<float>(Arena&, const ExclusiveAttentionArgs<float>&);
template void ExclusiveAttentionForward<Bf16>(Arena&, const ExclusiveAttentionArgs<Bf16>&);
template void ExclusiveAttentionBackward<double>(Arena&, const ExclusiveAttentionGradArgs<double>&);
template void ExclusiveAttentionBackward<float>(Arena&, const ExclusiveAttentionGradArgs<float>&);
template void ExclusiveAttentionBackward<Bf16>(Arena&, const ExclusiveAttentionGradArgs<Bf16>&);

}  // namespace hm11
