// Exclusive attention (XSA): removes from each head's output its projection on its own value.
//
//   n = v / max(|v|, 1e-12);  y[h] = x[h] - (x[h] . n) n
// for each position, query head h on the v of kv head h / (heads / kv_heads); and backward, with p = x . n and
// q = dy . n:
//   dx = dy - q n
//   dv = sum over the heads on this v of (2 p q n - q x - p dy) / |v|
// where the first term is absent for |v| < 1e-12.
//
// On a GPU head_dim <= 128.
//
// Properties:
//   1. y is orthogonal to v; applying the op again changes nothing.
//   2. A position with v = 0 keeps its x.
//   3. The length of v does not matter to y, so dv is orthogonal to v.
//   4. Backward is the gradient of forward.
//
// Determinism: the same bits every run. Cost: one read of each operand, one write of each result.
#ifndef HM11_OPS_EXCLUSIVE_ATTENTION_H_
#define HM11_OPS_EXCLUSIVE_ATTENTION_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T>
struct ExclusiveAttentionArgs {
  Tensor<const T> x;  // [batch, time, heads, head_dim]
  Tensor<const T> v;  // [batch, time, kv_heads, head_dim]
  Tensor<T> y;        // [batch, time, heads, head_dim]; out
};

template <typename T>
struct ExclusiveAttentionGradArgs {
  Tensor<const T> x;   // [batch, time, heads, head_dim]
  Tensor<const T> v;   // [batch, time, kv_heads, head_dim]
  Tensor<const T> dy;  // [batch, time, heads, head_dim]
  Tensor<T> dx;        // [batch, time, heads, head_dim]; may be the same memory as dy
  Tensor<T> dv;  // [batch, time, kv_heads, head_dim]; overwrites (attention's own dv is added by the layer)
};

template <typename T>
void ExclusiveAttentionForward(Arena& arena, const ExclusiveAttentionArgs<T>& args);
template <typename T>
void ExclusiveAttentionBackward(Arena& arena, const ExclusiveAttentionGradArgs<T>& args);

namespace cuda {
template <typename T>
void ExclusiveAttentionForward(const Device& device, const ExclusiveAttentionArgs<T>& args);
template <typename T>
void ExclusiveAttentionBackward(const Device& device, const ExclusiveAttentionGradArgs<T>& args);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_EXCLUSIVE_ATTENTION_H_
