// Dynamic token gating: y = u + g (x - u), g = sigmoid(weight . u + bias) a row; no gradient to the gate's
// input u.
//
// So backward is the gradient of forward with the u inside the gate held still.
//
// Properties
//   1. A row of y lies between the same rows of u and x; it depends on these alone.
//   2. With a bias far above zero y is x, far below it is u.
// Determinism: bits repeat; on a GPU, those of dweight and dbias are for one model of GPU.
// Cost: forward reads u and x and writes y; backward reads u, x and dy and writes du and dx.
// Source: the challenge's pull request 1365; in the manner of highway networks (Srivastava et al. 2015, arXiv
// 1505.00387).
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
  Tensor<const T> u;              // [rows, dim]
  Tensor<const T> x;              // [rows, dim]
  Tensor<const Accum<T>> weight;  // [dim]
  Tensor<const Accum<T>> bias;    // [1]
  Tensor<const T> dy;             // [rows, dim]
  Tensor<T> du;                   // [rows, dim]: (1 - g) dy; out
  Tensor<T> dx;                   // [rows, dim]: g dy; out; du or dx may be the same memory as dy
  Tensor<Accum<T>> dweight;       // [dim]; adds
  Tensor<Accum<T>> dbias;         // [1]; adds
};

template <typename T>
void TokenGateForward(Arena& arena, const TokenGateArgs<T>& args);
template <typename T>
void TokenGateBackward(Arena& arena, const TokenGateGradArgs<T>& args);

namespace cuda {
template <typename T>
void TokenGateForward(const Device& device, const TokenGateArgs<T>& args);
// partials: [kMaxPartials, dim + 1].
template <typename T>
void TokenGateBackward(const Device& device, const TokenGateGradArgs<T>& args, Tensor<float> partials);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_TOKEN_GATE_H_
