// A fixture: a made-up submission in a folder of its own, audited, and what is expected of its conditions.
#ifndef HM11_TOOLS_COMPLIANCE_AUDITED_FOLDER_H_
#define HM11_TOOLS_COMPLIANCE_AUDITED_FOLDER_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "tools/compliance/folder.h"
#include "tools/compliance/made_up_submission.h"
#include "tools/compliance/rules.h"

namespace hm11 {

inline std::vector<std::string> TextsOf(const Condition& condition) {
  std::vector<std::string> texts;
  for (const Fact& fact : condition.facts) texts.push_back(fact.text);
  return texts;
}

class ComplianceTest : public ::testing::Test {
 protected:
  void SetUp() override { folder_ = NewFolder(); }

  // Writes the submission with the change and audits it.
  void AuditWith(const std::function<void(Submission&)>& change) {
    folder_ = NewFolder();
    Submission submission;
    change(submission);
    Put(folder_, submission);
    const auto read = ReadSubmissionFolder(folder_);
    ASSERT_TRUE(read.ok()) << read.status();
    read_ = *read;
    input_ = {.folder = &read_};
    audit_ = AuditSubmission(input_);
  }
  const Condition& At(int number) {
    for (const Condition& condition : audit_.conditions) {
      if (condition.number == number) return condition;
    }
    ADD_FAILURE() << "no condition " << number;
    return audit_.conditions.front();
  }
  void Expect(int number, Verdict strict, Verdict practised, const std::string& detail = "") {
    const Condition& condition = At(number);
    EXPECT_STREQ(VerdictName(condition.strict), VerdictName(strict)) << number;
    EXPECT_STREQ(VerdictName(condition.practised), VerdictName(practised)) << number;
    if (!detail.empty()) {
      EXPECT_THAT(TextsOf(condition), ::testing::Contains(::testing::HasSubstr(detail))) << number;
    }
  }

  std::string folder_;
  SubmissionFolder read_;
  AuditInput input_;
  Audit audit_;
};

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_AUDITED_FOLDER_H_
