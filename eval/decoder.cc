// Decoder: one row through the model, and its graph.
#include "eval/decoder.h"

#include "core/check.h"
#include "core/parallel.h"
#include "model/language_model.h"

namespace hm11 {

template <typename T, typename W>
Decoder<T, W>::Decoder(const Device& device, const ModelConfig& config, const ModelWeights<W>& weights,
                       int64_t window)
    : config_(config),
      weights_(weights),
      memory_(device, StateBytes(config, window)),
      work_(device, StepBytes(device, config, window)),
      state_(NewStepState<T>(memory_, config_, window)),
      id_(memory_.New<int32_t>({1, 1})),
      next_id_(static_cast<int32_t*>(device.AllocateHost(sizeof(int32_t)))),
      result_(
          static_cast<Accum<T>*>(device.AllocateHost(config.vocab * static_cast<int64_t>(sizeof(Accum<T>)))),
          static_cast<size_t>(config.vocab)) {}

template <typename T, typename W>
Decoder<T, W>::~Decoder() {
  const Device& device = work_.device();
  device.Synchronize();
  device.FreeHost(next_id_);
  device.FreeHost(result_.data());
}

template <typename T, typename W>
int64_t Decoder<T, W>::StateBytes(const ModelConfig& config, int64_t window) {
  Arena plan = Arena::Plan();
  NewStepState<T>(plan, config, window);
  plan.New<int32_t>({1, 1});
  return plan.high_water_bytes();
}

template <typename T, typename W>
int64_t Decoder<T, W>::StepBytes(const Device& device, const ModelConfig& config, int64_t window) {
  Arena plan = Arena::Plan(device);
  const ModelWeights<W> weights = NewWeights<W>(plan, config);
  SequenceState<T> state = NewStepState<T>(plan, config, window);
  state.kept = 1;
  const int64_t before = plan.used_bytes();
  ModelSaved<T> saved;
  const Tensor<T> hidden = HiddenForward<T, W>(plan, config, weights, plan.New<int32_t>({1, 1}), &saved,
                                               {.keep = false, .sequence = &state});
  LogProbabilities<T, W>(plan, config, weights, hidden);
  return plan.high_water_bytes() - before;
}

template <typename T, typename W>
Tensor<Accum<T>> Decoder<T, W>::Step() {
  const Device& device = work_.device();
  work_.Reset();
  device.CopyFromHost(id_.data(), next_id_, id_.size_bytes());
  ModelSaved<T> saved;
  const Tensor<T> hidden =
      HiddenForward<T, W>(work_, config_, weights_, id_, &saved, {.keep = false, .sequence = &state_});
  return LogProbabilities<T, W>(work_, config_, weights_, hidden);
}

template <typename T, typename W>
std::span<const Accum<T>> Decoder<T, W>::Next(uint16_t token) {
  HM_CHECK_LT(int64_t{token}, config_.vocab);
  const ThreadsAwake awake;
  const Device& device = work_.device();
  *next_id_ = token;
  Tensor<Accum<T>> log_probs;
  if (device.is_cuda() && state_.kept > 0 && plain_steps_ > 0) {
    if (graph_ == nullptr) graph_ = std::make_unique<StepGraph>(device, [this] { recorded_ = Step(); });
    graph_->Launch();
    log_probs = recorded_;
  } else {
    plain_steps_ += state_.kept > 0;
    log_probs = Step();
  }
  device.CopyToHost(result_.data(), log_probs.data(), log_probs.size_bytes());
  return result_;
}

template class Decoder<double>;
template class Decoder<float>;
template class Decoder<float, Fp16>;
template class Decoder<Bf16>;

}  // namespace hm11
