// AttentionMixer: the attention branch of a layer, with every option of the reference.
//
//   qkv = W_qkv u;  q, k, v = heads(qkv);  y = attention(q, k, v);  XSA;  head gates;  W_out y
//
// Of a chunk of a sequence, qkv, q, k, v and attention itself are over the windows of the sequence's state,
// the rest over the chunk. Of a sequence read a token at a time all are of that token, and attention reads
// its rings.
#ifndef HM11_MODEL_ATTENTION_MIXER_H_
#define HM11_MODEL_ATTENTION_MIXER_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "model/config.h"
#include "model/sequence_state.h"
#include "model/weights.h"
#include "ops/residual_product.h"
#include "ops/scaled_matmul.h"

namespace hm11 {

template <typename T>
struct AttentionSaved {
  Tensor<T> qkv;                 // [rows, dim + 2 kv_dim], as backward of the heads reads it
  Tensor<T> q, k, v;             // [batch, time, heads or kv_heads, head_dim]
  Tensor<T> y;                   // attention's own output, [batch, time, heads, head_dim]
  Tensor<Accum<T>> log_sum_exp;  // [batch, heads, time]
  Tensor<T> exclusive;           // after XSA; absent without
  Tensor<T> gate;                // [rows, heads]; absent without gated_attention
  Tensor<T> gated;               // after the head gates; absent without
};

// What reaches an attention layer from outside its own layer.
template <typename T>
struct AttentionSources {
  Tensor<const T> value_embedding;  // [rows, kv_dim], absent on layers without
  Tensor<const Accum<T>> ve_scale;  // [1]
  Tensor<const T> first_v;          // [batch, time, kv_heads, head_dim], absent without value_residual
};

template <typename T>
struct AttentionSourceGrads {
  Tensor<T> dvalue_embedding;  // [rows, kv_dim]; overwritten
  Tensor<Accum<T>> dve_scale;  // [1]; adds
  Tensor<T> dfirst_v;          // adds
};

// Operands of forward. W: what the matrices are stored in, T but for a single token.
template <typename T, typename W = T>
struct AttentionLayerArgs {
  int64_t visit = 0;
  const AttentionWeights<W>& weights;
  AttentionSources<T> sources;  // of the sequence's windows, where there is one
  Tensor<const T> input;        // [batch * time, dim]
  Fp8Operands input8 = {};      // it and qkv in 8 bits (ops/fp8.h), may be absent
  int64_t batch = 1, time = 1;
  ResidualNormArgs<T> step;  // the output is its branch
  // The input is its next chunk; the visit's qkv in it, or its ring, are brought up to date. Null: sequences
  // that stand alone.
  SequenceState<T>* sequence = nullptr;
};

// Fills *saved from the arena.
template <typename T, typename W = T>
void AttentionLayerForward(Arena& arena, const ModelConfig& config, const AttentionLayerArgs<T, W>& args,
                           AttentionSaved<T>* saved);

// Operands of backward, which is only for sequences that stand alone.
template <typename T>
struct AttentionLayerGradArgs {
  const AttentionWeights<T>& weights;
  AttentionSources<T> sources;
  Tensor<const T> input;  // forward's
  const AttentionSaved<T>& saved;
  Tensor<const T> doutput;      // [batch * time, dim]: of output_scale.scale times the output
  OutputScale<T> output_scale;  // its gradient adds
  Tensor<const T>
      dv_from_outside;      // what later layers' value residual sends to this v; absent when none does
  InputGradient<T> dinput;  // without add
  AttentionWeights<Accum<T>>& grad;  // adds
  AttentionSourceGrads<T> source_grads;
};

template <typename T>
void AttentionLayerBackward(Arena& arena, const ModelConfig& config, const AttentionLayerGradArgs<T>& args);

}  // namespace hm11

#endif  // HM11_MODEL_ATTENTION_MIXER_H_
