// Telling the runs of the claimed score from those beside them.
#include "tools/compliance/runs_of_the_score.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>

#include "tools/compliance/claimed_runs.h"
#include "tools/compliance/rules.h"

namespace hm11 {
namespace {

// How far a mean may be from the claim of it, which is rounded at will.
constexpr double kSameMean = 5e-4;

// The claimed score where the run prints it, but not on the way.
const LoggedScore* PrintedClaim(const SubmissionClaims& claims, const LoggedRun& run) {
  const std::optional<double> claimed = claims.ScoreOf(run.seed);
  if (!claimed) return nullptr;
  if (const LoggedScore* score = FindFinal(run, *claimed)) return score;
  for (const LoggedScore& score : run.others) {
    if (score.label != kOnTheWay && std::abs(score.val_bpb - *claimed) <= kSameScore) return &score;
  }
  return nullptr;
}

// Whether a run is another model's: all that it scored is far from the claim for it, or it has another number of
// parameters.
bool IsOfAnotherModel(const SubmissionClaims& claims, const LoggedRun& run) {
  constexpr double kFar = 0.05;
  if (claims.parameters && run.parameters) {
    const auto claimed = static_cast<double>(*claims.parameters);
    // Counts with and without the embedding, or as rounded, are of one model.
    const double ratio = static_cast<double>(*run.parameters) / claimed;
    if (PrintedClaim(claims, run) == nullptr && (ratio < 0.9 || ratio > 1.1)) return true;
  }
  const std::optional<double> claimed = claims.ScoreOf(run.seed);
  const auto far = [&](const LoggedScore& score) {
    return score.label == kOnTheWay || std::abs(score.val_bpb - *claimed) > kFar;
  };
  return claimed && !run.finals.empty() && std::all_of(run.finals.begin(), run.finals.end(), far) &&
         std::all_of(run.others.begin(), run.others.end(), far);
}

// How far the claim is from the mean of the runs' scores; far when one has none.
double OffTheMean(const SubmissionFolder& folder, const std::vector<const LoggedRun*>& runs, double claimed) {
  double sum = 0;
  for (const LoggedRun* run : runs) {
    const LoggedScore* score = CountedScore(folder, *run);
    if (score == nullptr) return 1e9;
    sum += score->val_bpb;
  }
  return std::abs(sum / static_cast<double>(runs.size()) - claimed);
}

bool ClaimsBytes(const SubmissionClaims& claims) {
  return claims.bytes_total || std::any_of(claims.seeds.begin(), claims.seeds.end(), [](const auto& seed) {
           return seed.second.artifact_bytes.has_value();
         });
}

// Whether the run prints a claimed size, be it of the whole or of the model.
bool PrintsClaimedBytes(const SubmissionClaims& claims, const LoggedRun& run) {
  const auto is_claimed = [&](const LoggedBytes& line) {
    return line.bytes == claims.bytes_total ||
           std::any_of(claims.seeds.begin(), claims.seeds.end(),
                       [&](const auto& seed) { return seed.second.artifact_bytes == line.bytes; });
  };
  return std::any_of(run.totals.begin(), run.totals.end(), is_claimed) ||
         std::any_of(run.models.begin(), run.models.end(), is_claimed);
}

// Whether a run is one more seed beside those that print the claim, on the same machines; another run of the
// same seed is a variant.
bool IsAnotherSeedOf(const SubmissionClaims& claims, const std::vector<const LoggedRun*>& printing,
                     const LoggedRun& run) {
  if (!run.seed || (!claims.seeds.empty() && claims.seeds.count(*run.seed) == 0)) return false;
  return std::all_of(printing.begin(), printing.end(), [&](const LoggedRun* other) {
    return other->seed && other->seed != run.seed && other->world_size == run.world_size &&
           other->gpu == run.gpu;
  });
}

}  // namespace

std::vector<const LoggedRun*> RunsOfTheScore(const SubmissionFolder& folder,
                                             const std::vector<const LoggedRun*>& runs) {
  if (!folder.claims || runs.empty()) return runs;
  const SubmissionClaims& claims = *folder.claims;
  bool scores_claimed = false;
  std::vector<const LoggedRun*> found;
  for (const LoggedRun* run : runs) {
    scores_claimed = scores_claimed || claims.ScoreOf(run->seed);
    if (PrintedClaim(claims, *run) != nullptr) found.push_back(run);
  }
  if (found.empty()) {
    if (claims.val_bpb && OffTheMean(folder, runs, *claims.val_bpb) <= kSameMean) return runs;
    for (const LoggedRun* run : runs) {
      if (PrintsClaimedBytes(claims, *run)) found.push_back(run);
    }
    const bool of_none = scores_claimed && (ClaimsBytes(claims) || !folder.is_record());
    return found.empty() && !of_none ? runs : found;
  }
  const std::vector<const LoggedRun*> printing = found;
  for (const LoggedRun* run : runs) {
    const bool known = std::find(printing.begin(), printing.end(), run) != printing.end();
    if (!known && IsAnotherSeedOf(claims, printing, *run)) found.push_back(run);
  }
  return found;
}

std::vector<const LoggedRun*> TimedRunsOfTheScore(const SubmissionFolder& folder,
                                                  const std::vector<const LoggedRun*>& runs,
                                                  const std::vector<const LoggedRun*>& beside) {
  if (!folder.claims) return runs;
  const auto prints = [&](const LoggedRun* run) { return PrintedClaim(*folder.claims, *run) != nullptr; };
  if (std::any_of(runs.begin(), runs.end(), prints)) return RunsOfTheScore(folder, runs);
  std::vector<const LoggedRun*> near;
  std::copy_if(beside.begin(), beside.end(), std::back_inserter(near), prints);
  const std::optional<double> mean = folder.claims->val_bpb;
  if (!near.empty()) return near;
  if (mean && OffTheMean(folder, runs, *mean) <= kSameMean) return runs;
  std::copy_if(runs.begin(), runs.end(), std::back_inserter(near),
               [&](const LoggedRun* run) { return !IsOfAnotherModel(*folder.claims, *run); });
  return near;
}

std::vector<const LoggedRun*> SizedRunsOfTheScore(const SubmissionFolder& folder,
                                                  const std::vector<const LoggedRun*>& runs) {
  std::vector<const LoggedRun*> sized = RunsOfTheScore(folder, runs);
  if (!sized.empty()) return sized;
  for (const LoggedRun* run : runs) {
    if (run->total_bytes() && *run->total_bytes() <= kArtifactCapBytes) sized.push_back(run);
  }
  return sized;
}

bool SizeIsOfAnotherScore(const SubmissionFolder& folder, const LoggedRun& run) {
  if (!folder.claims) return false;
  const LoggedScore* claimed = PrintedClaim(*folder.claims, run);
  const int64_t size_line = run.total_place().line;
  return claimed != nullptr && claimed->line < size_line &&
         std::any_of(run.finals.begin(), run.finals.end(), [&](const LoggedScore& score) {
           return score.line > size_line && std::abs(score.val_bpb - claimed->val_bpb) > 1e-3;
         });
}

}  // namespace hm11
