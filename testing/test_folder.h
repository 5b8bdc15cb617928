// A folder of a test's own.
#ifndef HM11_TESTING_TEST_FOLDER_H_
#define HM11_TESTING_TEST_FOLDER_H_

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/check.h"
#include "core/file.h"

namespace hm11 {

// Path of a new, empty folder where tests may write; `name` begins its last part.
inline std::string NewTestFolder(absl::string_view name) {
  std::string pattern = absl::StrCat(testing::TempDir(), "/", name, "_XXXXXX");
  HM_CHECK(mkdtemp(pattern.data()) != nullptr);
  return pattern;
}

class TestFolder {
 public:
  explicit TestFolder(absl::string_view name) : path_(NewTestFolder(name)) {}
  const std::string& path() const { return path_; }
  std::string PathOf(absl::string_view file) const { return absl::StrCat(path_, "/", file); }
  // Gives the file's path.
  std::string Write(absl::string_view file, const std::string& text) const {
    EXPECT_TRUE(WriteFile(PathOf(file), text).ok());
    return PathOf(file);
  }

 private:
  const std::string path_;
};

}  // namespace hm11

#endif  // HM11_TESTING_TEST_FOLDER_H_
