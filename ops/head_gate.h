// Gated attention: y = x * sigmoid(gate + bias), one gate a row and head.
//
// Properties
//   1. A head of y is a multiple, between 0 and 1, of the same head of x.
//   2. In backward dx may be the memory of dy.
// Determinism: bits repeat; on a GPU, those of dbias are for one model of GPU.
// Cost: forward reads x and writes y; backward reads x and dy and writes dx; the gates are small beside them.
// Source: Qiu et al. 2025, gated attention (arXiv 2505.06708), head-wise.
#ifndef HM11_OPS_HEAD_GATE_H_
#define HM11_OPS_HEAD_GATE_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

inline constexpr int64_t kMaxGatedHeads = 256;

template <typename T>
struct HeadGateArgs {
  Tensor<const T> x;            // [rows, heads, head_dim]
  Tensor<const T> gate;         // [rows, heads]
  Tensor<const Accum<T>> bias;  // [heads], heads <= kMaxGatedHeads
  Tensor<T> y;                  // [rows, heads, head_dim]; out
};

template <typename T>
struct HeadGateGradArgs {
  Tensor<const T> x;            // [rows, heads, head_dim]
  Tensor<const T> gate;         // [rows, heads]
  Tensor<const Accum<T>> bias;  // [heads]
  Tensor<const T> dy;           // [rows, heads, head_dim]
  Tensor<T> dx;                 // [rows, heads, head_dim]; may be the same memory as dy
  Tensor<T> dgate;              // [rows, heads]; out
  Tensor<Accum<T>> dbias;       // [heads]; adds
};

template <typename T>
void HeadGateForward(Arena& arena, const HeadGateArgs<T>& args);
template <typename T>
void HeadGateBackward(Arena& arena, const HeadGateGradArgs<T>& args);

namespace cuda {
template <typename T>
void HeadGateForward(const Device& device, const HeadGateArgs<T>& args);
// partials: [kMaxPartials, heads].
template <typename T>
void HeadGateBackward(const Device& device, const HeadGateGradArgs<T>& args, Tensor<float> partials);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_HEAD_GATE_H_
