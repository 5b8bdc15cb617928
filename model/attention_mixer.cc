// AttentionMixer: forward down, backward up, the same ops.
#include "model/attention_mixer.h"

#include "ops/attention.h"
#include "ops/attention_heads.h"
#include "ops/attention_step.h"
#include "ops/elementwise.h"
#include "ops/exclusive_attention.h"
#include "ops/head_gate.h"
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

}  // namespace

template <typename T, typename W>
Tensor<T> AttentionLayerForward(Arena& arena, const ModelConfig& config, int64_t visit,
                                const AttentionWeights<W>& weights, const AttentionSources<T>& sources,
                                Tensor<const T> input, int64_t batch, int64_t time, AttentionSaved<T>* saved,
                                SequenceState<T>* sequence) {
  const int64_t rows = batch * time, dim = config.dim, heads = config.heads, head_dim = config.head_dim();
  const bool steps = sequence != nullptr && sequence->steps();
  const int64_t sequences = sequence == nullptr ? batch : sequence->windows.count;
  const int64_t length = sequence == nullptr ? time : sequence->windows.length();
  const int64_t rope_length = sequence == nullptr ? time : sequence->windows.rope_length;
  const Shape q_shape = {sequences, length, heads, head_dim};
  const Shape kv_shape = {sequences, length, config.kv_heads, head_dim};
  Tensor<T> output = arena.New<T>({rows, dim});
  if (sequence == nullptr || steps) {
    saved->qkv = arena.New<T>({rows, dim + 2 * config.kv_dim()});
    MatmulForward<T, W>(arena, {.x = input, .weight = weights.qkv, .y = saved->qkv});
  } else {
    saved->qkv = ProjectChunk(arena, weights, input, *sequence, sequence->qkv[static_cast<size_t>(visit)]);
  }
  saved->q = arena.New<T>(q_shape);
  saved->k = arena.New<T>(kv_shape);
  saved->v = arena.New<T>(kv_shape);
  saved->y = arena.New<T>(q_shape);
  saved->log_sum_exp = arena.New<Accum<T>>({sequences, heads, length});

  AttentionHeadsForward<T>(arena, HeadsArgs(config, weights, sources, rope_length, *saved,
                                            steps ? sequence->place : Tensor<const int32_t>()));
  Tensor<T> v = saved->v;
  if (steps) {
    StepForward(arena, *sequence, sequence->rings[static_cast<size_t>(visit)], *saved);
  } else {
    AttentionForward<T>(
        arena,
        {.q = saved->q, .k = saved->k, .v = saved->v, .y = saved->y, .log_sum_exp = saved->log_sum_exp});
    if (sequence != nullptr) {
      saved->y = FreshRows(arena, sequence->windows, saved->y);
      v = FreshRows(arena, sequence->windows, v);
    }
  }
  if (config.is_exclusive(config.layer_of(visit))) {
    saved->exclusive = arena.New<T>(saved->y.shape());
    ExclusiveAttentionForward<T>(arena, {.x = saved->y, .v = v, .y = saved->exclusive});
  }
  if (config.gated_attention) {
    const Tensor<T> ungated = MixedHeads(*saved);
    saved->gate = arena.New<T>({rows, heads});
    Tensor<T> gated = arena.New<T>(saved->y.shape());
    MatmulForward<T, W>(arena, {.x = input, .weight = weights.gate, .y = saved->gate});
    HeadGateForward<T>(arena, {.x = ungated.Reshaped({rows, heads, head_dim}),
                               .gate = saved->gate,
                               .bias = weights.gate_bias,
                               .y = gated.Reshaped({rows, heads, head_dim})});
    saved->gated = gated;
  }
  MatmulForward<T, W>(arena,
                      {.x = MixedHeads(*saved).Reshaped({rows, dim}), .weight = weights.out, .y = output});
  return output;
}

