// ModelConfig: every size and switch of a model, as plain values with a text form (core/fields.h).
#ifndef HM11_MODEL_CONFIG_H_
#define HM11_MODEL_CONFIG_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace hm11 {

// The defaults are HybridMamba-11: 31,780,916 parameters.
struct ModelConfig {
  std::string layers = "MAMAMAMAMAA";  // a letter a layer: M Mamba, A attention
  int64_t vocab = 1024;
  int64_t dim = 512;
  int64_t heads = 8;            // query heads
  int64_t kv_heads = 4;         // key and value heads, each shared by heads / kv_heads query heads
  int64_t mlp_width = 1536;     // inner width of every layer's MLP
  int64_t state = 32;           // states a Mamba channel
  int64_t conv_width = 4;       // taps of a Mamba layer's convolution
  int64_t expand = 2;           // a Mamba layer's inner width is expand * dim
  int64_t dt_rank = 32;         // rank of the step-size projection
  bool tied_embeddings = true;  // the output head is the token embedding
  double soft_cap = 30;         // logits are soft_cap * tanh(logits / soft_cap)
  int64_t rope_dims = 16;       // rotated channels a head
  double rope_base = 10000;
  int64_t rope_length = 1024;  // sequences longer than this get a larger base
  double q_gain_init = 1.5;
  int64_t bigram_rows = 2048;  // rows of the hashed bigram table; 0: none
  int64_t bigram_dim = 128;
  int64_t value_embedding_layers = 2;  // the last attention layers get value embeddings; 0: none
  int64_t value_embedding_dim = 128;
  int64_t xsa_layers = 4;        // attention layers among the last so many layers use exclusive attention
  bool layer_norm_scale = true;  // norms are scaled by 1 / sqrt(layer + 1)
  double embedding_init_std = 0.005;
  bool zero_init_outputs =
      false;  // Mamba layers' out_proj and MLP down start at zero, as attention layers' do
  bool gated_attention = false;
  bool value_residual = false;
  bool token_gate = false;  // dynamic token gating of attention layers
  // Depth recurrence: layers loop_first to loop_last run loop_passes times, one pass after the other.
  int64_t loop_first = 0;
  int64_t loop_last = 0;
  int64_t loop_passes = 1;      // 1: every layer runs once
  int64_t parallel_layers = 0;  // of the last so many layers mixer and MLP read the same norm
  double skip_mix_init = 1;     // initial weight of the residual stream in layers that a U-Net skip joins
  int64_t mtp_heads = 0;        // multi-token-prediction heads, dropped on export
  double mtp_weight = 0.2;

  template <typename Self, typename F>
  static void ForEachField(Self& self, F&& f) {
    f("layers", self.layers);
    f("vocab", self.vocab);
    f("dim", self.dim);
    f("heads", self.heads);
    f("kv_heads", self.kv_heads);
    f("mlp_width", self.mlp_width);
    f("state", self.state);
    f("conv_width", self.conv_width);
    f("expand", self.expand);
    f("dt_rank", self.dt_rank);
    f("tied_embeddings", self.tied_embeddings);
    f("soft_cap", self.soft_cap);
    f("rope_dims", self.rope_dims);
    f("rope_base", self.rope_base);
    f("rope_length", self.rope_length);
    f("q_gain_init", self.q_gain_init);
    f("bigram_rows", self.bigram_rows);
    f("bigram_dim", self.bigram_dim);
    f("value_embedding_layers", self.value_embedding_layers);
    f("value_embedding_dim", self.value_embedding_dim);
    f("xsa_layers", self.xsa_layers);
    f("layer_norm_scale", self.layer_norm_scale);
    f("embedding_init_std", self.embedding_init_std);
    f("zero_init_outputs", self.zero_init_outputs);
    f("gated_attention", self.gated_attention);
    f("value_residual", self.value_residual);
    f("token_gate", self.token_gate);
    f("loop_first", self.loop_first);
    f("loop_last", self.loop_last);
    f("loop_passes", self.loop_passes);
    f("parallel_layers", self.parallel_layers);
    f("skip_mix_init", self.skip_mix_init);
    f("mtp_heads", self.mtp_heads);
    f("mtp_weight", self.mtp_weight);
  }

  // InvalidArgument names the field that is impossible, and why.
  absl::Status Validate() const;

  int64_t layer_count() const { return static_cast<int64_t>(layers.size()); }
  bool is_mamba(int64_t layer) const { return layers[static_cast<size_t>(layer)] == 'M'; }
  bool is_exclusive(int64_t layer) const { return !is_mamba(layer) && layer >= layer_count() - xsa_layers; }
  // Which of the value-embedding layers this is, from 0, or -1.
  int64_t value_embedding_index(int64_t layer) const;
  int64_t value_embedding_count() const;
  int64_t attention_count() const;
  bool is_parallel(int64_t layer) const { return layer >= layer_count() - parallel_layers; }
  // A pass through the model is a row of visits, each of one layer: with loops some layers are visited
  // several times. The first half of the visits is the U-Net's encoder, the others its decoder.
  int64_t visit_count() const;
  int64_t layer_of(int64_t visit) const;
  int64_t encoder_visits() const { return visit_count() / 2; }
  int64_t skip_count() const { return visit_count() / 2; }
  // The same weights, every layer visited once. Of skip_weights only the first rows are used then.
  ModelConfig WithoutLoops() const;
  int64_t head_dim() const { return dim / heads; }
  int64_t kv_dim() const { return kv_heads * head_dim(); }
  int64_t inner() const { return expand * dim; }
  double norm_scale(int64_t layer) const;
  // The visit whose values value_residual mixes into later ones: the first of an attention layer in the first
  // half of the layers; -1: none.
  int64_t value_residual_source() const;
};

}  // namespace hm11

#endif  // HM11_MODEL_CONFIG_H_
