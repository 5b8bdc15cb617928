// Products with a residual step: the choice between one kernel and two ops.
#include "ops/residual_product.h"

#include <type_traits>

#include "core/check.h"
#include "core/dispatch.h"

namespace hm11 {
namespace {

// Whether nine of ten multiprocessors have something to do, at a tile of 128 x 256 numbers each.
bool FillsGpu(const Device& device, int64_t rows, int64_t dim) {
  return device.is_cuda() && 10 * ((rows + 127) / 128) * (dim / 256) >= 9 * device.multiprocessors();
}

}  // namespace

template <typename T, typename W>
void MatmulThenResidualNorm(Arena& arena, const MatmulThenResidualNormArgs<T, W>& args) {
  const int64_t rows = args.step.x.dim(0), dim = args.step.x.dim(1);
  const bool fp8 = !args.in8.x.empty();
  const double operations =
      2.0 * static_cast<double>(rows) * static_cast<double>(args.weight.size()) * (fp8 ? kFp8Cost : 1);
  const OpScope op({"MatmulThenResidualNorm", OpKind::kMatrixProduct, operations},
                   fp8 ? Tensor<const T>() : args.x, args.in8.x, args.step.normed8, args.weight, args.step.x,
                   args.step.skip, args.step.x0, args.step.y, args.step.u, args.step.normed, args.step.rstd);
  const bool only_fp8 = args.x.rank() == 0;
  HM_CHECK_EQ(only_fp8 ? args.in8.x.shape() : args.x.shape(), (Shape{rows, args.weight.dim(1)}));
  HM_CHECK_EQ(args.weight.dim(0), dim);
  HM_CHECK(args.step.branch.empty());
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16> && std::is_same_v<W, Bf16>) {
    if (only_fp8) {
      HM_CHECK(cuda::TryFp8ThenResidualNorm(arena.device(), args));
      return;
    }
    if (FillsGpu(arena.device(), rows, dim)) {
      if (fp8 && cuda::TryFp8ThenResidualNorm(arena.device(), args)) return;
      if (cuda::TryMatmulThenResidualNorm(arena.device(), args)) return;
    }
  }
  Arena::Scope scope(arena);
  const Tensor<T> branch = arena.New<T>({rows, dim});
  MatmulForward<T, W>(arena, {.x = args.x, .weight = args.weight, .y = branch});
  ResidualNormArgs<T> step = args.step;
  step.branch = branch;
  ResidualNormForward<T>(arena, step);
}

template <typename T>
void MatmulBackwardInto(Arena& arena, const MatmulGradArgs<T>& product, const InputGradient<T>& input) {
  HM_CHECK(product.dx.empty());
  MatmulGradArgs<T> plain = product;
  plain.add_to_dx = input.add;
  if (input.step == nullptr) {
    plain.dx = input.dx;
    return MatmulBackward<T>(arena, plain);
  }
  const int64_t rows = product.dy.rows(), dim = product.weight.dim(1);
  const ResidualNormGradArgs<T>& given = *input.step;
  const double products = product.dweight.empty() ? 1 : 2;
  const double operations =
      products * 2 * static_cast<double>(rows) * static_cast<double>(product.weight.size());
  const OpScope op({"MatmulBackwardInto", OpKind::kMatrixProduct, operations}, product.dy, product.x,
                   product.weight, product.dweight, product.dweight, input.dx, given.forward.y,
                   given.forward.x0, given.forward.skip, given.du, given.dy, given.dx, given.dskip, given.dx0,
                   given.dx0);
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16>) {
    if (FillsGpu(arena.device(), rows, dim) && !input.add && input.step->dx8.empty() &&
        cuda::TryMatmulBackwardIntoStep(arena.device(), product, *input.step)) {
      return MatmulBackward<T>(arena, {.dy = product.dy, .x = product.x, .dweight = product.dweight});
    }
  }
  Arena::Scope scope(arena);
  const Tensor<T> dx = input.dx.empty() ? arena.New<T>({rows, dim}) : input.dx;
  plain.dx = dx;
  MatmulBackward<T>(arena, plain);
  ResidualNormGradArgs<T> step = given;
  step.dnormed = dx;
  ResidualNormBackward<T>(arena, step);
}

#define HM11_INSTANTIATE(T)                                                                    \
  template void MatmulThenResidualNorm<T, T>(Arena&, const MatmulThenResidualNormArgs<T, T>&); \
  template void MatmulBackwardInto<T>(Arena&, const MatmulGradArgs<T>&, const InputGradient<T>&)
HM11_INSTANTIATE(double);
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
#undef HM11_INSTANTIATE
template void MatmulThenResidualNorm<float, Fp16>(Arena&, const MatmulThenResidualNormArgs<float, Fp16>&);

}  // namespace hm11
