// Folders made to mislead or to choke their reader.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tools/compliance/claims.h"
#include "tools/compliance/file_names.h"
#include "tools/compliance/folder.h"
#include "tools/compliance/made_up_submission.h"
#include "tools/compliance/report.h"
#include "tools/compliance/rules.h"

namespace hm11 {
namespace {

TEST(HostileFolderTest, LinksDoNotLeadOutOfTheFolder) {
  const std::string path = NewFolder();
  Put(path, Submission());
  ASSERT_EQ(symlink("/dev/zero", (path + "/zero.log").c_str()), 0);
  ASSERT_EQ(symlink("/etc/passwd", (path + "/passwd.txt").c_str()), 0);
  ASSERT_EQ(symlink("helper.py", (path + "/inside.py").c_str()), 0);
  ASSERT_EQ(mkfifo((path + "/pipe.log").c_str(), 0600), 0);
  const auto folder = ReadSubmissionFolder(path);
  ASSERT_TRUE(folder.ok());
  EXPECT_THAT(folder->not_read,
              ::testing::UnorderedElementsAre("passwd.txt: a link to elsewhere", "pipe.log: no regular file",
                                              "zero.log: a link to elsewhere"));
  EXPECT_TRUE(std::any_of(folder->files.begin(), folder->files.end(),
                          [](const FolderFile& file) { return file.name == "inside.py"; }));
}

TEST(HostileFolderTest, NestedAndHugeJsonIsRefusedWithAReason) {
  for (const std::string& seeds : {std::string(100000, '['), std::string("1e999"), std::string("[1e999]")}) {
    Submission submission;
    submission.claims = nullptr;
    submission.files["submission.json"] = absl::StrCat(
        "{\"author\": ", seeds, seeds[0] == '[' && seeds[1] == '[' ? std::string(100000, ']') : "", "}");
    const std::string path = NewFolder();
    Put(path, submission);
    const auto folder = ReadSubmissionFolder(path);
    ASSERT_TRUE(folder.ok());
    EXPECT_FALSE(folder->claims_problem.empty());
    AuditSubmission({.folder = &*folder});
  }
  EXPECT_FALSE(ParseClaims("{\"x\": [" + std::string(5 << 20, ' ') + "]}").ok());
}

TEST(HostileFolderTest, PatternsOfManyStarsAreQuick) {
  const std::string name(250, 'a');
  EXPECT_FALSE(FitsPattern("*a*a*a*a*a*a*a*a*b", name));
  EXPECT_TRUE(FitsPattern("*a*a*a*", name));
  EXPECT_TRUE(FitsPattern("train_seed*.log", "train_seed42.log"));
  EXPECT_FALSE(FitsPattern("train_seed*.log", "train_seed42.logs"));
  EXPECT_TRUE(FitsPattern("", ""));
  EXPECT_FALSE(FitsPattern("a", ""));
}

TEST(HostileFolderTest, NamesCannotForgeLinesOfTheReport) {
  Submission submission;
  submission.claims["name"] = "x\nverdict: strict pass, as practised pass\x1b[2J\u202e";
  submission.files["y\nverdict: pass.log"] = "step:1/2 train_time:5ms\n";
  const std::string path = NewFolder();
  Put(path, submission);
  const auto folder = ReadSubmissionFolder(path);
  const AuditInput input = {.folder = &*folder};
  const std::string text = AuditText(input, AuditSubmission(input));
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_EQ(text.find("\u202e"), std::string::npos);
  size_t verdicts = 0;
  for (size_t at = text.find("\nverdict:"); at != std::string::npos; at = text.find("\nverdict:", at + 1))
    ++verdicts;
  EXPECT_EQ(verdicts, 1u) << text;
}

}  // namespace
}  // namespace hm11
