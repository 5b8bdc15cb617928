// The audit of submissions: made-up folders that keep each condition and that break it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/lzma.h"
#include "tools/compliance/audited_folder.h"
#include "tools/compliance/folder.h"
#include "tools/compliance/made_up_submission.h"
#include "tools/compliance/report.h"
#include "tools/compliance/rules.h"
#include "tools/compliance/shard_overlap.h"
#include "tools/compliance/significance.h"

namespace hm11 {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr Verdict kPass = Verdict::kPass, kFail = Verdict::kFail, kCannotTell = Verdict::kCannotTell;

TEST_F(ComplianceTest, ASoundSubmissionFailsNowhereAndAllConditionsAreThere) {
  AuditWith([](Submission&) {});
  EXPECT_EQ(audit_.strict, kPass) << AuditText(input_, audit_);
  EXPECT_EQ(audit_.practised, kPass);
  ASSERT_EQ(audit_.conditions.size(), 28u);
  for (int i = 0; i < 28; ++i) {
    EXPECT_EQ(audit_.conditions[static_cast<size_t>(i)].number, i + 1);
    EXPECT_FALSE(audit_.conditions[static_cast<size_t>(i)].title.empty());
  }
  for (int number : {1, 3, 5, 15, 16, 21, 25, 26, 27, 28}) Expect(number, kPass, kPass);
  for (int number : {2, 7, 8, 19, 23}) Expect(number, kCannotTell, kPass);
  for (int number : {4, 6, 9, 10, 11, 12, 13, 14, 17, 18, 20, 22, 24})
    Expect(number, kCannotTell, kCannotTell);
}

TEST_F(ComplianceTest, SizesAreJudgedAsClaimedAndAsShipped) {
  AuditWith([](Submission& s) { s.claims["bytes_total"] = 16000001; });
  Expect(1, kFail, kFail, "16,000,001");
  AuditWith(
      [](Submission& s) { s.runs[1].total_bytes = 16000001; });  // the log says it though the claim does not
  Expect(1, kFail, kFail);
  AuditWith([](Submission& s) { s.claims["bytes_total"] = 16000000; });
  Expect(1, kPass, kPass);
  // The helper that the program imports, and what that compiles, count; a file that nothing names does not.
  AuditWith([](Submission& s) {
    s.files["helper.py"] = "build('kernel.cpp')\n";
    s.files["kernel.cpp"] = std::string(100000, ' ');
  });
  Expect(1, kFail, kPass, "3 files");
  AuditWith([](Submission& s) { s.files["plot.cpp"] = std::string(100000, ' '); });
  Expect(1, kPass, kPass, "2 files");
  // A stub of a few bytes that runs another file.
  AuditWith([](Submission& s) {
    s.SetProgram("exec(open('real.py').read())\n");
    s.files["real.py"] = std::string(200000, '#');
  });
  Expect(1, kFail, kPass);
  // A model that was handed in is what is counted.
  AuditWith([](Submission& s) { s.files["final_model.ptz"] = std::string(16000000, 'x'); });
  Expect(1, kFail, kPass, "16,000,000 (the file handed in)");
  AuditWith([](Submission& s) {
    s.claims.erase("bytes_total");
    for (MadeUpRun& run : s.runs) run.total_bytes = 0;
    s.runs.clear();
  });
  Expect(1, kCannotTell, kCannotTell);
}

TEST_F(ComplianceTest, ReachingOutIsSeenEvenInPackedCode) {
  const std::string reaching = "import urllib.request\n\n\nx = urllib.request.urlopen('http://a')\n";
  AuditWith([&](Submission& s) { s.SetProgram(reaching); });
  Expect(2, kCannotTell, kCannotTell, "urlopen");
  AuditWith([&](Submission& s) {
    s.SetProgram(absl::StrCat("import lzma,base64\nexec(lzma.decompress(base64.b64decode('",
                              absl::Base64Escape(*XzCompress(reaching)), "')))\n"));
  });
  Expect(2, kCannotTell, kCannotTell, "urlopen");
  AuditWith([&](Submission& s) { s.files["download_data.py"] = reaching; });  // not used by the program
  Expect(2, kCannotTell, kPass);
}

TEST_F(ComplianceTest, TrainingTimeIncludesTheHessians) {
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs)
      run.train_ms = 599700, run.hessians = "GPTQ:collected 67 Hessians in 6.9s\n";
  });
  Expect(3, kFail, kPass, "606.6 s");
  AuditWith([](Submission& s) { s.runs[2].train_ms = 610000; });
  Expect(3, kFail, kFail);
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) run.hessians = "gptq: quantizing\n";
  });
  Expect(3, kCannotTell, kPass, "no time in a form that is read");
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs)
      run.hessians = "gptq: self-generated calibration\ncollected Hessians in 200s\n";
  });
  Expect(3, kPass, kPass);
  Expect(19, kCannotTell, kPass);
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) run.train_ms = 5000000;
    s.claims["track"] = "non-record-unlimited-compute-16mb";
  });
  Expect(3, Verdict::kDoesNotApply, Verdict::kDoesNotApply);
  AuditWith([](Submission& s) { s.runs.clear(); });
  Expect(3, kCannotTell, kCannotTell);
}

