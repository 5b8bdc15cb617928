// Miniature folders for the conditions on seeds and hardware and for the track, each of a kind that was
// accused wrongly once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tools/compliance/audited_folder.h"
#include "tools/compliance/own_words.h"

namespace hm11 {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Verdict kPass = Verdict::kPass, kFail = Verdict::kFail, kCannotTell = Verdict::kCannotTell,
                  kDoesNotApply = Verdict::kDoesNotApply;

using SeedFoldersTest = ComplianceTest;

// One seed in the log, and nothing in the JSON that says more.
void KeepOneSeed(Submission& s) {
  s.runs.resize(1);
  s.claims.erase("seeds");
  s.claims["val_bpb"] = 1.08;
}

TEST(OwnWordsTest, ANonRecordIsOneByItsOwnWordsAlone) {
  for (const char* text :
       {"# Non-record: a study of pruning", "# Pruning (Non-Record)\n", "non_record_exploratory",
        "intro\n**Status:** non-record, pending more runs",
        "We file this as a **non-record submission** on one GPU.",
        "This run uses 1x H100, not 8x (non-record submission)", "**val_bpb: 1.2** | Non-record submission",
        "draft_non_record", "Builds on #315. Non-record as yet."}) {
    EXPECT_TRUE(CallsItselfNonRecord(text)) << text;
  }
  for (const char* text :
       {"# A record\nbuilds on #461 (which was accepted as a non-record submission)",
        "| #95 | first try | Non-record |", "See `records/track_non_record_16mb/other` for the base",
        "our prior non-record submission had 12 layers", "A non-record baseline of four hours scored 1.2074",
        "This is the base of #77, a non-record.",
        "If it is merged first, treat this submission as a non-record follow-up."}) {
    EXPECT_FALSE(CallsItselfNonRecord(text)) << text;
  }
}

TEST(OwnWordsTest, SeedsAreThoseThatHaveScores) {
  EXPECT_THAT(SeedsWithScores(
                  "| Seed | Steps | bpb |\n|---|---|---|\n| **42** | 5000 | 1.0801 |\n| 7 | 5001 | 1.0802 |\n"
                  "| Mean | | 1.08015 |\n\nseed=99: 1.0803, seed 5 pending\n"),
              ElementsAre(5, 7, 42, 99));
  EXPECT_THAT(SeedsWithScores("| Layers | bpb |\n| 11 | 1.0801 |\nseeds 1, 2 and 3 will be run"), IsEmpty());
  EXPECT_TRUE(SpeaksOfAMeanOfThree("val_bpb 1.08 (3-seed mean, std 0.001)"));
  EXPECT_TRUE(SpeaksOfAMeanOfThree("Also ran 3 seeds on another machine"));
  EXPECT_FALSE(SpeaksOfAMeanOfThree("3-seed mean: pending"));
  EXPECT_FALSE(SpeaksOfAMeanOfThree("- [ ] three-seed sweep"));
}

TEST_F(SeedFoldersTest, AStudyInTheTracksFolderIsNoRecord) {
  for (const char* words :
       {"# Non-record: what pruning does\n", "# Pruning\nThis is a **non-record submission**.\n"}) {
    AuditWith([&](Submission& s) {
      KeepOneSeed(s);
      s.files["README.md"] = words;
    });
    for (int number : {3, 21, 27}) Expect(number, kDoesNotApply, kDoesNotApply);
  }
  AuditWith([](Submission& s) {
    KeepOneSeed(s);
    s.claims["status"] = "non_record_pending_validation";
  });
  Expect(21, kDoesNotApply, kDoesNotApply);
  AuditWith([](Submission& s) {
    KeepOneSeed(s);
    s.claims["non_record"] = true;
  });
  Expect(21, kDoesNotApply, kDoesNotApply);
}

TEST_F(SeedFoldersTest, WhereNoTrackIsNamedNothingFailsARecord) {
  const auto lone_gpu = [](Submission& s) {
    KeepOneSeed(s);
    s.runs[0].world_size = 1, s.runs[0].train_ms = 3600000;
  };
  AuditWith(lone_gpu);
  for (int number : {3, 21, 27}) Expect(number, kFail, kFail);
  AuditWith([&](Submission& s) { lone_gpu(s), s.claims.erase("track"); });
  EXPECT_TRUE(read_.is_record());
  for (int number : {3, 21, 27}) Expect(number, kCannotTell, kCannotTell, "is not said");
  AuditWith([&](Submission& s) {
    lone_gpu(s), s.claims.erase("track");
    s.files["README.md"] = "# Record: it\n";
  });
  for (int number : {3, 21, 27}) Expect(number, kFail, kFail);
}

TEST_F(SeedFoldersTest, SeedsOfTheReadmeMayBeMeant) {
  AuditWith([](Submission& s) {
    KeepOneSeed(s);
    s.files["README.md"] = "| Seed | bpb |\n|---|---|\n| 40 | 1.0800 |\n| 41 | 1.0801 |\n| 42 | 1.0802 |\n";
  });
  Expect(21, kCannotTell, kCannotTell, "of more seeds");
  AuditWith([](Submission& s) {
    KeepOneSeed(s);
    s.files["README.md"] = "1.0800 (3-seed mean)\n";
  });
  Expect(21, kCannotTell, kCannotTell);
  // Where the JSON gives the seeds with their scores, those are the claim.
  AuditWith([](Submission& s) {
    KeepOneSeed(s);
    s.claims["seed_results"] = {{"40", {{"val_bpb", 1.08}}}};
    s.files["README.md"] = "1.0800 (3-seed mean)\n";
  });
  Expect(21, kFail, kFail, ": 40; in submission.json: 1");
}

TEST_F(SeedFoldersTest, SeedsSetApartMayBeMeant) {
  AuditWith([](Submission& s) {
    s.claims.erase("seeds"), s.claims["val_bpb"] = 1.08;
    for (size_t i = 0; i < 3; ++i)
      s.runs[i].more = absl::StrCat("Code size: ", i == 0 ? 98217 : 98181, " bytes\n");
    s.runs[1].bpb = 1.0803, s.runs[2].bpb = 1.0804;
  });
  Expect(21, kCannotTell, kCannotTell, "not taken for the claim's");
  ASSERT_EQ(audit_.other_runs.size(), 2u);
  EXPECT_THAT(audit_.other_runs[0].text,
              ::testing::HasSubstr("a program of 98217 bytes, and this one's has 98181"));
}

TEST_F(SeedFoldersTest, AnotherRunOfAClaimedSeedSpoilsNothing) {
  AuditWith([](Submission& s) {
    MadeUpRun more = s.runs[0];
    more.settings = "  matrix_lr: 0.03\n", more.gpu = "NVIDIA A100-SXM4-80GB";
    s.files["compliance_seed40.log"] = LogOf(more);
  });
  Expect(21, kPass, kPass, "1 more of other configurations");
  Expect(27, kPass, kPass, "A100");
}

TEST_F(SeedFoldersTest, ClaimedSeedsWithoutLogsAreNotFewer) {
  AuditWith([](Submission& s) { s.runs.pop_back(); });
  Expect(21, kCannotTell, kCannotTell, "more seeds are claimed");
}

TEST_F(SeedFoldersTest, HowManySeedsWereAskedForHangsOnTheDate) {
  AuditWith([](Submission& s) {
    KeepOneSeed(s);
    s.claims.erase("date");
  });
  Expect(21, kFail, kCannotTell, "hangs on the date");
}

// The program in a log and in the folder, told apart by what they do.
TEST_F(SeedFoldersTest, SeedsBlanksAndCommentsMakeNoOtherProgram) {
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) {
      run.program = absl::StrCat("# of ", run.seed, "\n", absl::StrReplaceAll(s.program, {{"\n\n\n", "\n"}}),
                                 "SEED = ", run.seed, "\n");
    }
  });
  Expect(21, kPass, kPass);
}

