// The product of a matrix and one vector: y = weight x, for models that read a token at a time.
//
//   y[o] = sum_i weight[o, i] x[i]
//
// The weights may be of fewer bits than x and y: what such a product costs is reading them. Pairs (T of x and
// y, W of weights): double and double, float and float, float and Fp16 on the CPU; float and float, Bf16 and
// Bf16 on a GPU. Sums are in Accum<T>, each weight widened without rounding.
//
// Properties
//   1. y is the sum above, within (in + 2) roundings of it.
//   2. A row of y depends on its row of the weights and on x alone.
// Determinism: bits repeat, on the CPU with any number of threads.
// Cost: one read of the weights, on all cores or multiprocessors.
#ifndef HM11_OPS_MATVEC_H_
#define HM11_OPS_MATVEC_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T, typename W = T>
struct MatvecArgs {
  Tensor<const T> x;       // [in]
  Tensor<const W> weight;  // [out, in]
  Tensor<T> y;             // [out]; out
};

template <typename T, typename W>
void MatvecForward(Arena& arena, const MatvecArgs<T, W>& args);

namespace cuda {
template <typename T>
void MatvecForward(const Device& device, const MatvecArgs<T>& args);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_MATVEC_H_
