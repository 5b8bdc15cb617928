// What the programs' text shows of how windows are cut and bytes are counted.
#ifndef HM11_TOOLS_COMPLIANCE_WINDOW_LOOPS_H_
#define HM11_TOOLS_COMPLIANCE_WINDOW_LOOPS_H_

#include <optional>
#include <vector>

#include "tools/compliance/fact.h"
#include "tools/compliance/folder.h"

namespace hm11 {

// The first few loops over sliding windows that keep those which the end cuts short, as the published one does,
// which scores their last tokens again.
std::vector<Place> LoopsThatScoreTailTwice(const SubmissionFolder& folder);

// A loop over windows that scores each token once; which of two is used, the program's text does not tell.
bool HasLoopThatScoresOnce(const SubmissionFolder& folder);

// Where the table of a piece's bytes has its leading space in it, and the evaluation adds a byte for that
// space.
std::optional<Place> CountsLeadingSpaceTwice(const SubmissionFolder& folder);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_WINDOW_LOOPS_H_
