// Which programs and data files of a submission its trainer uses.
#ifndef HM11_TOOLS_COMPLIANCE_PROGRAM_USES_H_
#define HM11_TOOLS_COMPLIANCE_PROGRAM_USES_H_

#include "tools/compliance/folder.h"

namespace hm11 {

// Marks the programs that the folder's entry reaches by imports, includes and names of files, and what lies
// beside a packed one for readers; lists the data files that they name.
void FollowUses(SubmissionFolder* folder);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_PROGRAM_USES_H_
