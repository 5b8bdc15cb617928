// ModelWeights: every parameter tensor of a model, and ForEachWeight, the one list of them.
//
// The gradient of a ModelWeights<T> is a ModelWeights<Accum<T>>, and so are optimizer moments and averages.
// Matrices and tables are T; everything whose range matters (scales, gates, A, step-size bias, convolutions)
// is Accum<T>.
#ifndef HM11_MODEL_WEIGHTS_H_
#define HM11_MODEL_WEIGHTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/arena.h"
#include "core/dtype.h"
#include "core/named_tensor.h"
#include "core/tensor.h"
#include "model/config.h"

namespace hm11 {

template <typename T>
struct MambaWeights {
  Tensor<Accum<T>> a_log;        // [inner, state]
  Tensor<Accum<T>> d;            // [inner]
  Tensor<T> in_proj;             // [2 inner, dim]: x, then z
  Tensor<Accum<T>> conv_weight;  // [inner, conv_width]
  Tensor<Accum<T>> conv_bias;    // [inner]
  Tensor<T> x_proj;              // [dt_rank + 2 state, inner]: step size, B, C
  Tensor<T> dt_proj;             // [inner, dt_rank]
  Tensor<Accum<T>> dt_bias;      // [inner]
  Tensor<T> out_proj;            // [dim, inner]
};

template <typename T>
struct AttentionWeights {
  Tensor<T> qkv;                     // [dim + 2 kv_dim, dim]: queries, keys, values
  Tensor<T> out;                     // [dim, dim]
  Tensor<Accum<T>> q_gain;           // [heads]
  Tensor<Accum<T>> residual;         // [2], with value_residual: weights of the first and the own value
  Tensor<T> gate;                    // [heads, dim], with gated_attention
  Tensor<Accum<T>> gate_bias;        // [heads], with gated_attention
  Tensor<Accum<T>> token_gate;       // [dim], with token_gate
  Tensor<Accum<T>> token_gate_bias;  // [1], with token_gate
  Tensor<Accum<T>> ve_layer_scale;   // [1], on value-embedding layers
};

// A layer: one of the two mixers, then an MLP.
template <typename T>
struct BlockWeights {
  Tensor<Accum<T>> branch_scale;  // [dim]
  Tensor<Accum<T>> mlp_scale;     // [dim]
  Tensor<Accum<T>> mix;           // [2, dim]: of the stream and of x0
  Tensor<T> up;                   // [mlp_width, dim]
  Tensor<T> down;                 // [dim, mlp_width]
  MambaWeights<T> mamba;
  AttentionWeights<T> attention;
};

template <typename T>
struct ModelWeights {
  Tensor<Accum<T>> skip_weights;  // [skip_count, dim]
  Tensor<T> token_embedding;      // [vocab, dim]
  Tensor<Accum<T>> bigram_scale;  // [1]
  Tensor<T> bigram_embedding;     // [bigram_rows, bigram_dim]
  Tensor<T> bigram_proj;          // [dim, bigram_dim]
  Tensor<Accum<T>> smear_gate;    // [dim]
  std::vector<BlockWeights<T>> blocks;
  Tensor<Accum<T>> ve_scale;         // [1]
  Tensor<T> ve_embedding;            // [vocab, value_embedding_dim]
  Tensor<T> ve_proj;                 // [kv_dim, value_embedding_dim]
  Tensor<T> lm_head;                 // [vocab, dim], when embeddings are not tied
  std::vector<Tensor<T>> mtp_heads;  // [vocab, dim] each
};

// What a tensor is to an optimizer and a quantizer.
enum class WeightKind {
  kBankMatrix,   // of an attention layer: in the reference's banks
  kMambaMatrix,  // of a Mamba layer and its MLP
  kSmallMatrix,  // other projections: bigram, value embedding, gates
  kEmbedding,    // token, bigram and value tables
  kHead,         // untied output head and multi-token-prediction heads
  kControl,      // everything else: scales, gates, biases, A, D, convolutions
};

struct WeightInfo {
  std::string name;  // the reference's, but for parts of banks (see ReferenceParameters)
  Shape shape;
  WeightKind kind = WeightKind::kControl;
  std::vector<int64_t> row_parts;  // rows of each matrix stacked in this tensor; one entry unless it is qkv
};

namespace weights_internal {

// Calls visit(info, member...) where `get` picks the member out of each weight set.
template <typename Visit, typename Get, typename... W>
void One(Visit& visit, std::string name, Shape shape, WeightKind kind, Get get, W&... w) {
  WeightInfo info{.name = std::move(name), .shape = shape, .kind = kind, .row_parts = {}};
  info.row_parts.push_back(shape.rank() > 0 ? shape[0] : 1);
  visit(info, get(w)...);
}

}  // namespace weights_internal

// Calls visit(const WeightInfo&, tensor of each set...) for every parameter, in the reference's order with
// the parts of banks where their layer stands. The sets may differ in T. Their vectors must have been sized
// (ResizeWeights).
template <typename Visit, typename... W>
void ForEachWeight(const ModelConfig& config, Visit&& visit, W&... w) {
  using weights_internal::One;
  using enum WeightKind;
  const int64_t dim = config.dim, inner = config.inner(), kv_dim = config.kv_dim();
  const auto one = [&](std::string name, Shape shape, WeightKind kind, auto get) {
    One(visit, std::move(name), shape, kind, get, w...);
  };
  one(
      "skip_weights", {config.skip_count(), dim}, kControl, [](auto& s) -> auto& { return s.skip_weights; });
  one(
      "tok_emb.weight", {config.vocab, dim}, kEmbedding, [](auto& s) -> auto& { return s.token_embedding; });
  if (config.bigram_rows > 0) {
    one(
        "bigram.scale", {1}, kControl, [](auto& s) -> auto& { return s.bigram_scale; });
    one(
        "bigram.embed.weight", {config.bigram_rows, config.bigram_dim}, kEmbedding,
        [](auto& s) -> auto& { return s.bigram_embedding; });
    one(
        "bigram.proj.weight", {dim, config.bigram_dim}, kSmallMatrix,
        [](auto& s) -> auto& { return s.bigram_proj; });
  }
  one(
      "smear.gate", {dim}, kControl, [](auto& s) -> auto& { return s.smear_gate; });
  for (int64_t layer = 0; layer < config.layer_count(); ++layer) {
    const size_t l = static_cast<size_t>(layer);
    const std::string block = absl::StrCat("blocks.", layer, ".");
    const bool mamba = config.is_mamba(layer);
    const auto in_block = [&](const char* name, Shape shape, WeightKind kind, auto get) {
      One(
          visit, absl::StrCat(block, name), shape, kind, [&](auto& s) -> auto& { return get(s.blocks[l]); },
          w...);
    };
    in_block(
        mamba ? "ssm_scale" : "attn_scale", {dim}, kControl, [](auto& b) -> auto& { return b.branch_scale; });
    in_block(
        "mlp_scale", {dim}, kControl, [](auto& b) -> auto& { return b.mlp_scale; });
    in_block(
        "resid_mix", {2, dim}, kControl, [](auto& b) -> auto& { return b.mix; });
    if (mamba) {
      in_block(
          "ssm.A_log", {inner, config.state}, kControl, [](auto& b) -> auto& { return b.mamba.a_log; });
      in_block(
          "ssm.D", {inner}, kControl, [](auto& b) -> auto& { return b.mamba.d; });
      in_block(
          "ssm.in_proj.weight", {2 * inner, dim}, kMambaMatrix,
          [](auto& b) -> auto& { return b.mamba.in_proj; });
      in_block(
          "ssm.conv1d.weight", {inner, config.conv_width}, kControl,
          [](auto& b) -> auto& { return b.mamba.conv_weight; });
      in_block(
          "ssm.conv1d.bias", {inner}, kControl, [](auto& b) -> auto& { return b.mamba.conv_bias; });
      in_block(
          "ssm.x_proj.weight", {config.dt_rank + 2 * config.state, inner}, kMambaMatrix,
          [](auto& b) -> auto& { return b.mamba.x_proj; });
      in_block(
          "ssm.dt_proj.weight", {inner, config.dt_rank}, kMambaMatrix,
          [](auto& b) -> auto& { return b.mamba.dt_proj; });
      in_block(
          "ssm.dt_proj.bias", {inner}, kControl, [](auto& b) -> auto& { return b.mamba.dt_bias; });
      in_block(
          "ssm.out_proj.weight", {dim, inner}, kMambaMatrix,
          [](auto& b) -> auto& { return b.mamba.out_proj; });
      in_block(
          "fc.weight", {config.mlp_width, dim}, kMambaMatrix, [](auto& b) -> auto& { return b.up; });
      in_block(
          "proj.weight", {dim, config.mlp_width}, kMambaMatrix, [](auto& b) -> auto& { return b.down; });
      continue;
    }
    WeightInfo qkv{.name = absl::StrCat(block, "attn.qkv"),
                   .shape = {dim + 2 * kv_dim, dim},
                   .kind = kBankMatrix,
                   .row_parts = {dim, kv_dim, kv_dim}};
    visit(qkv, w.blocks[l].attention.qkv...);
    in_block(
        "attn.out", {dim, dim}, kBankMatrix, [](auto& b) -> auto& { return b.attention.out; });
    in_block(
        "mlp.up", {config.mlp_width, dim}, kBankMatrix, [](auto& b) -> auto& { return b.up; });
    in_block(
        "mlp.down", {dim, config.mlp_width}, kBankMatrix, [](auto& b) -> auto& { return b.down; });
    in_block(
        "attn.q_gain", {config.heads}, kControl, [](auto& b) -> auto& { return b.attention.q_gain; });
    if (config.value_residual) {
      in_block(
          "attn.vr_lambda", {2}, kControl, [](auto& b) -> auto& { return b.attention.residual; });
    }
    if (config.gated_attention) {
      in_block(
          "attn.attn_gate.weight", {config.heads, dim}, kSmallMatrix,
          [](auto& b) -> auto& { return b.attention.gate; });
      in_block(
          "attn.attn_gate.bias", {config.heads}, kControl,
          [](auto& b) -> auto& { return b.attention.gate_bias; });
    }
    if (config.token_gate) {
      in_block(
          "dtg_gate.weight", {dim}, kControl, [](auto& b) -> auto& { return b.attention.token_gate; });
      in_block(
          "dtg_gate.bias", {1}, kControl, [](auto& b) -> auto& { return b.attention.token_gate_bias; });
    }
  }
  if (config.value_embedding_count() > 0) {
    one(
        "ve_shared.scale", {1}, kControl, [](auto& s) -> auto& { return s.ve_scale; });
    one(
        "ve_shared.embed.weight", {config.vocab, config.value_embedding_dim}, kEmbedding,
        [](auto& s) -> auto& { return s.ve_embedding; });
    one(
        "ve_shared.proj.weight", {kv_dim, config.value_embedding_dim}, kSmallMatrix,
        [](auto& s) -> auto& { return s.ve_proj; });
    for (int64_t layer = 0; layer < config.layer_count(); ++layer) {
      const int64_t index = config.value_embedding_index(layer);
      if (index < 0) continue;
      one(
          absl::StrCat("ve_layer_scales.", index), {1},
          kControl, [l = static_cast<size_t>(layer)](auto& s) -> auto& {
            return s.blocks[l].attention.ve_layer_scale;
          });
    }
  }
  if (!config.tied_embeddings) {
    one(
        "lm_head.weight", {config.vocab, dim}, kHead, [](auto& s) -> auto& { return s.lm_head; });
  }
  for (int64_t head = 0; head < config.mtp_heads; ++head) {
    one(
        absl::StrCat("mtp_heads.", head, ".weight"), {config.vocab, dim},
        kHead, [h = static_cast<size_t>(head)](auto& s) -> auto& { return s.mtp_heads[h]; });
  }
}

template <typename T>
void ResizeWeights(const ModelConfig& config, ModelWeights<T>* weights) {
  weights->blocks.resize(static_cast<size_t>(config.layer_count()));
  weights->mtp_heads.resize(static_cast<size_t>(config.mtp_heads));
}

// All tensors from the arena, zeroed, one after the other.
template <typename T>
ModelWeights<T> NewWeights(Arena& arena, const ModelConfig& config);

int64_t CountParameters(const ModelConfig& config);

// Bytes an arena needs for NewWeights<T>.
template <typename T>
int64_t WeightBytes(const ModelConfig& config);

// A parameter as the reference names and shapes it, and where its numbers are: consecutive row ranges of
// tensors of ForEachWeight. Banks have many pieces, everything else one.
struct ReferenceParameter {
  struct Piece {
    std::string tensor;  // WeightInfo::name
    int64_t first_row = 0;
    int64_t rows = 0;
  };
  std::string name;
  std::vector<int64_t> shape;
  std::vector<Piece> pieces;
};

// In the reference's order. Multi-token-prediction heads last, as there.
std::vector<ReferenceParameter> ReferenceParameters(const ModelConfig& config);

// Values in the reference's names and shapes, from and to a device. Import errors name the tensor that is
// missing, unknown or of another shape, and then leave the weights as they were; values are not checked.
template <typename T>  // float or double weights
std::vector<NamedTensor> ExportWeights(Arena& arena, const ModelConfig& config, ModelWeights<T>& weights);
template <typename T>
absl::Status ImportWeights(Arena& arena, const ModelConfig& config, const std::vector<NamedTensor>& tensors,
                           ModelWeights<T>* weights);

// Initial values of the reference's recipe (spec: orthogonal matrices, normal embeddings, log-uniform step
// sizes). A function of config and seed alone.
std::vector<NamedTensor> InitialWeights(const ModelConfig& config, uint64_t seed);

}  // namespace hm11

#endif  // HM11_MODEL_WEIGHTS_H_
