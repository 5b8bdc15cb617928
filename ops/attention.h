// Causal softmax attention with grouped heads: y = softmax(q k^T / sqrt(head_dim)) v, query head h reading kv
// head h / (heads / kv_heads).
//
//   s[t, j]          = q[t] . k[j] / sqrt(head_dim)                 for j <= t, per batch row and head
//   log_sum_exp[t]   = log sum_{j <= t} exp(s[t, j])
//   y[t]             = sum_{j <= t} p[t, j] v[j],  p[t, j] = exp(s[t, j] - log_sum_exp[t])
// and backward, from p computed again:
//   dv[j]            = sum over the heads that read kv head and t >= j of p[t, j] dy[t]
//   ds[t, j]         = p[t, j] (dy[t] . v[j] - dy[t] . y[t]) / sqrt(head_dim)
//   dq[t]            = sum_j ds[t, j] k[j],  dk[j] = sum of ds[t, j] q[t] as for dv
//
// Any lengths and heads with heads a multiple of kv_heads; on a GPU head_dim <= 128. Scores are never stored:
// memory beyond the operands is a number a row on a GPU and a tile a thread on the CPU.
//
// Properties:
//   1. The first position's y is its own v.
//   2. The future does not reach the past: y[t] and log_sum_exp[t] depend on positions <= t only.
//   3. Query head h reads kv head h / (heads / kv_heads) and no other; batch rows are independent.
//   4. Equal values v everywhere give y = v.
//   5. Backward is the gradient of forward.
//   6. Scores of any size give finite results: the row's maximum is taken off before exp.
//
// Determinism: the same bits every run; no atomics, dq and dk, dv are each summed in a fixed order.
//
// Cost: 2 batch heads time^2 head_dim operations forward (half of the square is masked), 2.5 times that
// backward at the least; 3.5 times where dq has a kernel of its own.
//
// Source: online softmax in tiles, recomputation in backward: Dao 2023, "FlashAttention-2", arXiv 2307.08691.
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
