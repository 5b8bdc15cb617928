// Matrix products: contracts checked, then to OpenBLAS or cuBLASLt.
#include "ops/matmul.h"

#include <type_traits>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/dispatch.h"
#include "ops/matmul_cuda.h"
#include "ops/matvec.h"
#include "ops/product.h"

namespace hm11 {
namespace {

template <typename T, typename C>
void Run(const Device& device, const Product<T, C>& product) {
  if (product.rows == 0 || product.cols == 0) return;
  Dispatch<T>(
      "Matmul", device, [&]<typename U>() { Multiply<U>(product); },
      [&]<typename U>() { cuda::Multiply<U>(device, product); });
}

// Multiplications and additions of one product.
double Operations(int64_t rows, int64_t in, int64_t out) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(in * out);
}

template <typename T>
void Fp8Forward(const Device& device, const MatmulArgs<T>& args) {
  cuda::Multiply(device, Product<E4m3, T>{.rows = args.x.rows(),
                                          .cols = args.y.cols(),
                                          .inner = args.x.cols(),
                                          .a = args.in8.x.data(),
                                          .a_stride = args.x.cols(),
                                          .b = args.in8.weight.data(),
                                          .b_stride = args.x.cols(),
                                          .transpose_b = true,
                                          .c = args.y.data(),
                                          .c_stride = args.y.stride(),
                                          .alpha = 1 / (kNormedFactor * kWeightFactor)});
}

}  // namespace

template <typename T, typename W>
void MatmulForward(Arena& arena, const MatmulArgs<T, W>& args) {
  const int64_t rows = args.x.rows(), in = args.x.cols(), out = args.y.cols();
  const bool fp8 = !args.in8.x.empty();
  const OpScope op(
      {"MatmulForward", OpKind::kMatrixProduct, Operations(rows, in, out) * (fp8 ? kFp8Cost : 1)},
      fp8 ? Columns<const T>() : args.x, args.in8.x, args.weight, args.y);
  HM_CHECK_EQ(args.weight.shape(), (Shape{out, in}));
  HM_CHECK_EQ(args.y.rows(), rows);
  if (rows == 1) {
    return MatvecForward<T, W>(arena, {.x = Tensor<const T>(args.x.data(), {in}),
                                       .weight = args.weight,
                                       .y = Tensor<T>(args.y.data(), {out})});
  }
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16> && std::is_same_v<W, Bf16>) {
    if (fp8 && out % 16 == 0 && arena.device().is_cuda()) return Fp8Forward<T>(arena.device(), args);
  }
  if constexpr (std::is_same_v<T, W>) {
    Run(arena.device(), Product<T>{.rows = rows,
                                   .cols = out,
                                   .inner = in,
                                   .a = args.x.data(),
                                   .a_stride = args.x.stride(),
                                   .b = args.weight.data(),
                                   .b_stride = in,
                                   .transpose_b = true,
                                   .c = args.y.data(),
                                   .c_stride = args.y.stride()});
  } else {
    HM_CHECK_EQ(rows, int64_t{1});
  }
}

// The weight's gradient from operands of 8 bits.
template <typename A>
void Fp8Backward(const Device& device, const Fp8Transposed& in8, Tensor<A> dweight, bool add) {
  const int64_t out = in8.dy.dim(0), in = in8.x.dim(0), rows = in8.x.dim(1);
  const OpScope op({"MatmulBackward", OpKind::kMatrixProduct, Operations(rows, in, out) * kFp8Cost}, in8.dy,
                   in8.x, dweight, dweight);
  HM_CHECK_EQ(in8.dy.dim(1), rows);
  HM_CHECK_EQ(dweight.shape(), (Shape{out, in}));
  if constexpr (kHaveCuda && std::is_same_v<A, float>) {
    if (device.is_cuda()) {
      return cuda::Multiply(device, Product<E5m2, float, E4m3>{.rows = out,
                                                               .cols = in,
                                                               .inner = rows,
                                                               .a = in8.dy.data(),
                                                               .a_stride = rows,
                                                               .b = in8.x.data(),
                                                               .b_stride = rows,
                                                               .transpose_b = true,
                                                               .c = dweight.data(),
                                                               .c_stride = in,
                                                               .alpha = in8.factor,
                                                               .beta = add ? 1.0f : 0.0f});
    }
  }
  HM_CHECK(device.is_plan());
}

