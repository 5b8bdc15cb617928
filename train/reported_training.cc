// What a run tells while it trains: validations, steps and how far it is.
#include <algorithm>
#include <cmath>
#include <span>

#include "absl/strings/str_format.h"
#include "core/check.h"
#include "core/number_text.h"
#include "core/status.h"
#include "train/training_run.h"

namespace hm11 {

template <typename T>
Score TrainingRun<T>::Validate(ModelWeights<T>& weights, int64_t most_tokens, ScoreMode mode) {
  std::span<const uint16_t> tokens = inputs_.val_tokens;
  if (most_tokens > 0 && most_tokens < static_cast<int64_t>(tokens.size())) {
    tokens = tokens.first(static_cast<size_t>(most_tokens));
  }
  trainer_->Synchronize();
  return ScoreTokens<T>(
      trainer_->work(), config_.ModelIn(phases_[phase_]), weights, tokens, inputs_.tokenizer.byte_table(),
      {.mode = mode,
       .window = config_.sequence,
       .stride = 64,
       .rows_at_once = trainer_->plan().micro_batch_tokens},
      [&](double share) { log_.Progress(absl::StrFormat("validating %.0f %%", share * 100)); },
      ranks_.group());
}

template <typename T>
absl::Status TrainingRun<T>::CheckScore(const Score& score) const {
  if (std::isfinite(score.loss_nats)) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("the validation loss is not a number after step ", position_.step,
                                         " (loss ", score.loss_nats, "); ", LastGoodCheckpoint()));
}

// Of the weights as they are; most_tokens as Validate has it.
template <typename T>
absl::Status TrainingRun<T>::ValidateAndLog(int64_t most_tokens) {
  const SteadyClock::time_point start = SteadyClock::now();
  const Score score = Validate(trainer_->model_weights(), most_tokens, ScoreMode::kPlain);
  HM_RETURN_IF_ERROR(CheckScore(score));
  const double ms = position_.elapsed_seconds * 1e3;
  log_.Line(absl::StrFormat("%s val_loss:%.4f val_bpb:%.4f train_time:%.0fms step_avg:%.2fms",
                            StepOf(position_.step), score.loss_nats, score.bits_per_byte, ms,
                            ms / static_cast<double>(std::max<int64_t>(1, position_.step))));
  log_.Metric(MetricsLine(ValidationMetrics{.step = position_.step,
                                            .train_seconds = position_.elapsed_seconds,
                                            .tokens = position_.step * trainer_->tokens_per_step(),
                                            .val_loss = score.loss_nats,
                                            .val_bpb = score.bits_per_byte}));
  LogStage("validation", start);
  DrawPage();
  return absl::OkStatus();
}

template <typename T>
absl::Status TrainingRun<T>::ReportSteps() {
  if (reported_ == position_.step) return absl::OkStatus();
  const auto reports = trainer_->Reports(reported_, position_.step - reported_);
  HM_CHECK_EQ(queued_.size(), reports.size());
  const double seconds = position_.elapsed_seconds - reported_seconds_;
  const double tokens =
      static_cast<double>(trainer_->tokens_per_step()) * static_cast<double>(reports.size());
  for (size_t i = 0; i < reports.size(); ++i) {
    const int64_t step = reported_ + static_cast<int64_t>(i) + 1;
    if (!std::isfinite(reports[i].loss_nats) || !std::isfinite(reports[i].gradient_norm)) {
      return absl::AbortedError(absl::StrCat("the loss is not a number at step ", step, " (loss ",
                                             reports[i].loss_nats, ", gradient norm ",
                                             reports[i].gradient_norm, "); ", LastGoodCheckpoint()));
    }
    queued_[i].train_loss = reports[i].loss_nats;
    queued_[i].gradient_norm = reports[i].gradient_norm;
    queued_[i].tokens_per_second = seconds > 0 ? tokens / seconds : 0;
    log_.Metric(MetricsLine(queued_[i]));
  }
  queued_.clear();
  reported_seconds_ = position_.elapsed_seconds;
  last_loss_ = reports.back().loss_nats;
  const double ms = position_.elapsed_seconds * 1e3;
  const double run_ms = (position_.elapsed_seconds - first_elapsed_) * 1e3;
  const int64_t run_steps = position_.step - first_step_;
  log_.Line(absl::StrFormat("%s train_loss:%.4f train_time:%.0fms step_avg:%.2fms tok/s:%.0f",
                            StepOf(position_.step), last_loss_, ms, ms / static_cast<double>(position_.step),
                            static_cast<double>(run_steps * trainer_->tokens_per_step()) / (run_ms / 1e3)));
  reported_ = position_.step;
  return absl::OkStatus();
}

template <typename T>
void TrainingRun<T>::ShowProgress() {
  if (!log_.shows_progress()) return;
  const std::string share = ProgressText(config_.schedule, position_);
  const int64_t steps = position_.step - first_step_;
  if (steps == 0) {
    log_.Progress(absl::StrCat(share, "  training begins"));
    return;
  }
  const double seconds = position_.elapsed_seconds - first_elapsed_;
  double left =
      seconds / static_cast<double>(steps) * static_cast<double>(config_.schedule.max_steps - position_.step);
  if (config_.schedule.time_limit_seconds > 0) {
    left = std::min(left, config_.schedule.time_limit_seconds - position_.elapsed_seconds);
  }
  // The loss is that of the last report.
  const std::string loss = reported_ > first_step_ ? absl::StrFormat("  loss %.3f", last_loss_) : "";
  log_.Progress(absl::StrFormat("%s  step %d%s  %.0f tokens/s  %s left", share, position_.step, loss,
                                static_cast<double>(steps * trainer_->tokens_per_step()) / seconds,
                                ClockTime(left)));
}

// Called from other files.
#define HM_INSTANTIATE(T)                                                                                 \
  template Score TrainingRun<T>::Validate(ModelWeights<T>& weights, int64_t most_tokens, ScoreMode mode); \
  template absl::Status TrainingRun<T>::CheckScore(const Score& score) const;                             \
  template absl::Status TrainingRun<T>::ValidateAndLog(int64_t most_tokens);                              \
  template absl::Status TrainingRun<T>::ReportSteps();                                                    \
  template void TrainingRun<T>::ShowProgress();
HM_INSTANTIATE(float)
HM_INSTANTIATE(Bf16)
#undef HM_INSTANTIATE

}  // namespace hm11
