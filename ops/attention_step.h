// Attention of one query, that of a sequence's newest token, to a ring of keys and values of the last tokens.
//
// With p the token's place in the sequence, from 0: its key and value are written to slot p mod window of the
// ring, and then, query head h reading kv head h / (heads / kv_heads),
//
//   y[h] = sum_j softmax_j(q[h] . k_j / sqrt(head_dim)) v_j,   j over the last min(p + 1, window) tokens.
//
// Keys are kept as AttentionHeads turned them to their own places; scores depend on differences of places
// alone, so that the ring never needs turning.
//
// The place is in the device's memory, so that a captured graph of a step serves every step. On a GPU a
// window has at most kMaxStepWindow tokens, head_dim <= 128.
//
// Properties
//   1. Fed the tokens of a sequence no longer than the window, it gives what AttentionForward gives of it.
//   2. Past the window, what AttentionForward gives of the last `window` tokens.
// Determinism: bits repeat, on the CPU with any number of threads.
// Cost: one read of what the ring holds.
// On a GPU the slots are split into runs of kSplitKeys, worked on at once and joined in their order.
// Sources: the ring of a sliding window, Jiang et al. 2023 (Mistral 7B, arXiv 2310.06825, section 2); splits,
// Dao et al. 2023 (Flash-Decoding for long-context inference).
#ifndef HM11_OPS_ATTENTION_STEP_H_
#define HM11_OPS_ATTENTION_STEP_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

inline constexpr int64_t kMaxStepWindow = 32768;
inline constexpr int64_t kSplitKeys = 64;

template <typename T>
struct AttentionStepArgs {
  Tensor<const T> q;            // [heads, head_dim]
  Tensor<const T> k;            // [kv_heads, head_dim]
  Tensor<const T> v;            // [kv_heads, head_dim]
  Tensor<const int32_t> place;  // [1]
  Tensor<T> keys;               // [window, kv_heads, head_dim]; one slot is written
  Tensor<T> values;             // likewise
  Tensor<T> y;                  // [heads, head_dim]; out
};

template <typename T>
void AttentionStepForward(Arena& arena, const AttentionStepArgs<T>& args);

// place += 1.
void AdvancePlace(Arena& arena, Tensor<int32_t> place);

namespace cuda {
// What the splits of the slots leave on a GPU: values weighted by exp(score - the split's largest score), the
// sum of these weights, the largest.
struct AttentionStepParts {
  Tensor<float> values;   // [heads, splits, head_dim]
  Tensor<float> sums;     // [heads, splits]
  Tensor<float> largest;  // [heads, splits]
};

template <typename T>
void AttentionStepForward(const Device& device, const AttentionStepArgs<T>& args,
                          const AttentionStepParts& parts);
void AdvancePlace(const Device& device, Tensor<int32_t> place);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_ATTENTION_STEP_H_
