// The program: its exit codes, its JSON, and bad input.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "nlohmann/json.hpp"
#include "tools/compliance/audited_folder.h"
#include "tools/compliance/folder.h"
#include "tools/compliance/made_up_submission.h"
#include "tools/compliance/report.h"
#include "tools/compliance/rules.h"

namespace hm11 {
namespace {

using ::testing::HasSubstr;

using Json = nlohmann::json;

TEST_F(ComplianceTest, TheJsonHoldsEveryVerdict) {
  AuditWith([](Submission& s) { s.claims["val_bpb"] = 1.05; });
  const Json json = Json::parse(AuditJson(input_, audit_));
  EXPECT_EQ(json["verdict"]["strict"], "fail");
  EXPECT_EQ(json["schema"], 2);
  EXPECT_EQ(json["conditions"].size(), 28u);
  EXPECT_EQ(json["conditions"][24]["practised"], "fail");
  EXPECT_EQ(json["numbers"]["bytes_claimed"], 15950000);
  EXPECT_EQ(json["runs"].size(), 3u);
  EXPECT_THAT(AuditText(input_, audit_),
              HasSubstr("verdict: strict FAIL (25, 28), as practised FAIL (25, 28)"));
}

class ComplianceProgramTest : public ComplianceTest {
 protected:
  int RunProgram(const std::string& arguments) {
    const std::string out = NewFolder() + "/out";
    const int state =
        std::system(absl::StrCat("tools/compliance/compliance ", arguments, " >", out, " 2>&1").c_str());
    output_ = *ReadFile(out);
    return WIFEXITED(state) ? WEXITSTATUS(state) : -1;
  }
  int RunOn(const std::function<void(Submission&)>& change, const std::string& more = "") {
    folder_ = NewFolder();
    Submission submission;
    change(submission);
    Put(folder_, submission);
    return RunProgram(absl::StrCat("--folder=", folder_, " ", more));
  }
  void ExpectOneLineAndAVerdict() {
    EXPECT_EQ(output_.rfind("error: ", 0), 0u) << output_;
    EXPECT_THAT(output_, HasSubstr("\nverdict: cannot tell\n"));
    EXPECT_EQ(std::count(output_.begin(), output_.end(), '\n'), 2) << output_;
  }
  std::string output_;
};

TEST_F(ComplianceProgramTest, TheExitCodeIsTheVerdict) {
  EXPECT_EQ(RunOn([](Submission&) {}), 0) << output_;
  EXPECT_EQ(RunOn([](Submission& s) { s.files.erase("README.md"); }), 1) << output_;
  EXPECT_EQ(RunOn([](Submission& s) { s.claims["bytes_total"] = 17000000; }), 2) << output_;
  const std::string json = NewFolder() + "/audit.json";
  EXPECT_EQ(RunOn([](Submission&) {}, "--json=" + json), 0) << output_;
  EXPECT_EQ(Json::parse(*ReadFile(json))["verdict"]["strict"], "pass");
}

TEST_F(ComplianceProgramTest, BadInputGivesOneLineAndAVerdict) {
  EXPECT_EQ(RunProgram(""), 3);
  ExpectOneLineAndAVerdict();
  EXPECT_EQ(RunProgram("--folder=" + NewFolder()), 3);
  ExpectOneLineAndAVerdict();
  EXPECT_EQ(RunProgram("--folder=/no/such/folder"), 3);
  ExpectOneLineAndAVerdict();
  EXPECT_EQ(RunOn([](Submission&) {}, "--against=/no/such/folder"), 3);
  ExpectOneLineAndAVerdict();
}

TEST_F(ComplianceProgramTest, BrokenFilesAreNamedAndTheRestIsAudited) {
  EXPECT_EQ(RunOn([](Submission& s) {
              s.claims = nullptr;
              s.files["submission.json"] = "{\"val_bpb\": 1.08,";
            }),
            2);
  EXPECT_THAT(output_, HasSubstr("submission.json: not JSON from line 1 on"));
  EXPECT_THAT(output_, HasSubstr("0.268338 (SP8192)"));
  EXPECT_EQ(RunOn([](Submission& s) {
              s.files["train_seed43.log"] = LogOf(s.runs[0]).substr(0, LogOf(s.runs[0]).size() - 150);
            }),
            0);
  EXPECT_THAT(output_, HasSubstr("train_seed43.log: no score after training"));
  EXPECT_EQ(RunOn([](Submission& s) { s.files["train_seed43.log"] = "Hyperparameters:\n  seed: 43\n"; }), 0);
  EXPECT_THAT(output_, HasSubstr("train_seed43.log: no score after training"));
  EXPECT_EQ(RunOn([](Submission&) {}, "--train='/no/*.bin' --val='/no/*.bin'"), 0) << output_;
  EXPECT_THAT(output_, HasSubstr("/no/*.bin"));
}

TEST_F(ComplianceProgramTest, BytesOfAnyKindAreNoReasonToCrash) {
  rc::check([&] {
    folder_ = NewFolder();
    for (const char* name :
         {"submission.json", "README.md", "train_gpt.py", "a.log", "b.txt", "c.cpp", "d.tar.xz"}) {
      Put(folder_, name, *rc::gen::string<std::string>());
    }
    const auto read = ReadSubmissionFolder(folder_);
    RC_ASSERT(read.ok());
    const AuditInput input = {.folder = &*read};
    const Audit audit = AuditSubmission(input);
    RC_ASSERT(!AuditText(input, audit).empty());
    RC_ASSERT(Json::accept(AuditJson(input, audit)));
  });
}

}  // namespace
}  // namespace hm11
