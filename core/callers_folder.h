// Where relative paths of a command line are meant from.
#ifndef HM11_CORE_CALLERS_FOLDER_H_
#define HM11_CORE_CALLERS_FOLDER_H_

#include "absl/status/status.h"

namespace hm11 {

// `bazel run` starts programs in a folder of its own; this enters the one where the user stands, so that
// paths on the command line mean what they say. Unknown when it is gone.
absl::Status EnterCallersFolder();

}  // namespace hm11

#endif  // HM11_CORE_CALLERS_FOLDER_H_
