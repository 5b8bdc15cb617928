// XSA: removes from each head's output its projection on its own value: y = x - (x . n) n, n = v / max(|v|,
// 1e-12).
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
  Tensor<const T> x;
  Tensor<const T> v;
  Tensor<const T> dy;
  Tensor<T> dx;  // may be the same memory as dy
  Tensor<T> dv;  // [batch, time, kv_heads, head_dim]; overwrites (attention's own dv is added by the layer)
};

template <typename T>
void ExclusiveAttentionForward(Arena& arena, const ExclusiveAttentionArgs<T>& args);
template <typename T>
void ExclusiveAttentionBackward(Arena& arena, const ExclusiveAttentionGradArgs<T>& args);

#if HM11_HAVE_CUDA
namespace cuda {
template <typename T>
void ExclusiveAttentionForward(const Device& device, const ExclusiveAttentionArgs<T>& args);
template <typename T>
void ExclusiveAttentionBackward(const Device& device, const ExclusiveAttentionGradArgs<T>& args);
}  // namespace cuda
#endif

}  // namespace hm11

#endif  // HM11_OPS_EXCLUSIVE_ATTENTION_H_
