// A finished run quantized again: the same bytes with its own settings, others with others; bad input by
// name.
#include "tools/requantizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "testing/matchers.h"
#include "train/run.h"
#include "train/run_test_data.h"

namespace hm11 {
namespace {

class RequantizerTest : public testing::Test {
 protected:
  // A run, made once for all tests.
  static void SetUpTestSuite() {
    folder_ = new std::string(NewSmallDataFolder("hm11_requantize"));
    RunOptions options = SmallRun(*folder_, "run");
    ASSERT_THAT(ApplyOverrides("small_elements=500", &options.config), IsOk());
    ASSERT_THAT(hm11::Run(options), IsOk());
  }
  static void TearDownTestSuite() { delete folder_; }

  static RequantizeOptions Options() {
    RequantizeOptions options;
    options.run = *folder_ + "/run";
    options.train_pattern = *folder_ + "/t_train_*.bin";
    options.val_pattern = *folder_ + "/t_val_*.bin";
    options.out = *folder_ + "/out.hm11";
    options.first_step = 24;  // where the run's own calibration began
    return options;
  }
  absl::Status Try(const RequantizeOptions& options) {
    lines_.clear();
    return Requantize(options, [this](const std::string& line) { lines_.push_back(line); });
  }
  // The number after `key` in a line.
  static double NumberIn(const std::string& line, const std::string& key) {
    const size_t at = line.find(key);
    EXPECT_NE(at, std::string::npos) << key << " in " << line;
    return std::strtod(line.c_str() + at + key.size(), nullptr);
  }

  static std::string* folder_;
  std::vector<std::string> lines_;
};

std::string* RequantizerTest::folder_ = nullptr;

TEST_F(RequantizerTest, TheRunsOwnSettingsGiveTheRunsArtifact) {
  ASSERT_THAT(Try(Options()), IsOk());
  EXPECT_TRUE(*ReadFile(*folder_ + "/out.hm11") == *ReadFile(*folder_ + "/run/artifact.hm11"));
}

TEST_F(RequantizerTest, EachTrialIsALineAndASmallerBudgetCostsMore) {
  RequantizeOptions options = Options();
  options.trials = {"budget_bytes=60000", "budget_bytes=9000", "budget_bytes=60000"};
  ASSERT_THAT(Try(options), IsOk());
  std::vector<std::string> trials;
  for (const std::string& line : lines_) {
    if (line.starts_with("trial:")) trials.push_back(line);
  }
  ASSERT_EQ(trials.size(), 3u);
  EXPECT_LE(NumberIn(trials[1], "bytes:"), 9000);
  EXPECT_GT(NumberIn(trials[1], "lost:"), NumberIn(trials[0], "lost:"));
  EXPECT_EQ(NumberIn(trials[0], "lost:"), NumberIn(trials[2], "lost:")) << "a trial leaves nothing behind";
}

TEST_F(RequantizerTest, WhatEachKindCostsAloneIsShown) {
  RequantizeOptions options = Options();
  options.trials = {"budget_bytes=9000"};
  options.sensitivity = true;
  ASSERT_THAT(Try(options), IsOk());
  EXPECT_THAT(lines_, testing::Contains(testing::HasSubstr("only kv_bank (v)")));
  EXPECT_THAT(lines_, testing::Contains(testing::HasSubstr("only blocks.*.fc.weight")));
  EXPECT_THAT(lines_.back(), testing::HasSubstr("sum of all kinds"));
}

TEST_F(RequantizerTest, BadInputIsNamed) {
  RequantizeOptions options = Options();
  options.trials = {"sigma_k=banana"};
  EXPECT_THAT(Try(options), StatusIs(absl::StatusCode::kInvalidArgument, "sigma_k"));
  options.trials = {"dim=64"};
  EXPECT_THAT(Try(options), StatusIs(absl::StatusCode::kInvalidArgument, "'dim=64' changes the model"));
  options = Options();
  options.run = "/nowhere";
  EXPECT_THAT(Try(options), StatusIs(absl::StatusCode::kNotFound, "/nowhere/config.txt"));
}

}  // namespace
}  // namespace hm11
