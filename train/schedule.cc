// Schedules: piecewise linear functions of progress.
#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/fields.h"

namespace hm11 {
namespace {

// The published warm-down: over the last steps of the step limit, or of the time limit in units of the mean
// step.
double PublishedLearningRateScale(const ScheduleConfig& config, RunPosition position) {
  const double warmdown = static_cast<double>(config.published_warmdown_steps);
  if (warmdown <= 0) return 1;
  if (config.time_limit_seconds <= 0) {
    const double left = static_cast<double>(config.max_steps - position.step);
    return std::clamp(left / warmdown, 0.0, 1.0);
  }
  const double mean_step =
      position.elapsed_seconds / static_cast<double>(std::max<int64_t>(position.step, 1));
  const double warmdown_seconds = warmdown * mean_step;
  const double left_seconds = std::max(0.0, config.time_limit_seconds - position.elapsed_seconds);
  return left_seconds <= warmdown_seconds ? left_seconds / std::max(warmdown_seconds, 1e-12) : 1;
}

}  // namespace

absl::Status ScheduleConfig::Validate() const {
  if (max_steps < 1)
    return absl::InvalidArgumentError(absl::StrCat("max_steps=", max_steps, ": must be at least 1"));
  const double huge = std::numeric_limits<double>::max();
  return CheckBounds({{"time_limit_seconds", time_limit_seconds, 0, huge},
                      {"warmup_fraction", warmup_fraction, 0, 1},
                      {"warmdown_fraction", warmdown_fraction, 0, 1},
                      {"final_lr_scale", final_lr_scale, 0, 1},
                      {"momentum_start", momentum_start, 0, 1},
                      {"momentum_end", momentum_end, 0, 1},
                      {"momentum_warmup_fraction", momentum_warmup_fraction, 0, 1},
                      {"average_decay", average_decay, 0, 1},
                      {"average_start_fraction", average_start_fraction, 0, 1}});
}

double Progress(const ScheduleConfig& config, RunPosition position) {
  double progress = static_cast<double>(position.step) / static_cast<double>(config.max_steps);
  if (config.time_limit_seconds > 0) {
    progress = std::max(progress, position.elapsed_seconds / config.time_limit_seconds);
  }
  return std::clamp(progress, 0.0, 1.0);
}

std::string ProgressText(const ScheduleConfig& config, RunPosition position) {
  const double progress = Progress(config, position);
  const bool steps_limit =
      config.time_limit_seconds <= 0 || progress > position.elapsed_seconds / config.time_limit_seconds;
  return absl::StrFormat(
      "%.0f %% of %s", std::floor(100 * progress),
      steps_limit ? absl::StrCat(config.max_steps, " steps") : absl::StrCat(config.time_limit_seconds, " s"));
}

bool RunIsOver(const ScheduleConfig& config, RunPosition position) { return Progress(config, position) >= 1; }

double LearningRateScale(const ScheduleConfig& config, RunPosition position) {
  if (config.published_schedule) return PublishedLearningRateScale(config, position);
  const double progress = Progress(config, position);
  double scale = 1;
  if (progress < config.warmup_fraction) {
    // The first step is not a step of size 0.
    const double first = 1.0 / static_cast<double>(config.max_steps);
    scale = std::max(progress, first) / config.warmup_fraction;
  }
  if (config.warmdown_fraction > 0) {
    const double left = std::min(1.0, (1 - progress) / config.warmdown_fraction);
    scale *= config.final_lr_scale + (1 - config.final_lr_scale) * left;
  }
  return std::min(scale, 1.0);
}

double MuonMomentum(const ScheduleConfig& config, RunPosition position) {
  double risen = 1;
  if (config.published_schedule) {
    risen = static_cast<double>(position.step) /
            static_cast<double>(std::max<int64_t>(1, config.published_momentum_steps));
  } else if (config.momentum_warmup_fraction > 0) {
    risen = Progress(config, position) / config.momentum_warmup_fraction;
  }
  risen = std::min(risen, 1.0);
  return config.momentum_start + (config.momentum_end - config.momentum_start) * risen;
}

double AverageDecay(const ScheduleConfig& config, RunPosition position) {
  return Progress(config, position) < config.average_start_fraction ? 0 : config.average_decay;
}

}  // namespace hm11
