// The folder that relative paths are meant from.
#include "core/callers_folder.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <string>

namespace hm11 {
namespace {

TEST(CallersFolderTest, IsEnteredWhereBazelNamesOne) {
  const std::filesystem::path here = std::filesystem::current_path();
  unsetenv("BUILD_WORKING_DIRECTORY");
  ASSERT_TRUE(EnterCallersFolder().ok());
  EXPECT_EQ(std::filesystem::current_path(), here);
  setenv("BUILD_WORKING_DIRECTORY", "/", 1);
  ASSERT_TRUE(EnterCallersFolder().ok());
  EXPECT_EQ(std::filesystem::current_path(), "/");
}

TEST(CallersFolderTest, OneThatIsGoneIsNamed) {
  setenv("BUILD_WORKING_DIRECTORY", "/no/such/folder", 1);
  const absl::Status status = EnterCallersFolder();
  EXPECT_EQ(status.message(), "cannot enter folder /no/such/folder");
}

}  // namespace
}  // namespace hm11
