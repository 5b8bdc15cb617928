// What a forward pass of the language model leaves for backward, and where it goes on from.
//
// Rows are batch * time tokens. Tensors come from the arena and live until the caller resets it.
#ifndef HM11_MODEL_MODEL_SAVED_H_
#define HM11_MODEL_MODEL_SAVED_H_

#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "core/tensor.h"
#include "model/attention_mixer.h"
#include "model/mamba_mixer.h"
#include "model/sequence_state.h"
#include "ops/fp8.h"

namespace hm11 {

template <typename T>
struct EmbeddingSaved {
  Tensor<int32_t> hash;        // [batch, time]
  Tensor<T> tokens;            // [rows, dim]
  Tensor<T> bigram;            // [rows, bigram_dim]
  Tensor<T> bigram_projected;  // [rows, dim]
  Tensor<T> summed;            // [rows, dim]
  Tensor<Accum<T>> rstd;       // [rows]
  Tensor<T> normed;            // [batch, time, dim]
  Tensor<T> ve;                // [rows, value_embedding_dim]; of a chunk of a sequence: rows of its windows
  Tensor<T> ve_projected;      // [rows, kv_dim], likewise
};

// Of one visit of a layer.
template <typename T>
struct BlockSaved {
  // The step of the residual stream into the visit: y before the mix with x0, u after it.
  Tensor<T> y, u, normed;             // [rows, dim]
  Tensor<Accum<T>> rstd;              // [rows]
  Tensor<E4m3> normed8, mlp_normed8;  // normed and mlp_normed where ForwardOptions asks for 8 bits
  Tensor<T> v,
      mlp_normed;  // [rows, dim]: the residual stream between mixer and MLP; its norm, or in parallel normed
  Tensor<Accum<T>> mlp_rstd;     // [rows]
  Fp8Weight mixer8, up8, down8;  // of in_proj or qkv, and of the MLP, where ForwardOptions asks for 8 bits
  Tensor<T> activated;           // [rows, mlp_width], or transposed in 8 bits alone:
  Tensor<E4m3> activated8t;      // [mlp_width, rows]
  Tensor<uint32_t> negative;     // of the MLP (ops/mlp.h)
  Tensor<T> ungated,
      output;  // [rows, dim]: the layer's output before and after token gating, when materialized
  MambaSaved<T> mamba;
  AttentionSaved<T> attention;
};

template <typename T>
struct ModelSaved {
  int64_t batch = 0;
  int64_t time = 0;
  Tensor<const int32_t> ids;  // [batch, time]
  EmbeddingSaved<T> embedding;
  Tensor<T> x0;                       // [batch, time, dim]
  std::vector<BlockSaved<T>> blocks;  // a visit each
  Tensor<T> final_y, hidden;          // [rows, dim]; hidden is normed and goes to the head
  Tensor<Accum<T>> final_rstd;        // [rows]
};

template <typename T>
struct ForwardOptions {
  bool keep = true;  // false: nothing is kept for backward, and far less memory is taken
  // Products of layers' inputs and of the MLPs' activations, and backward all of the MLPs', are of 8-bit numbers
  // (ops/fp8.h) where the GPU and the shapes allow it. Of Bf16 alone.
  bool fp8 = false;
  // Where the one sequence of `ids`, a chunk of a sequence or its next token, goes on from; then what it
  // leaves. Without, sequences stand alone. For keep = false only.
  SequenceState<T>* sequence = nullptr;
};

}  // namespace hm11

#endif  // HM11_MODEL_MODEL_SAVED_H_
