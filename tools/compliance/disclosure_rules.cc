// The condition that all seeds that were run are disclosed.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/compliance/file_names.h"
#include "tools/compliance/printed_numbers.h"
#include "tools/compliance/rules.h"

namespace hm11 {

bool LiesBesideAClaimedRun(const Case& subject, const LoggedRun& run) {
  const auto folder_of = [](const std::string& path) { return path.substr(0, path.rfind('/') + 1); };
  if (subject.folder.claims) {
    for (const std::string& name : subject.folder.claims->reference_logs) {
      if (absl::EndsWith(run.path, name)) return false;
    }
  }
  return std::any_of(subject.runs.begin(), subject.runs.end(), [&](const LoggedRun* claimed) {
    return folder_of(claimed->path) == folder_of(run.path);
  });
}

namespace {

// Whether the submission names the seed anywhere, or gives the run's score under another, or the log's name is
// of a seed that it claims.
bool IsNamed(const SubmissionFolder& folder, const LoggedRun& run) {
  const std::optional<int64_t> of_name = SeedInName(run.path);
  if (of_name && folder.claims->seeds.count(*of_name) > 0) return true;
  for (const std::string* text : {&folder.claims->text, &folder.readme}) {
    if (NamesNumber(*text, *run.seed)) return true;
    for (const LoggedScore& score : run.finals) {
      if (absl::StrContains(*text, absl::StrFormat("%.4f", score.val_bpb))) return true;
    }
  }
  return false;
}

}  // namespace

void JudgeDisclosure(const Case& subject, Condition* condition) {
  const SubmissionFolder& folder = subject.folder;
  if (!folder.claims || folder.claims->seeds.empty()) {
    return condition->Add(absl::StrCat(folder.claims_file, " names no seeds"));
  }
  const auto& claimed = folder.claims->seeds;
  for (const auto* list : {&subject.runs, &subject.others}) {
    for (const LoggedRun* run : *list) {
      if (!run->seed || run->final_score() == nullptr || claimed.count(*run->seed) > 0) continue;
      if (list == &subject.others && !LiesBesideAClaimedRun(subject, *run)) continue;
      if (IsNamed(folder, *run)) {
        condition->Add(absl::StrCat("seed ", *run->seed, " has a log and is disclosed beside the claim"),
                       {run->At("seed")});
        continue;
      }
      condition->strict = Verdict::kFail;
      condition->Add(absl::StrCat("seed ", *run->seed, " has a log, and neither ", folder.claims_file,
                                  " nor README.md names it or its score"),
                     {run->At("seed")});
    }
  }
  if (condition->strict != Verdict::kFail) condition->practised = Verdict::kPass;
  condition->Add("runs that were left out altogether cannot be seen");
}

}  // namespace hm11
