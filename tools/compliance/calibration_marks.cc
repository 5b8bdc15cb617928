// Reading what a run says of calibrating its quantizer.
#include "tools/compliance/calibration_marks.h"

#include <algorithm>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "tools/compliance/log_numbers.h"

namespace hm11 {
namespace {

constexpr size_t kMostTimedLines = 200;

// "gptq:SKIPPED (SKIP_GPTQ=1)", "gptq_enabled: False", "mixed_quantize: 0 GPTQ tensors", and the search for
// clipping bounds called GPTQ-lite, which reads no text.
bool Denies(const std::string& lower) {
  return ContainsAny(lower, {"skip", "gptq-lite", "gptq_lite", "gptqlite", "no gptq", "without",
                             "clip search", " 0 gptq", ":0 gptq", "=0 gptq"}) ||
         ContainsAny(lower, {"enabled: false", "enabled:false", "enabled=false", "enabled: 0", "enabled:0"});
}

// Settings such as "gptq_calibration_batches: 16" are no deed.
bool Calibrates(const std::string& lower) {
  return ContainsAny(
             lower, {"calibrating", "calibrated", "collecting", "collected", "collection", "capture_hess"}) ||
         (absl::StrContains(lower, "calibration") && !absl::StrContains(lower, "calibration_"));
}

bool OnOwnText(const std::string& lower) {
  return ContainsAny(lower,
                     {"self-gen", "self_gen", "selfgen", "ar self", "autoregressive calib", "ar calib"}) ||
         (absl::StrContains(lower, "gptq") &&
          ContainsAny(lower, {"generating calib", "generating sequences"}));
}

bool OnValidationText(const std::string& lower) {
  return ContainsAny(lower, {"val data", "val_data", "val-data", "validation data", "val tokens",
                             "val_tokens", "validation tokens", "source=val", "source:val"}) &&
         !ContainsAny(lower, {"no val", "not val", "without val"});
}

}  // namespace

// "gptq:collected 67 hessians in 12.7s", "gptq: hessians for 86 layers in 1.9s", "gptq:calibrated 66 layers in
// 4.1s", "gptq:hessians collected layers=68 time=39.0s", "gptq:hessian_collection_time:4100ms".
void CalibrationMarks::ReadTime(const std::string& lower, int64_t line, LoggedRun* run) {
  const size_t deed = std::min({lower.find("hessian"), lower.find("collect"), lower.find("calibrat")});
  if (deed == std::string::npos || timed_.size() >= kMostTimedLines) return;
  for (const char* key : {" in ", " time=", " time:", "_time:", " elapsed=", " elapsed:"}) {
    const size_t at = lower.find(key, deed);
    if (at == std::string::npos) continue;
    const auto seconds = Seconds(absl::string_view(lower).substr(at + std::string(key).size()), /*bare=*/1);
    if (!seconds || *seconds < 0 || *seconds >= 1e6) continue;
    // A trial before the run, or a tail that stands twice, prints the same words: the longest counts.
    std::string words = lower;
    words.erase(
        std::remove_if(words.begin(), words.end(), [](unsigned char c) { return absl::ascii_isdigit(c); }),
        words.end());
    double& longest = timed_[words];
    if (*seconds < longest) return;
    run->hessian_seconds = run->hessian_seconds.value_or(0) + *seconds - longest;
    longest = *seconds;
    run->lines["hessians"] = line;
    return;
  }
}

void CalibrationMarks::Read(const std::string& lower, int64_t line, LoggedRun* run) {
  if (OnOwnText(lower)) run->calibrates_on_own_text = true;
  // "gptq:calibrating with 256 batches...", "gptq:collecting hessians from calibration data...",
  // "gptq:calibrating with 64 batches (using val data)..."; a program's text in a log has braces.
  const bool named = ContainsAny(lower, {"gptq", "hessian", "awq"}) && !absl::StrContains(lower, "{");
  if (!named || Denies(lower)) return;
  const bool does = Calibrates(lower);
  const bool hessians = ContainsAny(lower, {"gptq", "hessian"});
  if (hessians && (does || absl::StrContains(lower, "quantiz"))) run->uses_hessians = true;
  if (hessians && (does || absl::StrContains(lower, "hessians"))) ReadTime(lower, line, run);
  const bool stops = absl::StartsWith(lower, "stopping_early");
  if (does && !stops && run->calibrates_line == 0 && run->train_seconds) run->calibrates_line = line;
  if (OnValidationText(lower) && (does || absl::StrContains(lower, "using"))) {
    run->calibrates_on_validation_line = line;
  }
}

}  // namespace hm11
