// Scaled products: the choice of a device, and the CPU's loops over the matrix.
#include "ops/scaled_matmul.h"

#include "core/dispatch.h"
#include "ops/matmul.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

template <typename T>
void CpuScaleRows(Tensor<const T> weight, Tensor<const T> scale, Tensor<T> scaled) {
  const int64_t in = weight.dim(1);
  ParallelFor(weight.dim(0), MinRows(in), [=](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      const T factor = scale[o];
      for (int64_t i = o * in; i < (o + 1) * in; ++i) scaled.data()[i] = factor * weight.data()[i];
    }
  });
}

template <typename T>
void CpuAddScaledGradient(Tensor<const T> g, Tensor<const T> weight, const OutputScale<T>& columns,
                          Tensor<T> dweight) {
  const int64_t in = weight.dim(1);
  ParallelFor(weight.dim(0), MinRows(in), [=](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      const T factor = columns.scale[o];
      const T* const g_row = g.data() + o * in;
      const T* const weights = weight.data() + o * in;
      T* const to = dweight.data() + o * in;
      for (int64_t i = 0; i < in; ++i) to[i] += factor * g_row[i];
      columns.dscale[o] += LaneSum<T>(in, [=](int64_t i) { return weights[i] * g_row[i]; });
    }
  });
}

template <typename T>
void AddScaledGradient(const Device& device, Tensor<const Accum<T>> g, const ScaledMatmulGradArgs<T>& args) {
  if (g.empty()) return;
  Dispatch<T>(
      "ScaledMatmulBackward", device,
      [&]<typename U>() { CpuAddScaledGradient<U>(g, args.weight, args.columns, args.dweight); },
      [&]<typename U>() { cuda::AddScaledGradient<U>(device, g, args.weight, args.columns, args.dweight); });
}

}  // namespace

template <typename T>
Tensor<T> ScaledRows(Arena& arena, Tensor<const T> weight, Tensor<const Accum<T>> scale) {
  HM_CHECK_EQ(scale.shape(), (Shape{weight.dim(0)}));
  const Tensor<T> scaled = arena.New<T>(weight.shape());
  const OpScope op("ScaledRows", weight, scale, scaled);
  const Device& device = arena.device();
  if (weight.empty()) return scaled;
  Dispatch<T>(
      "ScaledRows", device, [&]<typename U>() { CpuScaleRows<U>(weight, scale, scaled); },
      [&]<typename U>() { cuda::ScaleRows<U>(device, weight, scale, scaled); });
  return scaled;
}

template <typename T>
void ScaledMatmulBackward(Arena& arena, const ScaledMatmulGradArgs<T>& args) {
  HM_CHECK_EQ(args.columns.scale.shape(), (Shape{args.weight.dim(0)}));
  HM_CHECK_EQ(args.columns.dscale.shape(), args.columns.scale.shape());
  const bool fp8 = !args.in8.dy.empty();
  const double products = fp8 ? kFp8Cost : args.dx.empty() ? 1 : 2;
  const double operations = products * 2 * static_cast<double>(fp8 ? args.in8.dy.dim(1) : args.dy.dim(0)) *
                            static_cast<double>(args.weight.size());
  const OpScope op({"ScaledMatmulBackward", OpKind::kMatrixProduct, operations}, args.dy, args.x, args.in8.dy,
                   args.in8.x, args.weight, args.columns.scale, args.dx, args.dweight, args.dweight);
  Arena::Scope scope(arena);
  if (!args.dx.empty()) {
    const Tensor<T> scaled = ScaledRows<T>(arena, args.weight, args.columns.scale);
    MatmulBackward<T>(arena, {.dy = args.dy, .weight = scaled, .dx = args.dx});
  }
  const Tensor<Accum<T>> g = arena.New<Accum<T>>(args.weight.shape());
  MatmulBackward<T>(arena,
                    {.dy = args.dy, .x = args.x, .dweight = g, .add_to_dweight = false, .in8 = args.in8});
  AddScaledGradient<T>(arena.device(), g, args);
}

#define HM11_INSTANTIATE(T)                                                      \
  template void ScaledMatmulBackward<T>(Arena&, const ScaledMatmulGradArgs<T>&); \
  template Tensor<T> ScaledRows<T>(Arena&, Tensor<const T>, Tensor<const Accum<T>>)
HM11_INSTANTIATE(double);
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
#undef HM11_INSTANTIATE

}  // namespace hm11