TEST_F(ComplianceTest, EvaluationTimeIsThatOfAllScores) {
  AuditWith([](Submission& s) { s.runs[0].eval_ms = 688000; });
  Expect(5, kFail, kFail, "688.0 s");
  AuditWith([](Submission& s) {
    s.runs[0].more = "quantized_sliding val_loss:2.8 val_bpb:1.081 eval_time:400000ms\n";
  });
  Expect(5, kCannotTell, kPass, "700.0 s");
  AuditWith([](Submission& s) {  // a score before quantizing is no evaluation of the artifact
    s.runs[0].more = "pre-quantization post-ema val_loss:2.8 val_bpb:1.081 eval_time:400000ms\n";
  });
  Expect(5, kPass, kPass);
}

TEST_F(ComplianceTest, ValidationTextBeforeSealingIsSeenWhereTheLogSaysSo) {
  AuditWith([](Submission& s) { s.runs[0].more = "prequant_ttt: epoch 1/10 loss:2.3\n"; });
  Expect(6, kFail, kFail);
  AuditWith([](Submission& s) {
    s.claims["compliance"] = {{"no_pre_quant_ttt", false}, {"no_slot", false}};
  });
  Expect(6, kFail, kFail);
  Expect(13, kFail, kFail);
}

TEST_F(ComplianceTest, OverlapIsTakenFromShardsOrFromTheMarksOfBadData) {
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) run.train_shards = 1499, run.val_tokens = 47851520;
  });
  Expect(7, kCannotTell, kFail, "1499");
  AuditWith(
      [](Submission& s) { s.runs[0].train_shards = 1499; });  // of a vocabulary with no published shards
  Expect(7, kCannotTell, kCannotTell, "1499");
  AuditWith([](Submission& s) { s.runs[0].val_tokens = 9662464; });
  Expect(7, kFail, kFail);
  Expect(8, kFail, kFail);
  AuditWith([](Submission&) {});
  const auto with = [&](int64_t documents, int64_t passages) {
    ShardOverlap overlap = {
        .val_documents = 1000, .shared_documents = documents, .shared_passages = passages};
    return AuditSubmission({.folder = &read_, .overlap = overlap}).conditions[6];
  };
  EXPECT_EQ(with(0, 3).strict, kPass);  // a passage that stands in many texts
  EXPECT_EQ(with(1, 1).strict, kFail);
  EXPECT_EQ(with(1, 1).practised, kPass);
  EXPECT_EQ(with(0, 20).strict, kFail);
  EXPECT_EQ(with(11, 0).practised, kFail);
  const Condition broken =
      AuditSubmission({.folder = &read_, .overlap = absl::DataLossError("shard x: cut off")}).conditions[6];
  EXPECT_EQ(broken.strict, kCannotTell);
  EXPECT_THAT(TextsOf(broken), Contains(HasSubstr("shard x")));
}

