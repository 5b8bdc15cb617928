// Lines of a log that give scores, and the times of the evaluations they are of.
#ifndef HM11_TOOLS_COMPLIANCE_SCORE_LINES_H_
#define HM11_TOOLS_COMPLIANCE_SCORE_LINES_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "tools/compliance/run_log.h"

namespace hm11 {

// "step:100/20000 val_loss:2.3 val_bpb:1.1": a score while training goes on.
void ReadScoreOnTheWay(absl::string_view line, int64_t line_number, LoggedRun* run);

// Any other line, and `lower`, the same in small letters: its scores and times, if it has some, go to the run.
// True for a score after training that is neither a diagnosis nor one without quantizing.
bool ReadScore(absl::string_view line, const std::string& lower, int64_t line_number, LoggedRun* run);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_SCORE_LINES_H_
