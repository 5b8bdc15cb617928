// The report of an audit: for people, and as JSON.
#ifndef HM11_TOOLS_COMPLIANCE_REPORT_H_
#define HM11_TOOLS_COMPLIANCE_REPORT_H_

#include <string>

#include "absl/strings/string_view.h"
#include "tools/compliance/rules.h"

namespace hm11 {

// Facts below each condition, with "[file:line]" where they were read. Texts of the submission cannot forge
// lines: control characters are shown as \xNN.
std::string AuditText(const AuditInput& input, const Audit& audit);

// {"schema": 2, "folder", "date", "record",
//  "verdict": {"strict", "practised", "missing": [text]},
//  "numbers": {"bytes_claimed", "bytes_logged", "bytes_shipped", "bytes_model", "bytes_code", "bytes_data",
//              "code_files", "bpb_by_seed": {seed: number}, "fingerprints": [{"file", "line", "tokens_a_byte", "setup",
//              "distance"}]},
//  "runs": [{"path", "claimed": bool, "seed", "steps", "train_seconds", ...}],
//  "conditions": [{"number", "title", "strict", "practised", "settle",
//                  "facts": [{"text", "sure": "read" | "worked out" | "suspected",
//                             "places": [{"file", "line"}]}]}],
//  "other_runs": [fact], "not_read": [text]}
// Verdicts are "pass", "fail", "implausible", "cannot tell", "does not apply"; a line of 0 is a file as a
// whole.
std::string AuditJson(const AuditInput& input, const Audit& audit);

// The text with everything that would move a terminal's cursor or colour as \xNN or \uNNNN.
std::string Printable(absl::string_view text);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_REPORT_H_