TEST_F(ComplianceTest, CoverageIsThatOfTheWholeText) {
  AuditWith([](Submission& s) { s.runs[0].val_tokens = 36562944; });
  Expect(8, kFail, kFail, "36,562,944");
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) run.val_tokens = 5000000;
  });
  Expect(8, kFail, kFail, "5,000,000 tokens are a part of the text");
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) run.val_tokens = 20000000;
  });
  Expect(8, kFail, kFail, "bytes of the text's");
  Expect(16, kCannotTell, kCannotTell, "a part of the text");
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) run.val_tokens = 45000000;
  });
  Expect(8, kCannotTell, kCannotTell);
  AuditWith([](Submission& s) {
    s.SetProgram(
        "import torch\nstarts = [ws for ws in range(0, total, stride)\n"
        "          if min(ws + seq_len, total) - ws >= 1]\n");
  });
  Expect(8, kCannotTell, kPass, "whether the score is of that loop is not known");
  AuditWith([](Submission& s) {
    s.SetProgram(
        "import torch\nstarts = [ws for ws in range(0, total, stride)\n"
        "          if min(ws + seq_len, total) - ws >= 1]\n");
    for (MadeUpRun& run : s.runs) {
      run.after = absl::StrFormat("final_sliding_window val_loss:2.7897 val_bpb:%.8f\n", run.bpb);
    }
  });
  Expect(8, kFail, kPass, "sliding windows");
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) run.tokens_a_byte = 0.41052189, run.val_tokens = 62021632;
  });
  Expect(8, kFail, kPass, "score the tail twice");
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) run.tokens_a_byte = 0.4105208, run.val_tokens = 62021632;
  });
  Expect(8, kCannotTell, kPass);
}

TEST_F(ComplianceTest, TheFingerprintTellsWrongBytes) {
  AuditWith([](Submission& s) {  // the space before a word counted twice
    for (MadeUpRun& run : s.runs) run.tokens_a_byte = kTokensAByte / 1.1671;
  });
  Expect(16, kFail, kFail);
  Expect(15, kFail, kFail);
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) run.tokens_a_byte = kTokensAByte * 1.0005;
  });
  Expect(16, kCannotTell, kPass);
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) run.tokens_a_byte = 0.25, run.val_tokens = 37770223;
  });
  Expect(16, kPass, kPass,
         "151080892 bytes of text");  // any vocabulary, where the tokens are the whole text's
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) {
      run.tokens_a_byte = 0.25;
      run.more = "train_loader:dataset:my_books train_shards:3\n";
    }
  });
  Expect(16, kCannotTell, kCannotTell, "my_books");
  AuditWith([](Submission& s) { s.runs.clear(); });
  Expect(16, kCannotTell, kCannotTell);
  AuditWith([](Submission& s) {  // two numbers of submission.json, and rounded ones
    s.runs.clear();
    s.claims["val_loss"] = 2.07269931;
    s.claims["val_bpb"] = 1.2243657;
  });
  Expect(16, kPass, kPass, "before release");
}

RC_GTEST_PROP(FingerprintTest, RoundingOfPrintedScoresIsNoFault, ()) {
  const double ratio = *rc::gen::element(0.4105208, 0.30125, 0.2683384, 0.3167408, 1.00033);
  const double loss = 1 + 0.0001 * *rc::gen::inRange(0, 30000);
  const int decimals = *rc::gen::inRange(2, 9);
  const double unit = std::pow(10, -decimals);
  const double bpb = loss * ratio / std::numbers::ln2;
  const Fingerprint print =
      FindFingerprint(std::round(loss / unit) * unit, decimals, std::round(bpb / unit) * unit, decimals);
  RC_ASSERT(print.distance < 1e-7);
}

