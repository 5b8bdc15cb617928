// What a run does next, in its properties.
#include "train/step_decision.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>
#include <type_traits>

namespace hm11 {
namespace {

static_assert(std::is_trivially_copyable_v<StepDecision>);

RC_GTEST_PROP(StepDecisionTest, TheClockDecidesAndNothingElse, ()) {
  RunConfig config = *Preset("tiny");
  config.schedule.max_steps = *rc::gen::inRange<int64_t>(1, 200);
  config.schedule.time_limit_seconds = *rc::gen::elementOf(std::vector<double>{0, 10, 100});
  config.validation_seconds = *rc::gen::elementOf(std::vector<double>{0, 5});
  config.checkpoint_seconds = *rc::gen::elementOf(std::vector<double>{0, 7});
  const RunPosition position = {.step = *rc::gen::inRange<int64_t>(0, 250),
                                .elapsed_seconds = *rc::gen::inRange(0, 1500) / 10.0};
  const LastDone last = {.validation_seconds = *rc::gen::inRange(0, 100) / 10.0,
                         .checkpoint_seconds = *rc::gen::inRange(0, 100) / 10.0};
  const bool interrupted = *rc::gen::arbitrary<bool>();
  const StepDecision next = DecideStep(config, config.schedule, position, last, interrupted);
  const double seconds = position.elapsed_seconds;
  RC_ASSERT(next.over ==
            (interrupted || position.step >= config.schedule.max_steps ||
             (config.schedule.time_limit_seconds > 0 && seconds >= config.schedule.time_limit_seconds)));
  RC_ASSERT(next.validate ==
            (!next.over && config.validation_seconds > 0 && seconds >= last.validation_seconds + 5));
  RC_ASSERT(next.checkpoint ==
            (!next.over && config.checkpoint_seconds > 0 && seconds >= last.checkpoint_seconds + 7));
  RC_ASSERT(next.position.step == position.step && next.interrupted == interrupted);
  RC_ASSERT(next.scalars.lr_scale == static_cast<float>(LearningRateScale(config.schedule, position)));
}

// 1 - beta^t of the t-th step, by hand.
TEST(StepDecisionTest, MomentsAreCorrectedForTheStepsThatTheyHaveSeen) {
  RunConfig config = *Preset("tiny");
  config.optimizer.beta1 = 0.9;
  config.optimizer.beta2 = 0.5;
  const float expected[][2] = {{0.1f, 0.5f}, {0.19f, 0.75f}, {0.271f, 0.875f}};
  for (int64_t step = 0; step < 3; ++step) {
    const StepScalars scalars =
        DecideStep(config, config.schedule, {.step = step}, {}, /*interrupted=*/false).scalars;
    EXPECT_FLOAT_EQ(scalars.adam_correction1, expected[step][0]) << step;
    EXPECT_FLOAT_EQ(scalars.adam_correction2, expected[step][1]) << step;
  }
}

}  // namespace
}  // namespace hm11
