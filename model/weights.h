// ModelWeights: every parameter tensor of a model, and ForEachWeight, the one list of them.
//
// The gradient of a ModelWeights<T> is a ModelWeights<Accum<T>>, and so are optimizer moments and averages.
// Matrices and tables are T; everything whose range matters (scales, gates, A, step-size bias, convolutions)
// is Accum<T>.
#ifndef HM11_MODEL_WEIGHTS_H_
#define HM11_MODEL_WEIGHTS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/arena.h"
#include "core/dtype.h"
#include "core/named_tensor.h"
#include "core/tensor.h"
#include "model/config.h"
#include "model/weight_info.h"

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
  Tensor<Accum<T>> mix;           // [2, dim]: of the residual stream and of x0
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

// One of the reference's parameters that stack matrices of all attention layers: [matrices, rows, cols].
struct Bank {
  const char* name;
  std::vector<const char*> holds;  // in this order, each of all layers
  int64_t matrices, rows, cols;
};

inline std::vector<Bank> Banks(const ModelConfig& config) {
  const int64_t layers = config.attention_count(), dim = config.dim;
  return {{"qo_bank", {"q", "o"}, 2 * layers, dim, dim},
          {"kv_bank", {"k", "v"}, 2 * layers, config.kv_dim(), dim},
          {"mlp_up_bank", {"up"}, layers, config.mlp_width, dim},
          {"mlp_down_bank", {"down"}, layers, dim, config.mlp_width}};
}

