// Backward of y = scale * (x w^T), a factor a column, without a pass over the rows for the factor.
//
// With p = x w^T and dy the gradient of y, the factor goes into the matrices, which are small:
//
//   dx[row, i]      = sum_o dy[row, o] (scale[o] weight[o, i])
//   g[o, i]         = sum_row dy[row, o] x[row, i]
//   dweight[o, i]  += scale[o] g[o, i]
//   dscale[o]      += sum_i weight[o, i] g[o, i]              (which is sum_row dy[row, o] p[row, o])
//
// Neither p nor scale * dy is read or written.
//
// Properties: dx overwrites, dweight and dscale add. The gradients are those of forward.
// Determinism: that of matrix products; sums over i in a fixed order.
// Cost: 4 rows in out operations, and g once to memory and back.
#ifndef HM11_OPS_SCALED_MATMUL_H_
#define HM11_OPS_SCALED_MATMUL_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "ops/fp8.h"

namespace hm11 {

// The factors of a product's columns, and where their gradient is added.
template <typename T>
struct OutputScale {
  Tensor<const Accum<T>> scale;  // [out]
  Tensor<Accum<T>> dscale;       // [out]; adds
};

template <typename T>
struct ScaledMatmulGradArgs {
  Tensor<const T> dy;      // [rows, out]
  Tensor<const T> x;       // [rows, in]
  Tensor<const T> weight;  // [out, in]
  OutputScale<T> columns;
  Tensor<T> dx;              // [rows, in]; may be absent
  Tensor<Accum<T>> dweight;  // [out, in]; adds
  Fp8Transposed in8 = {};    // g is of these, then without dx, dy and x; on a GPU alone
};

template <typename T>
void ScaledMatmulBackward(Arena& arena, const ScaledMatmulGradArgs<T>& args);

// scale[o] weight[o, i], from the arena.
template <typename T>
Tensor<T> ScaledRows(Arena& arena, Tensor<const T> weight, Tensor<const Accum<T>> scale);

namespace cuda {
template <typename T>
void ScaleRows(const Device& device, Tensor<const T> weight, Tensor<const float> scale, Tensor<T> scaled);
// The last two lines above.
template <typename T>
void AddScaledGradient(const Device& device, Tensor<const float> g, Tensor<const T> weight,
                       const OutputScale<T>& columns, Tensor<float> dweight);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_SCALED_MATMUL_H_
