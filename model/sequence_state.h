// SequenceState: what a model remembers of a sequence that it reads a chunk at a time, so that every token
// passes every layer once.
//
// Mamba layers go on from their scan states and convolution tails, the smear gate and the bigram hash from
// the token before. Attention sees windows: a chunk is cut in windows of `fresh` tokens side by side, and the
// tokens of a window see, besides each other, the `context` tokens before it. Keys and values of those are
// not computed again: their projections were kept when they were read, and only turned to their place in the
// window. Positions begin at 0 in each window.
//
// A sequence may also be read a token at a time (NewStepState). Then attention sees the `window` tokens up to
// and with the newest, whose keys and values are kept in rings as attention reads them: a step costs the same
// however long the sequence is, and nothing in it but the sequence's first token depends on the host, so that
// the steps after it are one captured graph.
//
// Properties
//   1. A sequence read in chunks whose windows all reach back to its first token has, but for rounding, the
//      hidden states of the sequence read at once.
//   2. The windows of one chunk give what chunks of one window each give.
//   3. What is read later changes nothing that was read before.
//   4. A state that has forgotten is a new one.
//   5. Steps give, but for rounding, what chunks of one token with as much context give; within the first
//      window what the sequence read at once gives.
// Cost: a forward pass over the chunk, attention over count * length tokens, and copies of the projections of
// what is kept: (dim + 2 kv_dim) numbers a token and attention layer. Of a step: a read of the weights and of
// what is kept, 2 kv_dim numbers a token of the window and attention layer.
#ifndef HM11_MODEL_SEQUENCE_STATE_H_
#define HM11_MODEL_SEQUENCE_STATE_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "model/config.h"
#include "model/mamba_mixer.h"

namespace hm11 {

// How attention reads a chunk of a sequence.
struct AttentionWindows {
  int64_t context = 0;  // tokens before each window that it sees: at most those kept
  int64_t fresh = 0;    // tokens that are the window's own
  int64_t count = 1;
  int64_t rope_length = 0;  // the sequence length whose RoPE base is used

  int64_t length() const { return context + fresh; }
  int64_t tokens() const { return count * fresh; }  // of the chunk
};

// Keys and values of the last tokens; token p in slot p mod window.
template <typename T>
struct AttentionRing {
  Tensor<T> keys, values;  // [window, kv_heads, head_dim]
};

template <typename T>
struct SequenceState {
  AttentionWindows windows;    // of the next chunk; set by whoever reads it
  int64_t kept = 0;            // tokens that the first rows below are of; 0: the sequence begins
  Tensor<int32_t> ids;         // [capacity]
  Tensor<T> embedding;         // [1, dim]: what the smear gate reads of the last token
  std::vector<Tensor<T>> qkv;  // [capacity, dim + 2 kv_dim] a visit of an attention layer, before RoPE
  std::vector<AttentionRing<T>> rings;  // instead of qkv, when read a token at a time
  Tensor<int32_t> place;                // [1], of the next token in the sequence, with rings
  std::vector<MambaState<T>> mamba;     // after the last token; of visits of Mamba layers

  bool steps() const { return !place.empty(); }
  void Forget() { kept = 0; }
};

// A state that has read nothing and keeps up to `capacity` >= 1 tokens for attention.
template <typename T>
SequenceState<T> NewSequenceState(Arena& arena, const ModelConfig& config, int64_t capacity);

// A state that has read nothing, of a sequence that is read a token at a time by attention of `window` >= 1
// tokens with the RoPE base of sequences of that length.
template <typename T>
SequenceState<T> NewStepState(Arena& arena, const ModelConfig& config, int64_t window);

template <typename T>
int64_t SequenceStateBytes(const ModelConfig& config, int64_t capacity);

// The first `kept` rows of `old`, then room for `rows` more; any rank.
template <typename N>
Tensor<N> NewAfterKept(Arena& arena, Tensor<N> old, int64_t kept, int64_t rows);

// The last rows of `joined`, as many as fit, become the first of `old`.
template <typename N>
void KeepLast(Arena& arena, Tensor<N> joined, Tensor<N> old);

// The rows that each window sees, window by window: [count * length, ...]. `joined` ends where the chunk
// does.
template <typename N>
Tensor<N> RowsOfWindows(Arena& arena, const AttentionWindows& windows, Tensor<N> joined);

// The windows' own rows of [count, length, ...]: [1, count * fresh, ...].
template <typename N>
Tensor<N> FreshRows(Arena& arena, const AttentionWindows& windows, Tensor<N> rows);

}  // namespace hm11

#endif  // HM11_MODEL_SEQUENCE_STATE_H_
