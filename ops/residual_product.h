// The matrix products beside the residual stream's steps (ops/residual_norm.h), each with its step.
//
//   forward:   branch = x weight^T, which the step adds
//   backward:  dx = dy weight, where x is what a step normed; then the step's gradient
//
// On a GPU of compute capability 9.0 the step is done on the sums of the product before these leave the
// registers, which saves writing and reading them (Bf16, rows enough for all multiprocessors, shapes that
// ops/row_product.cuh has; backward only of steps of x alone). Elsewhere by the two ops one after the other.
//
// Properties
//   1. The results are those of the two ops; where the step is in the product, branch and dx are not rounded
//      to Bf16 on their way.
// Determinism: that of matrix products and of residual norm.
// Cost: 2 rows in out operations, and the step's operands and results once.
#ifndef HM11_OPS_RESIDUAL_PRODUCT_H_
#define HM11_OPS_RESIDUAL_PRODUCT_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "ops/fp8.h"
#include "ops/matmul.h"
#include "ops/residual_norm.h"

namespace hm11 {

template <typename T, typename W = T>
struct MatmulThenResidualNormArgs {
  Tensor<const T> x;  // [rows, in]; one row where W is not T; absent where in8 must serve (Fp8StepServes)
  Tensor<const W> weight;    // [dim, in]
  ResidualNormArgs<T> step;  // with branch_scale, but without branch
  Fp8Operands in8 = {};      // the product may be of these; x times kActivatedFactor
};

template <typename T, typename W = T>
void MatmulThenResidualNorm(Arena& arena, const MatmulThenResidualNormArgs<T, W>& args);

// Where the gradient of a product's input goes.
template <typename T>
struct InputGradient {
  Tensor<T> dx = {};  // [rows, in]; with a step it may be absent, and holds nothing of use afterwards
  bool add = false;   // dx += instead of dx =: what it holds reaches the input too
  // The step that normed the input, without dnormed; null: dx is the result.
  const ResidualNormGradArgs<T>* step = nullptr;
};

// product: without dx, which `input` is about; x only with dweight.
template <typename T>
void MatmulBackwardInto(Arena& arena, const MatmulGradArgs<T>& product, const InputGradient<T>& input);

namespace cuda {
// Of any number of rows; false, with nothing done, where this GPU or these operands do not allow it.
bool TryMatmulThenResidualNorm(const Device& device, const MatmulThenResidualNormArgs<Bf16>& args);
bool TryFp8ThenResidualNorm(const Device& device, const MatmulThenResidualNormArgs<Bf16>& args);
// Of dx and the step alone.
bool TryMatmulBackwardIntoStep(const Device& device, const MatmulGradArgs<Bf16>& product,
                               const ResidualNormGradArgs<Bf16>& step);
bool TryFp8BackwardIntoStep(const Device& device, Tensor<const E5m2> dy8, Tensor<const E4m3> transposed,
                            const ResidualNormGradArgs<Bf16>& step);
// Whether those of 8 bits have products of such sizes.
bool Fp8StepServes(const Device& device, int64_t rows, int64_t dim, int64_t in);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_RESIDUAL_PRODUCT_H_
