// The condition on what a submission says of itself: complete, and what its logs say.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tools/compliance/claimed_runs.h"
#include "tools/compliance/file_names.h"
#include "tools/compliance/rules.h"

namespace hm11 {
namespace {

// What is wrong with a folder; practice let the lesser faults pass.
struct Faults {
  enum Weight { kTolerated, kRefused };
  void Add(Weight weight, std::string what, std::vector<Place> places = {}, Sureness sure = Sureness::kRead) {
    condition->strict = Verdict::kFail;
    if (weight == kRefused) condition->practised = Verdict::kFail;
    condition->Add(std::move(what), std::move(places), sure);
  }
  Condition* condition;
};

void CompareFields(const Case& subject, Faults* faults) {
  const SubmissionClaims& claims = *subject.folder.claims;
  const std::pair<const char*, bool> wanted[] = {
      {"author", !claims.author.empty()},
      {"name", !claims.name.empty()},
      {"date", !claims.date.empty()},
      {"val_bpb", claims.val_bpb.has_value() || !claims.no_score.empty()},
      {"bytes_total", claims.bytes_total.has_value()}};
  for (const auto& [field, there] : wanted) {
    if (!there)
      faults->Add(Faults::kTolerated, absl::StrCat("no value for ", field),
                  {{subject.folder.claims_file, 0}});
  }
  if (!claims.no_score.empty()) {
    faults->Add(Faults::kRefused, absl::StrCat("val_bpb is ", claims.no_score, ", no number"),
                {{subject.folder.claims_file, claims.LineOf("val_bpb")}});
  }
}

// Where any log prints a value: as a score after training, else in another part.
std::optional<Fact> WherePrinted(const SubmissionFolder& folder, double bpb) {
  std::optional<Fact> nearest;
  double least = kSameScore;
  for (const LoggedRun& run : folder.logs) {
    for (const LoggedScore& score : run.others) {
      const double off = std::abs(score.val_bpb - bpb);
      if (off > least || (nearest && off == least)) continue;
      least = off;
      nearest = Fact(absl::StrFormat("%.5f is printed as \"%s\"", score.val_bpb, score.label),
                     {{run.path, score.line}});
    }
  }
  return nearest;
}

// What the logs print as final scores, for someone who looks for a claimed number.
Fact FinalsOf(const std::vector<const LoggedRun*>& runs, int64_t seed, bool any_seed) {
  std::vector<std::string> numbers;
  std::vector<Place> places;
  for (const LoggedRun* run : runs) {
    if (!any_seed && run->seed.value_or(-1) != seed) continue;
    for (const LoggedScore& score : run->finals) {
      if (numbers.size() >= 6) break;
      numbers.push_back(absl::StrFormat("%.5f", score.val_bpb));
      places.push_back({run->path, score.line});
    }
  }
  return Fact(absl::StrCat("the logs print ", absl::StrJoin(numbers, ", ")), places);
}

// Whether the value is the mean, over the runs, of the scores that stand under one name.
bool IsMeanOfOneLabelOf(const std::vector<const LoggedRun*>& runs, double bpb) {
  if (runs.empty()) return false;
  for (const LoggedScore& candidate : runs.front()->finals) {
    double sum = 0;
    size_t found = 0;
    for (const LoggedRun* run : runs) {
      const auto same = std::find_if(run->finals.rbegin(), run->finals.rend(), [&](const LoggedScore& score) {
        return score.label == candidate.label;
      });
      if (same == run->finals.rend()) continue;
      sum += same->val_bpb;
      ++found;
    }
    if (found >= 2 && std::abs(sum / static_cast<double>(found) - bpb) <= kSameScore) return true;
  }
  return false;
}

// The same over all of them, or over the first runs of the logs that have a seed in their name.
bool IsMeanOfOneLabel(const std::vector<const LoggedRun*>& runs, double bpb) {
  std::vector<const LoggedRun*> named;
  for (const LoggedRun* run : runs) {
    const bool first = named.empty() || named.back()->path != run->path;
    if (first && SeedInName(run->path)) named.push_back(run);
  }
  return IsMeanOfOneLabelOf(runs, bpb) || IsMeanOfOneLabelOf(named, bpb);
}

// A claimed score that no log of its seed prints.
void ReportUnmet(const Case& subject, const std::string& whose, double claimed, double off,
                 const Fact& logged, Faults* faults) {
  for (const LoggedRun& run : subject.folder.logs) {
    const LoggedScore* score = FindFinal(run, claimed);
    if (score == nullptr) continue;
    return faults->Add(
        Faults::kTolerated,
        absl::StrFormat("%s: claims %.5f bits a byte, which a log of another run prints", whose, claimed),
        {{run.path, score->line}});
  }
  const auto elsewhere = WherePrinted(subject.folder, claimed);
  // A score of the artifact under another name is met, if oddly; one on the way or before quantizing is not.
  const bool other_name = elsewhere && !absl::StrContains(elsewhere->text, "on the way") &&
                          !absl::StrContains(absl::AsciiStrToLower(elsewhere->text), "pre") &&
                          !absl::StrContains(absl::AsciiStrToLower(elsewhere->text), "post-ema");
  // Where the score that counts is the mean of final ones, numbers of seeds that are printed on the way
  // matter less.
  const std::optional<double> mean = subject.folder.claims->val_bpb;
  const bool counts = !elsewhere || claimed == mean || !mean || !IsMeanOfOneLabel(subject.runs, *mean);
  const Faults::Weight weight =
      off > subject.practice.claim_tolerance && !other_name && counts ? Faults::kRefused : Faults::kTolerated;
  faults->Add(weight, absl::StrFormat("%s: claims %.5f bits a byte; %s", whose, claimed, logged.text),
              logged.places);
  if (elsewhere) faults->Add(weight, elsewhere->text, elsewhere->places);
}

void CompareSeedScores(const Case& subject, Faults* faults) {
  for (const auto& [seed, claim] : subject.folder.claims->seeds) {
    if (!claim.val_bpb) continue;
    double off = 1e9;
    bool logged = false;
    for (const LoggedRun* run : subject.runs) {
      if (run->seed.value_or(-1) != seed) continue;
      for (const LoggedScore& score : run->finals) {
        logged = true;
        off = std::min(off, std::abs(score.val_bpb - *claim.val_bpb));
      }
    }
    if (!logged || off <= kSameScore) continue;
    ReportUnmet(subject, absl::StrCat("seed ", seed), *claim.val_bpb, off,
                FinalsOf(subject.runs, seed, /*any_seed=*/false), faults);
  }
}

// Of the seeds' own claims, which are compared one by one; 0 when one has none.
double MeanOfSeeds(const SubmissionClaims& claims) {
  double sum = 0;
  size_t count = 0;
  for (const auto& [seed, claim] : claims.seeds) {
    if (!claim.val_bpb) return 0;
    const bool several = claim.scores.size() > 1;
    for (double score : claim.scores) sum += several ? score : 0;
    sum += several ? 0 : *claim.val_bpb;
    count += several ? claim.scores.size() : 1;
  }
  return count == 0 ? 0 : sum / static_cast<double>(count);
}

void CompareScores(const Case& subject, Faults* faults) {
  CompareSeedScores(subject, faults);
  const SubmissionClaims& claims = *subject.folder.claims;
  if (!claims.val_bpb || !subject.numbers.scores_logged) return;
  const std::vector<double> scores = subject.numbers.Scores();
  const double off = std::abs(*claims.val_bpb - subject.numbers.MeanScore());
  if (off <= kSameScore || std::abs(*claims.val_bpb - MeanOfSeeds(claims)) <= kSameScore) return;
  if (IsMeanOfOneLabel(subject.runs, *claims.val_bpb)) return;
  bool printed = false;
  for (const LoggedRun& run : subject.folder.logs)
    printed = printed || FindFinal(run, *claims.val_bpb) != nullptr;
  if (!printed) {
    return ReportUnmet(subject, scores.size() < 2 ? "the only score" : "mean score", *claims.val_bpb, off,
                       FinalsOf(subject.runs, 0, /*any_seed=*/true), faults);
  }
  if (scores.size() < 2) return;
  const bool is_best =
      std::abs(*claims.val_bpb - *std::min_element(scores.begin(), scores.end())) <= kSameScore;
  faults->Add(off > subject.practice.claim_tolerance ? Faults::kRefused : Faults::kTolerated,
              absl::StrFormat("claims %.5f, %s; the mean over the seeds is %.5f", *claims.val_bpb,
                              is_best ? "the best run's score in place of the mean" : "one run's score",
                              subject.numbers.MeanScore()),
              {{subject.folder.claims_file, claims.LineOf("val_bpb")}}, Sureness::kWorkedOut);
}

// Whether the score of one run is claimed, and the bytes are of that run.
bool IsOfTheClaimedRun(const Case& subject, int64_t bytes) {
  const SubmissionClaims& claims = *subject.folder.claims;
  if (!claims.val_bpb || !claims.seeds.empty()) return false;
  return std::any_of(subject.runs.begin(), subject.runs.end(), [&](const LoggedRun* run) {
    return run->total_bytes() == bytes && FindFinal(*run, *claims.val_bpb) != nullptr;
  });
}

void CompareBytes(const Case& subject, Faults* faults) {
  const SubmissionClaims& claims = *subject.folder.claims;
  if (!claims.bytes_total) return;
  for (const LoggedRun* run : subject.runs) {
    if (!run->total_bytes() || *claims.bytes_total >= *run->total_bytes()) continue;
    if (IsOfTheClaimedRun(subject, *claims.bytes_total)) break;
    faults->Add(
        Faults::kTolerated,
        absl::StrCat("claims ", *claims.bytes_total, " bytes in all, a log says ", *run->total_bytes()),
        {run->total_place()});
    break;
  }
  if (claims.bytes_model && claims.bytes_code && claims.bytes_of_all &&
      *claims.bytes_of_all != *claims.bytes_model + *claims.bytes_code) {
    faults->Add(Faults::kTolerated,
                absl::StrCat("bytes_total ", *claims.bytes_of_all, " is not model ", *claims.bytes_model,
                             " + code ", *claims.bytes_code),
                {{subject.folder.claims_file, 0}}, Sureness::kWorkedOut);
  }
}

// Pairs of the JSON that do not fit each other although the logs' do.
void CompareRatio(const Case& subject, Faults* faults) {
  double logged = 0;
  for (const Fingerprint& print : subject.numbers.fingerprints) {
    if (print.logged) logged = print.tokens_a_byte;
  }
  for (const Fingerprint& print : subject.numbers.fingerprints) {
    if (print.logged || logged == 0 || std::abs(print.tokens_a_byte / logged - 1) < 2e-3) continue;
    faults->Add(
        Faults::kTolerated,
        absl::StrFormat("val_loss and val_bpb give %.6f tokens a byte, the logs' %.6f: one of the two is "
                        "rounded or of another evaluation",
                        print.tokens_a_byte, logged),
        {print.place}, Sureness::kWorkedOut);
  }
}

}  // namespace

void JudgeConsistency(const Case& subject, Condition* condition) {
  const SubmissionFolder& folder = subject.folder;
  condition->SetBoth(Verdict::kPass);
  Faults faults = {condition};
  const Faults::Weight serious = folder.is_record() ? Faults::kRefused : Faults::kTolerated;
  if (!folder.claims_problem.empty()) faults.Add(serious, folder.claims_problem, {{folder.claims_file, 0}});
  if (folder.entry.empty()) {
    const auto sources = std::count_if(folder.programs.begin(), folder.programs.end(),
                                       [](const ProgramFile& program) { return IsSource(program.name); });
    faults.Add(serious, sources == 0 ? "there is no train_gpt.py or other program"
                                     : absl::StrCat("none of the ", sources, " programs is train_gpt.py"));
  }
  if (folder.readme.empty()) faults.Add(Faults::kTolerated, "there is no README.md");
  const bool scored = std::any_of(folder.logs.begin(), folder.logs.end(),
                                  [](const LoggedRun& run) { return run.final_score() != nullptr; });
  if (!scored) {
    faults.Add(Faults::kTolerated,
               "there is no log of a run in a form that is read here: the score cannot be re-derived");
  }
  for (const std::string& name : folder.absent) {
    faults.Add(Faults::kTolerated, absl::StrCat("names ", name, ", which is not there"));
  }
  for (const std::string& problem : folder.problems) faults.Add(Faults::kTolerated, problem);
  if (folder.claims) {
    CompareFields(subject, &faults);
    CompareScores(subject, &faults);
    CompareBytes(subject, &faults);
    CompareRatio(subject, &faults);
  }
  // An empty folder of facts is not consistent, it is silent.
  if (folder.is_record() && !scored && condition->practised == Verdict::kPass) {
    condition->practised = Verdict::kCannotTell;
  }
}

}  // namespace hm11