TEST_F(ComplianceTest, SeedsAreOfOneProgramAndOneConfiguration) {
  AuditWith([](Submission& s) {
    s.runs.pop_back();
    s.claims["seeds"] = {40, 41};
  });
  Expect(21, kFail, kFail);
  AuditWith([](Submission& s) { s.runs[2].program = "import other\n"; });
  Expect(21, kFail, kPass, "different programs");
  AuditWith([](Submission& s) {
    for (MadeUpRun& run : s.runs) run.program = "import other\n";
  });
  Expect(21, kFail, kPass, "none of those in the folder");
  AuditWith([](Submission& s) { s.runs[2].settings = "  matrix_lr: 0.03\n"; });
  Expect(21, kFail, kFail, "matrix_lr is 0.026 and 0.03");
  AuditWith([](Submission& s) { s.runs[2].settings = "  matrix_lr: 0.026\n  run_id: other\n"; });
  Expect(21, kPass, kPass);
  AuditWith([](Submission& s) { s.runs.pop_back(); });  // claimed, but without its log
  Expect(21, kCannotTell, kCannotTell);
  Expect(23, kCannotTell, kPass);
  Expect(25, kFail, kPass, "seed 42 is claimed");
  AuditWith([](Submission& s) { s.claims["seeds"] = {40, 41}; });
  Expect(23, kFail, kCannotTell, "seed 42 has a log");
}

TEST_F(ComplianceTest, SignificanceIsOfTheGainOverTheOther) {
  const auto against = [&](double gain, double spread) {
    Submission other;
    for (size_t i = 0; i < 3; ++i) other.runs[i].bpb = 1.0801 + gain + spread * (static_cast<double>(i) - 1);
    other.claims.erase("val_bpb");
    const std::string folder = NewFolder();
    Put(folder, other);
    const SubmissionFolder read = *ReadSubmissionFolder(folder);
    return AuditSubmission({.folder = &read_, .against = &read}).conditions[21];
  };
  AuditWith([](Submission&) {});
  EXPECT_EQ(against(0.01, 0.0001).strict, kPass);
  EXPECT_EQ(against(0.01, 0.0001).practised, kPass);
  EXPECT_EQ(against(0.0015, 0.0001).practised, kFail);   // 0.0039 nats a token
  EXPECT_EQ(against(0.00205, 0.0001).practised, kPass);  // 0.0053, but not surely over 0.005
  EXPECT_EQ(against(0.00205, 0.0001).strict, kFail);
  EXPECT_EQ(against(0.01, 0.02).practised, kFail);  // chance
  EXPECT_EQ(against(-0.01, 0.0001).practised, kFail);
  AuditWith([](Submission& s) { s.runs.resize(1); });
  EXPECT_EQ(against(0.01, 0.0001).strict, kCannotTell);
  Expect(22, kCannotTell, kCannotTell);
  EXPECT_THAT(At(22).settle, HasSubstr("--against"));
}

TEST_F(ComplianceTest, NumbersAndFilesAgree) {
  AuditWith([](Submission& s) { s.claims["val_bpb"] = 1.08; });  // the best run's
  Expect(25, kPass, kPass);                                      // within rounding
  AuditWith([](Submission& s) {
    s.runs[0].bpb = 1.0795;
    s.claims["val_bpb"] = 1.0795;
  });
  Expect(25, kFail, kPass, "in place of the mean");
  AuditWith([](Submission& s) { s.claims["val_bpb"] = 1.05; });
  Expect(25, kFail, kFail, "claims 1.05000");
  AuditWith([](Submission& s) { s.claims["seed_results"] = {{"41", {{"val_bpb", 1.09}}}}; });
  Expect(25, kFail, kFail, "seed 41");
  AuditWith([](Submission& s) { s.claims["bytes_total"] = 15000000; });
  Expect(25, kFail, kPass, "no log prints; the least of its runs is 15950000");
  AuditWith([](Submission& s) { s.claims["log"] = "train_seed7.log"; });
  Expect(25, kFail, kPass, "names train_seed7.log");
  AuditWith([](Submission& s) {
    s.files["README.md"] = "## Files\n- `train_seed{40,41}.log`, `kernel.cu` — all\n";
  });
  Expect(25, kFail, kPass, "names kernel.cu");
  EXPECT_EQ(read_.absent.size(), 1u);
  AuditWith([](Submission& s) {
    s.files["README.md"] = "Run `python other.py`, see `../x/y.py`\n## Files\n`no_item.py`\n";
  });
  Expect(25, kPass, kPass);
  AuditWith([](Submission& s) { s.files.erase("README.md"); });
  Expect(25, kFail, kPass, "README.md");
  AuditWith([](Submission& s) { s.claims = nullptr; });
  Expect(25, kFail, kFail, "no submission.json");
  AuditWith([](Submission& s) { s.runs.clear(); });
  Expect(25, kFail, kCannotTell, "no log");
  AuditWith([](Submission& s) { s.claims["val_bpb"] = nullptr; });
  Expect(25, kFail, kPass, "no field gives val_bpb");
}

