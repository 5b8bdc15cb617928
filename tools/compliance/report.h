// An audit as text for people and as JSON for programs.
#ifndef HM11_TOOLS_COMPLIANCE_REPORT_H_
#define HM11_TOOLS_COMPLIANCE_REPORT_H_

#include <string>

#include "tools/compliance/checks.h"

namespace hm11 {

std::string AuditText(const AuditInput& input, const Audit& audit);

// {"folder", "record", "verdict": {"strict", "practised"}, "numbers": {...}, "conditions": [{"number",
// "title", "strict", "practised", "details"}]}; verdicts are "pass", "fail", "cannot tell", "does not apply".
std::string AuditJson(const AuditInput& input, const Audit& audit);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_REPORT_H_
