// Causal depthwise convolution over time with bias, then SiLU: y_t = silu(bias + sum_k w[k] x_{t-width+1+k}).
#ifndef HM11_OPS_CAUSAL_CONV_H_
#define HM11_OPS_CAUSAL_CONV_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T>
struct CausalConvArgs {
  int64_t batch = 0;
  int64_t time = 0;
  Columns<const T> x;             // [batch*time, channels]
  Tensor<const Accum<T>> weight;  // [channels, width], width <= 4; w[width-1] multiplies x_t itself
  Tensor<const Accum<T>> bias;    // [channels]
  Tensor<const T> tail;           // [batch, width-1, channels]: the inputs before time 0; zero when absent
  Tensor<T> y;                    // [batch, time, channels]; out
  Tensor<T> final_tail;           // [batch, width-1, channels], may be absent; out
};

template <typename T>
struct CausalConvGradArgs {
  CausalConvArgs<T> forward;  // forward's operands (y, tails are not read: backward is for a zero tail)
  Tensor<const T> dy;         // [batch, time, channels]
  Columns<T> dx;              // [batch*time, channels]
  Tensor<Accum<T>> dweight;   // [channels, width]; adds
  Tensor<Accum<T>> dbias;     // [channels]; adds
};

template <typename T>
void CausalConvForward(Arena& arena, const CausalConvArgs<T>& args);
template <typename T>
void CausalConvBackward(Arena& arena, const CausalConvGradArgs<T>& args);

}  // namespace hm11

#endif  // HM11_OPS_CAUSAL_CONV_H_
