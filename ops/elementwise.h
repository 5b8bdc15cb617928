// The glue between ops: add, cast, sums.
//
// Properties
//   1. Cast of a Bf16 to float and back gives the same bits; float to Bf16 rounds to nearest, ties to even.
//   2. Sum and SumOfSquares of no numbers are 0.
//   3. AddTo, called with y on top of x, is y *= 1 + scale.
// Determinism: bits repeat; sums on a GPU for one model of GPU.
// Cost: every operand once. Sums add up in float (double for double) in some thousand interleaved parts.
#ifndef HM11_OPS_ELEMENTWISE_H_
#define HM11_OPS_ELEMENTWISE_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

// y += scale * x, element by element.
template <typename T>
void AddTo(Arena& arena, Tensor<const T> x, Accum<T> scale, Tensor<T> y);

// y = x in another type: float to Bf16 (working copies of master weights) and back, on either device; a plain
// copy where the types are the same.
template <typename From, typename To>
void Cast(Arena& arena, Tensor<const From> x, Tensor<To> y);

// sum[0] = factor * (sum of x), in a fixed order.
template <typename A>  // float or double
void Sum(Arena& arena, Tensor<const A> x, A factor, Tensor<A> sum);

// sum[0] = sum of x^2, in a fixed order.
template <typename A>
void SumOfSquares(Arena& arena, Tensor<const A> x, Tensor<A> sum);

namespace cuda {
template <typename T>
void AddTo(const Device& device, Tensor<const T> x, float scale, Tensor<T> y);
template <typename From, typename To>
void Cast(const Device& device, Tensor<const From> x, Tensor<To> y);
// sum[0] = factor * (sum of x or of x^2). partials: as many floats as NewPartials gives.
template <typename A>  // float
void Sum(const Device& device, Tensor<const A> x, bool squares, A factor, Tensor<A> partials, A* sum);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_ELEMENTWISE_H_