TEST_F(ComplianceTest, PackedCodeNeedsReadableSourceBesideIt) {
  std::string source = "import torch\n";
  for (int i = 0; i < 100; ++i) absl::StrAppend(&source, "value_", i, " = ", i * i, "\n");
  const std::string packed = absl::StrCat("import lzma,base64\nexec(lzma.decompress(base64.b64decode('",
                                          absl::Base64Escape(*XzCompress(source)), "')))\n");
  AuditWith([&](Submission& s) { s.SetProgram(packed); });
  Expect(26, kFail, kPass, "base64, lzma");
  AuditWith([&](Submission& s) {
    s.SetProgram(packed);
    s.files["train_gpt_human.py"] = source;
  });
  Expect(26, kPass, kPass);
  AuditWith([&](Submission& s) { s.SetProgram("exec(decode('" + std::string(2000, 'A') + "'))\n"); });
  Expect(26, kFail, kCannotTell, "no source text");
  AuditWith([&](Submission& s) { s.files.erase("helper.py"), s.SetProgram(""); });
  Expect(26, kCannotTell, kCannotTell);
}

TEST_F(ComplianceTest, CopiesOfAPackedProgramForReadersAreNotCountedTwice) {
  const std::string first = "#include \"second.h\"\nint main() { return Second(); }\n";
  const std::string second = "inline int Second() { return 2; }\n";
  const auto member = [](const std::string& name, const std::string& text) {
    std::string header(512, '\0'), body = text;
    header.replace(0, name.size(), name);
    header.replace(124, 11, absl::StrFormat("%011o", text.size()));
    header.replace(257, 5, "ustar");
    body.resize(512);
    return header + body;
  };
  const auto packed = [&](Submission& s) {
    s.SetProgram("import tarfile\ntarfile.open('program.tar.xz').extractall()\n");
    s.files["program.tar.xz"] =
        *XzCompress(member("first.cc", first) + member("second.h", second) + std::string(1024, '\0'));
  };
  AuditWith(packed);
  const int64_t bytes = audit_.numbers.code_bytes;
  Expect(26, kFail, kPass, "in readable form");
  AuditWith([&](Submission& s) {
    packed(s);
    s.files["source/first.cc"] = first;
    s.files["source/second.h"] = second;
  });
  EXPECT_EQ(audit_.numbers.code_bytes, bytes) << "the archive's own file is what its #include means";
  Expect(26, kPass, kPass);
  // Another text of that name is not in the archive: then it may be what is built.
  AuditWith([&](Submission& s) {
    packed(s);
    s.files["source/second.h"] = second + "// more\n";
  });
  EXPECT_EQ(audit_.numbers.code_bytes, bytes + static_cast<int64_t>(second.size()) + 8);
}

TEST_F(ComplianceTest, HardwareIsWhatTheLogsName) {
  AuditWith([](Submission& s) { s.runs[1].gpu = "NVIDIA A100-SXM4-80GB"; });
  Expect(27, kFail, kFail, "A100");
  AuditWith([](Submission& s) { s.runs[1].world_size = 1; });
  Expect(27, kFail, kFail);
  AuditWith([](Submission& s) { s.runs.clear(); });
  Expect(27, kCannotTell, kCannotTell);
}

}  // namespace
}  // namespace hm11
