// Files that a submission says are in its folder, and that are not.
#ifndef HM11_TOOLS_COMPLIANCE_ABSENT_FILES_H_
#define HM11_TOOLS_COMPLIANCE_ABSENT_FILES_H_

#include <string>
#include <vector>

#include "tools/compliance/folder.h"

namespace hm11 {

// Those that submission.json names anywhere, and README.md in its list of files; paths to elsewhere left out.
std::vector<std::string> AbsentFiles(const SubmissionFolder& folder);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_ABSENT_FILES_H_
