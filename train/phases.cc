// Phases: parsing, and the places where one setting or the other changes.
#include "train/phases.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace hm11 {
namespace {

absl::StatusOr<std::vector<Phase>> ParseStages(absl::string_view text, int64_t sequence) {
  const auto bad = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("sequence_stages=", text, ": ", why));
  };
  std::vector<Phase> stages;
  for (const absl::string_view stage : absl::StrSplit(text, '+', absl::SkipEmpty())) {
    const std::vector<absl::string_view> parts = absl::StrSplit(stage, ':');
    Phase phase;
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &phase.sequence) ||
        !absl::SimpleAtod(parts[1], &phase.until)) {
      return bad(absl::StrCat("'", stage, "' is not LENGTH:UNTIL"));
    }
    if (phase.sequence < 2 || sequence % phase.sequence != 0) {
      return bad(absl::StrCat("length ", phase.sequence, " must be a divisor of sequence=", sequence));
    }
    if (!(phase.until > (stages.empty() ? 0 : stages.back().until) && phase.until < 1)) {
      return bad("shares must rise, from above 0 to below 1");
    }
    stages.push_back(phase);
  }
  stages.push_back({.until = 1, .sequence = sequence});
  return stages;
}

}  // namespace

absl::StatusOr<std::vector<Phase>> MakePhases(absl::string_view stages, int64_t sequence, bool has_loops,
                                              double loop_from) {
  if (!(loop_from >= 0 && loop_from < 1)) {
    return absl::InvalidArgumentError(absl::StrCat("loop_from=", loop_from, ": must lie in [0, 1)"));
  }
  absl::StatusOr<std::vector<Phase>> lengths = ParseStages(stages, sequence);
  if (!lengths.ok() || !has_loops) return lengths;
  std::vector<Phase> phases;
  double begin = 0;
  for (Phase phase : *lengths) {
    if (begin < loop_from && loop_from < phase.until) {
      phases.push_back({.until = loop_from, .sequence = phase.sequence, .looped = false});
      begin = loop_from;
    }
    phase.looped = begin >= loop_from;
    phases.push_back(phase);
    begin = phase.until;
  }
  return phases;
}

size_t PhaseAt(const std::vector<Phase>& phases, double progress) {
  size_t at = 0;
  while (at + 1 < phases.size() && progress >= phases[at].until) ++at;
  return at;
}

}  // namespace hm11
