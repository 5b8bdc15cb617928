// Gated attention: y = x * sigmoid(gate + bias), one gate a row and head.
#ifndef HM11_OPS_HEAD_GATE_H_
#define HM11_OPS_HEAD_GATE_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T>
struct HeadGateArgs {
  Tensor<const T> x;            // [rows, heads, head_dim]
  Tensor<const T> gate;         // [rows, heads]
  Tensor<const Accum<T>> bias;  // [heads]
  Tensor<T> y;                  // [rows, heads, head_dim]; out
};

template <typename T>
struct HeadGateGradArgs {
  Tensor<const T> x;
  Tensor<const T> gate;
  Tensor<const Accum<T>> bias;
  Tensor<const T> dy;
  Tensor<T> dx;            // may be the same memory as dy
  Tensor<T> dgate;         // [rows, heads]
  Tensor<Accum<T>> dbias;  // [heads]; adds
};

template <typename T>
void HeadGateForward(Arena& arena, const HeadGateArgs<T>& args);
template <typename T>
void HeadGateBackward(Arena& arena, const HeadGateGradArgs<T>& args);

#if HM11_HAVE_CUDA
namespace cuda {
template <typename T>
void HeadGateForward(const Device& device, const HeadGateArgs<T>& args);
template <typename T>
void HeadGateBackward(const Device& device, const HeadGateGradArgs<T>& args, Tensor<float> partials);
}  // namespace cuda
#endif

}  // namespace hm11

#endif  // HM11_OPS_HEAD_GATE_H_
