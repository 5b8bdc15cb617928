// Metrics: lines to JSON and back.
#include "train/metrics.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"

namespace hm11 {
namespace {

using Json = nlohmann::json;

constexpr char kSchema[] = "hm11 metrics";

std::string Quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

double Number(const Json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number() ? found->get<double>() : std::nan("");
}

int64_t Count(const Json& line, const char* key) {
  const double number = Number(line, key);
  return std::abs(number) < 9e18 ? static_cast<int64_t>(number) : 0;
}

std::string Text(const Json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_string() ? found->get<std::string>() : "";
}

MetricsStart StartOf(const Json& line) {
  return {.step = Count(line, "step"),
          .max_steps = Count(line, "max_steps"),
          .time_limit_seconds = Number(line, "time_limit_seconds"),
          .tokens_per_step = Count(line, "tokens_per_step"),
          .train_tokens = Count(line, "train_tokens"),
          .val_tokens = Count(line, "val_tokens"),
          .parameters = Count(line, "parameters"),
          .ranks = Count(line, "ranks"),
          .device = Text(line, "device"),
          .started = Text(line, "started"),
          .commit = Text(line, "commit")};
}

StepMetrics StepOf(const Json& line) {
  return {.step = Count(line, "step"),
          .train_loss = Number(line, "train_loss"),
          .gradient_norm = Number(line, "gradient_norm"),
          .learning_rate = Number(line, "learning_rate"),
          .momentum = Number(line, "momentum"),
          .tokens = Count(line, "tokens"),
          .train_seconds = Number(line, "train_seconds"),
          .tokens_per_second = Number(line, "tokens_per_second")};
}

ValidationMetrics ValidationOf(const Json& line) {
  return {.step = Count(line, "step"),
          .train_seconds = Number(line, "train_seconds"),
          .tokens = Count(line, "tokens"),
          .val_loss = Number(line, "val_loss"),
          .val_bpb = Number(line, "val_bpb")};
}

FinalMetrics FinalOf(const Json& line) {
  return {.val_loss = Number(line, "val_loss"),
          .val_bpb = Number(line, "val_bpb"),
          .artifact_bytes = Count(line, "artifact_bytes"),
          .program_bytes = Count(line, "program_bytes")};
}

// False for a line that is none of the schema's.
bool AddLine(const Json& line, Metrics* metrics) {
  if (!line.is_object()) return false;
  if (line.contains("schema")) {
    if (Text(line, "schema") != kSchema) return false;
    metrics->version = std::max(metrics->version, static_cast<int>(Count(line, "version")));
    metrics->starts.push_back(StartOf(line));
  } else if (line.contains("stage")) {
    metrics->stages.push_back({Text(line, "stage"), Number(line, "seconds")});
  } else if (line.contains("final")) {
    metrics->final = FinalOf(line);
  } else if (line.contains("step") && line.contains("train_loss")) {
    metrics->steps.push_back(StepOf(line));
  } else if (line.contains("step") && line.contains("val_loss")) {
    metrics->validations.push_back(ValidationOf(line));
  } else {
    return false;
  }
  return true;
}

Json ParseLine(absl::string_view line) {
  return Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
}

}  // namespace

std::string MetricsLine(const MetricsStart& start) {
  return absl::StrCat(
      absl::StrFormat(R"({"schema": "%s", "version": %d, "step": %d, "max_steps": %d, )", kSchema,
                      kMetricsVersion, start.step, start.max_steps),
      absl::StrFormat(R"("time_limit_seconds": %.3f, "tokens_per_step": %d, "train_tokens": %d, )",
                      start.time_limit_seconds, start.tokens_per_step, start.train_tokens),
      absl::StrFormat(R"("val_tokens": %d, "parameters": %d, "ranks": %d, )", start.val_tokens,
                      start.parameters, start.ranks),
      absl::StrFormat(R"("device": %s, "started": %s, "commit": %s})", Quoted(start.device),
                      Quoted(start.started), Quoted(start.commit)));
}

std::string MetricsLine(const StepMetrics& step) {
  return absl::StrFormat(
      R"({"step": %d, "train_loss": %.6f, "gradient_norm": %.6f, "learning_rate": %.6g, "momentum": %.6g, )"
      R"("tokens": %d, "train_seconds": %.3f, "tokens_per_second": %.0f})",
      step.step, step.train_loss, step.gradient_norm, step.learning_rate, step.momentum, step.tokens,
      step.train_seconds, step.tokens_per_second);
}

std::string MetricsLine(const ValidationMetrics& validation) {
  return absl::StrFormat(
      R"({"step": %d, "train_seconds": %.3f, "tokens": %d, "val_loss": %.8f, "val_bpb": %.8f})",
      validation.step, validation.train_seconds, validation.tokens, validation.val_loss, validation.val_bpb);
}

std::string MetricsLine(const StageMetrics& stage) {
  return absl::StrFormat(R"({"stage": %s, "seconds": %.3f})", Quoted(stage.stage), stage.seconds);
}

std::string MetricsLine(const FinalMetrics& final) {
  return absl::StrFormat(
      R"({"final": true, "val_loss": %.8f, "val_bpb": %.8f, "artifact_bytes": %d, "program_bytes": %d})",
      final.val_loss, final.val_bpb, final.artifact_bytes, final.program_bytes);
}

Metrics ParseMetrics(absl::string_view text) {
  Metrics metrics;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipWhitespace())) {
    if (!AddLine(ParseLine(line), &metrics)) ++metrics.bad_lines;
  }
  if (metrics.version > kMetricsVersion) return {.version = metrics.version};
  return metrics;
}

std::string MetricsUpTo(absl::string_view text, int64_t step) {
  std::string kept;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipWhitespace())) {
    const Json json = ParseLine(line);
    Metrics one;
    if (!AddLine(json, &one)) continue;
    const bool of_the_end = one.final || (!one.stages.empty() && one.stages[0].stage != "warm-up" &&
                                          one.stages[0].stage != "validation");
    if (of_the_end || Count(json, "step") > step) continue;
    absl::StrAppend(&kept, line, "\n");
  }
  return kept;
}

}  // namespace hm11
