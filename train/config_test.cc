// Run configurations: presets are valid, texts parse back to themselves, and errors name the setting.
#include "train/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "core/fields.h"
#include "model/weights.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

TEST(ConfigTest, EveryPresetIsPossibleAndParsesBackToItself) {
  for (const std::string& name : PresetNames()) {
    absl::StatusOr<RunConfig> config = Preset(name);
    ASSERT_THAT(config, IsOk());
    EXPECT_THAT(config->Validate(), IsOk());
    EXPECT_EQ(config->preset, name);
    RunConfig parsed;
    ASSERT_THAT(ParseFields(FormatFields(*config), &parsed), IsOk());
    EXPECT_EQ(FormatFields(parsed), FormatFields(*config));
  }
}

TEST(ConfigTest, ThePublishedPresetIsThePublishedRecipe) {
  const RunConfig config = *Preset("hm11_published");
  EXPECT_EQ(CountParameters(config.model), 31'780'916);
  EXPECT_EQ(config.batch_tokens, 786'432);
  EXPECT_FALSE(config.optimizer.muon_on_mamba);
  EXPECT_EQ(config.optimizer.muon_weight_decay, 0.04);
  EXPECT_EQ(config.schedule.average_decay, 0.997);
  EXPECT_EQ(config.schedule.momentum_start, 0.92);
  EXPECT_EQ(config.schedule.momentum_end, 0.99);
  EXPECT_EQ(config.quant.scheme, "published");
  EXPECT_TRUE(config.export_average);
}

TEST(ConfigTest, ErrorsNamePresetKeyAndValue) {
  EXPECT_THAT(Preset("hm12"), StatusIs(absl::StatusCode::kNotFound, "hm12"));
  RunConfig config;
  EXPECT_THAT(ApplyOverrides("no_such_key=1", &config), StatusIs(absl::StatusCode::kNotFound, "no_such_key"));
  EXPECT_THAT(ApplyOverrides("dim=wide", &config), StatusIs(absl::StatusCode::kInvalidArgument, "wide"));
  EXPECT_THAT(ApplyOverrides("dim", &config), StatusIs(absl::StatusCode::kInvalidArgument, "dim"));
  ASSERT_THAT(ApplyOverrides("sequence=100,batch_tokens=250", &config), IsOk());
  EXPECT_THAT(config.Validate(), StatusIs(absl::StatusCode::kInvalidArgument, "batch_tokens=250"));
  ASSERT_THAT(ApplyOverrides("batch_tokens=300,micro_batch_tokens=200", &config), IsOk());
  EXPECT_THAT(config.Validate(), StatusIs(absl::StatusCode::kInvalidArgument, "micro_batch_tokens=200"));
  for (const char* setting : {"control_lr=nan", "muon_lr=-1", "muon_weight_decay=inf", "beta1=1", "clip=-1",
                              "newton_schulz_steps=0", "warmdown_fraction=1.5", "calibration_seconds=-5",
                              "calibration_seconds=nan", "calibration_seconds=inf"}) {
    RunConfig wrong;
    ASSERT_THAT(ApplyOverrides(setting, &wrong), IsOk());
    EXPECT_THAT(wrong.Validate(), StatusIs(absl::StatusCode::kInvalidArgument, setting));
  }
}

RC_GTEST_PROP(ConfigTest, AnySettingsComeBackFromTheirText, ()) {
  RunConfig config;
  config.seed = *rc::gen::arbitrary<int64_t>();
  config.model.rope_base = *rc::gen::arbitrary<double>();
  config.optimizer.muon_lr = *rc::gen::arbitrary<double>();
  config.schedule.published_schedule = *rc::gen::arbitrary<bool>();
  config.model.layers = *rc::gen::container<std::string>(rc::gen::element('M', 'A'));
  RC_PRE(config.model.rope_base == config.model.rope_base &&
         config.optimizer.muon_lr == config.optimizer.muon_lr);
  RunConfig parsed;
  RC_ASSERT(ParseFields(FormatFields(config), &parsed).ok());
  RC_ASSERT(parsed.seed == config.seed);
  RC_ASSERT(parsed.model.rope_base == config.model.rope_base);
  RC_ASSERT(parsed.optimizer.muon_lr == config.optimizer.muon_lr);
  RC_ASSERT(FormatFields(parsed) == FormatFields(config));
}

RC_GTEST_PROP(ConfigTest, FlagsMakeTheSameConfigurationButForItsSeed, ()) {
  RunConfig config = *Preset(*rc::gen::elementOf(PresetNames()));
  config.seed = *rc::gen::inRange<int64_t>(0, 1000);
  config.model.dim = *rc::gen::inRange<int64_t>(1, 4000);
  config.optimizer.muon_lr = *rc::gen::inRange(1, 1000) / 7e4;
  if (*rc::gen::arbitrary<bool>()) config.sequence_stages = "8:0.4 + 16";
  const auto flags = TrainingFlags(config);
  RC_ASSERT(flags.ok());
  RC_ASSERT(flags->size() <= 2u && (*flags)[0] == "--preset=" + config.preset);
  RunConfig again = *Preset(config.preset);
  if (flags->size() == 2) {
    RC_ASSERT((*flags)[1].rfind("--set=", 0) == 0u);
    RC_ASSERT(ApplyOverrides((*flags)[1].substr(6), &again).ok());
  }
  RC_ASSERT(again.seed == Preset(config.preset)->seed);
  again.seed = config.seed;
  RC_ASSERT(FormatFields(again) == FormatFields(config));
}

TEST(ConfigTest, WhatFlagsCannotHoldIsRefused) {
  RunConfig config = *Preset("tiny");
  config.sequence_stages = "a,b";
  EXPECT_THAT(TrainingFlags(config), StatusIs(absl::StatusCode::kInvalidArgument, "sequence_stages=a,b"));
  config = *Preset("tiny");
  config.preset = "huge";
  EXPECT_THAT(TrainingFlags(config), StatusIs(absl::StatusCode::kNotFound, "huge"));
}

TEST(ConfigTest, TheBudgetIsWhatTheProgramLeavesOfTheCap) {
  RunConfig config = *Preset("hm11");
  EXPECT_EQ(QuantConfigWithProgram(config, 300000).budget_bytes, 15700000);
  config.quant.budget_bytes = 1000000;
  EXPECT_EQ(QuantConfigWithProgram(config, 300000).budget_bytes, 1000000);
  config.quant.budget_bytes = 0;
  EXPECT_EQ(QuantConfigWithProgram(config, 300000).budget_bytes, 0) << "0 is no budget at all";
}

}  // namespace
}  // namespace hm11