template <typename T>
void AttentionLayerBackward(Arena& arena, const ModelConfig& config, const AttentionWeights<T>& weights,
                            const AttentionSources<T>& sources, Tensor<const T> input, int64_t batch,
                            int64_t time, const AttentionSaved<T>& saved, Tensor<const T> doutput,
                            const OutputScale<T>& output_scale, Tensor<const T> dv_from_outside,
                            Tensor<T> dinput, AttentionWeights<Accum<T>>& grad,
                            const AttentionSourceGrads<T>& source_grads) {
  Arena::Scope scope(arena);
  const int64_t rows = batch * time, dim = config.dim, heads = config.heads, head_dim = config.head_dim();
  const Shape kv_shape = saved.k.shape();
  Tensor<T> dmixed = arena.New<T>(saved.q.shape());
  Tensor<T> dv = arena.New<T>(kv_shape);

  ScaledMatmulBackward<T>(arena, {.dy = doutput,
                                  .x = MixedHeads(saved).Reshaped({rows, dim}),
                                  .weight = weights.out,
                                  .columns = output_scale,
                                  .dx = dmixed.Reshaped({rows, dim}),
                                  .dweight = grad.out});
  if (config.gated_attention) {
    const Tensor<T> ungated = saved.exclusive.empty() ? saved.y : saved.exclusive;
    Tensor<T> dgate = arena.New<T>({rows, heads});
    HeadGateBackward<T>(arena, {.x = ungated.Reshaped({rows, heads, head_dim}),
                                .gate = saved.gate,
                                .bias = weights.gate_bias,
                                .dy = dmixed.Reshaped({rows, heads, head_dim}),
                                .dx = dmixed.Reshaped({rows, heads, head_dim}),
                                .dgate = dgate,
                                .dbias = grad.gate_bias});
    MatmulBackward<T>(arena,
                      {.dy = dgate, .x = input, .weight = weights.gate, .dx = dinput, .dweight = grad.gate});
  }
  Tensor<T> dv_exclusive;
  if (!saved.exclusive.empty()) {
    dv_exclusive = arena.New<T>(kv_shape);
    ExclusiveAttentionBackward<T>(
        arena, {.x = saved.y, .v = saved.v, .dy = dmixed, .dx = dmixed, .dv = dv_exclusive});
  }
  Tensor<T> dq = arena.New<T>(saved.q.shape());
  Tensor<T> dk = arena.New<T>(kv_shape);
  AttentionGradArgs<T> attention;
  attention.forward = {
      .q = saved.q, .k = saved.k, .v = saved.v, .y = saved.y, .log_sum_exp = saved.log_sum_exp};
  attention.dy = dmixed;
  attention.dq = dq;
  attention.dk = dk;
  attention.dv = dv;
  AttentionBackward<T>(arena, attention);
  if (!dv_exclusive.empty()) AddTo<T>(arena, dv_exclusive, 1, dv);
  if (!dv_from_outside.empty()) AddTo<T>(arena, dv_from_outside, 1, dv);
  Tensor<T> dqkv = arena.New<T>(saved.qkv.shape());
  AttentionHeadsGradArgs<T> split;
  split.forward = HeadsArgs(config, weights, sources, time, saved);
  split.dq = dq;
  split.dk = dk;
  split.dv = dv;
  split.dqkv = dqkv;
  split.dq_gain = grad.q_gain;
  split.dvalue_embedding = source_grads.dvalue_embedding;
  if (!sources.value_embedding.empty()) {
    split.dve_layer_scale = grad.ve_layer_scale;
    split.dve_scale = source_grads.dve_scale;
  }
  if (!sources.first_v.empty()) {
    split.dfirst_v = source_grads.dfirst_v;
    split.dresidual = grad.residual;
  }
  AttentionHeadsBackward<T>(arena, split);
  MatmulBackward<T>(arena, {.dy = dqkv,
                            .x = input,
                            .weight = weights.qkv,
                            .dx = dinput,
                            .add_to_dx = config.gated_attention,  // The gates read the same input.
                            .dweight = grad.qkv});
}

#define HM11_INSTANTIATE(T)                                                                                \
  template Tensor<T> AttentionLayerForward<T, T>(                                                          \
      Arena&, const ModelConfig&, int64_t, const AttentionWeights<T>&, const AttentionSources<T>&,         \
      Tensor<const T>, int64_t, int64_t, AttentionSaved<T>*, SequenceState<T>*);                           \
  template void AttentionLayerBackward<T>(                                                                 \
      Arena&, const ModelConfig&, const AttentionWeights<T>&, const AttentionSources<T>&, Tensor<const T>, \
      int64_t, int64_t, const AttentionSaved<T>&, Tensor<const T>, const OutputScale<T>&, Tensor<const T>, \
      Tensor<T>, AttentionWeights<Accum<T>>&, const AttentionSourceGrads<T>&);
HM11_INSTANTIATE(double)
HM11_INSTANTIATE(float)
HM11_INSTANTIATE(Bf16)
#undef HM11_INSTANTIATE
template Tensor<float> AttentionLayerForward<float, Fp16>(Arena&, const ModelConfig&, int64_t,
                                                          const AttentionWeights<Fp16>&,
                                                          const AttentionSources<float>&, Tensor<const float>,
                                                          int64_t, int64_t, AttentionSaved<float>*,
                                                          SequenceState<float>*);

}  // namespace hm11
