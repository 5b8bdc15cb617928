// Files: round trips, names in errors, and nothing half-written, even when the disk fills.
#include "core/file.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "testing/matchers.h"
#include "testing/small_disk.h"
#include "testing/test_folder.h"

namespace hm11 {
namespace {

using testing::ElementsAre;

int64_t FilesIn(const std::string& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
}

RC_GTEST_PROP(FileProperty, WhatIsWrittenIsReadBack, ()) {
  const std::string path = absl::StrCat(testing::TempDir(), "/round_trip");
  const auto contents = *rc::gen::arbitrary<std::string>();
  RC_ASSERT(WriteFile(path, contents).ok());
  RC_ASSERT(*ReadFile(path) == contents);
}

TEST(FileTest, PartsAndLaterCorrectionsMakeOneFile) {
  const std::string path = NewTestFolder("file_parts") + "/file";
  absl::StatusOr<AtomicFileWriter> writer = AtomicFileWriter::Open(path);
  ASSERT_THAT(writer, IsOk());
  EXPECT_THAT(writer->Append("....def"), IsOk());
  EXPECT_THAT(writer->WriteAt(1, "abc"), IsOk());
  EXPECT_THAT(writer->Append("g"), IsOk());
  EXPECT_FALSE(FileExists(path));
  EXPECT_THAT(writer->Commit(), IsOk());
  EXPECT_THAT(ReadFile(path), IsOkAndHolds(".abcdefg"));
}

TEST(FileTest, WithoutCommitTheOldFileStaysAndNothingIsLeftBehind) {
  const std::string folder = NewTestFolder("file_no_commit");
  ASSERT_THAT(WriteFile(folder + "/file", "old"), IsOk());
  {
    absl::StatusOr<AtomicFileWriter> writer = AtomicFileWriter::Open(folder + "/file");
    ASSERT_THAT(writer->Append("new"), IsOk());
    const AtomicFileWriter moved = *std::move(writer);
  }
  EXPECT_THAT(ReadFile(folder + "/file"), IsOkAndHolds("old"));
  EXPECT_EQ(FilesIn(folder), 1);
}

TEST(FileTest, ADiskThatFillsKeepsTheOldFileAndIsNamed) {
  const std::string folder = NewTestFolder("file_full_disk");
  ASSERT_THAT(WriteFile(folder + "/file", "old"), IsOk());
  absl::Status status;
  {
    SmallDisk disk(1 << 16);
    status = WriteFile(folder + "/file", std::string(1 << 20, 'x'));
  }
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, folder + "/file"));
  EXPECT_THAT(ReadFile(folder + "/file"), IsOkAndHolds("old"));
  EXPECT_EQ(FilesIn(folder), 1);
}

TEST(FileTest, WhatKilledWritersLeftIsRemovedAndNothingElse) {
  const std::string folder = NewTestFolder("file_unfinished");
  for (const char* name : {"a.bin.writing.123", "b.bin.writing.9", "a.bin", "a.writing.", "a.writing.12x"}) {
    ASSERT_THAT(WriteFile(absl::StrCat(folder, "/", name), ""), IsOk());
  }
  RemoveUnfinished(folder, "a");
  EXPECT_FALSE(FileExists(folder + "/a.bin.writing.123"));
  EXPECT_EQ(FilesIn(folder), 4);
  RemoveUnfinished(folder);
  EXPECT_FALSE(FileExists(folder + "/b.bin.writing.9"));
  EXPECT_EQ(FilesIn(folder), 3);
  RemoveUnfinished(folder + "/none");
}

TEST(FileTest, ErrorsNameThePath) {
  const std::string folder = NewTestFolder("file_errors");
  EXPECT_THAT(ReadFile(folder + "/none"), StatusIs(absl::StatusCode::kNotFound, folder + "/none"));
  EXPECT_THAT(ReadFile(folder), StatusIs(absl::StatusCode::kUnknown, "Is a directory"));
  EXPECT_THAT(WriteFile(folder + "/none/file", "x"),
              StatusIs(absl::StatusCode::kNotFound, folder + "/none/file"));
  EXPECT_THAT(WriteFile(folder, "x"), StatusIs(absl::StatusCode::kUnknown, folder));
  EXPECT_THAT(Glob(folder + "/*.bin"), StatusIs(absl::StatusCode::kNotFound, folder + "/*.bin"));
  ASSERT_THAT(WriteFile(folder + "/file", "x"), IsOk());
  EXPECT_THAT(MakeFolders(folder + "/file"), StatusIs(absl::StatusCode::kUnknown, folder + "/file"));
  EXPECT_THAT(MakeFolders(folder + "/file/deeper"), StatusIs(absl::StatusCode::kUnknown, folder + "/file"));
}

TEST(FileTest, GlobSorts) {
  const std::string folder = NewTestFolder("file_glob");
  for (const char* name : {"b.bin", "a.bin", "c.txt", "a1.bin"}) {
    ASSERT_THAT(WriteFile(absl::StrCat(folder, "/", name), ""), IsOk());
  }
  const absl::StatusOr<std::vector<std::string>> paths = Glob(folder + "/*.bin");
  ASSERT_THAT(paths, IsOk());
  EXPECT_THAT(*paths, ElementsAre(folder + "/a.bin", folder + "/a1.bin", folder + "/b.bin"));
}

