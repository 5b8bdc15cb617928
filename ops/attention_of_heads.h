// Backward of attention (ops/attention.h) and of the heads that it reads (ops/attention_heads.h), one after the other:
//
//   dq, dk, dv = attention's gradients;  dv += dv_from_outside;  dqkv = the heads' gradient of q, k and v
//
// On a GPU of compute capability 9.0 attention's kernels take dq, dk and dv on to dqkv before these leave the
// multiprocessor, which saves writing and reading them (Bf16, heads of 64 channels, RoPE on 16, 32 or 64 of them).
// Elsewhere by the ops apart.
//
// Properties
//   1. The results are those of the ops apart; in one kernel they come from gradients that are not rounded to Bf16.
//   2. Whatever the gains: norms are made of qkv again, nothing is divided by a gain.
// Determinism: that of the ops apart; in one kernel the gradients of gains and scales are summed in 16 rows of a head,
// then these in a fixed order.
// Cost: that of attention, and each operand and result once.
#ifndef HM11_OPS_ATTENTION_OF_HEADS_H_
#define HM11_OPS_ATTENTION_OF_HEADS_H_

#include <array>

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "ops/attention.h"
#include "ops/attention_cuda.h"
#include "ops/attention_heads.h"

namespace hm11 {

template <typename T>
struct AttentionOfHeadsGradArgs {
  AttentionArgs<T> attention;                      // forward's operands and results
  Tensor<const T> dy;                              // [batch, time, heads, head_dim]
  std::array<Tensor<const T>, 2> dv_from_outside;  // [batch, time, kv_heads, head_dim], may be absent
  AttentionHeadsGradArgs<T> heads;                 // without dq, dk, dv
};

template <typename T>
void AttentionOfHeadsBackward(Arena& arena, const AttentionOfHeadsGradArgs<T>& args);

namespace cuda {

struct AttentionOfHeadsScratch {
  Tensor<float> delta;                  // NewDelta
  Tensor<float> angles;                 // [2, time, rope_dims / 2]
  Tensor<float> gain_sums, value_sums;  // as PackedHeadsGrad has them
};
AttentionOfHeadsScratch NewAttentionOfHeadsScratch(Arena& arena, const AttentionOfHeadsGradArgs<Bf16>& args);

// False, with nothing done, where this GPU or these operands do not allow it.
bool TryAttentionOfHeadsBackward(const Device& device, const AttentionOfHeadsGradArgs<Bf16>& args,
                                 const AttentionOfHeadsScratch& scratch);

}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_ATTENTION_OF_HEADS_H_
