// Miniature submission folders on what a folder claims: forms of logs, names of fields and other places of
// numbers that must not be taken for faults, and the faults beside them.
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tools/compliance/audited_folder.h"

namespace hm11 {
namespace {

constexpr Verdict kPass = Verdict::kPass, kFail = Verdict::kFail, kCannotTell = Verdict::kCannotTell;

class ClaimsOfFoldersTest : public ComplianceTest {
 protected:
  // Whether any fact of the condition on claims has the words.
  bool Says(const std::string& words) {
    for (const std::string& text : TextsOf(At(25))) {
      if (text.find(words) != std::string::npos) return true;
    }
    return false;
  }
};

// The logs of the runs with their last lines replaced, in place of the runs.
void EndLogsWith(Submission& s, const std::string& end) {
  for (const MadeUpRun& run : s.runs) {
    const std::string log = LogOf(run);
    s.files[absl::StrCat("train_seed", run.seed, ".log")] = log.substr(0, log.find("quantized_exact")) + end;
  }
  s.runs.clear();
}

TEST_F(ClaimsOfFoldersTest, LogInAnotherFormIsNoAbsentOne) {
  AuditWith([](Submission& s) { EndLogsWith(s, "score without a name: 1.0801\n"); });
  Expect(25, kCannotTell, kCannotTell, "no log gives a score after training in a form that is read");
  Expect(23, kCannotTell, kPass);
  AuditWith([](Submission& s) { s.runs.clear(), s.files["results.tsv"] = "seed\tbpb\n40\t1.08\n"; });
  Expect(25, kCannotTell, kCannotTell);
  AuditWith([](Submission& s) { s.runs.clear(), s.files["requirements.txt"] = "torch\n"; });
  Expect(25, kFail, kCannotTell, "there is no log of a run");
}

TEST_F(ClaimsOfFoldersTest, UnfinishedLogBesideTheClaimIsNoFault) {
  AuditWith([](Submission& s) { s.files["trial.log"] = "step:10/100 train_loss:3.1 train_time:900ms\n"; });
  Expect(25, kPass, kPass, "trial.log: no score after training");
}

TEST_F(ClaimsOfFoldersTest, FieldsUnderOtherNames) {
  AuditWith([](Submission& s) {
    for (const char* key : {"author", "github_id", "date", "bytes_total"}) s.claims.erase(key);
    s.claims["submitter"] = "A";
  });
  Expect(25, kPass, kPass);
  AuditWith([](Submission& s) {
    for (const char* key : {"author", "github_id", "name"}) s.claims.erase(key);
  });
  Expect(25, kFail, kPass, "submission.json names nobody");
  AuditWith([](Submission& s) {
    s.claims.erase("val_bpb");
    s.claims["final"] = {{"sliding", {{"window_bpb", 1.0801}}}};
  });
  Expect(25, kCannotTell, kPass, "one stands under window_bpb");
  AuditWith([](Submission& s) { s.claims["val_bpb"] = "1.0801 (8 GPUs), 1.2 (one)"; });
  Expect(25, kCannotTell, kCannotTell, "no number");
}

TEST_F(ClaimsOfFoldersTest, ClaimPrintedInAnUnknownForm) {
  const auto claim_105 = [](Submission& s) { s.claims["val_bpb"] = 1.05; };
  AuditWith([&](Submission& s) {
    claim_105(s);
    s.runs[1].after = "after the mixture 1.0500 in 200 s\n";
  });
  Expect(25, kCannotTell, kCannotTell, "printed, but not as a known score");
  AuditWith([&](Submission& s) {
    claim_105(s);
    s.files["results.json"] = "{\"mixture\": 1.05000}";
  });
  Expect(25, kCannotTell, kCannotTell);
  // A step's score is none of the artifact's.
  AuditWith([&](Submission& s) {
    claim_105(s);
    s.runs[1].more = "step:4945/20000 val_loss:2.7 val_bpb:1.0500 train_time:590000ms\n";
  });
  Expect(25, kFail, kFail, "which no log prints as the artifact's");
  AuditWith(claim_105);
  Expect(25, kFail, kFail, "which no log prints, nor is it the mean of theirs");
}

TEST_F(ClaimsOfFoldersTest, ClaimWithFewDigitsIsRounded) {
  AuditWith([](Submission& s) {
    s.claims["val_bpb"] = 1.08, s.runs[0].bpb = s.runs[1].bpb = s.runs[2].bpb = 1.0763;
  });
  Expect(25, kPass, kPass);
}

TEST_F(ClaimsOfFoldersTest, MeanOfNumbersUnderAnotherName) {
  const auto mixtures = [](Submission& s) {
    for (size_t i = 0; i < 3; ++i)
      s.runs[i].after = absl::StrCat("mixed text 1.0", 1 + 2 * i, "00 by the table\n");  // 1.01, 1.03, 1.05
    s.claims["val_bpb"] = 1.0309;
    s.runs[1].after = "mixed text 1.0327 by the table\n";
  };
  AuditWith(mixtures);
  Expect(25, kCannotTell, kPass, "the mean of numbers that are not known as scores");
  // A log of another kind of name prints the same words.
  AuditWith([&](Submission& s) {
    mixtures(s);
    s.files["check_seed40.log"] = "mixed text 1.2000 by the table\n";
  });
  Expect(25, kCannotTell, kPass, "the mean of numbers");
  // One of the logs says more before the number.
  AuditWith([&](Submission& s) {
    mixtures(s);
    s.runs[1].after = "In the end: a text 1.0327 by the table\n";
  });
  Expect(25, kCannotTell, kPass, "the mean of numbers");
}

TEST_F(ClaimsOfFoldersTest, BestOfRunsThatAreNoSeries) {
  const auto best = [](Submission& s) {
    s.runs[0].bpb = 1.07;
    s.claims["val_bpb"] = 1.07;
  };
  AuditWith(best);
  Expect(25, kFail, kFail, "the best run's score in place of the mean");
  AuditWith([&](Submission& s) { best(s), s.claims["seeds"] = {40}; });
  Expect(25, kCannotTell, kPass, "which of the runs the claim is of is not said");
  AuditWith([&](Submission& s) { best(s), s.runs[2].settings = "  matrix_lr: 0.03\n"; });
  Expect(25, kCannotTell, kPass);
  // Another packing is another program's.
  AuditWith([&](Submission& s) {
    best(s);
    s.files["train_seed42.log"] = absl::StrReplaceAll(LogOf(s.runs[2]), {{"quantized+brotli", "int6+zlib"}});
    s.runs.resize(2);
  });
  Expect(25, kCannotTell, kPass);
}

TEST_F(ClaimsOfFoldersTest, BytesOfAnotherRunAndOfAPackedProgram) {
  AuditWith([](Submission& s) { s.runs[1].total_bytes = 15960000, s.claims["bytes_total"] = 15950000; });
  Expect(25, kPass, kPass);
  AuditWith([](Submission& s) {
    s.claims["bytes_total"] = 15920001;
    s.SetProgram(absl::StrCat("import torch\n", std::string(40000, '#'), "\n"));
  });
  Expect(25, kCannotTell, kPass, "which no log prints; the least of its runs is 15950000");
  AuditWith([](Submission& s) { s.claims["bytes_total"] = 15890001; });
  Expect(25, kFail, kPass, "which no log prints");
  // 15,900,000 is 15,950,000 rounded down.
  AuditWith([](Submission& s) {
    s.claims["bytes_total"] = 15900000;
    for (MadeUpRun& run : s.runs) run.model_bytes = 15930000;
  });
  EXPECT_FALSE(Says("bytes in all"));
}

TEST_F(ClaimsOfFoldersTest, SeedsThatAreDisclosedElsewhere) {
  const auto two_claimed = [](Submission& s) { s.claims["seeds"] = {40, 41}; };
  AuditWith([&](Submission& s) { two_claimed(s), s.files["README.md"] += "Seed 42 was run as well.\n"; });
  Expect(23, kCannotTell, kPass, "seed 42 has a log and is disclosed");
  AuditWith([&](Submission& s) { two_claimed(s), s.files["README.md"] += "A third run: 1.0802\n"; });
  Expect(23, kCannotTell, kPass);
  AuditWith([&](Submission& s) { two_claimed(s), s.files["README.md"] += "Additional seeds were worse.\n"; });
  Expect(23, kCannotTell, kPass);
  AuditWith([&](Submission& s) { two_claimed(s), s.files["README.md"] += "It takes 3.42 s, 142 steps.\n"; });
  Expect(23, kFail, kCannotTell, "neither submission.json nor README.md names it");
}

TEST_F(ClaimsOfFoldersTest, SeedOfWhichNoLogSpeaks) {
  AuditWith([](Submission& s) { s.claims["seeds"] = {40, 41, 42, 77}; });
  Expect(25, kFail, kPass, "seed 77 is claimed, and no log in the folder names it");
  AuditWith([](Submission& s) {
    s.claims["seeds"] = {40, 41, 42, 77}, s.runs[0].after = "seeds [40, 77] done\n";
  });
  EXPECT_FALSE(Says("seed 77"));
  AuditWith([](Submission& s) {
    s.claims["seeds"] = {40, 41, 42, 77}, s.files["other.log"] = "in a form unknown\n";
  });
  EXPECT_FALSE(Says("seed 77"));
}

TEST_F(ClaimsOfFoldersTest, FilesThatNeedNotBeThere) {
  AuditWith([](Submission& s) {
    s.files["README.md"] =
        "## Files\n- `final_model.pt` is the model\n- `train_seed9.log` will be uploaded\n- "
        "`base/train_gpt.py`\n";
  });
  Expect(25, kPass, kPass);
  AuditWith([](Submission& s) { s.files["README.md"] = "## Files\n- `train_seed9.log`\n"; });
  Expect(25, kFail, kPass, "README.md names train_seed9.log, which is not there");
}

TEST_F(ClaimsOfFoldersTest, FolderOfFolders) {
  AuditWith([](Submission& s) {
    s.files["run/submission.json"] = s.claims.dump();
    s.files["run/README.md"] = s.files["README.md"];
    s.claims = nullptr, s.files.erase("README.md");
  });
  Expect(25, kCannotTell, kCannotTell, "there is no submission.json beside run/submission.json");
}

TEST_F(ClaimsOfFoldersTest, PairThatIsRounded) {
  const auto pair = [](double loss, double bpb) {
    return [=](Submission& s) {
      s.claims["val_loss"] = loss, s.claims["val_bpb"] = bpb;
      for (MadeUpRun& run : s.runs) run.bpb = bpb;
    };
  };
  AuditWith(pair(2.8, 1.08));  // 2.7897
  EXPECT_FALSE(Says("tokens a byte"));
  AuditWith(pair(2.8123, 1.0801));
  EXPECT_TRUE(Says("not of one evaluation"));
}

TEST_F(ClaimsOfFoldersTest, ASizeOfAModelThatTheResultsGiveIsNoWrongOne) {
  const auto claim = [](Submission& s) {
    s.claims["bytes_model"] = 15900007, s.claims["bytes_total"] = 15940017;
    for (MadeUpRun& run : s.runs) run.model_bytes = 15950000, run.total_bytes = 16100000;
  };
  AuditWith(claim);
  Expect(25, kFail, kPass, "which no log prints");
  AuditWith([&](Submission& s) { claim(s), s.files["eval_results.csv"] = "model_bytes\n15900007\n"; });
  for (const std::string& text : TextsOf(At(25)))
    EXPECT_EQ(text.find("which no log prints"), std::string::npos);
}

TEST_F(ClaimsOfFoldersTest, AListOfPackagesIsNoLog) {
  AuditWith([](Submission& s) { s.runs.clear(), s.files["requirements-record.txt"] = "torch\n"; });
  Expect(25, kFail, kCannotTell, "there is no log of a run");
}

TEST_F(ClaimsOfFoldersTest, AConfigurationIsNoResult) {
  AuditWith([](Submission& s) { s.runs.clear(), s.files["launch_config.json"] = "{\"lr\": 0.02}"; });
  Expect(25, kFail, kCannotTell, "there is no log of a run");
}

}  // namespace
}  // namespace hm11
