// Plans of a training run's memory: enough for the run, the most that fits, and errors in bytes.
#include "train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "data/token_stream.h"
#include "testing/matchers.h"
#include "train/run_test_data.h"

namespace hm11 {
namespace {

constexpr int64_t kAll = std::numeric_limits<int64_t>::max();

RunConfig Config(const std::string& settings) {
  RunConfig config = SmallRun("", "").config;
  EXPECT_THAT(ApplyOverrides(settings, &config), IsOk());
  EXPECT_THAT(config.Validate(), IsOk());
  return config;
}

// An arena that is too small is fatal: a step within the planned bytes is the test.
TEST(TrainerTest, AStepTakesWhatWasPlannedForItsDevice) {
  const std::string folder = NewSmallDataFolder("hm11_trainer");
  const TokenStream stream = *TokenStream::Open(folder + "/t_train_*.bin", 300);
  for (const char* settings :
       {"", "micro_batch_tokens=32", "calibration_tokens=0", "layers=AAA,mtp_heads=2", "layers=MMM,state=8",
        "parallel_layers=1,value_residual=true", "loop_first=1,loop_last=1,loop_passes=2,loop_from=0.5"}) {
    const RunConfig config = Config(settings);
    const MemoryPlan plan = *PlanMemory<float>(config, Communicator(), Device::Cpu(), kAll);
    Trainer<float> trainer(config, plan, Device::Cpu(), stream, Communicator());
    trainer.WarmUp(1);
    for (size_t phase = 0; phase < config.Phases().size(); ++phase) {
      trainer.Step(static_cast<int64_t>(phase), {}, phase);
    }
    trainer.Synchronize();
    EXPECT_LE(trainer.used_bytes(), plan.state_bytes + plan.work_bytes) << settings;
    EXPECT_GE(trainer.used_bytes(), plan.state_bytes) << settings;
  }
}

TEST(TrainerTest, TheLargestMicroBatchThatFitsIsTaken) {
  RunConfig config = Config("");
  config.micro_batch_tokens = 0;
  const auto plan = [&](int64_t available) {
    return PlanMemory<float>(config, Communicator(), Device::Cpu(), available);
  };
  const MemoryPlan whole = *plan(kAll);
  EXPECT_EQ(whole.micro_batch_tokens, config.batch_tokens);
  int64_t fits = int64_t{4} << 30;  // the least that still gives the whole batch
  for (int64_t step = fits / 2; step > 0; step /= 2) {
    const auto smaller = plan(fits - step);
    if (smaller.ok() && smaller->micro_batch_tokens == config.batch_tokens) fits -= step;
  }
  const MemoryPlan half = *plan(fits - 1);
  EXPECT_EQ(half.micro_batch_tokens, config.batch_tokens / 2);
  EXPECT_LT(half.total_bytes(), whole.total_bytes());
}

TEST(TrainerTest, WhatDoesNotFitIsNamedInBytes) {
  const auto message = [](const char* settings, int64_t available) {
    const auto plan = PlanMemory<float>(Config(settings), Communicator(), Device::Cpu(), available);
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
    return std::string(plan.status().message());
  };
  EXPECT_THAT(message("", 12345), testing::ContainsRegex("even one sequence of 32 tokens at a time needs "
                                                         "[0-9]{9,} bytes and device cpu has 12345 free"));
  // Between what 32 tokens at a time take and what 256 do.
  const auto total = [](const char* settings) {
    return PlanMemory<float>(Config(settings), Communicator(), Device::Cpu(), kAll)->total_bytes();
  };
  const int64_t between =
      (total("micro_batch_tokens=32") + total("micro_batch_tokens=256")) / 2 + (int64_t{1} << 30);
  EXPECT_THAT(message("micro_batch_tokens=256", between),
              testing::ContainsRegex("micro_batch_tokens=256 needs [0-9]+ bytes and device cpu has [0-9]+ "
                                     "free; micro_batch_tokens=[0-9]+ would fit"));
}

}  // namespace
}  // namespace hm11
