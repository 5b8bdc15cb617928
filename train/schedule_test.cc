// Schedules: paper examples, and what holds at any point of any run.
#include "train/schedule.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/status/status.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

double Fraction() { return static_cast<double>(*rc::gen::inRange<int>(0, 101)) / 100; }

// Any schedule that Validate lets pass.
ScheduleConfig AnySchedule() {
  ScheduleConfig config;
  config.max_steps = *rc::gen::inRange<int64_t>(1, 1000);
  config.time_limit_seconds = *rc::gen::elementOf(std::vector<double>{0, 1, 600});
  config.warmup_fraction = Fraction();
  config.warmdown_fraction = Fraction();
  config.final_lr_scale = Fraction();
  config.momentum_start = Fraction();
  config.momentum_end = Fraction();
  config.momentum_warmup_fraction = Fraction();
  config.average_decay = Fraction();
  config.average_start_fraction = Fraction();
  config.published_schedule = *rc::gen::arbitrary<bool>();
  config.published_warmdown_steps = *rc::gen::inRange<int64_t>(0, 600);
  config.published_momentum_steps = *rc::gen::inRange<int64_t>(0, 600);
  return config;
}

RunPosition AnyPosition(const ScheduleConfig& config) {
  return {.step = *rc::gen::inRange<int64_t>(0, config.max_steps + 5),
          .elapsed_seconds = Fraction() * 1.1 * std::max(1.0, config.time_limit_seconds)};
}

TEST(ScheduleTest, PaperExample) {
  ScheduleConfig config;
  config.max_steps = 100;
  config.time_limit_seconds = 10;
  config.warmup_fraction = 0.1;
  config.warmdown_fraction = 0.5;
  config.final_lr_scale = 0.2;
  config.momentum_start = 0.8;
  config.momentum_end = 0.9;
  config.momentum_warmup_fraction = 0.2;
  config.average_decay = 0.99;
  config.average_start_fraction = 0.3;
  // By steps, the clock lagging behind.
  EXPECT_DOUBLE_EQ(LearningRateScale(config, {0, 0}), 0.1);  // the first step is one of ten
  EXPECT_DOUBLE_EQ(LearningRateScale(config, {5, 0.1}), 0.5);
  EXPECT_DOUBLE_EQ(LearningRateScale(config, {30, 0.1}), 1);
  EXPECT_DOUBLE_EQ(LearningRateScale(config, {75, 0.1}), 0.6);
  EXPECT_DOUBLE_EQ(LearningRateScale(config, {100, 0.1}), 0.2);
  EXPECT_DOUBLE_EQ(MuonMomentum(config, {0, 0}), 0.8);
  EXPECT_DOUBLE_EQ(MuonMomentum(config, {10, 0}), 0.85);
  EXPECT_DOUBLE_EQ(MuonMomentum(config, {60, 0}), 0.9);
  EXPECT_EQ(AverageDecay(config, {29, 0}), 0);
  EXPECT_EQ(AverageDecay(config, {30, 0}), 0.99);
  // By the clock, the steps lagging behind: the same schedule.
  EXPECT_DOUBLE_EQ(LearningRateScale(config, {1, 7.5}), 0.6);
  EXPECT_DOUBLE_EQ(MuonMomentum(config, {1, 1}), 0.85);
  EXPECT_FALSE(RunIsOver(config, {99, 9.9}));
  EXPECT_TRUE(RunIsOver(config, {100, 1}));
  EXPECT_TRUE(RunIsOver(config, {3, 10}));
}

// 20,000 steps or 600 s; warm-down over 500 steps, in wall-clock where there is a limit.
TEST(ScheduleTest, PublishedScheduleCountsInSteps) {
  ScheduleConfig config;
  config.published_schedule = true;
  config.momentum_start = 0.92;
  config.momentum_end = 0.99;
  config.average_decay = 0.997;
  EXPECT_DOUBLE_EQ(MuonMomentum(config, {0, 0}), 0.92);
  EXPECT_DOUBLE_EQ(MuonMomentum(config, {750, 0}), 0.955);
  EXPECT_DOUBLE_EQ(MuonMomentum(config, {4000, 0}), 0.99);
  EXPECT_EQ(AverageDecay(config, {0, 0}), 0.997);
  // 0.05 s a step: the warm-down lasts 25 s.
  EXPECT_DOUBLE_EQ(LearningRateScale(config, {0, 0}), 1);
  EXPECT_DOUBLE_EQ(LearningRateScale(config, {11400, 570}), 1);
  EXPECT_NEAR(LearningRateScale(config, {11800, 590}), 0.4, 1e-9);
  EXPECT_DOUBLE_EQ(LearningRateScale(config, {12000, 600}), 0);
  // 2 s a step, the published run: it is warming down from its second step on.
  EXPECT_NEAR(LearningRateScale(config, {100, 200}), 400.0 / 1000, 1e-9);
  config.time_limit_seconds = 0;
  EXPECT_DOUBLE_EQ(LearningRateScale(config, {19500, 1e6}), 1);
  EXPECT_DOUBLE_EQ(LearningRateScale(config, {19900, 1e6}), 0.2);
  EXPECT_DOUBLE_EQ(LearningRateScale(config, {20000, 1e6}), 0);
}

