// Finds the folder of golden files.
#include "testing/golden.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace hm11 {

std::string GoldenPath(absl::string_view name) {
  const char* folder = std::getenv("HM11_GOLDEN_DIR");
  if (folder != nullptr && *folder != '\0') return absl::StrCat(folder, "/", name);
  const char* runfiles = std::getenv("TEST_SRCDIR");
  const char* workspace = std::getenv("TEST_WORKSPACE");
  if (runfiles != nullptr && workspace != nullptr) {
    return absl::StrCat(runfiles, "/", workspace, "/testing/golden/", name);
  }
  return absl::StrCat("testing/golden/", name);
}

}  // namespace hm11
