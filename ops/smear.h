// Smear gate: y_t = (1 - g) x_t + g x_{t-1} per channel, g = sigmoid(gate), x_{-1} = 0.
#ifndef HM11_OPS_SMEAR_H_
#define HM11_OPS_SMEAR_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T>
struct SmearArgs {
  Tensor<const T> x;            // [batch, time, dim]
  Tensor<const Accum<T>> gate;  // [dim]
  Tensor<const T> previous;     // [batch, dim]: x_{-1}; zero when absent
  Tensor<T> y;                  // [batch, time, dim]; out
};

template <typename T>
struct SmearGradArgs {
  Tensor<const T> x;            // [batch, time, dim]
  Tensor<const Accum<T>> gate;  // [dim]
  Tensor<const T> dy;           // [batch, time, dim]
  Tensor<T> dx;                 // [batch, time, dim]
  Tensor<Accum<T>> dgate;       // [dim]; adds
};

template <typename T>
void SmearForward(Arena& arena, const SmearArgs<T>& args);
template <typename T>
void SmearBackward(Arena& arena, const SmearGradArgs<T>& args);  // for previous = 0

}  // namespace hm11

#endif  // HM11_OPS_SMEAR_H_