RC_GTEST_PROP(ScheduleTest, EveryValueStaysInItsRange, ()) {
  const ScheduleConfig config = AnySchedule();
  RC_ASSERT(config.Validate().ok());
  const RunPosition position = AnyPosition(config);
  const auto between = [](double value, double a, double b) {
    return value >= std::min(a, b) - 1e-12 && value <= std::max(a, b) + 1e-12;
  };
  RC_ASSERT(between(Progress(config, position), 0, 1));
  RC_ASSERT(between(LearningRateScale(config, position), 0, 1));
  RC_ASSERT(between(MuonMomentum(config, position), config.momentum_start, config.momentum_end));
  const double decay = AverageDecay(config, position);
  RC_ASSERT(decay == 0 || decay == config.average_decay);
}

RC_GTEST_PROP(ScheduleTest, ARunThatGoesOnComesNearerToItsEnd, ()) {
  const ScheduleConfig config = AnySchedule();
  const RunPosition before = AnyPosition(config);
  RunPosition after = before;
  after.step += *rc::gen::inRange<int64_t>(0, 100);
  after.elapsed_seconds += *rc::gen::inRange<int>(0, 100);
  RC_ASSERT(Progress(config, after) >= Progress(config, before));
  RC_ASSERT(RunIsOver(config, after) || !RunIsOver(config, before));
  RC_ASSERT(RunIsOver(config, {config.max_steps, 0}));
  RC_ASSERT(!RunIsOver(config, {0, 0}));
}

TEST(ScheduleTest, ProgressIsToldInWhatLimitsTheRun) {
  ScheduleConfig config;
  config.max_steps = 1000;
  config.time_limit_seconds = 300;
  EXPECT_EQ(ProgressText(config, {0, 0}), "0 % of 300 s");
  EXPECT_EQ(ProgressText(config, {100, 150}), "50 % of 300 s");
  EXPECT_EQ(ProgressText(config, {999, 150}), "99 % of 1000 steps");
  EXPECT_EQ(ProgressText(config, {1000, 450}), "100 % of 300 s");
  config.time_limit_seconds = 0;
  EXPECT_EQ(ProgressText(config, {100, 150}), "10 % of 1000 steps");
}

// Between warm-up and warm-down the rate is 1, and it moves by no jump.
RC_GTEST_PROP(ScheduleTest, TheRateIsContinuous, ()) {
  ScheduleConfig config = AnySchedule();
  config.published_schedule = false;
  config.max_steps = 1 << 30;
  config.time_limit_seconds = 1;
  config.warmup_fraction = std::max(config.warmup_fraction, 0.05);
  config.warmdown_fraction = std::max(config.warmdown_fraction, 0.05);
  const double progress = 0.001 + 0.998 * Fraction();
  const double here = LearningRateScale(config, {0, progress});
  const double there = LearningRateScale(config, {0, progress + 1e-6});
  RC_ASSERT(std::abs(here - there) < 1e-4);
  if (progress >= config.warmup_fraction && progress <= 1 - config.warmdown_fraction) RC_ASSERT(here == 1);
}

TEST(ScheduleTest, NoStepIsOfSizeZeroInTheWarmUp) {
  ScheduleConfig config;
  config.warmup_fraction = 0.5;
  EXPECT_GT(LearningRateScale(config, {0, 0}), 0);
}

TEST(ScheduleTest, AnImpossibleFieldIsRefusedByName) {
  const auto with = [](auto member, auto value) {
    ScheduleConfig config;
    config.*member = value;
    return config.Validate();
  };
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(ScheduleConfig().Validate(), IsOk());
  EXPECT_THAT(with(&ScheduleConfig::max_steps, 0), StatusIs(invalid, "max_steps=0"));
  EXPECT_THAT(with(&ScheduleConfig::time_limit_seconds, -1.0), StatusIs(invalid, "time_limit_seconds=-1"));
  EXPECT_THAT(with(&ScheduleConfig::warmdown_fraction, 1.5), StatusIs(invalid, "warmdown_fraction=1.5"));
  EXPECT_THAT(with(&ScheduleConfig::average_decay, std::nan("")), StatusIs(invalid, "average_decay=nan"));
  EXPECT_THAT(with(&ScheduleConfig::momentum_end, -0.1), StatusIs(invalid, "momentum_end=-0.1"));
}

}  // namespace
}  // namespace hm11
