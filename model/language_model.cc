// LanguageModel: embeddings, the visits of layers down the U-Net and up again, the head.
#include "model/language_model.h"

#include <algorithm>

#include "model/blocks.h"
#include "model/embeddings.h"
#include "model/residual_steps.h"
#include "ops/attention_step.h"
#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/residual_norm.h"
#include "ops/shift_targets.h"

namespace hm11 {
namespace {

// One head's cross entropy and its gradient: dhidden = or += the head's share; dhead adds.
template <typename T>
struct HeadLossArgs {
  Tensor<const T> hidden, head;   // [rows, dim], [vocab, dim]
  Tensor<const int32_t> targets;  // [rows]
  int64_t counted = 0;            // targets that there are: those below 0 are none
  Accum<T> scale = 1;             // of the gradient
  bool add_to_dhidden = false;
  Tensor<T> dhidden;       // [rows, dim]
  Tensor<Accum<T>> dhead;  // [vocab, dim]; adds
  Tensor<Accum<T>> loss;   // [1]: the mean over counted targets
};

template <typename T>
void HeadLoss(Arena& arena, const ModelConfig& config, const HeadLossArgs<T>& a) {
  Arena::Scope scope(arena);
  using A = Accum<T>;
  const int64_t rows = a.hidden.dim(0);
  Tensor<T> logits = arena.New<T>({rows, config.vocab});
  Tensor<A> losses = arena.New<A>({rows});
  const A mean = static_cast<A>(1.0 / static_cast<double>(a.counted));
  MatmulForward<T>(arena, {.x = a.hidden, .weight = a.head, .y = logits});
  CrossEntropyGradient<T>(arena, {.logits = logits,
                                  .targets = a.targets,
                                  .soft_cap = static_cast<A>(config.soft_cap),
                                  .dloss = a.scale * mean,
                                  .losses = losses});
  Sum<A>(arena, losses, mean, a.loss);
  MatmulBackward<T>(arena, {.dy = logits,
                            .x = a.hidden,
                            .weight = a.head,
                            .dx = a.dhidden,
                            .add_to_dx = a.add_to_dhidden,
                            .dweight = a.dhead});
}

}  // namespace

template <typename T, typename W>
Tensor<T> HiddenForward(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights,
                        Tensor<const int32_t> ids, ModelSaved<T>* saved, const ForwardOptions<T>& options) {
  HM_CHECK_EQ(ids.rank(), 2);
  HM_CHECK(options.sequence == nullptr || (ids.dim(0) == 1 && !options.keep));
  const int64_t rows = ids.size();
  saved->batch = ids.dim(0);
  saved->time = ids.dim(1);
  saved->ids = ids;
  saved->blocks.assign(static_cast<size_t>(config.visit_count()), {});
  saved->final_y = arena.New<T>({rows, config.dim});
  saved->hidden = arena.New<T>({rows, config.dim});
  saved->final_rstd = arena.New<Accum<T>>({rows});
  if (SequenceState<T>* sequence = options.sequence; sequence != nullptr && sequence->steps()) {
    HM_CHECK_EQ(rows, int64_t{1});
    if (sequence->kept == 0 && !arena.device().is_plan()) {
      arena.device().Zero(sequence->place.data(), sequence->place.size_bytes());
    }
  }
  if constexpr (std::is_same_v<T, Bf16> && std::is_same_v<W, Bf16>) {
    if (options.fp8) LayerWeightsToFp8(arena, config, weights, saved);
  }
  EmbeddingsForward<T, W>(arena, config, weights, options.sequence, saved);
  for (int64_t visit = 0; visit < config.visit_count(); ++visit) {
    BlockForward<T, W>(arena, config, weights, visit, options, saved);
  }
  if (SequenceState<T>* sequence = options.sequence; sequence != nullptr) {
    if (sequence->steps()) AdvancePlace(arena, sequence->place);
    sequence->kept = std::min(sequence->kept + rows, sequence->ids.dim(0));
  }
  return saved->hidden;
}

template <typename T>
void HiddenBackward(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                    const ModelSaved<T>& saved, Tensor<const T> dhidden, ModelWeights<Accum<T>>& grad) {
  Arena::Scope scope(arena);
  ResidualGrads<T> g = NewResidualGrads(arena, config, saved);
  ResidualNormGradArgs<T> final_step;
  final_step.forward = WithoutBranch(StepInto(config, weights, saved, config.visit_count()));
  final_step.dnormed = dhidden;
  final_step.dx = g.dresidual;
  final_step.dx8 = g.dresidual8;
  ResidualNormBackward<T>(arena, final_step);
  for (int64_t visit = config.visit_count() - 1; visit >= 0; --visit) {
    BlockBackward<T>(arena, config, weights, saved, visit, g, grad);
  }
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
bool Fp8Serves(const Device& device, const ModelConfig& config) {
  if (!std::is_same_v<T, Bf16>) return false;
  for (const int64_t width :
       {config.dim, config.mlp_width, 2 * config.inner(), config.dim + 2 * config.kv_dim()}) {
    if (width % 64 != 0) return false;
  }
  return device.is_plan() ? !device.is_for_cpu() : device.is_cuda() && device.compute_capability() == 90;
}

template <typename T>
void LossAndGradient(Arena& arena, const ModelConfig& config, const LossAndGradientArgs<T>& args) {
  using A = Accum<T>;
  Arena::Scope scope(arena);
  const ModelWeights<T>& weights = args.weights;
  const int64_t batch = args.ids.dim(0), time = args.ids.dim(1), rows = batch * time;
  ModelSaved<T> saved;
  const Tensor<T> hidden = HiddenForward<T>(arena, config, weights, args.ids, &saved,
                                            {.fp8 = args.fp8 && Fp8Serves<T>(arena.device(), config)});
  Tensor<T> dhidden = arena.New<T>({rows, config.dim});
  HeadLoss<T>(arena, config,
              {.hidden = hidden,
               .head = config.tied_embeddings ? weights.token_embedding : weights.lm_head,
               .targets = args.targets.Reshaped({rows}),
               .counted = rows,
               .scale = args.loss_scale,
               .dhidden = dhidden,
               .dhead = config.tied_embeddings ? args.grad.token_embedding : args.grad.lm_head,
               .loss = args.loss});
  if (!args.total_loss.empty()) {
    arena.device().CopyOnDevice(args.total_loss.data(), args.loss.data(), args.loss.size_bytes());
  }
  for (int64_t head = 0; head < config.mtp_heads && head + 1 < time; ++head) {
    Tensor<int32_t> shifted = arena.New<int32_t>({batch, time});
    Tensor<A> head_loss = arena.New<A>({1});
    const A share = static_cast<A>(config.mtp_weight / static_cast<double>(config.mtp_heads));
    ShiftTargets(arena, args.targets.Reshaped({batch, time}), head + 1, shifted);
    HeadLoss<T>(arena, config,
                {.hidden = hidden,
                 .head = weights.mtp_heads[static_cast<size_t>(head)],
                 .targets = shifted.Reshaped({rows}),
                 .counted = batch * (time - 1 - head),
                 .scale = args.loss_scale * share,
                 .add_to_dhidden = true,
                 .dhidden = dhidden,
                 .dhead = args.grad.mtp_heads[static_cast<size_t>(head)],
                 .loss = head_loss});
    if (!args.total_loss.empty()) AddTo<A>(arena, head_loss, share, args.total_loss);
  }
  HiddenBackward<T>(arena, config, weights, saved, dhidden, args.grad);
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

template bool Fp8Serves<double>(const Device&, const ModelConfig&);
template bool Fp8Serves<float>(const Device&, const ModelConfig&);
template bool Fp8Serves<Bf16>(const Device&, const ModelConfig&);
#define HM11_INSTANTIATE(T)                                                                                 \
  template Tensor<T> HiddenForward<T, T>(Arena&, const ModelConfig&, const ModelWeights<T>&,                \
                                         Tensor<const int32_t>, ModelSaved<T>*, const ForwardOptions<T>&);  \
  template void HiddenBackward<T>(Arena&, const ModelConfig&, const ModelWeights<T>&, const ModelSaved<T>&, \
                                  Tensor<const T>, ModelWeights<Accum<T>>&);                                \
  template Tensor<T> Logits<T, T>(Arena&, const ModelConfig&, const ModelWeights<T>&, Tensor<const T>);     \
  template Tensor<Accum<T>> LogProbabilities<T, T>(Arena&, const ModelConfig&, const ModelWeights<T>&,      \
                                                   Tensor<const T>);                                        \
  template void LossAndGradient<T>(Arena&, const ModelConfig&, const LossAndGradientArgs<T>&);              \
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