namespace weights_internal {

// What few weights need to say.
struct Rest {
  bool mlp = false;
  std::optional<std::vector<int64_t>> reference_shape = std::nullopt;  // where it is not the weight's
  std::vector<MatrixPart> parts = {};                                  // where it is not the whole weight
};

inline MatrixPart InBank(const char* bank, int64_t slot, int64_t rows) {
  return {.rows = rows, .parameter = bank, .slot = slot, .stored_name = absl::StrCat(bank, ".", slot)};
}

inline WeightInfo Describe(std::string name, Shape shape, WeightKind kind, InitialValue initial,
                           StorageClass storage, int64_t layer, Rest rest) {
  WeightInfo info{.name = std::move(name),
                  .shape = shape,
                  .kind = kind,
                  .initial = initial,
                  .storage = storage,
                  .layer = layer,
                  .mlp = rest.mlp,
                  .reference_shape = {},
                  .parts = std::move(rest.parts)};
  for (int axis = 0; axis < shape.rank(); ++axis) info.reference_shape.push_back(shape[axis]);
  if (rest.reference_shape) info.reference_shape = *std::move(rest.reference_shape);
  if (info.parts.empty()) {
    info.parts = {{.rows = shape[0], .parameter = info.name, .slot = 0, .stored_name = info.name}};
  }
  return info;
}

// The lists of a layer's weights. `add` takes a name within the layer, a shape, how the weight is updated,
// begins and is stored, which member of BlockWeights it is, and a Rest.

template <typename Add>
void ListBlock(const ModelConfig& config, int64_t layer, const Add& add) {
  using enum WeightKind;
  using enum StorageClass;
  using Init = InitialValue;
  const int64_t dim = config.dim, encoder = config.layer_count() / 2;
  // Whether a U-Net skip joins the residual where each layer is visited once.
  const bool joins_skip = layer >= encoder && layer < 2 * encoder;
  add(
      config.is_mamba(layer) ? "ssm_scale" : "attn_scale", {dim}, kControl, Init::Constant(1), kFloat32,
      [](auto& b) -> auto& { return b.branch_scale; });
  add(
      "mlp_scale", {dim}, kControl, Init::Constant(1), kFloat32,
      [](auto& b) -> auto& { return b.mlp_scale; });
  add(
      "resid_mix", {2, dim}, kControl, Init::FirstRow(joins_skip ? config.skip_mix_init : 1), kFloat32,
      [](auto& b) -> auto& { return b.mix; });
}

template <typename Add>
void ListMamba(const ModelConfig& config, const Add& add) {
  using enum WeightKind;
  using enum StorageClass;
  using Init = InitialValue;
  const int64_t dim = config.dim, inner = config.inner(), state = config.state, rank = config.dt_rank;
  const Init output = config.zero_init_outputs ? Init::Zero() : Init::Linear();
  const Init conv = Init::Uniform(1 / std::sqrt(static_cast<double>(config.conv_width)));
  add(
      "ssm.A_log", {inner, state}, kControl, Init::LogColumn(), kFloat16,
      [](auto& b) -> auto& { return b.mamba.a_log; });
  add(
      "ssm.D", {inner}, kControl, Init::Constant(1), kFloat16, [](auto& b) -> auto& { return b.mamba.d; });
  add(
      "ssm.in_proj.weight", {2 * inner, dim}, kMambaMatrix, Init::Linear(), kMatrix,
      [](auto& b) -> auto& { return b.mamba.in_proj; });
  add("ssm.conv1d.weight", {inner, config.conv_width}, kControl, conv, kFloat16,
      [](auto& b) -> auto& { return b.mamba.conv_weight; },
      {.reference_shape = std::vector<int64_t>{inner, 1, config.conv_width}});
  add(
      "ssm.conv1d.bias", {inner}, kControl, conv, kFloat16,
      [](auto& b) -> auto& { return b.mamba.conv_bias; });
  add(
      "ssm.x_proj.weight", {rank + 2 * state, inner}, kMambaMatrix, Init::Linear(), kMatrix,
      [](auto& b) -> auto& { return b.mamba.x_proj; });
  add(
      "ssm.dt_proj.weight", {inner, rank}, kMambaMatrix, Init::Linear(), kMatrix,
      [](auto& b) -> auto& { return b.mamba.dt_proj; });
  add(
      "ssm.dt_proj.bias", {inner}, kControl, Init::StepBias(), kFloat16,
      [](auto& b) -> auto& { return b.mamba.dt_bias; });
  add(
      "ssm.out_proj.weight", {dim, inner}, kMambaMatrix, output, kMatrix,
      [](auto& b) -> auto& { return b.mamba.out_proj; });
  add("fc.weight", {config.mlp_width, dim}, kMambaMatrix, Init::Linear(), kMatrix,
      [](auto& b) -> auto& { return b.up; }, {.mlp = true});
  add("proj.weight", {dim, config.mlp_width}, kMambaMatrix, output, kSixBitMatrix,
      [](auto& b) -> auto& { return b.down; }, {.mlp = true});
}

template <typename Add>
void ListAttention(const ModelConfig& config, int64_t layer, const Add& add) {
  using enum WeightKind;
  using enum StorageClass;
  using Init = InitialValue;
  const int64_t dim = config.dim, kv_dim = config.kv_dim(), width = config.mlp_width;
  const int64_t count = config.attention_count();
  const int64_t slot = std::count(config.layers.begin(), config.layers.begin() + layer, 'A');
  add("attn.qkv", {dim + 2 * kv_dim, dim}, kBankMatrix, Init::Orthogonal(), kSixBitMatrix,
      [](auto& b) -> auto& { return b.attention.qkv; },
      {.parts = {InBank("qo_bank", slot, dim), InBank("kv_bank", slot, kv_dim),
                 InBank("kv_bank", count + slot, kv_dim)}});
  add("attn.out", {dim, dim}, kBankMatrix, Init::Zero(), kSixBitMatrix,
      [](auto& b) -> auto& { return b.attention.out; }, {.parts = {InBank("qo_bank", count + slot, dim)}});
  add("mlp.up", {width, dim}, kBankMatrix, Init::Orthogonal(), kSixBitMatrix,
      [](auto& b) -> auto& { return b.up; }, {.mlp = true, .parts = {InBank("mlp_up_bank", slot, width)}});
  add("mlp.down", {dim, width}, kBankMatrix, Init::Zero(), kSixBitMatrix,
      [](auto& b) -> auto& { return b.down; }, {.mlp = true, .parts = {InBank("mlp_down_bank", slot, dim)}});
  add(
      "attn.q_gain", {config.heads}, kControl, Init::Constant(config.q_gain_init), kFloat32,
      [](auto& b) -> auto& { return b.attention.q_gain; });
  if (config.value_residual) {
    add(
        "attn.vr_lambda", {2}, kControl, Init::Constant(0.5), kFloat32,
        [](auto& b) -> auto& { return b.attention.residual; });
  }
  if (config.gated_attention) {
    add(
        "attn.attn_gate.weight", {config.heads, dim}, kSmallMatrix, Init::Zero(), kFloat32,
        [](auto& b) -> auto& { return b.attention.gate; });
    add(
        "attn.attn_gate.bias", {config.heads}, kControl, Init::Constant(4), kFloat32,
        [](auto& b) -> auto& { return b.attention.gate_bias; });
  }
  if (config.token_gate) {
    add("dtg_gate.weight", {dim}, kControl, Init::Zero(), kFloat32,
        [](auto& b) -> auto& { return b.attention.token_gate; },
        {.reference_shape = std::vector<int64_t>{1, dim}});
    add(
        "dtg_gate.bias", {1}, kControl, Init::Constant(2), kFloat32,
        [](auto& b) -> auto& { return b.attention.token_gate_bias; });
  }
}

// The lists of the model's other weights; `add` as above, with members of ModelWeights.

template <typename Add>
void ListInputs(const ModelConfig& config, const Add& add) {
  using enum WeightKind;
  using enum StorageClass;
  using Init = InitialValue;
  const int64_t dim = config.dim;
  add(
      "skip_weights", {config.skip_count(), dim}, kControl, Init::Constant(1), kFloat32,
      [](auto& s) -> auto& { return s.skip_weights; });
  add(
      "tok_emb.weight", {config.vocab, dim}, kEmbedding, Init::Normal(config.embedding_init_std), kTable,
      [](auto& s) -> auto& { return s.token_embedding; });
  if (config.bigram_rows > 0) {
    add("bigram.scale", {1}, kControl, Init::Constant(0.05), kFloat32,
        [](auto& s) -> auto& { return s.bigram_scale; }, {.reference_shape = std::vector<int64_t>{}});
    add(
        "bigram.embed.weight", {config.bigram_rows, config.bigram_dim}, kEmbedding, Init::Zero(), kTable,
        [](auto& s) -> auto& { return s.bigram_embedding; });
    add(
        "bigram.proj.weight", {dim, config.bigram_dim}, kSmallMatrix, Init::Linear(), kSixBitMatrix,
        [](auto& s) -> auto& { return s.bigram_proj; });
  }
  add(
      "smear.gate", {dim}, kControl, Init::Zero(), kFloat32, [](auto& s) -> auto& { return s.smear_gate; });
}

template <typename Add>
void ListValueEmbeddings(const ModelConfig& config, const Add& add) {
  using enum WeightKind;
  using enum StorageClass;
  using Init = InitialValue;
  if (config.value_embedding_count() == 0) return;
  add("ve_shared.scale", {1}, kControl, Init::Constant(0.1), kFloat32,
      [](auto& s) -> auto& { return s.ve_scale; }, {.reference_shape = std::vector<int64_t>{}});
  add(
      "ve_shared.embed.weight", {config.vocab, config.value_embedding_dim}, kEmbedding, Init::Normal(0.01),
      kTable, [](auto& s) -> auto& { return s.ve_embedding; });
  add(
      "ve_shared.proj.weight", {config.kv_dim(), config.value_embedding_dim}, kSmallMatrix, Init::Linear(),
      kSixBitMatrix, [](auto& s) -> auto& { return s.ve_proj; });
  for (int64_t layer = 0; layer < config.layer_count(); ++layer) {
    const int64_t index = config.value_embedding_index(layer);
    if (index < 0) continue;
    add(
        absl::StrCat("ve_layer_scales.", index), {1}, kControl, Init::Constant(1),
        kFloat32, [l = static_cast<size_t>(layer)](auto& s) -> auto& {
          return s.blocks[l].attention.ve_layer_scale;
        });
  }
}

template <typename Add>
void ListHeads(const ModelConfig& config, const Add& add) {
  using enum WeightKind;
  using enum StorageClass;
  using Init = InitialValue;
  if (!config.tied_embeddings) {
    add(
        "lm_head.weight", {config.vocab, config.dim}, kHead, Init::Zero(), kTable,
        [](auto& s) -> auto& { return s.lm_head; });
  }
  for (int64_t head = 0; head < config.mtp_heads; ++head) {
    add(
        absl::StrCat("mtp_heads.", head, ".weight"), {config.vocab, config.dim}, kHead, Init::Zero(),
        kTrainingOnly, [h = static_cast<size_t>(head)](auto& s) -> auto& { return s.mtp_heads[h]; });
  }
}

}  // namespace weights_internal

