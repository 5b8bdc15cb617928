// Causal softmax attention with grouped heads: y = softmax(q k^T / sqrt(head_dim)) v, query head h reading kv
// head h / (heads / kv_heads).
#ifndef HM11_OPS_ATTENTION_H_
#define HM11_OPS_ATTENTION_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T>
struct AttentionArgs {
  Tensor<const T> q;             // [batch, time, heads, head_dim]
  Tensor<const T> k;             // [batch, time, kv_heads, head_dim]
  Tensor<const T> v;             // [batch, time, kv_heads, head_dim]
  Tensor<T> y;                   // [batch, time, heads, head_dim]; out
  Tensor<Accum<T>> log_sum_exp;  // [batch, heads, time]; out
};

template <typename T>
struct AttentionGradArgs {
  AttentionArgs<T> forward;  // forward's operands and results
  Tensor<const T> dy;        // [batch, time, heads, head_dim]
  Tensor<T> dq;              // [batch, time, heads, head_dim]
  Tensor<T> dk;              // [batch, time, kv_heads, head_dim]
  Tensor<T> dv;              // [batch, time, kv_heads, head_dim]
};

template <typename T>
void AttentionForward(Arena& arena, const AttentionArgs<T>& args);
template <typename T>
void AttentionBackward(Arena& arena, const AttentionGradArgs<T>& args);

}  // namespace hm11

#endif  // HM11_OPS_ATTENTION_H_
