// Entering the folder that Bazel was called from.
#include "core/callers_folder.h"

#include <unistd.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace hm11 {

absl::Status EnterCallersFolder() {
  const char* folder = std::getenv("BUILD_WORKING_DIRECTORY");
  if (folder != nullptr && chdir(folder) != 0) {
    return absl::UnknownError(absl::StrCat("cannot enter folder ", folder));
  }
  return absl::OkStatus();
}

}  // namespace hm11
