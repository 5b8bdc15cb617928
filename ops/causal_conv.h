// Causal depthwise convolution over time with bias, then SiLU: y_t = silu(bias + sum_k w[k] x_{t-width+1+k}).
//
// Properties
//   1. Nothing reaches back in time: y_t depends on x_{t-width+1}, ..., x_t of its own sequence and channel
//      alone.
//   2. Cutting a sequence in two and giving the second part the first one's final_tail changes nothing.
//   3. Only the columns named by x and dx are touched of the matrices they are part of.
// Determinism: bits repeat; on a GPU, those of dweight and dbias are for one model of GPU.
// Cost: forward reads x and writes y; backward reads x and dy, computes the convolution again, and writes dx.
// At a width of 4: 8 operations a number forward, 24 backward, and one exponential each.
// Source: the convolution of Mamba (Gu & Dao 2023, arXiv 2312.00752, section 3.4).
#ifndef HM11_OPS_CAUSAL_CONV_H_
#define HM11_OPS_CAUSAL_CONV_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

inline constexpr int64_t kMaxConvWidth = 4;

template <typename T>
struct CausalConvArgs {
  int64_t batch = 0;
  int64_t time = 0;
  Columns<const T> x;             // [batch*time, channels]
  Tensor<const Accum<T>> weight;  // [channels, width], width <= 4; w[width-1] multiplies x_t itself
  Tensor<const Accum<T>> bias;    // [channels]
  Tensor<const T> tail;           // [batch, width-1, channels]: the inputs before time 0; zero when absent
  Tensor<T> y;                    // [batch, time, channels]; out
  Tensor<T> final_tail;           // [batch, width-1, channels], may be absent, not the memory of tail; out
};

template <typename T>
struct CausalConvGradArgs {
  CausalConvArgs<T> forward;  // forward's operands (y, tails are not read: backward is for a zero tail)
  Tensor<const T> dy;         // [batch, time, channels]
  Columns<T> dx;              // [batch*time, channels]; out
  Tensor<Accum<T>> dweight;   // [channels, width]; adds
  Tensor<Accum<T>> dbias;     // [channels]; adds
};

template <typename T>
void CausalConvForward(Arena& arena, const CausalConvArgs<T>& args);
template <typename T>
void CausalConvBackward(Arena& arena, const CausalConvGradArgs<T>& args);

namespace cuda {
template <typename T>
void CausalConvForward(const Device& device, const CausalConvArgs<T>& args);
// partials: NewPartials(batch * time, (kMaxConvWidth + 1) * channels).
template <typename T>
void CausalConvBackward(const Device& device, const CausalConvGradArgs<T>& args, Tensor<float> partials);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_CAUSAL_CONV_H_
