// Dynamic token gating: y = u + g (x - u), g = sigmoid(weight . u + bias) a row; no gradient to the gate's
// input u.
#ifndef HM11_OPS_TOKEN_GATE_H_
#define HM11_OPS_TOKEN_GATE_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T>
struct TokenGateArgs {
  Tensor<const T> u;              // [rows, dim]
  Tensor<const T> x;              // [rows, dim]
  Tensor<const Accum<T>> weight;  // [dim]
  Tensor<const Accum<T>> bias;    // [1]
  Tensor<T> y;                    // [rows, dim]; out
};

template <typename T>
struct TokenGateGradArgs {
  Tensor<const T> u;
  Tensor<const T> x;
  Tensor<const Accum<T>> weight;
  Tensor<const Accum<T>> bias;
  Tensor<const T> dy;
  Tensor<T> du;              // (1 - g) dy
  Tensor<T> dx;              // g dy
  Tensor<Accum<T>> dweight;  // adds
  Tensor<Accum<T>> dbias;    // adds
};

template <typename T>
void TokenGateForward(Arena& arena, const TokenGateArgs<T>& args);
template <typename T>
void TokenGateBackward(Arena& arena, const TokenGateGradArgs<T>& args);

#if HM11_HAVE_CUDA
namespace cuda {
template <typename T>
void TokenGateForward(const Device& device, const TokenGateArgs<T>& args);
template <typename T>
void TokenGateBackward(const Device& device, const TokenGateGradArgs<T>& args, Tensor<float> partials);
}  // namespace cuda
#endif

}  // namespace hm11

#endif  // HM11_OPS_TOKEN_GATE_H_