template <typename T>
void MatmulBackward(Arena& arena, const MatmulGradArgs<T>& args) {
  if (!args.in8.dy.empty()) return Fp8Backward(arena.device(), args.in8, args.dweight, args.add_to_dweight);
  const int64_t rows = args.dy.rows(), out = args.dy.cols();
  const double operations =
      Operations(rows, args.dx.cols(), out) + Operations(rows, args.dweight.empty() ? 0 : args.x.cols(), out);
  const OpScope op({"MatmulBackward", OpKind::kMatrixProduct, operations}, args.dy, args.x, args.weight,
                   args.dx, args.dweight, args.dweight);
  if (!args.dx.empty()) {
    const int64_t in = args.dx.cols();
    HM_CHECK_EQ(args.weight.shape(), (Shape{out, in}));
    HM_CHECK_EQ(args.dx.rows(), rows);
    Run(arena.device(), Product<T>{.rows = rows,
                                   .cols = in,
                                   .inner = out,
                                   .a = args.dy.data(),
                                   .a_stride = args.dy.stride(),
                                   .b = args.weight.data(),
                                   .b_stride = in,
                                   .c = args.dx.data(),
                                   .c_stride = args.dx.stride(),
                                   .beta = static_cast<Accum<T>>(args.add_to_dx ? 1 : 0)});
  }
  if (!args.dweight.empty()) {
    const int64_t in = args.x.cols();
    HM_CHECK_EQ(args.dweight.shape(), (Shape{out, in}));
    HM_CHECK_EQ(args.x.rows(), rows);
    Run(arena.device(), Product<T, Accum<T>>{.rows = out,
                                             .cols = in,
                                             .inner = rows,
                                             .a = args.dy.data(),
                                             .a_stride = args.dy.stride(),
                                             .transpose_a = true,
                                             .b = args.x.data(),
                                             .b_stride = args.x.stride(),
                                             .c = args.dweight.data(),
                                             .c_stride = in,
                                             .beta = static_cast<Accum<T>>(args.add_to_dweight ? 1 : 0)});
  }
}

template <typename T>
void BatchedMatmul(Arena& arena, const BatchedMatmulArgs<T>& args) {
  HM_CHECK_EQ(args.c.rank(), 3);
  const int64_t batch = args.c.dim(0), rows = args.c.dim(1), cols = args.c.dim(2);
  HM_CHECK_EQ(args.a.rank(), 3);
  const int64_t inner = args.a.dim(2);
  const OpScope op({"BatchedMatmul", OpKind::kMatrixProduct, Operations(batch * rows, inner, cols)}, args.a,
                   args.b, args.added, args.c);
  HM_CHECK_EQ(args.a.shape(), (Shape{batch, rows, inner}));
  HM_CHECK_EQ(args.b.shape(), args.transpose_b ? (Shape{batch, cols, inner}) : (Shape{batch, inner, cols}));
  HM_CHECK_SHAPE_IF_THERE(args.added, args.c.shape());
  Run(arena.device(), Product<T>{.rows = rows,
                                 .cols = cols,
                                 .inner = inner,
                                 .a = args.a.data(),
                                 .a_stride = inner,
                                 .b = args.b.data(),
                                 .b_stride = args.transpose_b ? inner : cols,
                                 .transpose_b = args.transpose_b,
                                 .c = args.c.data(),
                                 .c_stride = cols,
                                 .added = args.added.data(),
                                 .alpha = static_cast<Accum<T>>(args.alpha),
                                 .beta = static_cast<Accum<T>>(args.beta),
                                 .batch = batch,
                                 .a_step = rows * inner,
                                 .b_step = inner * cols,
                                 .c_step = rows * cols});
}

std::string CpuMatmulKernels() { return absl::StrCat("OpenBLAS ", BlasKernels()); }

void TuneMatmuls(const Device& device, bool on) {
  if constexpr (kHaveCuda) {
    if (device.is_cuda()) cuda::TuneMatmuls(device, on);
  }
}

std::string MatmulTuning(const Device& device) {
  if constexpr (kHaveCuda) {
    if (device.is_cuda()) return cuda::MatmulTuning(device);
  }
  return "";
}

absl::Status SetMatmulTuning(const Device& device, absl::string_view text) {
  if constexpr (kHaveCuda) {
    if (device.is_cuda()) return cuda::SetMatmulTuning(device, text);
  }
  return absl::OkStatus();
}

#define HM11_INSTANTIATE(T)                                          \
  template void MatmulForward<T, T>(Arena&, const MatmulArgs<T>&);   \
  template void MatmulBackward<T>(Arena&, const MatmulGradArgs<T>&); \
  template void BatchedMatmul<T>(Arena&, const BatchedMatmulArgs<T>&)
HM11_INSTANTIATE(double);
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
template void MatmulForward<float, Fp16>(Arena&, const MatmulArgs<float, Fp16>&);
#undef HM11_INSTANTIATE

}  // namespace hm11
