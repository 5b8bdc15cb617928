// Blocks: forward read from the bottom up is backward.
#include "model/blocks.h"

#include <optional>

#include "model/residual_steps.h"
#include "ops/elementwise.h"
#include "ops/mlp.h"
#include "ops/residual_norm.h"
#include "ops/residual_product.h"
#include "ops/scaled_matmul.h"
#include "ops/token_gate.h"

namespace hm11 {
namespace {

// The Mamba branch, on from the sequence's state where there is one, and the step that adds it.
template <typename T, typename W>
void MambaBranchForward(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights,
                        int64_t visit, const ResidualNormArgs<T>& step, const ForwardOptions<T>& options,
                        ModelSaved<T>* saved) {
  const size_t v = static_cast<size_t>(visit);
  BlockSaved<T>& block = saved->blocks[v];
  MambaArgs<T, W> args = {.weights = weights.blocks[BlockOf(config, visit)].mamba,
                          .input = block.normed,
                          .input8 = {block.normed8, block.mixer8.plain},
                          .batch = saved->batch,
                          .time = saved->time,
                          .step = step,
                          .keep = options.keep};
  const SequenceState<T>* const sequence = options.sequence;
  if (sequence == nullptr) return MambaForward<T, W>(arena, config, args, &block.mamba);
  const MambaState<T>& state = sequence->mamba[v];
  MambaState<T> after = NewMambaState<T>(arena, config);
  if (sequence->kept > 0) args.before = &state;
  args.after = &after;
  MambaForward<T, W>(arena, config, args, &block.mamba);
  arena.device().CopyOnDevice(state.scan.data(), after.scan.data(), after.scan.size_bytes());
  arena.device().CopyOnDevice(state.tail.data(), after.tail.data(), after.tail.size_bytes());
}

template <typename T, typename W>
void AttentionBranchForward(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights,
                            int64_t visit, const ResidualNormArgs<T>& step, const ForwardOptions<T>& options,
                            ModelSaved<T>* saved) {
  BlockSaved<T>& block = saved->blocks[static_cast<size_t>(visit)];
  AttentionLayerForward<T, W>(arena, config,
                              {.visit = visit,
                               .weights = weights.blocks[BlockOf(config, visit)].attention,
                               .sources = SourcesOf(config, weights, *saved, visit),
                               .input = block.normed,
                               .input8 = {block.normed8, block.mixer8.plain},
                               .batch = saved->batch,
                               .time = saved->time,
                               .step = step,
                               .sequence = options.sequence},
                              &block.attention);
}

// Room for what the step into `visit` leaves.
template <typename T>
void NewStepInto(Arena& arena, const ModelConfig& config, int64_t visit, bool fp8, ModelSaved<T>* saved) {
  if (visit == config.visit_count()) return;  // The final norm's is there.
  const int64_t rows = saved->batch * saved->time;
  BlockSaved<T>& block = saved->blocks[static_cast<size_t>(visit)];
  for (Tensor<T>* tensor : {&block.y, &block.u, &block.normed}) *tensor = arena.New<T>({rows, config.dim});
  block.rstd = arena.New<Accum<T>>({rows});
  if (fp8) block.normed8 = arena.New<E4m3>({rows, config.dim});
}

// From the MLP's norm to the step into the next visit.
template <typename T, typename W>
void MlpAndStepForward(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights, int64_t visit,
                       ModelSaved<T>* saved) {
  const BlockWeights<W>& w = weights.blocks[BlockOf(config, visit)];
  const BlockSaved<T>& block = saved->blocks[static_cast<size_t>(visit)];
  const ResidualNormArgs<T> into_next = StepInto(config, weights, *saved, visit + 1);
  const bool materialized = OutputIsMaterialized(config, visit);
  MlpArgs<T, W> mlp = MlpOf(w, block);
  Arena::Scope scope(arena);
  if (!mlp.x8.empty()) mlp.activated8 = arena.New<E4m3>({mlp.x8.dim(0), config.mlp_width});
  MlpForward<T, W>(arena, mlp);
  MatmulThenResidualNorm<T, W>(arena,
                               {.x = block.activated,
                                .weight = w.down,
                                .step = materialized ? StepToOutput(w, block, block.ungated) : into_next,
                                .in8 = {mlp.activated8, block.down8.plain}});
  if (!materialized) return;
  if (HasTokenGate(config, visit)) {
    TokenGateForward<T>(arena, {.u = block.u,
                                .x = block.ungated,
                                .weight = w.attention.token_gate,
                                .bias = w.attention.token_gate_bias,
                                .y = block.output});
  }
  ResidualNormForward<T>(arena, into_next);
}

// Makes g.dresidual, the gradient of the visit's output, that of v + mlp_scale * mlp; du_gate is what a token
// gate sends to u.
template <typename T>
void OutputBackward(Arena& arena, const ModelConfig& config, const BlockWeights<T>& w,
                    const BlockSaved<T>& block, int64_t visit, ResidualGrads<T>& g,
                    BlockWeights<Accum<T>>& grad, Tensor<T>* du_gate) {
  if (!OutputIsMaterialized(config, visit)) return;
  const size_t v = static_cast<size_t>(visit);
  if (v < g.dskip.size()) AddTo<T>(arena, g.dskip[v], 1, g.dresidual);
  if (HasTokenGate(config, visit)) {
    *du_gate = arena.New<T>(block.u.shape());
    Tensor<T> dungated = arena.New<T>(block.u.shape());
    TokenGateBackward<T>(arena, {.u = block.u,
                                 .x = block.ungated,
                                 .weight = w.attention.token_gate,
                                 .bias = w.attention.token_gate_bias,
                                 .dy = g.dresidual,
                                 .du = *du_gate,
                                 .dx = dungated,
                                 .dweight = grad.attention.token_gate,
                                 .dbias = grad.attention.token_gate_bias});
    arena.device().CopyOnDevice(g.dresidual.data(), dungated.data(), dungated.size_bytes());
  }
}

// g.dresidual in 8 bits. What makes the output of other terms changes g.dresidual alone: then it is made here, if the
// MLP cannot do without it.
template <typename T>
Tensor<const E5m2> Output8(const Arena& arena, const ModelConfig& config, const BlockSaved<T>& block,
                           int64_t visit, const ResidualGrads<T>& g) {
  if (!OutputIsMaterialized(config, visit)) return g.dresidual8;
  if (block.activated8t.empty()) return {};
  if constexpr (std::is_same_v<T, Bf16>) {
    ToFp8<E5m2>(arena.device(), g.dresidual, GradientFactor(g.dresidual.dim(0)), g.dresidual8);
  }
  return g.dresidual8;
}

// g.dresidual is the gradient of branch_scale times the branch.
template <typename T>
void MixerBackward(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                   const ModelSaved<T>& saved, int64_t visit, const InputGradient<T>& dinput,
                   ResidualGrads<T>& g, ModelWeights<Accum<T>>& grad) {
  const int64_t layer = config.layer_of(visit);
  const size_t l = static_cast<size_t>(layer);
  const BlockSaved<T>& block = saved.blocks[static_cast<size_t>(visit)];
  BlockWeights<Accum<T>>& gw = grad.blocks[l];
  const OutputScale<T> output_scale = {weights.blocks[l].branch_scale, gw.branch_scale};
  if (config.is_mamba(layer)) {
    return MambaBackward<T>(arena, config,
                            {.weights = weights.blocks[l].mamba,
                             .input = block.normed,
                             .saved = block.mamba,
                             .doutput = g.dresidual,
                             .output_scale = output_scale,
                             .dinput = dinput,
                             .grad = gw.mamba});
  }
  AttentionSourceGrads<T> sources;
  const bool has_ve = config.value_embedding_index(layer) >= 0;
  if (has_ve) {
    sources.dvalue_embedding = g.has_dve ? arena.New<T>(g.dve_projected.shape()) : g.dve_projected;
    sources.dve_scale = grad.ve_scale;
  }
  const int64_t source = config.value_residual_source();
  Tensor<const T> dv_from_outside;
  if (source >= 0 && visit > source) sources.dfirst_v = g.dfirst_v;
  if (source >= 0 && visit == source) dv_from_outside = g.dfirst_v;
  AttentionLayerBackward<T>(arena, config,
                            {.weights = weights.blocks[l].attention,
                             .sources = SourcesOf(config, weights, saved, visit),
                             .input = block.normed,
                             .saved = block.attention,
                             .doutput = g.dresidual,
                             .output_scale = output_scale,
                             .dv_from_outside = dv_from_outside,
                             .dinput = dinput,
                             .grad = gw.attention,
                             .source_grads = sources});
  if (has_ve && g.has_dve) AddTo<T>(arena, sources.dvalue_embedding, 1, g.dve_projected);
  g.has_dve = g.has_dve || has_ve;
}

// From the gradient of mlp_scale times the MLP's output to that of its input.
template <typename T>
void MlpGradient(Arena& arena, const BlockWeights<T>& w, const BlockSaved<T>& block, Tensor<const T> dmlp,
                 Tensor<const E5m2> dmlp8, const InputGradient<T>& input, BlockWeights<Accum<T>>& grad) {
  MlpBackward<T>(arena, {.forward = MlpOf(w, block),
                         .columns = {w.mlp_scale, grad.mlp_scale},
                         .dy = dmlp,
                         .dy8 = dmlp8,
                         .input = input,
                         .dup = grad.up,
                         .ddown = grad.down});
}

// The step into the visit, whose gradient that of u is in g.dresidual.
template <typename T>
ResidualNormGradArgs<T> StepIntoGradient(const ModelConfig& config, const ModelWeights<T>& weights,
                                         const ModelSaved<T>& saved, int64_t visit, ResidualGrads<T>& g,
                                         ModelWeights<Accum<T>>& grad) {
  ResidualNormGradArgs<T> into;
  into.forward = WithoutBranch(StepInto(config, weights, saved, visit));
  into.du = g.dresidual;
  // The output of the visit below is this step's y where it was not materialized: the decoder's share joins
  // here.
  if (visit > 0 && visit - 1 < config.encoder_visits() && !OutputIsMaterialized(config, visit - 1)) {
    into.dy = g.dskip[static_cast<size_t>(visit) - 1];
  }
  into.dx = visit == 0 ? g.dx0 : g.dresidual;
  if (visit > 0 && !OutputIsMaterialized(config, visit - 1)) into.dx8 = g.dresidual8;
  if (const std::optional<Skip> skip = SkipInto(config, visit)) {
    // The visit below is the last of the encoder: its output is skip and residual stream.
    const bool is_own_skip = skip->from_visit + 1 == visit;
    into.dskip = is_own_skip ? g.dresidual : g.dskip[static_cast<size_t>(skip->from_visit)];
    into.dskip_weight = grad.skip_weights.Slice(skip->index, 1).Reshaped({config.dim});
  }
  into.dx0 = g.dx0;
  into.begins_dx0 = visit + 1 == config.visit_count();
  into.dmix = grad.blocks[BlockOf(config, visit)].mix;
  return into;
}

}  // namespace

void LayerWeightsToFp8(Arena& arena, const ModelConfig& config, const ModelWeights<Bf16>& weights,
                       ModelSaved<Bf16>* saved) {
  std::vector<ScaledWeight> all;
  for (const BlockWeights<Bf16>& layer : weights.blocks) {
    const bool is_mamba = !layer.mamba.in_proj.empty();
    all.push_back({.weight = is_mamba ? layer.mamba.in_proj : layer.attention.qkv, .forward_only = true});
    all.push_back({.weight = layer.up});
    all.push_back({.weight = layer.down, .scale = layer.mlp_scale});
  }
  const std::vector<Fp8Weight> all8 = WeightsToFp8(arena, all);
  for (int64_t visit = 0; visit < config.visit_count(); ++visit) {
    BlockSaved<Bf16>& block = saved->blocks[static_cast<size_t>(visit)];
    const Fp8Weight* const layer8 = all8.data() + 3 * BlockOf(config, visit);
    block.mixer8 = layer8[0];
    block.up8 = layer8[1];
    block.down8 = layer8[2];
  }
}

template <typename T, typename W>
void BlockForward(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights, int64_t visit,
                  const ForwardOptions<T>& options, ModelSaved<T>* saved) {
  const int64_t rows = saved->batch * saved->time, dim = config.dim;
  const int64_t layer = config.layer_of(visit);
  const BlockWeights<W>& w = weights.blocks[static_cast<size_t>(layer)];
  BlockSaved<T>& block = saved->blocks[static_cast<size_t>(visit)];
  if (visit == 0) {
    NewStepInto(arena, config, visit, options.fp8, saved);
    ResidualNormForward<T>(arena, StepInto(config, weights, *saved, visit));
  }
  NewStepInto(arena, config, visit + 1, options.fp8, saved);
  block.v = arena.New<T>({rows, dim});
  if (OutputIsMaterialized(config, visit)) {
    block.output = arena.New<T>({rows, dim});
    block.ungated = HasTokenGate(config, visit) ? arena.New<T>({rows, dim}) : block.output;
  }
  std::optional<Arena::Scope> scope;
  // What later visits read of this one, its v, is taken without the scope and survives it.
  if (!options.keep && visit != config.value_residual_source()) scope.emplace(arena);
  if (config.is_parallel(layer)) {
    block.mlp_normed = block.normed;
    block.mlp_normed8 = block.normed8;
  } else {
    block.mlp_rstd = arena.New<Accum<T>>({rows});
    block.mlp_normed = arena.New<T>({rows, dim});
    if (options.fp8) block.mlp_normed8 = arena.New<E4m3>({rows, dim});
  }
  if (options.fp8 && options.keep && !config.is_parallel(layer) &&
      Fp8MlpServes(arena.device(), rows, dim, config.mlp_width)) {
    block.activated8t = arena.New<E4m3>({config.mlp_width, rows});
  } else {
    block.activated = arena.New<T>({rows, config.mlp_width});
  }
  if (options.keep) block.negative = arena.New<uint32_t>({rows, SignWords(config.mlp_width)});

  const ResidualNormArgs<T> to_mlp = StepToMlp(config, w, block, layer);
  if (config.is_mamba(layer)) {
    MambaBranchForward<T, W>(arena, config, weights, visit, to_mlp, options, saved);
  } else {
    AttentionBranchForward<T, W>(arena, config, weights, visit, to_mlp, options, saved);
  }
  MlpAndStepForward<T, W>(arena, config, weights, visit, saved);
}

template <typename T>
ResidualGrads<T> NewResidualGrads(Arena& arena, const ModelConfig& config, const ModelSaved<T>& saved) {
  const int64_t rows = saved.batch * saved.time, dim = config.dim;
  ResidualGrads<T> g;
  g.dresidual = arena.New<T>({rows, dim});
  if (!saved.blocks[0].normed8.empty()) g.dresidual8 = arena.New<E5m2>({rows, dim});
  g.dx0 = arena.New<T>({rows, dim});
  for (int64_t visit = 0; visit + 1 < config.skip_count(); ++visit) {
    g.dskip.push_back(arena.New<T>({rows, dim}));
  }
  if (config.value_embedding_count() > 0) g.dve_projected = arena.New<T>({rows, config.kv_dim()});
  if (const int64_t source = config.value_residual_source(); source >= 0) {
    g.dfirst_v = arena.NewZero<T>(saved.blocks[static_cast<size_t>(source)].attention.v.shape());
  }
  return g;
}

template <typename T>
void BlockBackward(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                   const ModelSaved<T>& saved, int64_t visit, ResidualGrads<T>& g,
                   ModelWeights<Accum<T>>& grad) {
  Arena::Scope scope(arena);
  const int64_t layer = config.layer_of(visit);
  const BlockWeights<T>& w = weights.blocks[static_cast<size_t>(layer)];
  const BlockSaved<T>& block = saved.blocks[static_cast<size_t>(visit)];
  BlockWeights<Accum<T>>& gw = grad.blocks[static_cast<size_t>(layer)];
  Tensor<T> du_gate;
  OutputBackward(arena, config, w, block, visit, g, gw, &du_gate);
  const Tensor<const E5m2> doutput8 = Output8(arena, config, block, visit, g);
  ResidualNormGradArgs<T> into = StepIntoGradient(config, weights, saved, visit, g, grad);
  // What a token gate sends to u joins when mixer and MLP have read g.dresidual, before the step into the visit.
  InputGradient<T> dnormed = {.step = du_gate.empty() ? &into : nullptr};
  if (config.is_parallel(layer) || !du_gate.empty()) dnormed.dx = arena.New<T>(block.normed.shape());
  if (config.is_parallel(layer)) {
    MixerBackward<T>(arena, config, weights, saved, visit, {.dx = dnormed.dx}, g, grad);
    dnormed.add = true;
    MlpGradient<T>(arena, w, block, g.dresidual, doutput8, dnormed, gw);
  } else {
    ResidualNormGradArgs<T> to_mlp;
    to_mlp.forward = WithoutBranch(StepToMlp(config, w, block, layer));
    to_mlp.du = g.dresidual;
    to_mlp.dx = g.dresidual;  // then the gradient of u + branch_scale * branch
    MlpGradient<T>(arena, w, block, g.dresidual, doutput8, {.step = &to_mlp}, gw);
    MixerBackward<T>(arena, config, weights, saved, visit, dnormed, g, grad);
  }
  if (du_gate.empty()) return;
  AddTo<T>(arena, du_gate, 1, g.dresidual);
  into.dnormed = dnormed.dx;
  ResidualNormBackward<T>(arena, into);
}

#define HM11_INSTANTIATE(T)                                                                                \
  template void BlockForward<T, T>(Arena&, const ModelConfig&, const ModelWeights<T>&, int64_t,            \
                                   const ForwardOptions<T>&, ModelSaved<T>*);                              \
  template ResidualGrads<T> NewResidualGrads<T>(Arena&, const ModelConfig&, const ModelSaved<T>&);         \
  template void BlockBackward<T>(Arena&, const ModelConfig&, const ModelWeights<T>&, const ModelSaved<T>&, \
                                 int64_t, ResidualGrads<T>&, ModelWeights<Accum<T>>&);
HM11_INSTANTIATE(double)
HM11_INSTANTIATE(float)
HM11_INSTANTIATE(Bf16)
#undef HM11_INSTANTIATE
template void BlockForward<float, Fp16>(Arena&, const ModelConfig&, const ModelWeights<Fp16>&, int64_t,
                                        const ForwardOptions<float>&, ModelSaved<float>*);

}  // namespace hm11
