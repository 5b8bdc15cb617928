// Miniature folders for the conditions on scores, tokens and bytes, each of a kind that was accused wrongly
// once, and for the numbers that a report begins with.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numbers>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "tools/compliance/audited_folder.h"
#include "tools/compliance/report.h"

namespace hm11 {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr Verdict kPass = Verdict::kPass, kFail = Verdict::kFail, kCannotTell = Verdict::kCannotTell,
                  kImplausible = Verdict::kImplausible;

// Scores of the whole text with SP1024.
constexpr int64_t kTokensOfSp1024 = 62021632;
constexpr double kEachOnce = 0.4105208034, kTailTwice = 0.4105218900;

constexpr char kShortWindows[] =
    "import torch\n\nfor ws in [ws for ws in range(0, total, stride)\n"
    "           if min(ws + seq_len, total) - ws >= 1]:\n    score(ws)\n";

void SetTokensAByte(Submission& s, double tokens_a_byte, int64_t val_tokens = kTokensOfSp1024) {
  for (MadeUpRun& run : s.runs) run.tokens_a_byte = tokens_a_byte, run.val_tokens = val_tokens;
}

using ScoreFoldersTest = ComplianceTest;

TEST_F(ScoreFoldersTest, WindowsAreToldByTheirRatioToTheLastDigit) {
  AuditWith([](Submission& s) { SetTokensAByte(s, kTailTwice); });
  Expect(8, kFail, kPass, "tokens a byte 0.41052189 is that of windows that score the tail twice");
  // Windows that leave out the first tokens come near, and a ratio of four decimals is near everything.
  AuditWith([](Submission& s) { SetTokensAByte(s, 0.4105219415); });
  Expect(8, kCannotTell, kPass);
  AuditWith([](Submission& s) {
    SetTokensAByte(s, kTailTwice);
    for (MadeUpRun& run : s.runs) {
      s.files[absl::StrCat("train_seed", run.seed, ".log")] = absl::StrReplaceAll(
          LogOf(run), {{absl::StrFormat("val_loss:%.8f", run.bpb * std::numbers::ln2 / kTailTwice),
                        absl::StrFormat("val_loss:%.4f", run.bpb * std::numbers::ln2 / kTailTwice)}});
    }
    s.runs.clear();
  });
  Expect(8, kCannotTell, kPass);
  // Windows of 1,024 tokens: with the loop that cuts them short, but not by the ratio alone.
  AuditWith([](Submission& s) { SetTokensAByte(s, 0.4105213292); });
  Expect(8, kCannotTell, kPass);
  AuditWith([](Submission& s) { SetTokensAByte(s, 0.4105213292), s.SetProgram(kShortWindows); });
  Expect(8, kFail, kPass, "score the tail twice");
  EXPECT_EQ(At(8).facts.back().places[0].file, "train_gpt.py");
  EXPECT_EQ(At(8).facts.back().places[0].line, 4);
}

TEST_F(ScoreFoldersTest, ALoopIsOfTheScoreOnlyWhereThatCanBe) {
  const auto slide = [](Submission& s) {
    for (MadeUpRun& run : s.runs) {
      run.after = absl::StrFormat("final_sliding_window val_loss:%.8f val_bpb:%.8f\n",
                                  run.bpb * std::numbers::ln2 / run.tokens_a_byte, run.bpb);
    }
  };
  AuditWith([&](Submission& s) { s.SetProgram(kShortWindows), slide(s); });
  Expect(8, kFail, kPass, "windows cut short");
  AuditWith([&](Submission& s) {
    SetTokensAByte(s, kEachOnce), s.SetProgram(kShortWindows), slide(s);
    s.claims["val_loss"] = 1.8236;  // beside 1.0801, digits that tell nothing
  });
  Expect(8, kCannotTell, kPass);
  EXPECT_THAT(TextsOf(At(8)), Each(Not(HasSubstr("windows"))));
  AuditWith([&](Submission& s) {  // whole windows only
    s.SetProgram(absl::StrReplaceAll(kShortWindows, {{">= 1", ">= seq_len"}})), slide(s);
  });
  Expect(8, kCannotTell, kPass);
  AuditWith([&](Submission& s) {
    s.SetProgram(absl::StrCat(kShortWindows, "a = range(0, total_tokens - seq_len + 1, stride)\n")), slide(s);
  });
  Expect(8, kCannotTell, kPass, "whether the score is of that loop is not known");
}

TEST_F(ScoreFoldersTest, APartOfTheTextIsOneWhateverItsVocabulary) {
  AuditWith([](Submission& s) { SetTokensAByte(s, 0.35, 2097152); });
  Expect(8, kFail, kFail,
         "2,097,152 tokens are a part of the text: all of its 151080891 bytes would be 72 a token");
  // One token a byte is the ratio of any score over bytes.
  AuditWith([](Submission& s) { SetTokensAByte(s, 1.0, 40540160); });
  Expect(8, kCannotTell, kPass, "the whole text with SP8192");
}

TEST_F(ScoreFoldersTest, WhatALogSaysOfAnotherEvaluationIsNotSaidOfTheClaim) {
  const auto claim_another = [](Submission& s) { s.claims["val_bpb"] = 1.2; };
  AuditWith([&](Submission& s) { SetTokensAByte(s, 0.35, 2097152), claim_another(s); });
  Expect(8, kCannotTell, kCannotTell, "these numbers are of another score than the claimed one");
  AuditWith([&](Submission& s) { SetTokensAByte(s, kTailTwice), claim_another(s); });
  Expect(8, kCannotTell, kPass);
  AuditWith([&](Submission& s) { SetTokensAByte(s, kTokensAByte / 1.1671, 40540160), claim_another(s); });
  Expect(16, kCannotTell, kCannotTell, "these numbers are of another score than the claimed one");
  AuditWith([&](Submission& s) { SetTokensAByte(s, kTokensAByte / 1.1671, 40540160); });
  Expect(16, kFail, kFail);
}

TEST_F(ScoreFoldersTest, AnotherVocabularyMayHaveAsManyTokens) {
  AuditWith([](Submission& s) {
    SetTokensAByte(s, 0.389538, 61999104);
    for (MadeUpRun& run : s.runs) run.more = "train_loader:dataset:fineweb10B_other train_shards:80\n";
  });
  Expect(8, kCannotTell, kCannotTell, "not a count of the whole text known here");
  Expect(15, kCannotTell, kCannotTell, "it may be the tokens that are wrong");
  Expect(16, kFail, kFail, "one of them is miscounted, or the text is another");
}

TEST_F(ScoreFoldersTest, TokensDrawnAtRandomMissTheRatioByAHundredth) {
  AuditWith([](Submission& s) { SetTokensAByte(s, kEachOnce * 1.0092); });
  Expect(16, kCannotTell, kCannotTell, "drawn at random");
  Expect(15, kCannotTell, kCannotTell);
}

TEST_F(ScoreFoldersTest, ValidationTokensAreReadInWordsToo) {
  AuditWith([](Submission& s) {
    SetTokensAByte(s, kTokensAByte / 1.1671, -1);
    for (MadeUpRun& run : s.runs) run.more = "Validation tokens: 40,540,160\n";
  });
  Expect(8, kCannotTell, kPass, "40,540,160 tokens, the whole text");
  Expect(16, kFail, kFail);
}

TEST_F(ScoreFoldersTest, ASpaceThatIsCountedTwiceIsFoundInTheProgram) {
  const auto program = [](const char* length) {
    return absl::StrCat("import torch\nbase_bytes[i] = ", length,
                        "\ntb += (has_leading_space_lut[y] & ~is_boundary_lut[x]).to(torch.int16)\n");
  };
  AuditWith([&](Submission& s) {
    for (MadeUpRun& run : s.runs) run.bpb = 0.99;
    s.claims["val_bpb"] = 0.99;
    s.SetProgram(program("len(piece[1:].encode('utf-8')) + 1"));
  });
  Expect(28, kImplausible, kImplausible, "the table of bytes counts a piece's leading space");
  Expect(15, kPass, kPass, "the table of bytes counts a piece's leading space");
  AuditWith([&](Submission& s) { s.SetProgram(program("len(piece[1:].encode('utf-8'))")); });
  EXPECT_THAT(TextsOf(At(15)), Each(Not(HasSubstr("the table"))));
}

TEST_F(ScoreFoldersTest, AStudyThatTrainsForHoursMayScoreBetter) {
  const auto train = [](Submission& s, int64_t seconds, int gpus) {
    for (MadeUpRun& run : s.runs) run.bpb = 1.03, run.train_ms = seconds * 1000, run.world_size = gpus;
    s.claims["val_bpb"] = 1.03;
  };
  AuditWith([&](Submission& s) { train(s, 3600, 8), s.claims["track"] = "non_record_16mb"; });
  Expect(28, kCannotTell, kCannotTell, "trained 3600 s");
  AuditWith([&](Submission& s) { train(s, 3600, 1), s.claims["track"] = "non_record_16mb"; });
  Expect(28, kImplausible, kImplausible);
  AuditWith([&](Submission& s) { train(s, 3600, 8); });
  Expect(28, kImplausible, kImplausible, "submission.json claims 1.0300 bits a byte; the lowest accepted");
}

TEST_F(ScoreFoldersTest, AClaimIsCitedWhereItStands) {
  AuditWith([](Submission& s) {
    s.claims["seed_results"]["40"] = {{"val_bpb", 0.5}};
    s.claims["val_bpb"] = 0.51;
  });
  ASSERT_EQ(At(28).facts[0].places.size(), 1u);
  EXPECT_EQ(At(28).facts[0].places[0].line, read_.claims->LineOf("track") + 1);
}

TEST_F(ScoreFoldersTest, AClaimThatNoLogPrintsStandsBesideWhatTheyPrint) {
  AuditWith([](Submission& s) {
    s.claims.erase("val_bpb");
    s.claims["val_bpb_mean"] = 0.10801;
  });
  Expect(28, kImplausible, kImplausible, "submission.json claims 0.1080 bits a byte");
  Expect(28, kImplausible, kImplausible, "the last scores in the logs are 1.0801 on the mean");
  EXPECT_EQ(At(28).facts[0].places[0].line, read_.claims->LineOf("val_bpb_mean"));
}

TEST_F(ScoreFoldersTest, WhatIsNoClaimIsTheMeanOfWhatTheLogsPrint) {
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) run.bpb = 0.5 + 0.01 * run.seed;
    s.claims.erase("val_bpb");
  });
  Expect(28, kImplausible, kImplausible, "the mean of the scores that the logs print is 0.9100 bits a byte");
  EXPECT_EQ(At(28).facts[0].places.size(), 3u);
  Expect(28, kImplausible, kImplausible,
         "not found in program and logs, of what may explain it: a fall between evaluations");
}

