// The condition on what a submission says of itself: complete, and what its logs say.
#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "tools/compliance/faults.h"
#include "tools/compliance/file_names.h"
#include "tools/compliance/log_numbers.h"
#include "tools/compliance/rules.h"

namespace hm11 {
namespace {

// The challenge asks for a name, a GitHub id and val_bpb; other fields are customs.
void CompareFields(const Case& subject, Faults* faults) {
  const SubmissionClaims& claims = *subject.folder.claims;
  const Place place = {subject.folder.claims_file, claims.LineOf("val_bpb")};
  if (!claims.names_someone) {
    faults->Add(Faults::kTolerated,
                absl::StrCat(subject.folder.claims_file, " names nobody: no author, name or GitHub id"),
                {{subject.folder.claims_file, 0}});
  }
  if (!claims.no_score.empty()) {
    const bool has_digits = claims.no_score.find_first_of("0123456789") != std::string::npos;
    const std::string what = absl::StrCat("val_bpb is ", claims.no_score, ", no number");
    if (has_digits || !claims.other_score.empty()) return faults->Doubt(Faults::kRefused, what, {place});
    return faults->Add(Faults::kRefused, what, {place});
  }
  if (claims.val_bpb) return;
  if (claims.other_score.empty()) {
    return faults->Add(Faults::kTolerated,
                       "no field gives val_bpb, or a score of its own under another name, as a number",
                       {place});
  }
  faults->Doubt(Faults::kTolerated,
                absl::StrCat("val_bpb itself gives no number; one stands under ", claims.other_score),
                {place});
}

// A claimed size that no log prints and that is less than each run's. Where it is more than the model's, the
// program may have been cut or packed after the run.
void CompareBytes(const Case& subject, Faults* faults) {
  const SubmissionClaims& claims = *subject.folder.claims;
  if (!claims.bytes_total) return;
  const LoggedRun* least = nullptr;
  std::optional<int64_t> least_model;
  for (const LoggedRun* run : subject.runs) {
    if (!run->total_bytes()) continue;
    if (least == nullptr || *run->total_bytes() < *least->total_bytes()) least = run;
    if (run->model_bytes())
      least_model = std::min(least_model.value_or(*run->model_bytes()), *run->model_bytes());
  }
  int64_t unit = 1;  // of the last digit: 13,400,000 may be rounded
  while (*claims.bytes_total % (unit * 10) == 0 && unit < 100000) unit *= 10;
  if (least == nullptr || *claims.bytes_total + unit > *least->total_bytes()) return;
  if (least_model && *claims.bytes_total >= *least_model + subject.numbers.code_bytes) return;
  // The folder itself has so many, or its results give the claimed model's.
  if (subject.numbers.shipped_bytes == claims.bytes_total) return;
  if (claims.bytes_model && faults->Printed().HasWhole(*claims.bytes_model)) return;
  if (!faults->Printed().complete() || faults->Printed().HasWhole(*claims.bytes_total)) return;
  const std::string what =
      absl::StrCat("claims ", *claims.bytes_total,
                   " bytes in all, which no log prints; the least of its runs is ", *least->total_bytes());
  least_model&&* claims.bytes_total > *least_model
      ? faults->Doubt(Faults::kTolerated, what, {least->total_place()})
      : faults->Add(Faults::kTolerated, what, {least->total_place()});
}

void CompareParts(const Case& subject, Faults* faults) {
  const SubmissionClaims& claims = *subject.folder.claims;
  if (claims.bytes_model && claims.bytes_code && claims.bytes_of_all &&
      *claims.bytes_of_all < *claims.bytes_model + *claims.bytes_code) {
    faults->Add(Faults::kTolerated,
                absl::StrCat("bytes_total ", *claims.bytes_of_all, " is less than model ",
                             *claims.bytes_model, " + code ", *claims.bytes_code),
                {{subject.folder.claims_file, 0}}, Sureness::kWorkedOut);
  }
}

// Pairs of the JSON that do not fit each other although the logs' do, by more than their rounding.
void CompareRatio(const Case& subject, Faults* faults) {
  const SubmissionClaims& claims = *subject.folder.claims;
  double least = 1e9, most = 0;
  for (const Fingerprint& print : subject.numbers.fingerprints) {
    if (!print.logged) continue;
    least = std::min(least, print.tokens_a_byte), most = std::max(most, print.tokens_a_byte);
  }
  if (most == 0 || !claims.val_loss || !claims.val_bpb) return;
  const auto rounding = [](double value) { return std::pow(10.0, -DecimalsOf(value)) / value; };
  const double slack = 2e-3 + rounding(*claims.val_loss) + rounding(*claims.val_bpb);
  for (const Fingerprint& print : subject.numbers.fingerprints) {
    if (print.logged ||
        (print.tokens_a_byte < most * (1 + slack) && print.tokens_a_byte > least * (1 - slack)))
      continue;
    faults->Add(
        Faults::kTolerated,
        absl::StrFormat("val_loss and val_bpb give %.6f tokens a byte, the logs' %.6f: the two are not of "
                        "one evaluation that a log prints",
                        print.tokens_a_byte, most),
        {print.place}, Sureness::kWorkedOut);
  }
}

// Claimed seeds of which nothing is in the folder.
void FindLogsOfSeeds(const Case& subject, Faults* faults) {
  const auto& seeds = subject.folder.claims->seeds;
  const auto& logs = subject.folder.logs;
  if (seeds.empty() || !subject.folder.unfinished.empty() || logs.empty() ||
      std::any_of(logs.begin(), logs.end(), [](const LoggedRun& run) { return !run.seed; })) {
    return;
  }
  const bool numbered =
      seeds.begin()->first == 1 && seeds.rbegin()->first == static_cast<int64_t>(seeds.size());
  for (const auto& [seed, claim] : seeds) {
    if (numbered || !faults->Printed().complete() || faults->Printed().NamesSeed(seed)) continue;
    faults->Add(Faults::kTolerated,
                absl::StrCat("seed ", seed, " is claimed, and no log in the folder names it"),
                {{subject.folder.claims_file, subject.folder.claims->LineOf("seeds")}});
  }
}

// Whether a name in a list of files is of something that has to be there: a program or a log of the folder
// itself, which the line that names it does not excuse.
bool MustBeThere(const SubmissionFolder& folder, const std::string& name) {
  const std::string lower = absl::AsciiStrToLower(BaseName(name));
  const bool is_log = IsLogName(name) && ContainsAny(lower, {"log", "train", "seed"});
  if (!IsSource(name) && !is_log && !absl::EndsWith(name, ".json")) return false;
  const size_t slash = name.find('/');
  const auto lies_there = [&](const FolderFile& file) {
    return absl::StartsWith(file.name, name.substr(0, slash + 1));
  };
  if (slash != std::string::npos && std::none_of(folder.files.begin(), folder.files.end(), lies_there))
    return false;
  for (absl::string_view line : absl::StrSplit(folder.readme, '\n')) {
    if (!absl::StrContains(line, BaseName(name))) continue;
    if (ContainsAny(
            absl::AsciiStrToLower(line),
            {"not included", "not committed", "not in ", "omitted",  "upload",      "pending", "generated",
             "produced",     "output",        "will be", "to be",    "todo",        "tbd",     "excluded",
             "repo root",    "external",      "removed", "upstream", "placeholder", "after"})) {
      return false;
    }
  }
  return true;
}

void FindReadme(const SubmissionFolder& folder, Faults* faults) {
  if (!folder.readme.empty()) return;
  if (!folder.readme_file.empty())
    return faults->Add(Faults::kTolerated, "nothing in it can be read", {{folder.readme_file, 0}});
  for (const FolderFile& file : folder.files) {
    if (absl::EqualsIgnoreCase(BaseName(file.name), "README.md"))
      return faults->Doubt(Faults::kTolerated, absl::StrCat("there is no README.md beside ", file.name));
  }
  faults->Add(Faults::kTolerated, "there is no README.md");
}

void FindFiles(const SubmissionFolder& folder, Faults* faults) {
  const Faults::Weight serious = folder.is_record() ? Faults::kRefused : Faults::kTolerated;
  if (!folder.claims_problem.empty()) {
    const bool below = absl::StrContains(folder.claims_problem, " beside ");
    below ? faults->Doubt(serious, folder.claims_problem, {{folder.claims_file, 0}})
          : faults->Add(serious, folder.claims_problem, {{folder.claims_file, 0}});
  }
  if (folder.entry.empty()) {
    const auto sources = std::count_if(folder.programs.begin(), folder.programs.end(),
                                       [](const ProgramFile& program) { return IsSource(program.name); });
    faults->Add(serious, sources == 0 ? "there is no train_gpt.py, nor another source in Python, C++ or CUDA"
                                      : absl::StrCat("none of the ", sources, " programs is train_gpt.py"));
  }
  FindReadme(folder, faults);
  for (const std::string& name : folder.absent) {
    const bool by_readme = absl::StrContains(folder.readme, BaseName(name));
    const std::string& who = by_readme ? folder.readme_file : folder.claims_file;
    if (MustBeThere(folder, name))
      faults->Add(Faults::kTolerated, absl::StrCat(who, " names ", name, ", which is not there"), {{who, 0}});
  }
  for (const std::string& problem : folder.problems) faults->Add(Faults::kTolerated, problem);
  for (const std::string& log : folder.unfinished) faults->condition->Add(log);
}

// A log is asked for; one in a form that is not known is no absent one.
void FindLogs(const SubmissionFolder& folder, Faults* faults) {
  const auto may_hold_one = [&](const FolderFile& file) {
    return IsResultName(file.name) && file.name != folder.claims_file && file.bytes > 0;
  };
  const auto other = std::find_if(folder.files.begin(), folder.files.end(), may_hold_one);
  if (other == folder.files.end()) {
    return faults->Add(Faults::kTolerated, "there is no log of a run: the score cannot be re-derived");
  }
  faults->Doubt(Faults::kTolerated, "no log gives a score after training in a form that is read here",
                {{other->name, 0}});
}

}  // namespace

void JudgeConsistency(const Case& subject, Condition* condition) {
  const SubmissionFolder& folder = subject.folder;
  condition->SetBoth(Verdict::kPass);
  Faults faults = {.folder = &folder, .condition = condition};
  FindFiles(folder, &faults);
  const bool scored = std::any_of(folder.logs.begin(), folder.logs.end(),
                                  [](const LoggedRun& run) { return run.final_score() != nullptr; });
  if (!scored) FindLogs(folder, &faults);
  if (folder.claims) {
    CompareFields(subject, &faults);
    CompareScores(subject, &faults);
    CompareBytes(subject, &faults);
    CompareParts(subject, &faults);
    CompareRatio(subject, &faults);
    FindLogsOfSeeds(subject, &faults);
  }
  // An empty folder of facts is not consistent, it is silent.
  if (folder.is_record() && !scored && condition->practised == Verdict::kPass) {
    condition->practised = Verdict::kCannotTell;
  }
}

}  // namespace hm11