TEST_F(SeedFoldersTest, TheProgramOfTheLastRunInALogCounts) {
  AuditWith([](Submission& s) {
    for (const MadeUpRun& run : s.runs) {
      MadeUpRun earlier = run;
      earlier.program = "import other\n";
      // Without a rule between them the first run's report and the second's program are one section.
      const std::string log = LogOf(run);
      s.files[absl::StrCat("train_seed", run.seed, ".log")] =
          absl::StrCat(LogOf(earlier), "step:9/9 train_time:1000ms\n", log.substr(log.find(s.program)));
    }
    s.runs.clear();
  });
  Expect(21, kPass, kPass);
}

TEST_F(SeedFoldersTest, WhereAProgramEndsMayNotBeKnown) {
  AuditWith([](Submission& s) {
    for (const MadeUpRun& run : s.runs) {
      // No rule behind it: what a console shows next is not told from it.
      s.files[absl::StrCat("train_seed", run.seed, ".log")] = absl::StrReplaceAll(
          LogOf(run), {{absl::StrCat(run.program, std::string(100, '=')),
                        absl::StrCat(run.program, "Mon Mar 23 17:", run.seed, ":04 2026\nval_bpb:enabled\n",
                                     std::string(100, '='))}});
    }
    s.runs.clear();
  });
  Expect(21, kCannotTell, kPass, "in a form that is read here");
}

TEST_F(SeedFoldersTest, AnyProgramOfTheFolderMayBeTheOneThatRan) {
  AuditWith([](Submission& s) {
    s.files["train_gpt_eval.py"] = "import torch\nscore()\n";
    for (MadeUpRun& run : s.runs) run.program = s.files["train_gpt_eval.py"];
  });
  Expect(21, kPass, kPass);
}

TEST_F(SeedFoldersTest, SizesThatASeedOrPackingExplainsAreNoOtherPrograms) {
  for (int other : {16002, 80000}) {
    AuditWith([&](Submission& s) {
      for (MadeUpRun& run : s.runs) run.program = "", run.more = "Code size: 16000 bytes\n";
      s.runs[2].more = absl::StrCat("Code size: ", other, " bytes\n");
    });
    Expect(21, kCannotTell, kPass);
  }
}