TEST_F(ScoreFoldersTest, AMixturesScoresAreAllCited) {
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) {
      run.after = absl::StrFormat("ppm_mixer val_bpb:%.5f eval_time:300000ms\n", 0.99 + 0.0001 * run.seed);
    }
    s.claims["val_bpb"] = 0.9941, s.claims["date"] = "2026-04-29";
  });
  Expect(10, kCannotTell, kFail, "are printed as \"ppm_mixer\"");
  EXPECT_EQ(At(10).facts[0].places.size(), 3u);
}

TEST_F(ScoreFoldersTest, TheReportBeginsWithWhatIsClaimedAndWhatIsLogged) {
  AuditWith([](Submission& s) {
    s.claims["bytes_total"] = 15940000;
    for (MadeUpRun& run : s.runs) {
      const double loss = run.bpb * std::numbers::ln2 / run.tokens_a_byte;
      run.more = "step:4950/20000 train_loss:2.9 train_time:589000ms\n8032/8189 windows done\n";
      run.after =
          absl::StrFormat("final val_loss:%.3f val_bpb:%.3f\nfinal_exact val_loss:%.8f val_bpb:%.8f\n", loss,
                          run.bpb, loss, run.bpb);
      run.tokens_a_byte = 0.26834;
    }
  });
  const std::string text = AuditText(input_, audit_);
  EXPECT_THAT(text, HasSubstr("claimed 15,940,000; in the logs 15,950,000"));
  EXPECT_THAT(text, HasSubstr("1.08010 bits a byte claimed; in the logs seed 40 1.0800"));
  EXPECT_THAT(text, Not(HasSubstr("8032 steps")));
  for (const Fingerprint& print : audit_.numbers.fingerprints) EXPECT_LT(print.rounding, 1e-7);
  // The step at which the clock stopped it, which is not the one that would have been next.
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) {
      s.files[absl::StrCat("train_seed", run.seed, ".log")] = absl::StrReplaceAll(
          LogOf(run), {{"stopping_early", "step:4950/20000 train_time:589000ms\nstopping_early"}});
    }
    s.runs.clear();
  });
  EXPECT_THAT(AuditText(input_, audit_), HasSubstr("4945 steps"));
}

