// y = leaky_relu(x)^2 with slope 0.5 below zero, element by element.
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

}  // namespace hm11

#endif  // HM11_OPS_LEAKY_RELU_SQUARED_H_
