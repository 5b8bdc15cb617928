// Comparing claimed scores with what the logs print.
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tools/compliance/claimed_runs.h"
#include "tools/compliance/faults.h"
#include "tools/compliance/file_names.h"
#include "tools/compliance/log_numbers.h"

namespace hm11 {
namespace {

// How near a number must be to a claimed one, which may be rounded.
double SlackOf(double claimed) {
  return std::clamp(0.5 * std::pow(10.0, -DecimalsOf(claimed)), kSameScore, 5e-3);
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
      nearest = Fact(score.label == kOnTheWay
                         ? absl::StrFormat("%.5f is printed with a step of training", score.val_bpb)
                         : absl::StrFormat("%.5f is printed as \"%s\"", score.val_bpb, score.label),
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
  return Fact(absl::StrCat("as scores after training they print ", absl::StrJoin(numbers, ", "),
                           numbers.size() < 6 ? "" : ", ..."),
              places);
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
  const std::string claim = absl::StrFormat("%sclaims %.5f bits a byte", whose, claimed);
  const auto elsewhere = WherePrinted(subject.folder, claimed);
  // A score under another name may be the artifact's; one on the way or before quantizing is not.
  const bool other_name = elsewhere && !absl::StrContains(elsewhere->text, "a step of training") &&
                          !absl::StrContains(absl::AsciiStrToLower(elsewhere->text), "pre") &&
                          !absl::StrContains(absl::AsciiStrToLower(elsewhere->text), "post-ema");
  if (other_name) {
    return faults->Doubt(Faults::kTolerated, absl::StrCat(claim, "; ", elsewhere->text), elsewhere->places);
  }
  if (const auto place = faults->Printed().FindScore(claimed, SlackOf(claimed))) {
    return faults->Doubt(Faults::kRefused,
                         absl::StrCat(claim, ", which is printed, but not as a known score of its run"),
                         {*place});
  }
  if (!faults->Printed().complete()) {
    return faults->Doubt(Faults::kRefused, absl::StrCat(claim, ", and not all results could be read"));
  }
  // Where the score that counts is the mean of final ones, numbers of seeds that are printed on the way
  // matter less.
  const std::optional<double> mean = subject.folder.claims->val_bpb;
  const bool counts = !elsewhere || claimed == mean || !mean || !IsMeanOfOneLabel(subject.runs, *mean);
  const Faults::Weight weight =
      off > subject.practice.claim_tolerance && counts ? Faults::kRefused : Faults::kTolerated;
  const bool may_be_mean = whose.empty() && subject.numbers.Scores().size() >= 2;
  faults->Add(weight,
              absl::StrCat(claim, ", which no log prints", elsewhere ? " as the artifact's" : "",
                           may_be_mean ? ", nor is it the mean of theirs; " : "; ", logged.text),
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
    if (!logged || off <= SlackOf(*claim.val_bpb)) continue;
    ReportUnmet(subject, absl::StrCat("seed ", seed, ": "), *claim.val_bpb, off,
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

std::set<int64_t> SeedsOf(const SubmissionClaims& claims) {
  std::set<int64_t> seeds;
  for (const auto& [seed, claim] : claims.seeds) seeds.insert(seed);
  return seeds;
}

// Whether the runs are of one configuration, a seed each, and the seeds the claimed ones where some are.
bool AreOneSeries(const Case& subject) {
  const auto& claimed = subject.folder.claims->seeds;
  std::map<int64_t, double> scores;
  for (const LoggedRun* run : subject.runs) {
    const LoggedScore* score = CountedScore(subject.folder, *run);
    if (score == nullptr) continue;
    if (!run->seed || (!claimed.empty() && claimed.count(*run->seed) == 0)) return false;
    const auto [known, is_new] = scores.emplace(*run->seed, score->val_bpb);
    if (!is_new && known->second != score->val_bpb) return false;
  }
  return OneConfiguration(subject, subject.runs);
}

// A claimed score that is one run's, where there are several runs.
void CompareWithMean(const Case& subject, Faults* faults) {
  const SubmissionClaims& claims = *subject.folder.claims;
  const Place place = {subject.folder.claims_file, claims.LineOf("val_bpb")};
  if (!AreOneSeries(subject)) {
    return faults->Doubt(
        Faults::kTolerated,
        absl::StrFormat("claims %.5f, one run's score; which of the runs the claim is of is not said",
                        *claims.val_bpb),
        {place});
  }
  const std::vector<double> scores = subject.numbers.Scores();
  const double off = std::abs(*claims.val_bpb - subject.numbers.MeanScore());
  // Logs round to four decimals; what is farther away only happens to be near.
  const auto is_claimed = [&](double score) { return std::abs(*claims.val_bpb - score) <= 6e-5; };
  const char* what = is_claimed(*std::min_element(scores.begin(), scores.end()))
                         ? "the best run's score in place of the mean"
                     : std::any_of(scores.begin(), scores.end(), is_claimed) ? "one run's score"
                                                                             : "no run's score";
  faults->Add(off > subject.practice.claim_tolerance ? Faults::kRefused : Faults::kTolerated,
              absl::StrFormat("claims %.5f, %s; the mean over the seeds is %.5f", *claims.val_bpb, what,
                              subject.numbers.MeanScore()),
              {place}, Sureness::kWorkedOut);
}

}  // namespace

void CompareScores(const Case& subject, Faults* faults) {
  CompareSeedScores(subject, faults);
  const SubmissionClaims& claims = *subject.folder.claims;
  if (!claims.val_bpb || !subject.numbers.scores_logged) return;
  const std::vector<double> scores = subject.numbers.Scores();
  const double off = std::abs(*claims.val_bpb - subject.numbers.MeanScore());
  const double slack = SlackOf(*claims.val_bpb);
  if (off <= slack || std::abs(*claims.val_bpb - MeanOfSeeds(claims)) <= slack) return;
  if (IsMeanOfOneLabel(subject.runs, *claims.val_bpb)) return;
  bool printed = false;
  for (const LoggedRun& run : subject.folder.logs)
    printed = printed || FindFinal(run, *claims.val_bpb) != nullptr;
  if (!printed && faults->Printed().IsMean(*claims.val_bpb, kSameScore, SeedsOf(claims))) {
    return faults->Doubt(
        Faults::kTolerated,
        absl::StrFormat("claims %.5f bits a byte, the mean of numbers that are not known as scores",
                        *claims.val_bpb),
        {{subject.folder.claims_file, claims.LineOf("val_bpb")}});
  }
  if (!printed) {
    return ReportUnmet(subject, "", *claims.val_bpb, off, FinalsOf(subject.runs, 0, /*any_seed=*/true),
                       faults);
  }
  if (scores.size() >= 2) CompareWithMean(subject, faults);
}

}  // namespace hm11