TEST_F(ScoreFoldersTest, AScoreGivenAgainWithoutItsLossHasTheLossOfTheFirst) {
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) run.after = absl::StrFormat("FINAL_METRIC val_bpb:%.8f\n", run.bpb);
  });
  Expect(16, kPass, kPass);
}

TEST_F(ScoreFoldersTest, AHandfulOfTokensHasNoRatioToSpeakOf) {
  AuditWith([](Submission& s) { SetTokensAByte(s, 0.39, 4096); });
  Expect(8, kFail, kFail);
  EXPECT_THAT(TextsOf(At(8)), Not(Contains(HasSubstr("by the scores"))));
}

TEST_F(ScoreFoldersTest, AllLoopsThatScoreTheTailTwiceAreCited) {
  AuditWith([](Submission& s) {
    SetTokensAByte(s, kTailTwice);
    s.SetProgram(
        absl::StrCat(kShortWindows, "\n", absl::StrReplaceAll(kShortWindows, {{"seq_len", "context"}})));
  });
  Expect(8, kFail, kPass);
  size_t most = 0;
  for (const Fact& fact : At(8).facts) most = std::max(most, fact.places.size());
  EXPECT_EQ(most, 2u);
}

TEST_F(ScoreFoldersTest, WhatTheAuthorSaysIsNotUsedExplainsNothing) {
  const auto change = [](Submission& s) {
    s.claims["val_bpb"] = 0.5;
    for (MadeUpRun& run : s.runs) run.bpb = 0.5;
    s.SetProgram("import torch\nslot_steps = 8\n");
  };
  AuditWith(change);
  Expect(28, kImplausible, kImplausible, "something optimized while scoring");
  AuditWith([&](Submission& s) { change(s), s.claims["compliance"] = {{"no_slot", true}}; });
  Expect(28, kImplausible, kImplausible, "not found in program and logs");
}

TEST_F(ScoreFoldersTest, AnotherTextHasItsOwnCount) {
  AuditWith([](Submission& s) {
    SetTokensAByte(s, 0.39, 2000);
    for (MadeUpRun& run : s.runs) run.more = "train_loader:dataset:my_books train_shards:1\n";
  });
  Expect(8, kCannotTell, kCannotTell);
}

}  // namespace
}  // namespace hm11
