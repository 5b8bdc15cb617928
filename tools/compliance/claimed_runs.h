// Which logs a claim is made of, and which score of each.
//
// Folders keep more logs than they claim: reruns, sweeps, superseded seeds, other configurations. A claim is
// met by logs that print it; the others are shown, and judged by nothing.
#ifndef HM11_TOOLS_COMPLIANCE_CLAIMED_RUNS_H_
#define HM11_TOOLS_COMPLIANCE_CLAIMED_RUNS_H_

#include <vector>

#include "tools/compliance/fact.h"
#include "tools/compliance/folder.h"

namespace hm11 {

// How near a printed score must be to a claimed one to be the same, bits a byte: claims are rounded.
inline constexpr double kSameScore = 1e-4;

struct ClaimedRuns {
  std::vector<const LoggedRun*> runs = {};
  std::vector<const LoggedRun*> others = {};
  std::vector<Fact> why_others = {};  // one for each of the others
};
ClaimedRuns FindClaimedRuns(const SubmissionFolder& folder);

// A score after training that equals the value; null when the run prints none.
const LoggedScore* FindFinal(const LoggedRun& run, double bpb);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_CLAIMED_RUNS_H_
