// Run configurations: presets are valid, texts parse back to themselves, and errors name the setting.
#include "train/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <regex>
#include <string>
#include <vector>

#include "core/fields.h"
#include "model/golden_model.h"
#include "model/weights.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

using testing::ElementsAre;

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

// The numbers in a text such as "lr .025 over 1500 steps", in their order.
std::vector<double> NumbersIn(const std::string& text) {
  static const std::regex* const number = new std::regex("[0-9]*\\.?[0-9]+(e-?[0-9]+)?");
  std::vector<double> numbers;
  for (std::sregex_iterator it(text.begin(), text.end(), *number), end; it != end; ++it) {
    numbers.push_back(std::stod(it->str()));
  }
  return numbers;
}

// A run is resumed from the settings it wrote: what was not among them then is as it was before it could be chosen.
TEST(ConfigTest, ARunOfBefore8BitsGoesOnWithout) {
  const absl::StatusOr<RunConfig> preset = Preset("hm11");
  ASSERT_THAT(preset, IsOk());
  EXPECT_TRUE(preset->fp8);
  std::string text = FormatFields(*preset);
  const size_t line = text.find("fp8=true\n");
  ASSERT_NE(line, std::string::npos);
  RunConfig resumed;
  ASSERT_THAT(ParseFields(text.erase(line, 9), &resumed), IsOk());
  EXPECT_FALSE(resumed.fp8);
}

TEST(ConfigTest, ThePublishedPresetIsTheModelOfTheReference) {
  // The golden files are of the reference's own Mamba, whose step sizes have rank inner / 16. What was published
  // ran the mamba_ssm package: dim / 16, which gives the 31.8 million parameters that it names.
  ModelConfig expected = LoadGoldenModel("model_full").config;
  expected.dt_rank = expected.dim / 16;
  const ModelConfig model = Preset("hm11_published")->model;
  EXPECT_EQ(FormatFields(model), FormatFields(expected));
  EXPECT_NEAR(static_cast<double>(CountParameters(model)), 31.8e6, 0.05e6);
}

TEST(ConfigTest, ThePublishedPresetIsTheRecipeOfTheReference) {
  const RunConfig config = *Preset("hm11_published");
  const OptimizerConfig& optimizer = config.optimizer;
  const ScheduleConfig& schedule = config.schedule;
  const std::map<std::string, std::string> recipe = LoadGoldenModel("optimizer").file.metadata;
  // "lr .025 momentum .92 -> .99 over 1500 steps, nesterov, 5 Newton-Schulz steps in float32, weight decay .04, ..."
  std::vector<double> muon = NumbersIn(recipe.at("muon"));
  ASSERT_GE(muon.size(), 7u);
  muon.resize(7);
  EXPECT_THAT(
      muon, ElementsAre(optimizer.muon_lr, schedule.momentum_start, schedule.momentum_end,
                        static_cast<double>(schedule.published_momentum_steps),
                        static_cast<double>(optimizer.newton_schulz_steps), 32, optimizer.muon_weight_decay));
  EXPECT_FALSE(optimizer.muon_on_mamba);
  // "... embeddings lr .035, everything else lr .025; betas .9 .95 eps 1e-8 wd .04"
  EXPECT_THAT(NumbersIn(recipe.at("adamw")),
              ElementsAre(optimizer.embedding_lr, optimizer.control_lr, optimizer.beta1, optimizer.beta2,
                          optimizer.epsilon, optimizer.adam_weight_decay));
  EXPECT_EQ(optimizer.embedding_weight_decay, optimizer.adam_weight_decay);
  EXPECT_THAT(NumbersIn(recipe.at("grad_clip")), ElementsAre(optimizer.clip));
  EXPECT_THAT(NumbersIn(recipe.at("ema")), ElementsAre(schedule.average_decay));
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
