// A run's steps and validations as comma-separated lines.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "train/report/page.h"

namespace hm11 {
namespace {

std::string Field(double value) { return std::isfinite(value) ? absl::StrFormat("%.9g", value) : ""; }

}  // namespace

std::string MetricsCsv(const RunRecord& run) {
  std::string csv =
      "step,tokens,train_seconds,train_loss,gradient_norm,learning_rate,momentum,tokens_per_second,val_loss,"
      "val_bpb\n";
  auto validation = run.metrics.validations.begin();
  const auto validations_before = [&](int64_t step) {
    for (; validation != run.metrics.validations.end() && validation->step < step; ++validation) {
      absl::StrAppend(&csv, validation->step, ",", validation->tokens, ",", Field(validation->train_seconds),
                      ",,,,,,", Field(validation->val_loss), ",", Field(validation->val_bpb), "\n");
    }
  };
  for (const StepMetrics& step : run.metrics.steps) {
    validations_before(step.step);
    absl::StrAppend(&csv, step.step, ",", step.tokens, ",", Field(step.train_seconds), ",",
                    Field(step.train_loss), ",", Field(step.gradient_norm), ",", Field(step.learning_rate),
                    ",");
    absl::StrAppend(&csv, Field(step.momentum), ",", Field(step.tokens_per_second), ",,\n");
  }
  validations_before(INT64_MAX);
  return csv;
}

}  // namespace hm11
