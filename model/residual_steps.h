// The steps of the residual stream through the U-Net: what each reads and writes, as operands of
// residual_norm.
//
// A step that adds a branch goes with the product that makes the branch (ops/residual_product.h), so the step
// into a layer is done at the end of the visit before. On the way back the gradient of the sum is the one of
// both terms, up to the branch's scale, which the gradients of the branch's last product take into account
// (ops/scaled_matmul.h): the steps backward have nothing to do with branches.
#ifndef HM11_MODEL_RESIDUAL_STEPS_H_
#define HM11_MODEL_RESIDUAL_STEPS_H_

#include <cstdint>
#include <optional>

#include "model/attention_mixer.h"
#include "model/config.h"
#include "model/model_saved.h"
#include "model/weights.h"
#include "ops/mlp.h"
#include "ops/residual_norm.h"

namespace hm11 {

// The decoder visit's encoder partner: visit `visit` adds skip_weights[index] times that partner's output.
struct Skip {
  int64_t from_visit;
  int64_t index;
};
inline std::optional<Skip> SkipInto(const ModelConfig& config, int64_t visit) {
  const int64_t index = visit - config.encoder_visits();
  if (index < 0 || index >= config.skip_count()) return std::nullopt;
  return Skip{.from_visit = config.encoder_visits() - 1 - index, .index = index};
}

// Where the weights of a visit's layer stand.
inline size_t BlockOf(const ModelConfig& config, int64_t visit) {
  return static_cast<size_t>(config.layer_of(visit));
}

inline bool HasTokenGate(const ModelConfig& config, int64_t visit) {
  return config.token_gate && !config.is_mamba(config.layer_of(visit));
}

// Whether the visit's output is added up in a tensor of its own: for token gating, and for the last encoder
// visit, whose output is both residual stream and skip of the next.
inline bool OutputIsMaterialized(const ModelConfig& config, int64_t visit) {
  return HasTokenGate(config, visit) || (visit + 1 == config.encoder_visits() && config.skip_count() > 0);
}

// The visit's output as later visits see it.
template <typename T>
Tensor<T> OutputOf(const ModelConfig& config, const ModelSaved<T>& saved, int64_t visit) {
  return OutputIsMaterialized(config, visit) ? saved.blocks[static_cast<size_t>(visit)].output
                                             : saved.blocks[static_cast<size_t>(visit) + 1].y;
}

// The residual step into `visit`, or after the last visit into the final norm. Its branch, where it has a
// branch_scale, is the MLP's output in the visit before.
template <typename T, typename W>
ResidualNormArgs<T> StepInto(const ModelConfig& config, const ModelWeights<W>& weights,
                             const ModelSaved<T>& saved, int64_t visit) {
  const int64_t rows = saved.batch * saved.time;
  ResidualNormArgs<T> args;
  if (visit == 0) {
    args.x = saved.x0.Reshaped({rows, config.dim});
  } else {
    const BlockSaved<T>& before = saved.blocks[static_cast<size_t>(visit) - 1];
    if (OutputIsMaterialized(config, visit - 1)) {
      args.x = before.output;
    } else {
      args.x = before.v;
      args.branch_scale = weights.blocks[BlockOf(config, visit - 1)].mlp_scale;
    }
  }
  if (visit == config.visit_count()) {
    args.y = saved.final_y;
    args.normed = saved.hidden;
    args.rstd = saved.final_rstd;
    return args;
  }
  const BlockSaved<T>& block = saved.blocks[static_cast<size_t>(visit)];
  if (const std::optional<Skip> skip = SkipInto(config, visit)) {
    args.skip = OutputOf(config, saved, skip->from_visit);
    args.skip_weight = weights.skip_weights.Slice(skip->index, 1).Reshaped({config.dim});
  }
  args.x0 = saved.x0.Reshaped({rows, config.dim});
  args.mix = weights.blocks[BlockOf(config, visit)].mix;
  args.norm_scale = static_cast<Accum<T>>(config.norm_scale(config.layer_of(visit)));
  args.y = block.y;
  args.u = block.u;
  args.normed = block.normed;
  args.rstd = block.rstd;
  args.normed8 = block.normed8;
  return args;
}

// The residual step between mixer, whose output is its branch, and MLP; in a parallel layer the MLP reads the
// mixer's norm.
template <typename T, typename W>
ResidualNormArgs<T> StepToMlp(const ModelConfig& config, const BlockWeights<W>& weights,
                              const BlockSaved<T>& block, int64_t layer) {
  ResidualNormArgs<T> args;
  args.x = block.u;
  args.branch_scale = weights.branch_scale;
  args.y = block.v;
  if (config.is_parallel(layer)) return args;
  args.norm_scale = static_cast<Accum<T>>(config.norm_scale(layer));
  args.normed = block.mlp_normed;
  args.rstd = block.mlp_rstd;
  args.normed8 = block.mlp_normed8;
  return args;
}

template <typename T, typename W>
MlpArgs<T, W> MlpOf(const BlockWeights<W>& weights, const BlockSaved<T>& block) {
  return {.x = block.mlp_normed,
          .up = weights.up,
          .down = weights.down,
          .activated = block.activated,
          .negative = block.negative,
          .x8 = block.mlp_normed8,
          .up8 = block.up8,
          .down8 = block.down8,
          .activated8t = block.activated8t};
}

// Adds the MLP's output, its branch, to the layer's output, without a norm.
template <typename T, typename W>
ResidualNormArgs<T> StepToOutput(const BlockWeights<W>& weights, const BlockSaved<T>& block, Tensor<T> y) {
  ResidualNormArgs<T> args;
  args.x = block.v;
  args.branch_scale = weights.mlp_scale;
  args.y = y;
  return args;
}

template <typename T, typename W>
AttentionSources<T> SourcesOf(const ModelConfig& config, const ModelWeights<W>& weights,
                              const ModelSaved<T>& saved, int64_t visit) {
  AttentionSources<T> sources;
  if (config.value_embedding_index(config.layer_of(visit)) >= 0) {
    sources.value_embedding = saved.embedding.ve_projected;
    sources.ve_scale = weights.ve_scale;
  }
  const int64_t source = config.value_residual_source();
  if (source >= 0 && visit > source) sources.first_v = saved.blocks[static_cast<size_t>(source)].attention.v;
  return sources;
}

// A step backward: that of x alone, the branch having been taken care of.
template <typename T>
ResidualNormArgs<T> WithoutBranch(ResidualNormArgs<T> step) {
  step.branch_scale = {};
  return step;
}

}  // namespace hm11

#endif  // HM11_MODEL_RESIDUAL_STEPS_H_
