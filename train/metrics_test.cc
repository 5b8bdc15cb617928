// Metrics: lines read back, broken files, and runs that went on.
#include "train/metrics.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace hm11 {
namespace {

// Numbers that a line's digits hold exactly.
double Thousandths() { return *rc::gen::inRange(0, 10'000'000) / 1000.0; }

StepMetrics SomeStep(int64_t step) {
  return {.step = step,
          .train_loss = Thousandths(),
          .gradient_norm = Thousandths(),
          .learning_rate = 0.25,
          .momentum = 0.875,
          .tokens = 64 * step,
          .train_seconds = Thousandths(),
          .tokens_per_second = 5.0 * static_cast<double>(step)};
}

// A run of so many steps, validated every ten.
std::string Steps(int64_t first, int64_t last) {
  std::string text;
  for (int64_t step = first; step <= last; ++step) {
    absl::StrAppend(&text, MetricsLine(SomeStep(step)), "\n");
    if (step % 10 != 0) continue;
    absl::StrAppend(&text, MetricsLine(ValidationMetrics{.step = step, .val_bpb = 2}), "\n");
    absl::StrAppend(&text, MetricsLine(StageMetrics{"validation", 1.5}), "\n");
  }
  return text;
}

RC_GTEST_PROP(Metrics, ParseGivesBackWhatTheLinesWereMadeOf, ()) {
  const MetricsStart start = {.step = 3,
                              .max_steps = 1000,
                              .time_limit_seconds = 60,
                              .tokens_per_step = 64,
                              .train_tokens = 5'000'000'000,
                              .val_tokens = 7,
                              .parameters = 11,
                              .ranks = 2,
                              .device = *rc::gen::arbitrary<std::string>(),
                              .started = "2026-01-31T12:00:00Z",
                              .commit = "0123456789ab+"};
  const StepMetrics step = SomeStep(*rc::gen::inRange<int64_t>(1, 1'000'000));
  const ValidationMetrics validation = {.step = step.step,
                                        .train_seconds = Thousandths(),
                                        .tokens = 9,
                                        .val_loss = Thousandths(),
                                        .val_bpb = 1.25};
  const FinalMetrics final = {
      .val_loss = 2.5, .val_bpb = Thousandths(), .artifact_bytes = 12, .program_bytes = 34};
  const Metrics read =
      ParseMetrics(absl::StrCat(MetricsLine(start), "\n", MetricsLine(step), "\n", MetricsLine(validation),
                                "\n", MetricsLine(StageMetrics{"scoring", 2.5}), "\n", MetricsLine(final)));
  RC_ASSERT(read.bad_lines == 0 && read.version == kMetricsVersion);
  RC_ASSERT(read.starts.size() == 1u && read.steps.size() == 1u && read.validations.size() == 1u);
  RC_ASSERT(read.starts[0].train_tokens == start.train_tokens && read.starts[0].ranks == 2);
  RC_ASSERT(read.steps[0].step == step.step && read.steps[0].tokens == step.tokens);
  RC_ASSERT(std::abs(read.steps[0].train_loss - step.train_loss) < 1e-6);
  RC_ASSERT(std::abs(read.steps[0].gradient_norm - step.gradient_norm) < 1e-6);
  RC_ASSERT(read.steps[0].learning_rate == 0.25 && read.steps[0].momentum == 0.875);
  RC_ASSERT(std::abs(read.validations[0].val_loss - validation.val_loss) < 1e-6);
  RC_ASSERT(read.stages.size() == 1u && read.stages[0].stage == "scoring");
  RC_ASSERT(read.final && std::abs(read.final->val_bpb - final.val_bpb) < 1e-6);
}

RC_GTEST_PROP(Metrics, AnyTextParses, (const std::string& text)) { ParseMetrics(text); }

// Whole lines before the cut are read, the one that it went through is counted.
RC_GTEST_PROP(Metrics, ACutOffFileIsReadUpToTheCut, ()) {
  const std::string whole = Steps(1, 9);
  const size_t cut = *rc::gen::inRange<size_t>(0, whole.size());
  const std::string part = whole.substr(0, cut);
  const size_t ends = static_cast<size_t>(std::count(part.begin(), part.end(), '\n'));
  const bool broken = !part.empty() && part.back() != '\n' && part.back() != '}';
  const Metrics read = ParseMetrics(part);
  RC_ASSERT(read.bad_lines == (broken ? 1 : 0));
  RC_ASSERT(read.steps.size() == ends + (!part.empty() && part.back() == '}' ? 1 : 0));
}

RC_GTEST_PROP(Metrics, ARunThatWentOnHasEachStepOnce, ()) {
  const int64_t done = *rc::gen::inRange<int64_t>(1, 40), from = *rc::gen::inRange<int64_t>(0, 41);
  const std::string before =
      absl::StrCat(MetricsLine(MetricsStart{}), "\n", Steps(1, done), MetricsLine(StageMetrics{"scoring", 1}),
                   "\n", MetricsLine(FinalMetrics{}), "\n{\"step\": 4");
  const int64_t kept = std::min(done, from);
  const Metrics read = ParseMetrics(absl::StrCat(
      MetricsUpTo(before, from), MetricsLine(MetricsStart{.step = kept}), "\n", Steps(kept + 1, 45)));
  RC_ASSERT(read.bad_lines == 0 && !read.final && read.starts.size() == 2u && read.steps.size() == 45u);
  for (size_t i = 0; i < read.steps.size(); ++i) RC_ASSERT(read.steps[i].step == static_cast<int64_t>(i) + 1);
  RC_ASSERT(read.validations.size() == 4u);
  for (const StageMetrics& stage : read.stages) RC_ASSERT(stage.stage == "validation");
}

TEST(Metrics, ANewerVersionIsNotReadAndUnknownKeysArePassedOver) {
  EXPECT_TRUE(
      ParseMetrics("{\"schema\": \"hm11 metrics\", \"version\": 2}\n{\"step\": 1, \"train_loss\": 2}\n")
          .steps.empty());
  const Metrics read = ParseMetrics("{\"step\": 1, \"train_loss\": 2, \"heat\": 5}\n");
  ASSERT_EQ(read.steps.size(), 1u);
  EXPECT_EQ(read.steps[0].train_loss, 2);
  EXPECT_TRUE(std::isnan(read.steps[0].train_seconds));
  EXPECT_EQ(ParseMetrics("{\"step\": 1e300, \"train_loss\": \"x\"}\n[1]\n{}\n").bad_lines, 2);
}

}  // namespace
}  // namespace hm11
