// Schedules: learning rate, Muon momentum and averaging as functions of where in its run a step stands.
//
// A run is over after max_steps or time_limit_seconds, whichever comes first; progress is the larger of the
// two fractions, so a slow machine goes through the same schedule as a fast one. The published recipe counts
// in steps instead: linear warm-down over the last `published_warmdown_steps`, measured in wall-clock by the
// mean step so far, momentum over 1500 steps.
#ifndef HM11_TRAIN_SCHEDULE_H_
#define HM11_TRAIN_SCHEDULE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace hm11 {

struct ScheduleConfig {
  int64_t max_steps = 20000;
  double time_limit_seconds = 600;  // of training, validation not counted; 0: none
  double warmup_fraction = 0.01;    // of the run; the rate rises from 0
  double warmdown_fraction = 0.7;   // of the run, at its end; the rate falls linearly
  double final_lr_scale = 0.02;     // where it falls to
  double momentum_start = 0.92;
  double momentum_end = 0.97;
  double momentum_warmup_fraction = 0.1;
  double average_decay = 0;           // exponential moving average of the weights; 0: none
  double average_start_fraction = 0;  // before it the average follows the weights
  bool published_schedule = false;
  int64_t published_warmdown_steps = 500;
  int64_t published_momentum_steps = 1500;

  template <typename Self, typename F>
  static void ForEachField(Self& self, F&& f) {
    f("max_steps", self.max_steps);
    f("time_limit_seconds", self.time_limit_seconds);
    f("warmup_fraction", self.warmup_fraction);
    f("warmdown_fraction", self.warmdown_fraction);
    f("final_lr_scale", self.final_lr_scale);
    f("momentum_start", self.momentum_start);
    f("momentum_end", self.momentum_end);
    f("momentum_warmup_fraction", self.momentum_warmup_fraction);
    f("average_decay", self.average_decay);
    f("average_start_fraction", self.average_start_fraction);
    f("published_schedule", self.published_schedule);
    f("published_warmdown_steps", self.published_warmdown_steps);
    f("published_momentum_steps", self.published_momentum_steps);
  }

  absl::Status Validate() const;
};

// Where a step stands: steps done before it and seconds of training spent on them.
struct RunPosition {
  int64_t step = 0;
  double elapsed_seconds = 0;
};

double Progress(const ScheduleConfig& config,
                RunPosition position);  // 0 at the start, 1 when the run is over
// Progress in what limits the run: "34 % of 300 s" or "34 % of 20000 steps".
std::string ProgressText(const ScheduleConfig& config, RunPosition position);
bool RunIsOver(const ScheduleConfig& config, RunPosition position);
double LearningRateScale(const ScheduleConfig& config, RunPosition position);
double MuonMomentum(const ScheduleConfig& config, RunPosition position);
double AverageDecay(const ScheduleConfig& config, RunPosition position);

}  // namespace hm11

#endif  // HM11_TRAIN_SCHEDULE_H_
