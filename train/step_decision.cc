// StepDecision: the schedule's functions, and two periods.
#include "train/step_decision.h"

#include <cmath>

namespace hm11 {

StepDecision DecideStep(const RunConfig& config, const ScheduleConfig& schedule, RunPosition position,
                        const LastDone& last, bool interrupted) {
  StepDecision next{.position = position};
  next.interrupted = interrupted;
  next.over = interrupted || RunIsOver(schedule, position);
  const auto due = [&](double period, double done) {
    return !next.over && period > 0 && position.elapsed_seconds >= done + period;
  };
  next.validate = due(config.validation_seconds, last.validation_seconds);
  next.checkpoint = due(config.checkpoint_seconds, last.checkpoint_seconds);
  const double t = static_cast<double>(position.step) + 1;
  next.lr_scale = LearningRateScale(schedule, position);
  next.scalars = {.lr_scale = static_cast<float>(next.lr_scale),
                  .muon_momentum = static_cast<float>(MuonMomentum(schedule, position)),
                  .adam_correction1 = static_cast<float>(1 - std::pow(config.optimizer.beta1, t)),
                  .adam_correction2 = static_cast<float>(1 - std::pow(config.optimizer.beta2, t)),
                  .average_decay = static_cast<float>(AverageDecay(schedule, position))};
  next.phase = PhaseAt(config.Phases(), Progress(schedule, position));
  return next;
}

}  // namespace hm11
