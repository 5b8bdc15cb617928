// The condition that keeps the validation text out of training.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "tools/compliance/rules.h"

namespace hm11 {
namespace {

// The claimed runs, and the logs of their seeds' training where these only evaluate.
std::vector<const LoggedRun*> RunsAndTheirTraining(const Case& subject) {
  std::vector<const LoggedRun*> runs = subject.runs;
  for (const LoggedRun* other : subject.others) {
    const bool trains_a_claimed_one =
        other->train_shards &&
        std::any_of(subject.runs.begin(), subject.runs.end(), [&](const LoggedRun* run) {
          return !run->train_shards && run->seed && run->seed == other->seed;
        });
    if (trains_a_claimed_one) runs.push_back(other);
  }
  return runs;
}

// Validation shards where training files are named, in a README or a shell script.
std::optional<Fact> TrainsOnValidationShards(const SubmissionFolder& folder) {
  int64_t line_number = 0;
  for (absl::string_view line : absl::StrSplit(folder.readme, '\n')) {
    ++line_number;
    const std::string dense = absl::AsciiStrToLower(line.substr(0, 1000));
    const size_t setting = std::min(dense.find("train_files="), dense.find("train_pattern="));
    if (setting == std::string::npos) continue;
    const size_t end = dense.find_first_of(" \t", setting);
    if (!absl::StrContains(dense.substr(setting, end - setting), "fineweb_val")) continue;
    return Fact("names validation shards as training files", {{folder.readme_file, line_number}});
  }
  return std::nullopt;
}

}  // namespace

void JudgeOverlap(const Case& subject, Condition* condition) {
  if (subject.input.overlap) {
    if (!subject.input.overlap->ok()) {
      return condition->Add(std::string(subject.input.overlap->status().message()));
    }
    const ShardOverlap& overlap = **subject.input.overlap;
    condition->Add(absl::StrFormat(
        "%d of %d validation documents are among %d training documents; of %d a passage of 64 tokens is",
        overlap.shared_documents, overlap.val_documents, overlap.train_documents, overlap.shared_passages));
    for (const std::string& example : overlap.examples) condition->Add(absl::StrCat("found in ", example));
    const double share = static_cast<double>(overlap.shared()) /
                         std::max<double>(1, static_cast<double>(overlap.val_documents));
    condition->strict = overlap.shared_documents > 0 || share > 0.005 ? Verdict::kFail : Verdict::kPass;
    condition->practised = share > 0.01 ? Verdict::kFail : Verdict::kPass;
    return;
  }
  // Data preparations that kept validation documents for training left these marks.
  bool own_data = false;
  for (const LoggedRun* run : RunsAndTheirTraining(subject)) {
    const bool own_preparation = run->train_shards.value_or(0) > 1000;
    if (own_preparation) {
      // The published shards are 80; who makes more of them with the published preparation keeps 40,000 of
      // the validation documents in them, unless told otherwise. With a vocabulary of its own a folder has no
      // others.
      const char* full = WholeTextName(*run);
      own_data = true;
      if (full != nullptr && absl::StrContains(full, "CaseOps")) condition->SetBoth(Verdict::kFail);
      condition->Add(absl::StrCat(*run->train_shards,
                                  " training shards where the published data has 80: the mark "
                                  "of a preparation that keeps validation documents"),
                     {run->At("train_shards")}, Sureness::kSuspected);
    }
    if (run->val_tokens == 9662464) {
      condition->SetBoth(Verdict::kFail);
      condition->Add(
          "9,662,464 validation tokens are 10,000 of the 50,000 documents; the rest went into training",
          {run->At("val_tokens")});
    }
    if (condition->strict != Verdict::kFail && !own_data && run->train_shards.value_or(0) > 0) {
      condition->practised = Verdict::kPass;
      condition->Add(absl::StrCat(*run->train_shards, " training shards"), {run->At("train_shards")});
    }
  }
  if (const std::optional<Fact> named = TrainsOnValidationShards(subject.folder)) {
    condition->SetBoth(Verdict::kFail);
    condition->facts.push_back(*named);
  }
}

}  // namespace hm11
