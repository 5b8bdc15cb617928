// StepDecision: what a run does next, out of where it stands. Pure: the one place where the clock of training
// decides learning rates, stop, validation and checkpoint, so that one rank's clock can decide for all.
//
// Properties:
//   1. A function of its arguments alone.
//   2. A run that is over neither validates nor saves on the way: its end does both.
//   3. Without a period nothing is ever due; what was done is due again a period later.
#ifndef HM11_TRAIN_STEP_DECISION_H_
#define HM11_TRAIN_STEP_DECISION_H_

#include "train/config.h"
#include "train/schedule.h"
#include "train/update_rules.h"

namespace hm11 {

// Seconds of training at which something was last done.
struct LastDone {
  double validation_seconds = 0;
  double checkpoint_seconds = 0;
};

// Trivially copyable: one rank's bytes are every rank's.
struct StepDecision {
  RunPosition position;      // decided for
  bool over = false;         // no step follows
  bool interrupted = false;  // somebody asked for the end
  bool validate = false;     // before the step
  bool checkpoint = false;   // before the step
  double lr_scale = 0;       // of the step
  StepScalars scalars;       // of the step
  size_t phase = 0;          // of the step, in config.Phases()
};

// `schedule` is config's, or less of it; `interrupted`: whether the end is asked for.
StepDecision DecideStep(const RunConfig& config, const ScheduleConfig& schedule, RunPosition position,
                        const LastDone& last, bool interrupted);

}  // namespace hm11

#endif  // HM11_TRAIN_STEP_DECISION_H_
