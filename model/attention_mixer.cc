// AttentionMixer: forward down, backward up, the same ops.
#include "model/attention_mixer.h"

#include "ops/attention.h"
#include "ops/attention_heads.h"
#include "ops/attention_of_heads.h"
#include "ops/attention_step.h"
#include "ops/exclusive_attention.h"
#include "ops/head_gate.h"
#include "ops/heads_product.h"
#include "ops/matmul.h"

namespace hm11 {
namespace {

template <typename T, typename W>
AttentionHeadsArgs<T> HeadsArgs(const ModelConfig& config, const AttentionWeights<W>& weights,
                                const AttentionSources<T>& sources, int64_t rope_length,
                                const AttentionSaved<T>& saved, Tensor<const int32_t> place = {}) {
  AttentionHeadsArgs<T> args;
  args.batch = saved.q.dim(0);
  args.time = saved.q.dim(1);
  args.rope_dims = config.rope_dims;
  args.rope_base = EffectiveRopeBase(config.rope_base, config.rope_dims, config.rope_length, rope_length);
  args.place = place;
  args.qkv = saved.qkv;
  args.q_gain = weights.q_gain;
  if (!sources.value_embedding.empty()) {
    args.value_embedding = sources.value_embedding;
    args.ve_layer_scale = weights.ve_layer_scale;
    args.ve_scale = sources.ve_scale;
  }
  if (!sources.first_v.empty()) {
    args.first_v = sources.first_v;
    args.residual = weights.residual;
  }
  args.q = saved.q;
  args.k = saved.k;
  args.v = saved.v;
  return args;
}

// The last of y, exclusive and gated that there is: what W_out reads.
template <typename T>
Tensor<T> MixedHeads(const AttentionSaved<T>& saved) {
  if (!saved.gated.empty()) return saved.gated;
  return saved.exclusive.empty() ? saved.y : saved.exclusive;
}

// W_qkv u of the sequence's next chunk, as its windows see it; keeps what later windows may.
template <typename T, typename W>
Tensor<T> ProjectChunk(Arena& arena, const AttentionWeights<W>& weights, Tensor<const T> input,
                       const SequenceState<T>& sequence, Tensor<T> kept) {
  const int64_t rows = input.dim(0);
  HM_CHECK_EQ(rows, sequence.windows.tokens());
  const Tensor<T> joined = NewAfterKept(arena, kept, sequence.kept, rows);
  MatmulForward<T, W>(arena, {.x = input, .weight = weights.qkv, .y = joined.Slice(sequence.kept, rows)});
  KeepLast(arena, joined, kept);
  return RowsOfWindows(arena, sequence.windows, joined);
}

// Attention of the newest token to those in the ring.
template <typename T>
void StepForward(Arena& arena, const SequenceState<T>& sequence, const AttentionRing<T>& ring,
                 const AttentionSaved<T>& saved) {
  const int64_t heads = saved.q.dim(2), kv_heads = saved.k.dim(2), head_dim = saved.q.dim(3);
  AttentionStepForward<T>(arena, {.q = saved.q.Reshaped({heads, head_dim}),
                                  .k = saved.k.Reshaped({kv_heads, head_dim}),
                                  .v = saved.v.Reshaped({kv_heads, head_dim}),
                                  .place = sequence.place,
                                  .keys = ring.keys,
                                  .values = ring.values,
                                  .y = saved.y.Reshaped({heads, head_dim})});
}

// Fills qkv, q, k, v, y and log_sum_exp; returns v as rows of y.
template <typename T, typename W>
Tensor<T> HeadsForward(Arena& arena, const ModelConfig& config, const AttentionLayerArgs<T, W>& args,
                       AttentionSaved<T>* saved) {
  SequenceState<T>* const sequence = args.sequence;
  const bool alone = sequence == nullptr, steps = !alone && sequence->steps();
  const int64_t sequences = alone ? args.batch : sequence->windows.count;
  const int64_t length = alone ? args.time : sequence->windows.length();
  const int64_t rope_length = alone ? args.time : sequence->windows.rope_length;
  const Shape q_shape = {sequences, length, config.heads, config.head_dim()};
  const Shape kv_shape = {sequences, length, config.kv_heads, config.head_dim()};
  if (alone || steps) {
    saved->qkv = arena.New<T>({args.input.dim(0), args.weights.qkv.dim(0)});
  } else {
    saved->qkv = ProjectChunk(arena, args.weights, args.input, *sequence,
                              sequence->qkv[static_cast<size_t>(args.visit)]);
  }
  saved->q = arena.New<T>(q_shape);
  saved->k = arena.New<T>(kv_shape);
  saved->v = arena.New<T>(kv_shape);
  saved->y = arena.New<T>(q_shape);
  saved->log_sum_exp = arena.New<Accum<T>>({sequences, config.heads, length});
  const AttentionHeadsArgs<T> heads = HeadsArgs(config, args.weights, args.sources, rope_length, *saved,
                                                steps ? sequence->place : Tensor<const int32_t>());
  if (alone || steps) {
    MatmulThenAttentionHeads<T, W>(
        arena,
        {.x = args.input, .weight = args.weights.qkv, .qkv = saved->qkv, .heads = heads, .in8 = args.input8});
  } else {
    AttentionHeadsForward<T>(arena, heads);
  }
  if (steps) {
    StepForward(arena, *sequence, sequence->rings[static_cast<size_t>(args.visit)], *saved);
    return saved->v;
  }
  AttentionForward<T>(
      arena, {.q = saved->q, .k = saved->k, .v = saved->v, .y = saved->y, .log_sum_exp = saved->log_sum_exp});
  if (alone) return saved->v;
  saved->y = FreshRows(arena, sequence->windows, saved->y);
  return FreshRows(arena, sequence->windows, saved->v);
}

// dmixed, the gradient of the gated heads, becomes that of the ungated. Returns what reaches the input.
template <typename T>
Tensor<T> GatesBackward(Arena& arena, const ModelConfig& config, const AttentionLayerGradArgs<T>& args,
                        Tensor<T> dmixed) {
  const AttentionSaved<T>& saved = args.saved;
  const Shape rows_of_heads = {args.input.dim(0), config.heads, config.head_dim()};
  const Tensor<T> ungated = saved.exclusive.empty() ? saved.y : saved.exclusive;
  const Tensor<T> dgate = arena.New<T>({args.input.dim(0), config.heads});
  HeadGateBackward<T>(arena, {.x = ungated.Reshaped(rows_of_heads),
                              .gate = saved.gate,
                              .bias = args.weights.gate_bias,
                              .dy = dmixed.Reshaped(rows_of_heads),
                              .dx = dmixed.Reshaped(rows_of_heads),
                              .dgate = dgate,
                              .dbias = args.grad.gate_bias});
  const Tensor<T> dinput = args.dinput.dx.empty() ? arena.New<T>(args.input.shape()) : args.dinput.dx;
  MatmulBackward<T>(
      arena,
      {.dy = dgate, .x = args.input, .weight = args.weights.gate, .dx = dinput, .dweight = args.grad.gate});
  return dinput;
}

// From the gradient of y to that of qkv.
template <typename T>
Tensor<T> HeadsBackward(Arena& arena, const ModelConfig& config, const AttentionLayerGradArgs<T>& args,
                        Tensor<const T> dy, Tensor<const T> dv_exclusive) {
  const AttentionSaved<T>& saved = args.saved;
  AttentionHeadsGradArgs<T> heads;
  heads.forward = HeadsArgs(config, args.weights, args.sources, saved.q.dim(1), saved);
  heads.dqkv = arena.New<T>(saved.qkv.shape());
  heads.dq_gain = args.grad.q_gain;
  heads.dvalue_embedding = args.source_grads.dvalue_embedding;
  if (!args.sources.value_embedding.empty()) {
    heads.dve_layer_scale = args.grad.ve_layer_scale;
    heads.dve_scale = args.source_grads.dve_scale;
  }
  if (!args.sources.first_v.empty()) {
    heads.dfirst_v = args.source_grads.dfirst_v;
    heads.dresidual = args.grad.residual;
  }
  AttentionOfHeadsBackward<T>(
      arena, {.attention =
                  {.q = saved.q, .k = saved.k, .v = saved.v, .y = saved.y, .log_sum_exp = saved.log_sum_exp},
              .dy = dy,
              .dv_from_outside = {dv_exclusive, args.dv_from_outside},
              .heads = heads});
  return heads.dqkv;
}

}  // namespace

template <typename T, typename W>
void AttentionLayerForward(Arena& arena, const ModelConfig& config, const AttentionLayerArgs<T, W>& args,
                           AttentionSaved<T>* saved) {
  const AttentionWeights<W>& weights = args.weights;
  const int64_t rows = args.batch * args.time, dim = config.dim;
  const Shape rows_of_heads = {rows, config.heads, config.head_dim()};
  const Tensor<T> v = HeadsForward<T, W>(arena, config, args, saved);
  if (config.is_exclusive(config.layer_of(args.visit))) {
    saved->exclusive = arena.New<T>(saved->y.shape());
    ExclusiveAttentionForward<T>(arena, {.x = saved->y, .v = v, .y = saved->exclusive});
  }
  if (config.gated_attention) {
    const Tensor<T> ungated = MixedHeads(*saved), gated = arena.New<T>(saved->y.shape());
    saved->gate = arena.New<T>({rows, config.heads});
    MatmulForward<T, W>(arena, {.x = args.input, .weight = weights.gate, .y = saved->gate});
    HeadGateForward<T>(arena, {.x = ungated.Reshaped(rows_of_heads),
                               .gate = saved->gate,
                               .bias = weights.gate_bias,
                               .y = gated.Reshaped(rows_of_heads)});
    saved->gated = gated;
  }
  MatmulThenResidualNorm<T, W>(
      arena, {.x = MixedHeads(*saved).Reshaped({rows, dim}), .weight = weights.out, .step = args.step});
}

template <typename T>
void AttentionLayerBackward(Arena& arena, const ModelConfig& config, const AttentionLayerGradArgs<T>& args) {
  Arena::Scope scope(arena);
  const AttentionSaved<T>& saved = args.saved;
  const Shape input_shape = args.input.shape();
  const Tensor<T> dmixed = arena.New<T>(saved.q.shape());
  ScaledMatmulBackward<T>(arena, {.dy = args.doutput,
                                  .x = MixedHeads(saved).Reshaped(input_shape),
                                  .weight = args.weights.out,
                                  .columns = args.output_scale,
                                  .dx = dmixed.Reshaped(input_shape),
                                  .dweight = args.grad.out});
  InputGradient<T> dinput = args.dinput;
  if (config.gated_attention) {
    dinput.dx = GatesBackward<T>(arena, config, args, dmixed);
    dinput.add = true;  // The gates read the same input.
  }
  Tensor<T> dv_exclusive;
  if (!saved.exclusive.empty()) {
    dv_exclusive = arena.New<T>(saved.v.shape());
    ExclusiveAttentionBackward<T>(
        arena, {.x = saved.y, .v = saved.v, .dy = dmixed, .dx = dmixed, .dv = dv_exclusive});
  }
  MatmulBackwardInto<T>(arena,
                        {.dy = HeadsBackward<T>(arena, config, args, dmixed, dv_exclusive),
                         .x = args.input,
                         .weight = args.weights.qkv,
                         .dweight = args.grad.qkv},
                        dinput);
}

#define HM11_INSTANTIATE(T)                                                                           \
  template void AttentionLayerForward<T, T>(Arena&, const ModelConfig&, const AttentionLayerArgs<T>&, \
                                            AttentionSaved<T>*);                                      \
  template void AttentionLayerBackward<T>(Arena&, const ModelConfig&, const AttentionLayerGradArgs<T>&);
HM11_INSTANTIATE(double)
HM11_INSTANTIATE(float)
HM11_INSTANTIATE(Bf16)
#undef HM11_INSTANTIATE
template void AttentionLayerForward<float, Fp16>(Arena&, const ModelConfig&,
                                                 const AttentionLayerArgs<float, Fp16>&,
                                                 AttentionSaved<float>*);

}  // namespace hm11