TEST_F(SeedFoldersTest, LinesOnTheWayAreNoSettings) {
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs)
      absl::StrAppend(&run.gpu, "  |\ncompile_warmup:", run.seed == 40 ? "shape" : "done", " rows:1\n|");
  });
  Expect(21, kPass, kPass);
}

TEST_F(SeedFoldersTest, HardwareIsThatOfTheClaim) {
  // A seed that is not claimed, on something else, beside runs as asked.
  AuditWith([](Submission& s) {
    s.claims.erase("seeds");
    s.runs[2].gpu = "NVIDIA RTX A6000", s.runs[2].world_size = 2;
  });
  Expect(27, kCannotTell, kCannotTell, "is not said");
  AuditWith([](Submission& s) { s.runs[2].world_size = 2; });
  Expect(27, kFail, kFail, "world size 2");
  // A dry run, and no score that it could be of.
  AuditWith([](Submission& s) {
    KeepOneSeed(s);
    s.claims.erase("val_bpb"), s.runs[0].world_size = 1, s.runs[0].gpu = "";
  });
  Expect(27, kCannotTell, kCannotTell, "world size 1");
}

TEST_F(SeedFoldersTest, ANameFromBeforeTheChallengeIsASlip) {
  AuditWith([](Submission&) {});
  read_.path = "/records/2020-04-29_It";
  EXPECT_EQ(read_.date(), "2026-04-09");
  read_.path = "/records/2026-03-20_It";
  EXPECT_EQ(read_.date(), "2026-03-20");
}

// Against a submission that is worse by so many bits a byte, of so many runs.
Condition Significance(
    const SubmissionFolder& ours, double gain, size_t runs,
    const std::function<void(Submission&)>& change = [](Submission&) {}) {
  Submission other;
  other.runs.resize(runs);
  for (size_t i = 0; i < runs; ++i) other.runs[i].bpb = 1.08 + 0.0001 * static_cast<double>(i) + gain;
  other.claims.erase("val_bpb");
  change(other);
  const std::string folder = NewFolder();
  Put(folder, other);
  const SubmissionFolder read = *ReadSubmissionFolder(folder);
  return AuditSubmission({.folder = &ours, .against = &read}).conditions.at(21);
}

TEST_F(SeedFoldersTest, AGainThatPracticeDidNotAskForIsNotMissed) {
  AuditWith([](Submission& s) { KeepOneSeed(s), s.claims["date"] = "2026-04-20"; });
  EXPECT_EQ(Significance(read_, 0.001, 1).strict, kFail);
  EXPECT_EQ(Significance(read_, 0.001, 1).practised, kCannotTell);
  EXPECT_EQ(Significance(read_, -0.001, 1).practised, kFail);
}

TEST_F(SeedFoldersTest, OnlyAClaimedMeanIsCompared) {
  AuditWith([](Submission&) {});
  EXPECT_EQ(Significance(read_, -0.01, 3).strict, kFail);
  const auto claim = [](Submission& s) { s.claims["val_bpb"] = 1.2; };
  EXPECT_EQ(Significance(read_, -0.01, 3, claim).strict, kCannotTell);
}

TEST_F(SeedFoldersTest, OneProgramPackedByTwoPackersIsOneProgram) {
  const auto pack = [](Submission& s, int64_t plain) {
    s.SetProgram("");
    for (MadeUpRun& run : s.runs) {
      run.more = absl::StrCat("Code size (uncompressed): ", plain++,
                              " bytes\nCode size (compressed): ", run.seed == 40 ? 28320 : 30985, " bytes\n");
    }
  };
  AuditWith([&](Submission& s) { pack(s, 125670); });
  EXPECT_NE(At(21).strict, kFail);
  AuditWith([&](Submission& s) { pack(s, 125670), s.runs[0].more = "Code size: 28320 bytes\n"; });
  EXPECT_NE(At(21).strict, kFail);
  AuditWith([&](Submission& s) {
    pack(s, 125670);
    s.runs[0].more = "Code size (uncompressed): 131000 bytes\nCode size (compressed): 28320 bytes\n";
  });
  Expect(21, kFail, kPass, "the program has 131000 bytes in one log, 125671 in another");
}

TEST_F(SeedFoldersTest, ATrialBesideNoClaimIsTimedForNothing) {
  const auto trial = [](Submission& s) {
    KeepOneSeed(s);
    s.claims.erase("seeds");
    s.files["partial.log"] = "seed:42\nstep:5000/9747 train_time:8115300ms\n";
    s.runs.clear();
  };
  AuditWith([&](Submission& s) { trial(s), s.claims["val_bpb"] = nullptr; });
  Expect(3, kCannotTell, kCannotTell, "no log of the claim gives a training time");
  AuditWith(trial);
  Expect(3, kFail, kFail);
}

}  // namespace
}  // namespace hm11
