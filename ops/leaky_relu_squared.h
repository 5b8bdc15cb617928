// y = leaky_relu(x)^2 with slope 0.5 below zero, element by element.
//
// So y = x^2 for x > 0 and x^2 / 4 below, with dy/dx = 2 x and x / 2; both are 0 at 0.
//
// Properties
//   1. y is never negative, and y(-2 x) = y(x) for x > 0.
//   2. In backward dx may be the memory of dy.
// Determinism: bits repeat.
// Cost: forward reads x and writes y; backward reads x and dy and writes dx.
// Source: So et al. 2021 (Primer, arXiv 2109.08668) with ReLU; the leaky one is this model's.
#ifndef HM11_OPS_LEAKY_RELU_SQUARED_H_
#define HM11_OPS_LEAKY_RELU_SQUARED_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T>
struct LeakyReluSquaredArgs {
  Tensor<const T> x;
  Tensor<T> y;  // the shape of x; out
};

template <typename T>
struct LeakyReluSquaredGradArgs {
  Tensor<const T> x;
  Tensor<const T> dy;
  Tensor<T> dx;  // may be the same memory as dy
};

template <typename T>
void LeakyReluSquaredForward(Arena& arena, const LeakyReluSquaredArgs<T>& args);
template <typename T>
void LeakyReluSquaredBackward(Arena& arena, const LeakyReluSquaredGradArgs<T>& args);

#if HM11_HAVE_CUDA
namespace cuda {
template <typename T>
void LeakyReluSquaredForward(const Device& device, const LeakyReluSquaredArgs<T>& args);
template <typename T>
void LeakyReluSquaredBackward(const Device& device, const LeakyReluSquaredGradArgs<T>& args);
}  // namespace cuda
#endif

}  // namespace hm11

#endif  // HM11_OPS_LEAKY_RELU_SQUARED_H_
