// Reading scores and times of evaluation.
#include "tools/compliance/score_lines.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "tools/compliance/log_numbers.h"

namespace hm11 {
namespace {

constexpr size_t kMostOthers = 1000;    // scores on the way
constexpr size_t kMostLinesKept = 200;  // of one kind

// Runs may be printed twice, a summary repeats a line: the same time of the same thing counts once.
bool IsNew(const LoggedTime& time, const std::vector<LoggedTime>& known) {
  return std::none_of(known.begin(), known.end(),
                      [&](const LoggedTime& other) { return other.seconds == time.seconds; });
}

// The times of evaluation on a line: after a name that ends in eval_time, whatever stands before that.
void ReadEvaluationTimes(absl::string_view line, const std::string& label, int64_t line_number,
                         LoggedRun* run) {
  for (size_t at = line.find("eval_time"); at != absl::string_view::npos;
       at = line.find("eval_time", at + 1)) {
    size_t begin = at;
    while (begin > 0 && IsNameCharacter(line[begin - 1])) --begin;
    absl::string_view name = line.substr(begin, at + 9 - begin);
    if (name == "total_eval_time") continue;
    absl::string_view rest = line.substr(at + 9);
    const bool is_ms = absl::ConsumePrefix(&rest, "_ms");
    const bool is_s = !is_ms && (absl::ConsumePrefix(&rest, "_seconds") || absl::ConsumePrefix(&rest, "_s"));
    rest = absl::StripLeadingAsciiWhitespace(rest);
    if (!absl::ConsumePrefix(&rest, ":") && !absl::ConsumePrefix(&rest, "=")) continue;
    const auto seconds = Seconds(rest, is_s ? 1 : 1e-3);
    if (!seconds || *seconds <= 0 || *seconds > 1e7 || run->evaluations.size() >= kMostLinesKept) continue;
    const LoggedTime time = {label.empty() ? Short(name) : label, *seconds, line_number};
    if (IsNew(time, run->evaluations)) run->evaluations.push_back(time);
  }
}

// Scores under names of their own: "ppm_mix_bpb:0.83", "ngram_bpb=0.32".
void ReadNamedScores(absl::string_view line, const std::string& lower, int64_t line_number, LoggedRun* run) {
  // A log of an evaluation alone has no training; what it ends with says that it is done.
  if (!run->train_seconds && run->finals.empty() && !absl::StrContains(lower, "done")) return;
  if (ContainsAny(lower, {"progress", "running", "chunk", "%", "delta", "improvement"})) return;
  for (size_t at = lower.find("bpb"); at != std::string::npos; at = lower.find("bpb", at + 1)) {
    size_t begin = at;
    while (begin > 0 && IsNameCharacter(lower[begin - 1])) --begin;
    LoggedScore score = {.label = Short(line.substr(begin, at + 3 - begin)), .line = line_number};
    const auto bpb = NumberAfter(line.substr(begin), score.label, &score.bpb_decimals);
    if (!bpb || *bpb <= 0 || *bpb > 100 || run->others.size() >= kMostOthers) continue;
    score.val_bpb = *bpb;
    run->others.push_back(score);
  }
}

}  // namespace

void ReadScoreOnTheWay(absl::string_view line, int64_t line_number, LoggedRun* run) {
  LoggedScore score = {.label = kOnTheWay, .line = line_number};
  const auto bpb = NumberAfter(line, "val_bpb", &score.bpb_decimals);
  if (!bpb || *bpb <= 0 || *bpb > 100 || run->others.size() >= kMostOthers) return;
  score.val_bpb = *bpb;
  score.val_loss = NumberAfter(line, "val_loss", &score.loss_decimals).value_or(0);
  run->others.push_back(score);
}

bool ReadScore(absl::string_view line, const std::string& lower, int64_t line_number, LoggedRun* run) {
  LoggedScore score = {.line = line_number};
  const auto bpb = NumberAfter(line, "val_bpb", &score.bpb_decimals);
  if (!bpb || *bpb <= 0 || *bpb > 100) {
    ReadEvaluationTimes(line, "", line_number, run);
    ReadNamedScores(line, lower, line_number, run);
    return false;
  }
  const auto loss = NumberAfter(line, "val_loss", &score.loss_decimals);
  score.val_bpb = *bpb;
  score.val_loss = loss.value_or(0);
  score.eval_seconds = SecondsAfter(line, "eval_time", /*bare=*/1e-3);
  score.label = Short(line.substr(0, std::min(line.find("val_loss"), line.find("val_bpb"))));
  const bool unquantized = IsBeforeQuantizing(lower);
  if (absl::StrContains(lower, "train_time")) return false;  // on the way
  if (unquantized) {
    run->unquantized = score;
    if (run->others.size() < kMostOthers) run->others.push_back(score);
  } else if (ContainsAny(lower, {"diagnostic", "best_", "baseline", "target", "delta"}) ||
             (!loss && !ContainsAny(lower.substr(0, 40), {"final", "quantized", "legal_ttt"}))) {
    // Without a loss it is a summary's, unless it says that it is final.
    if (run->others.size() < kMostOthers) run->others.push_back(score);
  } else {
    // The trainer prints a score rounded and then exactly; a log may hold its tail twice.
    const bool again = std::any_of(run->finals.begin(), run->finals.end(), [&](const LoggedScore& known) {
      return known.label == score.label && known.val_bpb == score.val_bpb &&
             known.val_loss == score.val_loss && known.eval_seconds == score.eval_seconds;
    });
    if (!again && run->finals.size() < kMostLinesKept) run->finals.push_back(score);
    ReadEvaluationTimes(line, score.label, line_number, run);
    return true;
  }
  return false;
}

}  // namespace hm11
