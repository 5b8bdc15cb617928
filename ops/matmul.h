// Matrix products: y = x w^T with its two gradients, and batched products for the optimizer.
#ifndef HM11_OPS_MATMUL_H_
#define HM11_OPS_MATMUL_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T>
struct MatmulArgs {
  Columns<const T> x;      // [rows, in]
  Tensor<const T> weight;  // [out, in]
  Columns<T> y;            // [rows, out]; out
};

template <typename T>
struct MatmulGradArgs {
  Columns<const T> dy;       // [rows, out]
  Columns<const T> x;        // [rows, in]; needed with dweight
  Tensor<const T> weight;    // [out, in]; needed with dx
  Columns<T> dx;             // [rows, in], may be absent
  bool add_to_dx = false;    // dx += instead of dx =: for inputs that several products share
  Tensor<Accum<T>> dweight;  // [out, in], may be absent; adds
};

template <typename T>
void MatmulForward(Arena& arena, const MatmulArgs<T>& args);
template <typename T>
void MatmulBackward(Arena& arena, const MatmulGradArgs<T>& args);

// c = alpha a b (or a b^T) + beta c for each matrix of a batch.
template <typename T>
struct BatchedMatmulArgs {
  Tensor<const T> a;  // [batch, rows, inner]
  Tensor<const T> b;  // [batch, inner, cols], or [batch, cols, inner] when transpose_b
  bool transpose_b = false;
  Tensor<T> c;  // [batch, rows, cols]; out
  float alpha = 1;
  float beta = 0;
};

template <typename T>
void BatchedMatmul(Arena& arena, const BatchedMatmulArgs<T>& args);

}  // namespace hm11

#endif  // HM11_OPS_MATMUL_H_