// Calls visit(const WeightInfo&, tensor of each set...) for every parameter, in the reference's order with
// the matrices of banks where their layer stands. The sets may differ in T. Their vectors must have been
// sized (ResizeWeights).
template <typename Visit, typename... W>
void ForEachWeight(const ModelConfig& config, Visit&& visit, W&... w) {
  using weights_internal::Rest;
  const auto in_model = [&](std::string name, Shape shape, WeightKind kind, InitialValue initial,
                            StorageClass storage, auto get, Rest rest = {}) {
    visit(weights_internal::Describe(std::move(name), shape, kind, initial, storage, -1, std::move(rest)),
          get(w)...);
  };
  weights_internal::ListInputs(config, in_model);
  for (int64_t layer = 0; layer < config.layer_count(); ++layer) {
    const auto in_block = [&](const char* name, Shape shape, WeightKind kind, InitialValue initial,
                              StorageClass storage, auto get, Rest rest = {}) {
      visit(weights_internal::Describe(absl::StrCat("blocks.", layer, ".", name), shape, kind, initial,
                                       storage, layer, std::move(rest)),
            get(w.blocks[static_cast<size_t>(layer)])...);
    };
    weights_internal::ListBlock(config, layer, in_block);
    if (config.is_mamba(layer)) {
      weights_internal::ListMamba(config, in_block);
    } else {
      weights_internal::ListAttention(config, layer, in_block);
    }
  }
  weights_internal::ListValueEmbeddings(config, in_model);
  weights_internal::ListHeads(config, in_model);
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

// A parameter as the reference names and shapes it.
struct ReferenceParameter {
  // A matrix of a bank; of every other parameter there is one, the whole.
  struct Matrix {
    std::string stored_name;
    InitialValue initial;
  };
  std::string name;
  std::vector<int64_t> shape;
  StorageClass storage;
  bool bank = false;  // of which each matrix is stored by itself
  std::vector<Matrix> matrices;
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

// A tensor as artifacts have it: a bank's matrices each by itself, and none that is only for training.
struct StoredWeight {
  std::string name;
  std::vector<int64_t> shape;
  StorageClass storage;
};
std::vector<StoredWeight> StoredWeights(const ModelConfig& config);

// From tensors in the reference's names and shapes to those of StoredWeights, and back. Errors as of
// ImportWeights. JoinBanks is for configurations without weights that are only for training.
absl::StatusOr<std::vector<NamedTensor>> SplitBanks(const ModelConfig& config,
                                                    const std::vector<NamedTensor>& tensors);
absl::StatusOr<std::vector<NamedTensor>> JoinBanks(const ModelConfig& config,
                                                   const std::vector<NamedTensor>& stored);

// Initial values by the list's rules. A function of config and seed alone.
std::vector<NamedTensor> InitialWeights(const ModelConfig& config, uint64_t seed);

}  // namespace hm11

#endif  // HM11_MODEL_WEIGHTS_H_
