// LanguageModel: the stream through the U-Net, forward down and backward up.
//
// Between two layers the stream is a sum that nobody has added up yet, v + mlp_scale * mlp of the layer
// before; the residual step into the next layer adds it, so each tensor is read once. On the way back the
// gradient of that sum is the one of both terms, up to mlp_scale, which the gradients of the branch's last
// product take into account (ops/scaled_matmul.h): the steps backward have nothing to do with branches.
#include "model/language_model.h"

#include <algorithm>
#include <optional>

#include "ops/attention_step.h"
#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/matmul.h"
#include "ops/mlp.h"
#include "ops/residual_norm.h"
#include "ops/scaled_matmul.h"
#include "ops/shift_targets.h"
#include "ops/smear.h"
#include "ops/token_gate.h"

namespace hm11 {
namespace {

// The decoder visit's encoder partner: visit `visit` adds skip_weights[index] times that partner's output.
struct Skip {
  int64_t from_visit;
  int64_t index;
};
std::optional<Skip> SkipInto(const ModelConfig& config, int64_t visit) {
  const int64_t index = visit - config.encoder_visits();
  if (index < 0 || index >= config.skip_count()) return std::nullopt;
  return Skip{.from_visit = config.encoder_visits() - 1 - index, .index = index};
}

// Where the weights of a visit's layer stand.
size_t BlockOf(const ModelConfig& config, int64_t visit) {
  return static_cast<size_t>(config.layer_of(visit));
}

bool HasTokenGate(const ModelConfig& config, int64_t visit) {
  return config.token_gate && !config.is_mamba(config.layer_of(visit));
}

// Whether the visit's output is added up in a tensor of its own: for token gating, and for the last encoder
// visit, whose output is both stream and skip of the next.
bool OutputIsMaterialized(const ModelConfig& config, int64_t visit) {
  return HasTokenGate(config, visit) || (visit + 1 == config.encoder_visits() && config.skip_count() > 0);
}

// The visit's output as later visits see it.
template <typename T>
Tensor<T> OutputOf(const ModelConfig& config, const ModelSaved<T>& saved, int64_t visit) {
  return OutputIsMaterialized(config, visit) ? saved.blocks[static_cast<size_t>(visit)].output
                                             : saved.blocks[static_cast<size_t>(visit) + 1].y;
}

// The residual step into `visit`, or after the last visit into the final norm.
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
      args.branch = before.mlp;
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
  return args;
}

// The residual step between mixer and MLP; in a parallel layer the MLP reads the mixer's norm.
template <typename T, typename W>
ResidualNormArgs<T> StepToMlp(const ModelConfig& config, const BlockWeights<W>& weights,
                              const BlockSaved<T>& block, int64_t layer) {
  ResidualNormArgs<T> args;
  args.x = block.u;
  args.branch = block.branch;
  args.branch_scale = weights.branch_scale;
  args.y = block.v;
  if (config.is_parallel(layer)) return args;
  args.norm_scale = static_cast<Accum<T>>(config.norm_scale(layer));
  args.normed = block.mlp_normed;
  args.rstd = block.mlp_rstd;
  return args;
}

template <typename T, typename W>
MlpArgs<T, W> MlpOf(const BlockWeights<W>& weights, const BlockSaved<T>& block) {
  return {.x = block.mlp_normed,
          .up = weights.up,
          .down = weights.down,
          .activated = block.activated,
          .negative = block.negative,
          .y = block.mlp};
}

// Adds up the layer's output without a norm.
template <typename T, typename W>
ResidualNormArgs<T> StepToOutput(const BlockWeights<W>& weights, const BlockSaved<T>& block, Tensor<T> y) {
  ResidualNormArgs<T> args;
  args.x = block.v;
  args.branch = block.mlp;
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

template <typename T, typename W>
ResidualNormArgs<T> EmbeddingSum(const ModelWeights<W>& weights, const EmbeddingSaved<T>& e, int64_t rows,
                                 int64_t dim) {
  ResidualNormArgs<T> args;
  args.x = e.tokens;
  if (!e.bigram_projected.empty()) {
    args.branch = e.bigram_projected;
    args.branch_scale = weights.bigram_scale;
  }
  args.y = e.summed;
  args.normed = e.normed.Reshaped({rows, dim});
  args.rstd = e.rstd;
  return args;
}

// The ids that a stream keeps, then those of its next piece.
template <typename T>
Tensor<int32_t> JoinedIds(Arena& arena, const StreamState<T>& stream, Tensor<const int32_t> ids) {
  const Tensor<int32_t> joined = NewAfterKept(arena, stream.ids, stream.kept, ids.size());
  arena.device().CopyOnDevice(joined.Slice(stream.kept, ids.size()).data(), ids.data(), ids.size_bytes());
  return joined;
}

// The hash of each id and the one before it; of a stream's first id here, the last one of the piece before.
template <typename T>
Tensor<int32_t> HashForward(Arena& arena, const ModelConfig& config, Tensor<const int32_t> ids,
                            const StreamState<T>* stream, Tensor<const int32_t> joined) {
  if (stream == nullptr || stream->kept == 0) {
    const Tensor<int32_t> hash = arena.New<int32_t>(ids.shape());
    BigramHash(arena, ids, config.bigram_rows, hash);
    return hash;
  }
  const int64_t rows = ids.size();
  const Tensor<int32_t> hash = arena.New<int32_t>({1, rows + 1});
  BigramHash(arena, joined.Slice(stream->kept - 1, rows + 1).Reshaped({1, rows + 1}), config.bigram_rows,
             hash);
  return hash.Reshaped({rows + 1}).Slice(1, rows).Reshaped(ids.shape());
}

template <typename T, typename W>
void EmbeddingsForward(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights,
                       StreamState<T>* stream, ModelSaved<T>* saved) {
  const int64_t batch = saved->batch, time = saved->time, rows = batch * time, dim = config.dim;
  const Tensor<const int32_t> ids = saved->ids.Reshaped({rows});
  Tensor<int32_t> joined;
  if (stream != nullptr) joined = JoinedIds(arena, *stream, ids);
  EmbeddingSaved<T>& e = saved->embedding;
  e.tokens = arena.New<T>({rows, dim});
  EmbeddingForward<T, W>(arena, {.ids = ids, .table = weights.token_embedding, .y = e.tokens});
  if (config.bigram_rows > 0) {
    e.hash = HashForward<T>(arena, config, saved->ids, stream, joined);
    e.bigram = arena.New<T>({rows, config.bigram_dim});
    e.bigram_projected = arena.New<T>({rows, dim});
    EmbeddingForward<T, W>(
        arena, {.ids = e.hash.Reshaped({rows}), .table = weights.bigram_embedding, .y = e.bigram});
    MatmulForward<T, W>(arena, {.x = e.bigram, .weight = weights.bigram_proj, .y = e.bigram_projected});
  }
  e.summed = arena.New<T>({rows, dim});
  e.rstd = arena.New<Accum<T>>({rows});
  e.normed = arena.New<T>({batch, time, dim});
  ResidualNormForward<T>(arena, EmbeddingSum(weights, e, rows, dim));
  saved->x0 = arena.New<T>({batch, time, dim});
  SmearArgs<T> smear = {.x = e.normed, .gate = weights.smear_gate, .previous = {}, .y = saved->x0};
  if (stream != nullptr && stream->kept > 0) smear.previous = stream->embedding;
  SmearForward<T>(arena, smear);
  if (stream != nullptr) {
    KeepLast(arena, e.normed.Reshaped({rows, dim}), stream->embedding);
    KeepLast(arena, joined, stream->ids);
  }
  if (config.value_embedding_count() > 0) {
    const Tensor<const int32_t> seen =
        stream == nullptr ? ids : Tensor<const int32_t>(RowsOfWindows(arena, stream->windows, joined));
    e.ve = arena.New<T>({seen.dim(0), config.value_embedding_dim});
    e.ve_projected = arena.New<T>({seen.dim(0), config.kv_dim()});
    EmbeddingForward<T, W>(arena, {.ids = seen, .table = weights.ve_embedding, .y = e.ve});
    MatmulForward<T, W>(arena, {.x = e.ve, .weight = weights.ve_proj, .y = e.ve_projected});
  }
}

// dx0 and dve_projected: what reached x0 and the projected value embeddings.
template <typename T>
void EmbeddingsBackward(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                        const ModelSaved<T>& saved, Tensor<const T> dx0, Tensor<const T> dve_projected,
                        ModelWeights<Accum<T>>& grad) {
  Arena::Scope scope(arena);
  const int64_t batch = saved.batch, time = saved.time, rows = batch * time, dim = config.dim;
  const Tensor<const int32_t> ids = saved.ids.Reshaped({rows});
  const EmbeddingSaved<T>& e = saved.embedding;
  if (!dve_projected.empty()) {
    Tensor<T> dve = arena.New<T>({rows, config.value_embedding_dim});
    MatmulBackward<T>(
        arena,
        {.dy = dve_projected, .x = e.ve, .weight = weights.ve_proj, .dx = dve, .dweight = grad.ve_proj});
    EmbeddingBackward<T>(arena, {.ids = ids, .dy = dve, .dtable = grad.ve_embedding});
  }
  Tensor<T> dnormed = arena.New<T>({batch, time, dim});
  SmearBackward<T>(arena, {.x = e.normed,
                           .gate = weights.smear_gate,
                           .dy = dx0.Reshaped({batch, time, dim}),
                           .dx = dnormed,
                           .dgate = grad.smear_gate});
  Tensor<T> dtokens = arena.New<T>({rows, dim});
  ResidualNormGradArgs<T> sum;
  sum.forward = EmbeddingSum(weights, e, rows, dim);
  sum.dnormed = dnormed.Reshaped({rows, dim});
  sum.dx = dtokens;
  if (config.bigram_rows > 0) {
    sum.dbranch = arena.New<T>({rows, dim});
    sum.dbranch_scale = grad.bigram_scale;
  }
  ResidualNormBackward<T>(arena, sum);
  EmbeddingBackward<T>(arena, {.ids = ids, .dy = dtokens, .dtable = grad.token_embedding});
  if (config.bigram_rows > 0) {
    Tensor<T> dbigram = arena.New<T>({rows, config.bigram_dim});
    MatmulBackward<T>(arena, {.dy = sum.dbranch,
                              .x = e.bigram,
                              .weight = weights.bigram_proj,
                              .dx = dbigram,
                              .dweight = grad.bigram_proj});
    EmbeddingBackward<T>(arena,
                         {.ids = e.hash.Reshaped({rows}), .dy = dbigram, .dtable = grad.bigram_embedding});
  }
}

// The Mamba branch, on from the stream's state where there is one.
template <typename T, typename W>
Tensor<T> MambaBranchForward(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights,
                             int64_t visit, const ForwardOptions<T>& options, ModelSaved<T>* saved) {
  const size_t v = static_cast<size_t>(visit);
  BlockSaved<T>& block = saved->blocks[v];
  const MambaWeights<W>& mamba = weights.blocks[BlockOf(config, visit)].mamba;
  const StreamState<T>* const stream = options.stream;
  if (stream == nullptr) {
    return MambaForward<T, W>(arena, config, mamba, block.normed, saved->batch, saved->time, &block.mamba,
                              {.keep = options.keep});
  }
  const MambaState<T>& state = stream->mamba[v];
  MambaState<T> after = NewMambaState<T>(arena, config);
  const Tensor<T> branch = MambaForward<T, W>(
      arena, config, mamba, block.normed, 1, saved->time, &block.mamba,
      {.keep = options.keep, .before = stream->kept > 0 ? &state : nullptr, .after = &after});
  arena.device().CopyOnDevice(state.scan.data(), after.scan.data(), after.scan.size_bytes());
  arena.device().CopyOnDevice(state.tail.data(), after.tail.data(), after.tail.size_bytes());
  return branch;
}

template <typename T, typename W>
void BlockForward(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights, int64_t visit,
                  const ForwardOptions<T>& options, ModelSaved<T>* saved) {
  const int64_t batch = saved->batch, time = saved->time, rows = batch * time, dim = config.dim;
  const int64_t layer = config.layer_of(visit);
  const BlockWeights<W>& w = weights.blocks[static_cast<size_t>(layer)];
  BlockSaved<T>& block = saved->blocks[static_cast<size_t>(visit)];
  for (Tensor<T>* tensor : {&block.y, &block.u, &block.v, &block.mlp}) *tensor = arena.New<T>({rows, dim});
  if (OutputIsMaterialized(config, visit)) {
    block.output = arena.New<T>({rows, dim});
    block.ungated = HasTokenGate(config, visit) ? arena.New<T>({rows, dim}) : block.output;
  }
  std::optional<Arena::Scope> scope;
  // What later visits read of this one, its v, is taken without the scope and survives it.
  if (!options.keep && visit != config.value_residual_source()) scope.emplace(arena);
  block.rstd = arena.New<Accum<T>>({rows});
  block.normed = arena.New<T>({rows, dim});
  if (config.is_parallel(layer)) {
    block.mlp_normed = block.normed;
  } else {
    block.mlp_rstd = arena.New<Accum<T>>({rows});
    block.mlp_normed = arena.New<T>({rows, dim});
  }
  block.activated = arena.New<T>({rows, config.mlp_width});
  if (options.keep) block.negative = arena.New<uint32_t>({rows, SignWords(config.mlp_width)});

  ResidualNormForward<T>(arena, StepInto(config, weights, *saved, visit));
  block.branch = config.is_mamba(layer)
                     ? MambaBranchForward<T, W>(arena, config, weights, visit, options, saved)
                     : AttentionLayerForward<T, W>(arena, config, visit, w.attention,
                                                   SourcesOf(config, weights, *saved, visit), block.normed,
                                                   batch, time, &block.attention, options.stream);
  ResidualNormForward<T>(arena, StepToMlp(config, w, block, layer));
  MlpForward<T, W>(arena, MlpOf(w, block));
  if (!OutputIsMaterialized(config, visit)) return;
  ResidualNormForward<T>(arena, StepToOutput(w, block, block.ungated));
  if (HasTokenGate(config, visit)) {
    TokenGateForward<T>(arena, {.u = block.u,
                                .x = block.ungated,
                                .weight = w.attention.token_gate,
                                .bias = w.attention.token_gate_bias,
                                .y = block.output});
  }
}

// Gradients that live across visits.
template <typename T>
struct StreamGrads {
  Tensor<T> dstream;             // [rows, dim]: of the sum at the current boundary
  Tensor<T> dx0;                 // [rows, dim]: sums over visits
  std::vector<Tensor<T>> dskip;  // per encoder visit: what its output gets from the decoder
  Tensor<T> dve_projected;       // [rows, kv_dim]: sums over visits
  Tensor<T> dfirst_v;            // sums over visits
};

// Makes g.dstream, the gradient of the visit's output, that of v + mlp_scale * mlp; du_gate is what a token
// gate sends to u.
template <typename T>
void OutputBackward(Arena& arena, const ModelConfig& config, const BlockWeights<T>& w,
                    const BlockSaved<T>& block, int64_t visit, StreamGrads<T>& g,
                    BlockWeights<Accum<T>>& grad, Tensor<T>* du_gate) {
  if (!OutputIsMaterialized(config, visit)) return;
  const size_t v = static_cast<size_t>(visit);
  if (visit < config.encoder_visits() && v < g.dskip.size() && !g.dskip[v].empty()) {
    AddTo<T>(arena, g.dskip[v], 1, g.dstream);
  }
  if (HasTokenGate(config, visit)) {
    *du_gate = arena.New<T>(block.u.shape());
    Tensor<T> dungated = arena.New<T>(block.u.shape());
    TokenGateBackward<T>(arena, {.u = block.u,
                                 .x = block.ungated,
                                 .weight = w.attention.token_gate,
                                 .bias = w.attention.token_gate_bias,
                                 .dy = g.dstream,
                                 .du = *du_gate,
                                 .dx = dungated,
                                 .dweight = grad.attention.token_gate,
                                 .dbias = grad.attention.token_gate_bias});
    arena.device().CopyOnDevice(g.dstream.data(), dungated.data(), dungated.size_bytes());
  }
}

// A step backward: that of x alone, the branch having been taken care of.
template <typename T>
ResidualNormArgs<T> WithoutBranch(ResidualNormArgs<T> step) {
  step.branch = {};
  step.branch_scale = {};
  return step;
}

// dbranch: the gradient of branch_scale times the branch.
template <typename T>
void MixerBackward(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                   const ModelSaved<T>& saved, int64_t visit, Tensor<const T> dbranch, Tensor<T> dnormed,
                   StreamGrads<T>& g, ModelWeights<Accum<T>>& grad) {
  const int64_t layer = config.layer_of(visit);
  const size_t l = static_cast<size_t>(layer);
  const BlockSaved<T>& block = saved.blocks[static_cast<size_t>(visit)];
  BlockWeights<Accum<T>>& gw = grad.blocks[l];
  const OutputScale<T> output_scale = {weights.blocks[l].branch_scale, gw.branch_scale};
  if (config.is_mamba(layer)) {
    return MambaBackward<T>(arena, config, weights.blocks[l].mamba, block.normed, saved.batch, saved.time,
                            block.mamba, dbranch, output_scale, dnormed, gw.mamba);
  }
  AttentionSourceGrads<T> sources;
  const bool has_ve = config.value_embedding_index(layer) >= 0;
  if (has_ve) {
    sources.dvalue_embedding = arena.New<T>(g.dve_projected.shape());
    sources.dve_scale = grad.ve_scale;
  }
  const int64_t source = config.value_residual_source();
  Tensor<const T> dv_from_outside;
  if (source >= 0 && visit > source) sources.dfirst_v = g.dfirst_v;
  if (source >= 0 && visit == source) dv_from_outside = g.dfirst_v;
  AttentionLayerBackward<T>(arena, config, weights.blocks[l].attention,
                            SourcesOf(config, weights, saved, visit), block.normed, saved.batch, saved.time,
                            block.attention, dbranch, output_scale, dv_from_outside, dnormed, gw.attention,
                            sources);
  if (has_ve) AddTo<T>(arena, sources.dvalue_embedding, 1, g.dve_projected);
}

// From the gradient of mlp_scale times the MLP's output to that of its input, written or added to dnormed.
template <typename T>
void MlpGradient(Arena& arena, const BlockWeights<T>& w, const BlockSaved<T>& block, Tensor<const T> dmlp,
                 bool add_to_dnormed, Tensor<T> dnormed, BlockWeights<Accum<T>>& grad) {
  MlpBackward<T>(arena, {.forward = MlpOf(w, block),
                         .columns = {w.mlp_scale, grad.mlp_scale},
                         .dy = dmlp,
                         .dx = dnormed,
                         .add_to_dx = add_to_dnormed,
                         .dup = grad.up,
                         .ddown = grad.down});
}

// Through mixer, MLP and the step between them: g.dstream becomes the gradient of u, dnormed is written.
template <typename T>
void BranchesBackward(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                      const ModelSaved<T>& saved, int64_t visit, Tensor<T> dnormed, StreamGrads<T>& g,
                      ModelWeights<Accum<T>>& grad) {
  const int64_t layer = config.layer_of(visit);
  const BlockWeights<T>& w = weights.blocks[static_cast<size_t>(layer)];
  const BlockSaved<T>& block = saved.blocks[static_cast<size_t>(visit)];
  BlockWeights<Accum<T>>& gw = grad.blocks[static_cast<size_t>(layer)];
  const bool parallel = config.is_parallel(layer);
  Tensor<T> du_gate;
  OutputBackward(arena, config, w, block, visit, g, gw, &du_gate);
  if (!parallel) {
    MlpGradient<T>(arena, w, block, g.dstream, false, dnormed, gw);
    ResidualNormGradArgs<T> to_mlp;
    to_mlp.forward = WithoutBranch(StepToMlp(config, w, block, layer));
    to_mlp.dnormed = dnormed;
    to_mlp.du = g.dstream;
    to_mlp.dx = g.dstream;  // now the gradient of u + branch_scale * branch
    ResidualNormBackward<T>(arena, to_mlp);
  }
  MixerBackward<T>(arena, config, weights, saved, visit, g.dstream, dnormed, g, grad);
  if (parallel) MlpGradient<T>(arena, w, block, g.dstream, true, dnormed, gw);
  if (!du_gate.empty()) AddTo<T>(arena, du_gate, 1, g.dstream);
}

template <typename T>
void BlockBackward(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                   const ModelSaved<T>& saved, int64_t visit, StreamGrads<T>& g,
                   ModelWeights<Accum<T>>& grad) {
  Arena::Scope scope(arena);
  const int64_t rows = saved.batch * saved.time, dim = config.dim;
  Tensor<T> dnormed = arena.New<T>({rows, dim});
  BranchesBackward<T>(arena, config, weights, saved, visit, dnormed, g, grad);

  ResidualNormGradArgs<T> into;
  into.forward = WithoutBranch(StepInto(config, weights, saved, visit));
  into.dnormed = dnormed;
  into.du = g.dstream;
  // The output of the visit below is this step's y where it was not materialized: the decoder's share joins
  // here.
  if (visit > 0 && visit - 1 < config.encoder_visits() && !OutputIsMaterialized(config, visit - 1)) {
    into.dy = g.dskip[static_cast<size_t>(visit) - 1];
  }
  into.dx = g.dstream;
  if (const std::optional<Skip> skip = SkipInto(config, visit)) {
    into.dskip = g.dskip[static_cast<size_t>(skip->from_visit)];
    into.dskip_weight = grad.skip_weights.Slice(skip->index, 1).Reshaped({dim});
  }
  into.dx0 = g.dx0;
  into.dmix = grad.blocks[BlockOf(config, visit)].mix;
  ResidualNormBackward<T>(arena, into);
}

template <typename T>
StreamGrads<T> NewStreamGrads(Arena& arena, const ModelConfig& config, const ModelSaved<T>& saved) {
  const int64_t rows = saved.batch * saved.time, dim = config.dim;
  StreamGrads<T> g;
  g.dstream = arena.New<T>({rows, dim});
  g.dx0 = arena.NewZero<T>({rows, dim});
  for (int64_t visit = 0; visit < config.skip_count(); ++visit) g.dskip.push_back(arena.New<T>({rows, dim}));
  if (config.value_embedding_count() > 0) g.dve_projected = arena.NewZero<T>({rows, config.kv_dim()});
  if (const int64_t source = config.value_residual_source(); source >= 0) {
    g.dfirst_v = arena.NewZero<T>(saved.blocks[static_cast<size_t>(source)].attention.v.shape());
  }
  return g;
}

// One head's cross entropy and its gradient: dhidden = or += the head's share; dhead adds.
template <typename T>
void HeadLoss(Arena& arena, const ModelConfig& config, Tensor<const T> hidden, Tensor<const T> head,
              Tensor<const int32_t> targets, int64_t counted, Accum<T> scale, bool add_to_dhidden,
              Tensor<T> dhidden, Tensor<Accum<T>> dhead, Tensor<Accum<T>> loss) {
  Arena::Scope scope(arena);
  using A = Accum<T>;
  const int64_t rows = hidden.dim(0);
  Tensor<T> logits = arena.New<T>({rows, config.vocab});
  Tensor<A> losses = arena.New<A>({rows});
  const A mean = static_cast<A>(1.0 / static_cast<double>(counted));
  MatmulForward<T>(arena, {.x = hidden, .weight = head, .y = logits});
  CrossEntropyGradient<T>(arena, {.logits = logits,
                                  .targets = targets,
                                  .soft_cap = static_cast<A>(config.soft_cap),
                                  .dloss = scale * mean,
                                  .losses = losses});
  Sum<A>(arena, losses, mean, loss);
  MatmulBackward<T>(arena, {.dy = logits,
                            .x = hidden,
                            .weight = head,
                            .dx = dhidden,
                            .add_to_dx = add_to_dhidden,
                            .dweight = dhead});
}

}  // namespace

template <typename T, typename W>
Tensor<T> HiddenForward(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights,
                        Tensor<const int32_t> ids, ModelSaved<T>* saved, const ForwardOptions<T>& options) {
  HM_CHECK_EQ(ids.rank(), 2);
  HM_CHECK(options.stream == nullptr || (ids.dim(0) == 1 && !options.keep));
  const int64_t rows = ids.size();
  saved->batch = ids.dim(0);
  saved->time = ids.dim(1);
  saved->ids = ids;
  saved->blocks.assign(static_cast<size_t>(config.visit_count()), {});
  saved->final_y = arena.New<T>({rows, config.dim});
  saved->hidden = arena.New<T>({rows, config.dim});
  saved->final_rstd = arena.New<Accum<T>>({rows});
  if (StreamState<T>* stream = options.stream; stream != nullptr && stream->steps()) {
    HM_CHECK_EQ(rows, int64_t{1});
    if (stream->kept == 0 && !arena.device().is_plan()) {
      arena.device().Zero(stream->place.data(), stream->place.size_bytes());
    }
  }
  EmbeddingsForward<T, W>(arena, config, weights, options.stream, saved);
  for (int64_t visit = 0; visit < config.visit_count(); ++visit) {
    BlockForward<T, W>(arena, config, weights, visit, options, saved);
  }
  ResidualNormForward<T>(arena, StepInto(config, weights, *saved, config.visit_count()));
  if (StreamState<T>* stream = options.stream; stream != nullptr) {
    if (stream->steps()) AdvancePlace(arena, stream->place);
    stream->kept = std::min(stream->kept + rows, stream->ids.dim(0));
  }
  return saved->hidden;
}

template <typename T>
void HiddenBackward(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                    const ModelSaved<T>& saved, Tensor<const T> dhidden, ModelWeights<Accum<T>>& grad) {
  Arena::Scope scope(arena);
  StreamGrads<T> g = NewStreamGrads(arena, config, saved);
  ResidualNormGradArgs<T> final_step;
  final_step.forward = WithoutBranch(StepInto(config, weights, saved, config.visit_count()));
  final_step.dnormed = dhidden;
  final_step.dx = g.dstream;
  ResidualNormBackward<T>(arena, final_step);
  for (int64_t visit = config.visit_count() - 1; visit >= 0; --visit) {
    BlockBackward<T>(arena, config, weights, saved, visit, g, grad);
  }
  AddTo<T>(arena, g.dstream, 1, g.dx0);
  EmbeddingsBackward<T>(arena, config, weights, saved, g.dx0, g.dve_projected, grad);
}

template <typename T, typename W>
Tensor<T> Logits(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights,
                 Tensor<const T> hidden) {
  Tensor<T> logits = arena.New<T>({hidden.dim(0), config.vocab});
  MatmulForward<T, W>(arena, {.x = hidden,
                              .weight = config.tied_embeddings ? weights.token_embedding : weights.lm_head,
                              .y = logits});
  return logits;
}

template <typename T, typename W>
Tensor<Accum<T>> LogProbabilities(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights,
                                  Tensor<const T> hidden) {
  Tensor<Accum<T>> log_probs = arena.New<Accum<T>>({hidden.dim(0), config.vocab});
  Arena::Scope scope(arena);
  const Tensor<T> logits = Logits<T, W>(arena, config, weights, hidden);
  SoftCapLogSoftmax<T>(arena, logits, static_cast<Accum<T>>(config.soft_cap), log_probs);
  return log_probs;
}

template <typename T>
void LossAndGradient(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                     Tensor<const int32_t> ids, Tensor<const int32_t> targets, Accum<T> loss_scale,
                     ModelWeights<Accum<T>>& grad, Tensor<Accum<T>> loss, Tensor<Accum<T>> total_loss) {
  using A = Accum<T>;
  Arena::Scope scope(arena);
  const int64_t batch = ids.dim(0), time = ids.dim(1), rows = batch * time;
  ModelSaved<T> saved;
  const Tensor<T> hidden = HiddenForward<T>(arena, config, weights, ids, &saved);
  Tensor<T> dhidden = arena.New<T>({rows, config.dim});
  HeadLoss<T>(arena, config, hidden, config.tied_embeddings ? weights.token_embedding : weights.lm_head,
              targets.Reshaped({rows}), rows, loss_scale, /*add_to_dhidden=*/false, dhidden,
              config.tied_embeddings ? grad.token_embedding : grad.lm_head, loss);
  if (!total_loss.empty()) {
    arena.device().CopyOnDevice(total_loss.data(), loss.data(), loss.size_bytes());
  }
  for (int64_t head = 0; head < config.mtp_heads && head + 1 < time; ++head) {
    Tensor<int32_t> shifted = arena.New<int32_t>({batch, time});
    Tensor<A> head_loss = arena.New<A>({1});
    const A share = static_cast<A>(config.mtp_weight / static_cast<double>(config.mtp_heads));
    ShiftTargets(arena, targets.Reshaped({batch, time}), head + 1, shifted);
    HeadLoss<T>(arena, config, hidden, weights.mtp_heads[static_cast<size_t>(head)], shifted.Reshaped({rows}),
                batch * (time - 1 - head), loss_scale * share, /*add_to_dhidden=*/true, dhidden,
                grad.mtp_heads[static_cast<size_t>(head)], head_loss);
    if (!total_loss.empty()) AddTo<A>(arena, head_loss, share, total_loss);
  }
  HiddenBackward<T>(arena, config, weights, saved, dhidden, grad);
}

template <typename T>
void TargetLosses(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                  Tensor<const T> hidden, Tensor<const int32_t> targets, Tensor<Accum<T>> losses) {
  using A = Accum<T>;
  Arena::Scope scope(arena);
  CrossEntropyForward<T>(arena, {.logits = Logits<T>(arena, config, weights, hidden),
                                 .targets = targets,
                                 .soft_cap = static_cast<A>(config.soft_cap),
                                 .losses = losses});
}

template <typename T>
Tensor<Accum<T>> TokenLosses(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                             Tensor<const int32_t> ids, Tensor<const int32_t> targets) {
  const int64_t rows = ids.size();
  const Tensor<Accum<T>> losses = arena.New<Accum<T>>({rows});
  Arena::Scope scope(arena);
  ModelSaved<T> saved;
  const Tensor<T> hidden = HiddenForward<T>(arena, config, weights, ids, &saved, {.keep = false});
  TargetLosses<T>(arena, config, weights, hidden, targets.Reshaped({rows}), losses);
  return losses;
}

#define HM11_INSTANTIATE(T)                                                                                 \
  template Tensor<T> HiddenForward<T, T>(Arena&, const ModelConfig&, const ModelWeights<T>&,                \
                                         Tensor<const int32_t>, ModelSaved<T>*, const ForwardOptions<T>&);  \
  template void HiddenBackward<T>(Arena&, const ModelConfig&, const ModelWeights<T>&, const ModelSaved<T>&, \
                                  Tensor<const T>, ModelWeights<Accum<T>>&);                                \
  template Tensor<T> Logits<T, T>(Arena&, const ModelConfig&, const ModelWeights<T>&, Tensor<const T>);     \
  template Tensor<Accum<T>> LogProbabilities<T, T>(Arena&, const ModelConfig&, const ModelWeights<T>&,      \
                                                   Tensor<const T>);                                        \
  template void LossAndGradient<T>(Arena&, const ModelConfig&, const ModelWeights<T>&,                      \
                                   Tensor<const int32_t>, Tensor<const int32_t>, Accum<T>,                  \
                                   ModelWeights<Accum<T>>&, Tensor<Accum<T>>, Tensor<Accum<T>>);            \
  template void TargetLosses<T>(Arena&, const ModelConfig&, const ModelWeights<T>&, Tensor<const T>,        \
                                Tensor<const int32_t>, Tensor<Accum<T>>);                                   \
  template Tensor<Accum<T>> TokenLosses<T>(Arena&, const ModelConfig&, const ModelWeights<T>&,              \
                                           Tensor<const int32_t>, Tensor<const int32_t>);
HM11_INSTANTIATE(double)
HM11_INSTANTIATE(float)
HM11_INSTANTIATE(Bf16)
#undef HM11_INSTANTIATE
template Tensor<float> HiddenForward<float, Fp16>(Arena&, const ModelConfig&, const ModelWeights<Fp16>&,
                                                  Tensor<const int32_t>, ModelSaved<float>*,
                                                  const ForwardOptions<float>&);
template Tensor<float> Logits<float, Fp16>(Arena&, const ModelConfig&, const ModelWeights<Fp16>&,
                                           Tensor<const float>);
template Tensor<float> LogProbabilities<float, Fp16>(Arena&, const ModelConfig&, const ModelWeights<Fp16>&,
                                                     Tensor<const float>);

}  // namespace hm11
