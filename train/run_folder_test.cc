// RunFolder: who may write to a folder, and what is left in it.
#include "train/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/file.h"
#include "testing/matchers.h"
#include "testing/test_folder.h"

namespace hm11 {
namespace {

std::string NewPath() { return NewTestFolder("run_folder") + "/runs/one"; }

TEST(RunFolderTest, IsHeldByOneRunAtATime) {
  const std::string path = NewPath();
  {
    const absl::StatusOr<RunFolder> first = RunFolder::Open(path, FolderUse::kNewRun);
    ASSERT_THAT(first, IsOk());
    for (const FolderUse use : {FolderUse::kNewRun, FolderUse::kOverwrite, FolderUse::kResume}) {
      EXPECT_THAT(RunFolder::Open(path, use).status(),
                  StatusIs(absl::StatusCode::kUnavailable, path + ": another process is writing to it"));
    }
  }
  EXPECT_THAT(RunFolder::Open(path, FolderUse::kResume), IsOk());
}

TEST(RunFolderTest, AKilledRunHoldsNothing) {
  const std::string path = NewPath();
  const pid_t child = fork();
  if (child == 0) {
    const bool held = RunFolder::Open(path, FolderUse::kNewRun).ok();
    _exit(held ? 0 : 1);  // without destructors, as a kill
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(WEXITSTATUS(status), 0);
  EXPECT_THAT(RunFolder::Open(path, FolderUse::kNewRun), IsOk());
}

TEST(RunFolderTest, WhatAKilledRunWasWritingIsGone) {
  const std::string path = NewPath();
  ASSERT_THAT(MakeFolders(path), IsOk());
  ASSERT_THAT(WriteFile(path + "/checkpoint.safetensors", "old"), IsOk());
  ASSERT_THAT(WriteFile(path + "/checkpoint.safetensors.writing.1234", "half"), IsOk());
  EXPECT_THAT(RunFolder::Open(path, FolderUse::kResume), IsOk());
  EXPECT_FALSE(FileExists(path + "/checkpoint.safetensors.writing.1234"));
  EXPECT_EQ(*ReadFile(path + "/checkpoint.safetensors"), "old");
}

TEST(RunFolderTest, ARunIsReplacedOnlyWhereThatIsAskedFor) {
  const std::string path = NewPath();
  ASSERT_THAT(MakeFolders(path), IsOk());
  ASSERT_THAT(WriteFile(path + "/checkpoint.safetensors", "old"), IsOk());
  ASSERT_THAT(WriteFile(path + "/notes.txt", "mine"), IsOk());
  EXPECT_THAT(RunFolder::Open(path, FolderUse::kNewRun).status(),
              StatusIs(absl::StatusCode::kAlreadyExists, path + " holds a run (checkpoint.safetensors)"));
  EXPECT_THAT(RunFolder::Open(path, FolderUse::kResume), IsOk());
  EXPECT_EQ(*ReadFile(path + "/checkpoint.safetensors"), "old");
  EXPECT_THAT(RunFolder::Open(path, FolderUse::kOverwrite), IsOk());
  EXPECT_FALSE(FileExists(path + "/checkpoint.safetensors"));
  EXPECT_EQ(*ReadFile(path + "/notes.txt"), "mine");
}

TEST(RunFolderTest, WhereNothingCanBeWrittenIsNamed) {
  EXPECT_THAT(RunFolder::Open("/proc/hm11", FolderUse::kNewRun).status().message(),
              testing::HasSubstr("/proc/hm11"));
}

}  // namespace
}  // namespace hm11