TEST(FileTest, TheCacheFolderFollowsTheEnvironmentAndIsMade) {
  const std::string folder = NewTestFolder("file_cache");
  setenv("XDG_CACHE_HOME", folder.c_str(), 1);
  EXPECT_THAT(CacheFolder(), IsOkAndHolds(folder + "/hm11"));
  EXPECT_TRUE(std::filesystem::is_directory(folder + "/hm11"));
  unsetenv("XDG_CACHE_HOME");
  setenv("HOME", folder.c_str(), 1);
  EXPECT_THAT(CacheFolder(), IsOkAndHolds(folder + "/.cache/hm11"));
}

TEST(FileTest, WithoutAHomeTheCacheIsThisUsersAlone) {
  unsetenv("XDG_CACHE_HOME");
  setenv("HOME", "/proc/nowhere", 1);
  const std::string temporary = NewTestFolder("file_temporary");
  setenv("TMPDIR", temporary.c_str(), 1);
  const absl::StatusOr<std::string> fallback = CacheFolder();
  ASSERT_THAT(fallback, IsOkAndHolds(absl::StrCat(temporary, "/hm11-cache-", geteuid())));
  struct stat info = {};
  ASSERT_EQ(lstat(fallback->c_str(), &info), 0);
  EXPECT_TRUE(S_ISDIR(info.st_mode));
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  EXPECT_EQ(info.st_uid, geteuid());
  // What others can write to is refused, and so are a folder of theirs and a link to wherever they like.
  if (geteuid() == 0 && chown(fallback->c_str(), 65534, 65534) == 0) {  // not in every sandbox
    EXPECT_THAT(CacheFolder(), StatusIs(absl::StatusCode::kPermissionDenied, *fallback));
    ASSERT_EQ(chown(fallback->c_str(), 0, 0), 0);
  }
  ASSERT_EQ(chmod(fallback->c_str(), 0777), 0);
  EXPECT_THAT(CacheFolder(), StatusIs(absl::StatusCode::kPermissionDenied, *fallback));
  const std::string kept = *fallback + ".kept";
  ASSERT_EQ(rename(fallback->c_str(), kept.c_str()), 0);
  ASSERT_EQ(symlink(kept.c_str(), fallback->c_str()), 0);
  ASSERT_EQ(chmod(kept.c_str(), 0700), 0);
  EXPECT_THAT(CacheFolder(), StatusIs(absl::StatusCode::kPermissionDenied, *fallback));
  ASSERT_EQ(unlink(fallback->c_str()), 0);
  ASSERT_EQ(rename(kept.c_str(), fallback->c_str()), 0);
  EXPECT_THAT(CacheFolder(), IsOk());
  unsetenv("TMPDIR");
}

TEST(FileTest, APatternOfAPathMatchesThatPathAlone) {
  const std::string folder = NewTestFolder("file_signs");
  for (const char* name : {"a[1]", "a*", "a?", "a\\[1]", "ab", "a1"}) {
    ASSERT_THAT(MakeFolders(absl::StrCat(folder, "/", name)), IsOk());
    ASSERT_THAT(WriteFile(absl::StrCat(folder, "/", name, "/x.bin"), ""), IsOk());
  }
  for (const char* name : {"a[1]", "a*", "a?", "a\\[1]", "ab", "a1"}) {
    const std::string path = absl::StrCat(folder, "/", name);
    const absl::StatusOr<std::vector<std::string>> found = Glob(GlobLiteral(path) + "/*.bin");
    ASSERT_THAT(found, IsOk());
    EXPECT_THAT(*found, ElementsAre(path + "/x.bin"));
    EXPECT_THAT(*Glob(path + "/x.bin"), ElementsAre(path + "/x.bin"));
  }
  EXPECT_EQ(Glob(folder + "/[a]*/x.bin")->size(), 6u);
}

TEST(FileTest, APipeIsNotWaitedFor) {
  const std::string path = NewTestFolder("file_pipe") + "/pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_THAT(ReadFile(path),
              StatusIs(absl::StatusCode::kInvalidArgument, "cannot read " + path + ": not a regular file"));
}

TEST(FileDeathTest, AFileCutShortWhileItIsReadIsNamed) {
  const std::string path = NewTestFolder("file_cut") + "/file";
  ASSERT_THAT(WriteFile(path, std::string(1 << 20, 'x')), IsOk());
  ASSERT_THAT(WriteFile(path + ".other", std::string(1 << 20, 'x')), IsOk());
  const auto read_cut = [&] {
    const MappedFile other = *MappedFile::Open(path + ".other"), file = *MappedFile::Open(path);
    { const MappedFile gone = *MappedFile::Open(path); }
    if (truncate(path.c_str(), 1 << 12) != 0) return;
    volatile char last = file.data()[(1 << 20) - 1];
    static_cast<void>(last);
  };
  EXPECT_EXIT(read_cut(), testing::ExitedWithCode(1), "error: .*/file was cut short while it was read");
}

TEST(FileDeathTest, AnOutputThatFailsIsAnError) {
  const auto print = [] {
    if (std::freopen("/dev/full", "w", stdout) == nullptr) return;
    std::printf("a line\n");
    const absl::Status status = FlushStandardOutput();
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    std::_Exit(status.ok() ? 0 : 3);
  };
  EXPECT_EXIT(print(), testing::ExitedWithCode(3), "cannot write standard output: No space left on device");
  EXPECT_THAT(FlushStandardOutput(), IsOk());
}

}  // namespace
}  // namespace hm11
