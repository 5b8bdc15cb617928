// Which of a claim's runs the claimed score is of: their sizes and times are the claimed artifact's.
#ifndef HM11_TOOLS_COMPLIANCE_RUNS_OF_THE_SCORE_H_
#define HM11_TOOLS_COMPLIANCE_RUNS_OF_THE_SCORE_H_

#include <vector>

#include "tools/compliance/folder.h"

namespace hm11 {

// Of `runs` those that print the score that is claimed for their seed or for all, and the further seeds beside
// them; all of them where the claim is the mean of their scores. Where none prints it, those that print the
// claimed bytes: none, where bytes are claimed that no run prints, or in a study.
std::vector<const LoggedRun*> RunsOfTheScore(const SubmissionFolder& folder,
                                             const std::vector<const LoggedRun*>& runs);

// The same for times: where no run prints the claim, runs `beside` them that do, else those that come near it.
std::vector<const LoggedRun*> TimedRunsOfTheScore(const SubmissionFolder& folder,
                                                  const std::vector<const LoggedRun*>& runs,
                                                  const std::vector<const LoggedRun*>& beside);

// The same for sizes. Where the claim is of no run, those within the cap: they are held against nobody.
std::vector<const LoggedRun*> SizedRunsOfTheScore(const SubmissionFolder& folder,
                                                  const std::vector<const LoggedRun*>& runs);

// Whether the run's size is of another artifact than its claimed score, which stands before it, with another
// score behind it.
bool SizeIsOfAnotherScore(const SubmissionFolder& folder, const LoggedRun& run);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_RUNS_OF_THE_SCORE_H_
