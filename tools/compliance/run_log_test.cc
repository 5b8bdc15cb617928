// What is read from logs of training.
#include "tools/compliance/run_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/file.h"
#include "testing/test_folder.h"
#include "tools/compliance/source_hash.h"

namespace hm11 {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

class RunLogFileTest : public ::testing::Test {
 protected:
  std::vector<LoggedRun> Logs(const std::string& text) {
    return *ReadRunLogs(folder_.Write("a.log", text), "a.log");
  }
  const TestFolder folder_{"run_log"};
};

constexpr char kProgram[] = "import torch\n\n\ndef main():\n    print('val_bpb', 1.0)\n\n\nmain()\n";
const std::string kRule(100, '=');

TEST_F(RunLogFileTest, ThePublishedTrainersLogIsRead) {
  const std::vector<LoggedRun> logs = Logs(absl::StrCat(
      kProgram, kRule, "\n|   0  NVIDIA H100 80GB HBM3    On  |   00000000:19:00.0 Off |\n", kRule, R"(
val_bpb:enabled tokenizer_kind=sentencepiece tokenizer_path=./data/fineweb_1024_bpe.model
train_loader:dataset:fineweb10B_sp1024 train_shards:25
val_loader:shards pattern=/data/fineweb_val_*.bin tokens:62021632
model_params:17059912
world_size:8 grad_accum_steps:1
tie_embeddings:True embed_lr:0.05
seed:1337
warmup_step:20/20
step:0/20000 val_loss:6.9370 val_bpb:4.0978 train_time:0ms step_avg:0.01ms
step:13780/20000 train_loss:2.0 train_time:600038ms step_avg:43.54ms
step:13780/20000 val_loss:2.0606 val_bpb:1.2172 train_time:600038ms step_avg:43.54ms
stopping_early: wallclock_cap train_time:600038ms step:13780/20000
Serialized model: 67224983 bytes
Code size: 47642 bytes
Total submission size: 67272625 bytes
Serialized model int8+zlib: 15815847 bytes (payload:17178912 raw_torch:17224025 payload_ratio:3.91x)
Total submission size int8+zlib: 15863489 bytes
final_int8_zlib_roundtrip val_loss:2.0727 val_bpb:1.2244 eval_time:1401ms
final_int8_zlib_roundtrip_exact val_loss:2.07269931 val_bpb:1.22436570
)"));
  ASSERT_THAT(logs, SizeIs(1));
  const LoggedRun& log = logs[0];
  EXPECT_EQ(log.seed, 1337);
  EXPECT_DOUBLE_EQ(log.train_seconds.value(), 600.038);
  EXPECT_TRUE(log.stopped_by_clock);
  EXPECT_EQ(log.steps, 13780);
  EXPECT_EQ(log.total_bytes(), 15863489);
  EXPECT_EQ(log.model_bytes(), 15815847);
  EXPECT_EQ(log.code_bytes(), 47642);
  EXPECT_EQ(log.val_tokens, 62021632);
  EXPECT_EQ(log.train_shards, 25);
  EXPECT_EQ(log.world_size, 8);
  EXPECT_EQ(log.parameters, 17059912);
  EXPECT_EQ(log.gpu, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(log.tokenizer, "./data/fineweb_1024_bpe.model");
  EXPECT_EQ(log.settings.at("embed_lr"), "0.05");
  EXPECT_EQ(log.settings.count("val_loss"), 0u);
  EXPECT_EQ(log.source_hash, SourceHash(kProgram));
  EXPECT_FALSE(log.uses_hessians);
  ASSERT_THAT(log.finals, SizeIs(2));
  EXPECT_DOUBLE_EQ(log.finals[0].eval_seconds.value(), 1.401);
  EXPECT_EQ(log.final_score()->label, "final_int8_zlib_roundtrip_exact");
  EXPECT_DOUBLE_EQ(log.final_score()->val_bpb, 1.2243657);
  EXPECT_EQ(log.final_score()->bpb_decimals, 8);
}

TEST_F(RunLogFileTest, LaterLogsAreRead) {
  const std::vector<LoggedRun> logs = Logs(absl::StrCat(
      kRule, R"(
Hyperparameters:
  beta2: 0.99
  seed: 42
)",
      kRule, "\nimport lzma as L\nexec(L.decompress(b'...'))\n# seed: 7 val_loss: 1.0 val_bpb: 0.1\n", kRule,
      R"(
train_shards: 80
val_tokens: 47851520
gptq:reserving 4s, effective=596000ms
500/20000 train_loss: 2.7 train_time: 1.0m tok/s: 8123456
4945/20000 val_loss: 2.3500 val_bpb: 1.0700
stopping_early: wallclock_cap train_time: 596137ms step: 4945/20000
diagnostic pre-quantization post-ema val_loss:2.32112568 val_bpb:1.06066112 eval_time:18334ms
Code size (uncompressed): 158,429 bytes
Code size (compressed): 33012 bytes
GPTQ:collecting Hessians from calibration data...
GPTQ:collected 67 Hessians in 4.7s
Serialized model quantized+pergroup: 15951365 bytes
Total submission size quantized+pergroup: 15989499 bytes
diagnostic quantized val_loss:2.34613048 val_bpb:1.07199665 eval_time:11000ms
quantized_ttt_phased val_loss:2.31538446 val_bpb:1.05803761 eval_time:591446ms
total_eval_time:591.4s
)"));
  ASSERT_THAT(logs, SizeIs(1));
  const LoggedRun& log = logs[0];
  EXPECT_EQ(log.settings.at("beta2"), "0.99");
  EXPECT_DOUBLE_EQ(log.train_seconds.value(), 596.137);
  EXPECT_DOUBLE_EQ(log.hessian_seconds.value(), 4.7);
  EXPECT_TRUE(log.uses_hessians);
  EXPECT_EQ(log.code_bytes(), 33012);
  EXPECT_EQ(log.total_bytes(), 15989499);
  EXPECT_DOUBLE_EQ(log.total_eval_seconds.value(), 591.4);
  ASSERT_THAT(log.finals, SizeIs(1));
  EXPECT_EQ(log.finals[0].label, "quantized_ttt_phased");
  EXPECT_DOUBLE_EQ(log.unquantized->val_bpb, 1.06066112);
  EXPECT_NE(log.source_hash, 0u);
  EXPECT_NE(log.seed, 7);  // only the program's text says so
}

TEST_F(RunLogFileTest, WhatTheProgramsTextSaysIsNotTheRuns) {
  const std::vector<LoggedRun> logs = Logs(absl::StrCat(
      "\"\"\"\nseed:7\nfinal_exact val_loss:1.0 val_bpb:0.1\n\"\"\"\n", kProgram, kRule,
      "\nstep:9/9 train_time:1000ms\nTotal submission size int8: 7 bytes\nTotal submission size: 9 bytes\n"));
  ASSERT_THAT(logs, SizeIs(1));
  EXPECT_FALSE(logs[0].seed.has_value());
  EXPECT_EQ(logs[0].final_score(), nullptr);
  EXPECT_EQ(logs[0].total_bytes(), 7);  // the one that says what it is of
}

TEST_F(RunLogFileTest, AProgramMayEndWithoutARule) {
  const std::string program = "import torch\nprint(f'step:{step}/{total} train_time:{ms}ms')\n";
  const auto with_header = ParseRunLogs(
      program + "Python 3.12.3 (main) [GCC 13.3.0] PyTorch 2.8\nstep:5/9 train_time:1000ms\n", "a.log");
  ASSERT_THAT(with_header, SizeIs(1));
  EXPECT_EQ(with_header[0].steps, 5);
  EXPECT_EQ(with_header[0].source_hash, SourceHash(program));
  const auto with_steps = ParseRunLogs(program + "warm-up\nstep:5/9 train_time:1000ms\n", "a.log");
  ASSERT_THAT(with_steps, SizeIs(1));
  EXPECT_EQ(with_steps[0].source_hash, 0u) << "where the program ends is not known";
}

TEST_F(RunLogFileTest, OneFileMayHoldSeveralRuns) {
  const std::string run = "seed:@\nstep:9/9 train_time:1000ms\nfinal_exact val_loss:2.0 val_bpb:1.@\n";
  const std::vector<LoggedRun> logs =
      Logs(absl::StrReplaceAll(run, {{"@", "1"}}) + absl::StrReplaceAll(run, {{"@", "2"}}));
  ASSERT_THAT(logs, SizeIs(2));
  EXPECT_EQ(logs[0].seed, 1);
  EXPECT_DOUBLE_EQ(logs[0].final_score()->val_bpb, 1.1);
  EXPECT_EQ(logs[1].seed, 2);
  EXPECT_DOUBLE_EQ(logs[1].final_score()->val_bpb, 1.2);
}

TEST_F(RunLogFileTest, TextsWithoutARunGiveNone) {
  EXPECT_THAT(Logs(""), IsEmpty());
  EXPECT_THAT(Logs("numpy\ntorch\n"), IsEmpty());
  EXPECT_THAT(Logs(std::string(3 << 20, '\0')), IsEmpty());
  EXPECT_FALSE(ReadRunLogs(folder_.PathOf("none"), "none").ok());
}

TEST_F(RunLogFileTest, ALineOfAnyLengthTakesBoundedMemory) {
  // A quarter of a gigabyte of one line, as a file of holes.
  const std::string path = folder_.Write("long.log", "step:9/9 train_time:1000ms\n");
  ASSERT_EQ(truncate(path.c_str(), int64_t{1} << 28), 0);
  const auto logs = ReadRunLogs(path, "long.log");
  ASSERT_TRUE(logs.ok());
  EXPECT_THAT(*logs, SizeIs(1));
}

RC_GTEST_PROP(RunLogTest, NoLineIsTooOddToRead, ()) {
  const std::vector<std::string> words = {"val_loss",
                                          "val_bpb",
                                          ":",
                                          "=",
                                          " ",
                                          "1,234",
                                          "1e999",
                                          "-",
                                          "e",
                                          ".",
                                          "step",
                                          "/",
                                          "\n",
                                          "ms",
                                          "Hessians in ",
                                          "seed",
                                          "Total submission size",
                                          "nan",
                                          "Hyperparameters:\n",
                                          "  a: b",
                                          kRule,
                                          "import x",
                                          "\xff",
                                          "train_time",
                                          "stopping_early"};
  std::string text;
  for (const std::string& word : *rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(words)))
    text += word;
  std::string path = ::testing::TempDir() + "/odd_XXXXXX";
  const int file = mkstemp(path.data());
  RC_ASSERT(write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  close(file);
  RC_ASSERT(ReadRunLogs(path, "odd").ok());
  unlink(path.c_str());
}

TEST(RunLogTest, AProgramsHashIsOfWhatItDoes) {
  EXPECT_EQ(SourceHash("import a\n  b\n\n"), SourceHash("import a \r\n\n  # c\n  b"));
  EXPECT_EQ(SourceHash("import a\nseed = 1\n"), SourceHash("import a\nseed = 22\n"));
  EXPECT_EQ(SourceHash("a console's line\nimport a\n"), SourceHash("import a\n"));
  EXPECT_EQ(SourceHash("a\n"), 0u);
  EXPECT_NE(SourceHash("import a\nb\n"), SourceHash("import a\n  b\n"));
  EXPECT_NE(SourceHash("import a\nb"), SourceHash("import ab"));
}

TEST(RunLogTest, ASeedMayStandAmongSettings) {
  const auto seed_of = [](const std::string& line) {
    return ParseRunLogs(line + "\nstep:9/9 train_time:1000ms\nfinal_exact val_loss:2.0 val_bpb:1.1\n",
                        "a.log")
        .front()
        .seed;
  };
  EXPECT_EQ(seed_of("lr:embed=0.035 matrix=0.025 batch:786432 wall:600s seed:1337"), 1337);
  EXPECT_FALSE(seed_of("calibration drawn with seed:7"));
  EXPECT_FALSE(seed_of("wall:600s seed:7"));
}

}  // namespace
}  // namespace hm11
