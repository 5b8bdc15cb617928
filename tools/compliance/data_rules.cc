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

// The first line of the README for which `fits` holds.
template <typename Fits>
std::optional<Place> FirstReadmeLine(const SubmissionFolder& folder, Fits fits) {
  int64_t line_number = 0;
  for (absl::string_view line : absl::StrSplit(folder.readme, '\n')) {
    ++line_number;
    if (fits(absl::AsciiStrToLower(line.substr(0, 1000)))) return Place{folder.readme_file, line_number};
  }
  return std::nullopt;
}

// "TRAIN_FILES=data/fineweb_val_*.bin"
bool NamesValidationShardsForTraining(const std::string& line) {
  const size_t setting = std::min(line.find("train_files="), line.find("train_pattern="));
  return setting != std::string::npos &&
         absl::StrContains(line.substr(setting, line.find_first_of(" \t", setting) - setting), "fineweb_val");
}

// That the preparation held all validation documents out: "--val-docs 50000"
bool HoldsAllOut(const std::string& line) {
  const size_t setting = std::min(line.find("val-docs"), line.find("val_docs"));
  return setting != std::string::npos && absl::StrContains(line.substr(setting, 20), "50000");
}

// The published shards are 80 of 100 million tokens; who makes shards of 10 million with the published
// preparation has 1,502 where it holds out 10,000 documents, which is its default, and 1,499 where it holds
// out all 50,000 of the validation text.
void JudgeOwnPreparation(const Case& subject, const LoggedRun& run, Condition* condition) {
  constexpr int64_t kShardsWith40000ValidationDocuments = 1502;
  const char* full = WholeTextName(run);
  const bool whole = full != nullptr && absl::StrContains(full, "CaseOps");
  const std::string shards = absl::StrCat(*run.train_shards, " training shards");
  std::vector<Place> places = {run.At("train_shards")};
  if (!whole) {
    return condition->Add(absl::StrCat(shards, ", prepared by itself: the published data has 80"), places,
                          Sureness::kSuspected);
  }
  places.push_back(run.At("val_tokens"));
  if (*run.train_shards == kShardsWith40000ValidationDocuments) {
    condition->SetBoth(Verdict::kFail);
    return condition->Add(absl::StrCat(shards,
                                       " are those of a preparation that holds out 10,000 documents; all "
                                       "50,000 are scored, so 40,000 of them are in the shards"),
                          places, Sureness::kWorkedOut);
  }
  if (const auto said = FirstReadmeLine(subject.folder, HoldsAllOut)) {
    places.push_back(*said);
    return condition->Add(absl::StrCat(shards, ", prepared with all 50,000 documents held out, it says"),
                          places);
  }
  condition->practised = Verdict::kFail;
  condition->Add(
      absl::StrCat(shards, ", prepared by itself: records with so many were refused, as by default ",
                   "validation documents are in them; what this preparation was told, the README "
                   "does not say"),
      places, Sureness::kSuspected);
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
    own_data = own_data || own_preparation;
    if (own_preparation) JudgeOwnPreparation(subject, *run, condition);
    if (run->val_tokens == 9662464) {
      condition->SetBoth(Verdict::kFail);
      condition->Add(
          "9,662,464 validation tokens are 10,000 of the 50,000 documents; a preparation that holds out so "
          "many puts the rest into the training shards",
          {run->At("val_tokens")});
    }
    if (condition->strict != Verdict::kFail && !own_data && run->train_shards.value_or(0) > 0) {
      condition->practised = Verdict::kPass;
      condition->Add(absl::StrCat(*run->train_shards, " training shards"), {run->At("train_shards")});
    }
  }
  if (const auto named = FirstReadmeLine(subject.folder, NamesValidationShardsForTraining)) {
    condition->SetBoth(Verdict::kFail);
    condition->Add("names validation shards as training files", {*named});
  }
}

}  // namespace hm11
