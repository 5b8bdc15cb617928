// Telling the logs of a claim from the rest.
#include "tools/compliance/claimed_runs.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tools/compliance/rules.h"

namespace hm11 {
namespace {

int DepthOf(const std::string& path) { return static_cast<int>(std::count(path.begin(), path.end(), '/')); }

bool Names(const std::string& named, const std::string& path) {
  return !named.empty() && (named == path || absl::EndsWith(path, absl::StrCat("/", named)) ||
                            absl::EndsWith(named, absl::StrCat("/", path)));
}

// How far the nearest score after training is from a claimed one.
double OffBy(const LoggedRun& run, double bpb) {
  const LoggedScore* score = FindFinal(run, bpb);
  return score == nullptr ? 1e9 : std::abs(score->val_bpb - bpb);
}

// The log of a seed that prints the claimed score, or comes nearest to it; null when none prints it.
const LoggedRun* NearestOfSeed(const SubmissionFolder& folder, int64_t seed, std::optional<double> bpb) {
  const LoggedRun* nearest = nullptr;
  for (const LoggedRun& run : folder.logs) {
    if (!bpb || run.seed != seed || OffBy(run, *bpb) > kSameScore) continue;
    if (nearest == nullptr || OffBy(run, *bpb) < OffBy(*nearest, *bpb)) nearest = &run;
  }
  return nearest;
}

// Whether every claimed seed has the log that prints its score, and this log is of none of them.
bool IsOfUnclaimedSeed(const SubmissionFolder& folder, const LoggedRun& run) {
  if (!folder.claims || folder.claims->seeds.size() < 3) return false;
  const auto& seeds = folder.claims->seeds;
  return (!run.seed || seeds.count(*run.seed) == 0) &&
         std::all_of(seeds.begin(), seeds.end(), [&](const auto& each) {
           return NearestOfSeed(folder, each.first, each.second.val_bpb) != nullptr;
         });
}

// Why a log is not of the claim; "" when it may be.
std::string ReasonApart(const SubmissionFolder& folder, const LoggedRun& run, int shallowest) {
  if (folder.claims) {
    for (const std::string& name : folder.claims->reference_logs) {
      if (Names(name, run.path)) return absl::StrCat(folder.claims_file, " sets it apart");
    }
    for (const auto& [seed, claim] : folder.claims->seeds) {
      if (Names(claim.log_file, run.path)) return "";
    }
    if (run.seed) {
      const auto claim = folder.claims->seeds.find(*run.seed);
      if (claim != folder.claims->seeds.end()) {
        if (!claim->second.log_file.empty()) {
          return absl::StrCat("for its seed ", folder.claims_file, " names ", claim->second.log_file);
        }
        const LoggedRun* nearest = NearestOfSeed(folder, *run.seed, claim->second.val_bpb);
        if (nearest != nullptr) {
          const bool as_near = OffBy(run, *claim->second.val_bpb) <= OffBy(*nearest, *claim->second.val_bpb);
          return as_near ? "" : absl::StrCat("its seed's claim is in ", nearest->path);
        }
      }
    }
  }
  if (IsOfUnclaimedSeed(folder, run)) return "each claimed seed has its log, and this is another run";
  if (DepthOf(run.path) > shallowest) return "it lies in a folder below the others";
  if (run.final_score() == nullptr) return "it has no score after training in a form that is read here";
  return "";
}

// Where no seeds are claimed: one run's score, and not the mean of all, means that run.
const LoggedRun* OnlyRunOfClaim(const SubmissionFolder& folder, const std::vector<const LoggedRun*>& runs) {
  if (!folder.claims || !folder.claims->val_bpb || !folder.claims->seeds.empty()) return nullptr;
  for (const LoggedRun* run : runs) {
    if (FindFinal(*run, *folder.claims->val_bpb) != nullptr) return run;
  }
  return nullptr;
}

}  // namespace

const LoggedScore* FindFinal(const LoggedRun& run, double bpb) {
  const LoggedScore* nearest = nullptr;
  for (const LoggedScore& score : run.finals) {
    const double off = std::abs(score.val_bpb - bpb);
    if (off <= kSameScore && (nearest == nullptr || off <= std::abs(nearest->val_bpb - bpb)))
      nearest = &score;
  }
  return nearest;
}

ClaimedRuns FindClaimedRuns(const SubmissionFolder& folder) {
  ClaimedRuns claimed;
  int shallowest = 100;
  for (const LoggedRun& run : folder.logs) {
    if (run.final_score() != nullptr) shallowest = std::min(shallowest, DepthOf(run.path));
  }
  const auto set_apart = [&](const LoggedRun* run, const std::string& why) {
    claimed.others.push_back(run);
    claimed.why_others.emplace_back(absl::StrCat("not taken as one of the claimed runs: ", why),
                                    std::vector<Place>{{run->path, 0}});
  };
  for (const LoggedRun& run : folder.logs) {
    const std::string why = ReasonApart(folder, run, shallowest);
    if (why.empty()) {
      claimed.runs.push_back(&run);
    } else {
      set_apart(&run, why);
    }
  }
  if (const LoggedRun* only = OnlyRunOfClaim(folder, claimed.runs)) {
    // Runs of one program that score about the same are a series, even where the best of them is claimed.
    std::erase_if(claimed.runs, [&](const LoggedRun* run) {
      if (run->path == only->path) return false;
      const bool far = std::none_of(run->finals.begin(), run->finals.end(), [&](const LoggedScore& score) {
        return std::abs(score.val_bpb - *folder.claims->val_bpb) < 0.01;
      });
      const bool other_program =
          run->code_bytes() && only->code_bytes() && *run->code_bytes() != *only->code_bytes();
      if (far) {
        set_apart(run, absl::StrCat("the claimed score is in ", only->path));
      } else if (other_program) {
        set_apart(run, absl::StrCat("the claimed score is in ", only->path, ", of a program of ",
                                    *only->code_bytes(), " bytes, and this one's has ", *run->code_bytes()));
      }
      return far || other_program;
    });
  }
  return claimed;
}

}  // namespace hm11
