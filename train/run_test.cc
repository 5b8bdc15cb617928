// The main job from shards to a scored artifact, on a model of a few thousand parameters: it learns, repeats
// to the bit, goes on from a checkpoint to the bit, and refuses bad input by name.
#include "train/run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "core/crc64.h"
#include "core/file.h"
#include "core/random.h"
#include "data/shard.h"
#include "data/token_stream.h"
#include "model/safetensors.h"
#include "quant/packed_model.h"
#include "testing/matchers.h"
#include "train/checkpoint.h"
#include "train/metrics.h"
#include "train/run_test_data.h"

namespace hm11 {
namespace {

class RunTest : public testing::Test {
 protected:
  // Shards and a tokenizer, made once for all tests.
  static void SetUpTestSuite() { folder_ = new std::string(NewSmallDataFolder("hm11_run")); }
  static void TearDownTestSuite() { delete folder_; }

  static RunOptions Options(const std::string& name) { return SmallRun(*folder_, name); }

  // The last number after `key` in the run's log.
  static double Logged(const std::string& name, const std::string& key) {
    const std::string log = *ReadFile(*folder_ + "/" + name + "/train.log");
    const size_t at = log.rfind(key);
    EXPECT_NE(at, std::string::npos) << key;
    return std::stod(log.substr(at + key.size()));
  }

  static std::string* folder_;
};

std::string* RunTest::folder_ = nullptr;

TEST_F(RunTest, LearnsAndScoresWhatTheArtifactHolds) {
  ASSERT_THAT(hm11::Run(Options("learns")), IsOk());
  const double artifact_loss = Logged("learns", "final_int8_zlib_roundtrip_exact val_loss:");
  EXPECT_LT(artifact_loss, std::log(300.0) - 1) << "no better than a guess among 300 pieces";
  const std::string log = *ReadFile(*folder_ + "/learns/train.log");
  for (const char* line :
       {"model_params:", "step:24/24 train_loss:", "step:24/24 val_loss:", "Total submission size: ",
        "final_int6_roundtrip_exact val_loss:", "yardstick: xz -9", "sample: "}) {
    EXPECT_THAT(log, testing::HasSubstr(line));
  }
  EXPECT_EQ(Logged("learns", "tokens:") + Logged("learns", "unscored:"), 1999) << "targets of the text";
  EXPECT_GT(Logged("learns", "unscored:"), 0);
  const double allocated = Logged("learns", "peak memory allocated: "),
               reserved = Logged("learns", "reserved: ");
  EXPECT_GT(allocated, 0);
  EXPECT_LE(allocated, reserved);
  // xz takes less of so small a grammar than 24 steps can learn, and that is explained.
  EXPECT_GT(Logged("learns", "beaten by xz -9: the model takes "),
            Logged("learns", "yardstick: xz -9 takes "));
  EXPECT_THAT(log, testing::HasSubstr("after 24 steps on 6144 tokens, the training text "));
  // The last line that holds a score is the alias other tools look for, and says so.
  EXPECT_LT(log.find("final_int8_zlib_roundtrip: the name under which"),
            log.find("final_int8_zlib_roundtrip "));
  EXPECT_GT(log.rfind("final_int8_zlib_roundtrip_exact"), log.rfind("final_int6_roundtrip_exact"));
  EXPECT_THAT(ReadModel(*folder_ + "/learns/artifact.hm11"), IsOk());
}

TEST_F(RunTest, BitsOfACodeAreToldWhereThereAreCodes) {
  for (const auto& [name, largest, told, untold] :
       {std::tuple("coded", "500", " bits a code", "no matrix is large enough to be coded"),
        std::tuple("uncoded", "100000", "no matrix is large enough to be coded", " bits a code")}) {
    RunOptions options = Options(name);
    ASSERT_THAT(ApplyOverrides(absl::StrCat("max_steps=1,small_elements=", largest), &options.config),
                IsOk());
    ASSERT_THAT(hm11::Run(options), IsOk());
    const std::string log = *ReadFile(options.folder + "/train.log");
    EXPECT_THAT(log, testing::HasSubstr(told));
    EXPECT_THAT(log, testing::Not(testing::HasSubstr(untold)));
  }
}

TEST_F(RunTest, TwoRunsWithOneSeedGiveTheSameBits) {
  ASSERT_THAT(hm11::Run(Options("once")), IsOk());
  ASSERT_THAT(hm11::Run(Options("twice")), IsOk());
  for (const char* file : {"artifact.hm11", "model.safetensors"}) {
    EXPECT_EQ(*ReadFile(*folder_ + "/once/" + file), *ReadFile(*folder_ + "/twice/" + file)) << file;
  }
  RunOptions other = Options("other");
  other.config.seed = 2;
  ASSERT_THAT(hm11::Run(other), IsOk());
  EXPECT_NE(*ReadFile(*folder_ + "/once/artifact.hm11"), *ReadFile(*folder_ + "/other/artifact.hm11"));
}

// What follows `before` in a run's log, up to a space.
std::string AfterInLog(const std::string& folder, absl::string_view before) {
  const std::string log = *ReadFile(folder + "/train.log");
  const size_t found = log.find(std::string(before));
  return found == std::string::npos ? "none"
                                    : log.substr(found + before.size(), log.find(' ', found + before.size()) -
                                                                            found - before.size());
}

TEST_F(RunTest, ARunBeginsWithTheWeightsOfAFile) {
  ASSERT_THAT(hm11::Run(Options("source")), IsOk());
  RunOptions options = Options("begins");
  options.init = *folder_ + "/source/model.safetensors";
  ASSERT_THAT(hm11::Run(options), IsOk());
  const std::string loss = AfterInLog(*folder_ + "/source", "step:24/24 val_loss:");
  EXPECT_NE(loss, AfterInLog(*folder_ + "/source", "step:0/24 val_loss:"));
  EXPECT_EQ(loss, AfterInLog(*folder_ + "/begins", "step:0/24 val_loss:"));
  options = Options("other_model");
  options.init = *folder_ + "/source/model.safetensors";
  options.config.model.mlp_width = 32;
  EXPECT_THAT(hm11::Run(options),
              StatusIs(absl::StatusCode::kInvalidArgument, "model.safetensors: tensor mlp_up_bank"));
}

TEST_F(RunTest, InputsAreHiddenOnlyOnceTextIsReadAgain) {
  const TokenStream stream = *TokenStream::Open(*folder_ + "/t_train_*.bin", 300);
  ASSERT_THAT(WriteShard(*folder_ + "/short_000000.bin", stream.Read(0, 1500)), IsOk());
  const auto weights = [&](const char* mask, int64_t steps) {
    RunOptions options = Options(absl::StrCat("mask_", mask, "_", steps));
    options.train_pattern = *folder_ + "/short_*.bin";
    EXPECT_THAT(ApplyOverrides(absl::StrCat("input_mask=", mask, ",max_steps=", steps), &options.config),
                IsOk());
    EXPECT_THAT(hm11::Run(options), IsOk());
    return *ReadFile(options.folder + "/model.safetensors");
  };
  // 1500 tokens are 5.8 steps.
  EXPECT_EQ(weights("0", 6), weights("0.5", 6));
  EXPECT_NE(weights("0", 7), weights("0.5", 7));
}

TEST_F(RunTest, StepsGrowLongerAndDeeperAsTheRunGoesOn) {
  const auto run = [&](const std::string& name, const char* settings) {
    RunOptions options = Options(name);
    EXPECT_THAT(ApplyOverrides("shuffle=true,parallel_layers=1,muon_equal_rows=true,polar_express=true",
                               &options.config),
                IsOk());
    EXPECT_THAT(ApplyOverrides(settings, &options.config), IsOk());
    EXPECT_THAT(hm11::Run(options), IsOk());
    return *ReadFile(options.folder + "/train.log");
  };
  const std::string log =
      run("grows", "loop_first=1,loop_last=1,loop_passes=2,loop_from=0.5,sequence_stages=16:0.25");
  EXPECT_THAT(log, testing::HasSubstr("phase: step:6/24 sequence:32 looped:0\n"));
  EXPECT_THAT(log, testing::HasSubstr("phase: step:12/24 sequence:32 looped:1\n"));
  // Until then it is the run of a model without loops; and what its artifact says has them.
  run("flat", "sequence_stages=16:0.25");
  // Losses and norms; times differ.
  const auto steps = [&](const char* name, int64_t first, int64_t last) {
    std::vector<std::pair<double, double>> numbers;
    for (const StepMetrics& step :
         ParseMetrics(*ReadFile(absl::StrCat(*folder_, "/", name, "/metrics.jsonl"))).steps) {
      if (step.step >= first && step.step <= last) numbers.emplace_back(step.train_loss, step.gradient_norm);
    }
    return numbers;
  };
  EXPECT_THAT(steps("flat", 12, 12), testing::Not(testing::IsEmpty()));
  EXPECT_EQ(steps("grows", 1, 12), steps("flat", 1, 12));
  EXPECT_NE(steps("grows", 13, 13), steps("flat", 13, 13));
  EXPECT_EQ(ReadModel(*folder_ + "/grows/artifact.hm11")->config.model.loop_passes, 2);
}

TEST_F(RunTest, AResumedRunEndsAsOneThatWasNotInterrupted) {
  RunOptions whole = Options("whole"), part = Options("part");
  ASSERT_THAT(hm11::Run(whole), IsOk());
  int asked = 0;
  part.interrupted = [&] { return ++asked > 12; };
  EXPECT_THAT(hm11::Run(part), StatusIs(absl::StatusCode::kCancelled,
                                        "interrupted; go on with --resume --out=" + part.folder));
  EXPECT_THAT(ReadCheckpoint(part.folder + "/checkpoint.safetensors")->position.step,
              testing::AllOf(testing::Gt(3), testing::Lt(13)));
  part.interrupted = nullptr;
  part.use = FolderUse::kResume;
  ASSERT_THAT(hm11::Run(part), IsOk());
  EXPECT_EQ(ReadCheckpoint(part.folder + "/checkpoint.safetensors")->position.step, 24);
  for (const char* file : {"/model.safetensors", "/artifact.hm11"}) {
    EXPECT_EQ(*ReadFile(whole.folder + file), *ReadFile(part.folder + file)) << file;
  }
  // And so do its numbers: each step once, and one end.
  const Metrics metrics = ParseMetrics(*ReadFile(part.folder + "/metrics.jsonl"));
  ASSERT_EQ(metrics.steps.size(), 24u);
  for (size_t i = 0; i < 24; ++i) EXPECT_EQ(metrics.steps[i].step, static_cast<int64_t>(i) + 1);
  EXPECT_EQ(metrics.starts.size(), 2u);
  EXPECT_EQ(std::count_if(metrics.stages.begin(), metrics.stages.end(),
                          [](const StageMetrics& stage) { return stage.stage == "scoring"; }),
            1);
  for (const char* file : {"/report.html", "/report.json"})
    EXPECT_TRUE(FileExists(part.folder + file)) << file;
}

// As numbers, to the bit.
bool SameTensors(const std::vector<NamedTensor>& a, const std::vector<NamedTensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const NamedTensor& x, const NamedTensor& y) {
    return x.name == y.name && x.shape == y.shape && x.values == y.values;
  });
}

bool SameCheckpoint(const Checkpoint& a, const Checkpoint& b) {
  return a.config == b.config && a.position.step == b.position.step &&
         a.position.elapsed_seconds == b.position.elapsed_seconds &&
         a.book.validation_seconds == b.book.validation_seconds && a.book.phase == b.book.phase &&
         a.book.metrics_bytes == b.book.metrics_bytes &&
         a.book.micro_batch_tokens == b.book.micro_batch_tokens && a.device == b.device &&
         a.tokenizer_crc64 == b.tokenizer_crc64 && a.matmul_tuning == b.matmul_tuning &&
         a.snapshots.taken == b.snapshots.taken && SameTensors(a.state.weights, b.state.weights) &&
         SameTensors(a.state.first_moment, b.state.first_moment) &&
         SameTensors(a.state.second_moment, b.state.second_moment) &&
         SameTensors(a.state.average, b.state.average);
}

TEST_F(RunTest, ADamagedCheckpointIsRefusedByName) {
  ASSERT_THAT(hm11::Run(Options("checkpointed")), IsOk());
  const std::string path = *folder_ + "/checkpointed/checkpoint.safetensors";
  const std::string bytes = *ReadFile(path);
  const std::string damaged_path = *folder_ + "/damaged.safetensors";
  for (uint64_t i = 0; i < 200; ++i) {
    std::string damaged = bytes;
    const size_t at =
        static_cast<size_t>(RandomIndex(3, i % 2, i, static_cast<int64_t>(i % 2 ? 4096 : bytes.size())));
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << (i % 8)));
    ASSERT_THAT(WriteFile(damaged_path, damaged), IsOk());
    const absl::StatusOr<Checkpoint> read = ReadCheckpoint(damaged_path);
    if (read.ok()) {
      // Harmless only where JSON does not care: nothing of what it holds is another.
      EXPECT_TRUE(SameCheckpoint(*read, *ReadCheckpoint(path))) << "byte " << at;
    } else {
      EXPECT_THAT(std::string(read.status().message()), testing::HasSubstr("damaged.safetensors"))
          << "byte " << at;
    }
  }
  ASSERT_THAT(WriteFile(damaged_path, bytes.substr(0, bytes.size() / 2)), IsOk());
  EXPECT_FALSE(ReadCheckpoint(damaged_path).ok());
  ASSERT_THAT(WriteFile(damaged_path, ""), IsOk());
  EXPECT_FALSE(ReadCheckpoint(damaged_path).ok());
  // A weight changed by somebody who knows the format.
  Safetensors changed = *ReadSafetensors(path);
  changed.tensors[0].values[0] += 1;
  ASSERT_THAT(WriteSafetensors(damaged_path, changed), IsOk());
  EXPECT_THAT(ReadCheckpoint(damaged_path),
              StatusIs(absl::StatusCode::kDataLoss, "checkpoint was altered: its checksum differs"));
}

TEST_F(RunTest, ACheckpointInAnotherOrderIsTheSameAndOneOfANewerVersionIsRefused) {
  RunOptions options = Options("rewritten");
  ASSERT_THAT(ApplyOverrides("lawa_snapshots=2,lawa_every=5", &options.config), IsOk());
  ASSERT_THAT(hm11::Run(options), IsOk());
  const std::string path = options.folder + "/checkpoint.safetensors",
                    copy = *folder_ + "/rewritten.safetensors";
  Safetensors file = *ReadSafetensors(path);
  // As the official library writes: by name.
  std::sort(file.tensors.begin(), file.tensors.end(),
            [](const NamedTensor& a, const NamedTensor& b) { return a.name > b.name; });
  ASSERT_THAT(WriteSafetensors(copy, file), IsOk());
  const absl::StatusOr<Checkpoint> read = ReadCheckpoint(copy), before = ReadCheckpoint(path);
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->snapshots.taken, 4);
  EXPECT_EQ(read->snapshots.sets.size(), 2u);
  const auto total = [](const Checkpoint& checkpoint) {
    double sum = 0;
    for (const NamedTensor& tensor : checkpoint.state.first_moment) {
      for (const float value : tensor.values) sum += std::abs(value);
    }
    return sum;
  };
  EXPECT_NEAR(total(*read), total(*before), 1e-6 * total(*before));
  file.metadata["version"] = "3";
  ASSERT_THAT(WriteSafetensors(copy, file), IsOk());
  EXPECT_THAT(
      ReadCheckpoint(copy),
      StatusIs(absl::StatusCode::kDataLoss, copy + ": checkpoint of version 3, newer than this program's 2"));
}

TEST_F(RunTest, BadInputIsRefusedByName) {
  const auto refused = [](const RunOptions& options, absl::string_view name) {
    const absl::Status status = hm11::Run(options);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(std::string(name)));
  };
  RunOptions options = Options("bad");
  options.train_pattern = *folder_ + "/nothing_*.bin";
  refused(options, "nothing_*.bin");
  options = Options("bad");
  options.config.model.vocab = 301;
  refused(options, "tokenizer.model");
  options = Options("bad");
  options.val_pattern = *folder_ + "/of_no_text_*.bin";
  ASSERT_THAT(WriteShard(*folder_ + "/of_no_text_000000.bin", std::vector<uint16_t>(100, kBosToken)), IsOk());
  refused(options, "of_no_text_*.bin: its 99 targets stand for no text");
  options = Options("bad");
  options.config.model.heads = 3;
  refused(options, "heads=3");
  options = Options("bad");
  options.config.sequence_stages = "12:0.5";
  refused(options, "sequence_stages=12:0.5: length 12");
  options = Options("bad");
  options.folder = "/proc/hm11";
  refused(options, "/proc/hm11");
  options = Options("bad");
  options.use = FolderUse::kResume;
  options.folder = *folder_ + "/never_run";
  refused(options, "checkpoint.safetensors");
  EXPECT_FALSE(FileExists(options.folder)) << "nothing to go on from, and yet something written";
}

TEST_F(RunTest, ARunThatCannotGoOnStaysAsItIs) {
  RunOptions options = Options("goes_on");
  ASSERT_THAT(hm11::Run(options), IsOk());
  const auto contents = [&] {
    std::string all;
    for (const char* file : {"config.txt", "tokenizer.model", "train.log", "metrics.jsonl"}) {
      all += *ReadFile(absl::StrCat(options.folder, "/", file));
    }
    return all;
  };
  const std::string before = contents();
  options.use = FolderUse::kResume;
  options.config.model.state = 8;
  EXPECT_THAT(hm11::Run(options), StatusIs(absl::StatusCode::kInvalidArgument,
                                           "its model is configured differently: state: 4 -> 8"));
  EXPECT_EQ(contents(), before);
  options.config.model.state = 4;
  const std::string path = options.folder + "/checkpoint.safetensors", checkpoint = *ReadFile(path);
  ASSERT_THAT(WriteFile(path, checkpoint.substr(0, checkpoint.size() / 2)), IsOk());
  EXPECT_THAT(hm11::Run(options), StatusIs(absl::StatusCode::kDataLoss, path));
  EXPECT_EQ(contents(), before);
}

TEST_F(RunTest, AUsedFolderIsNeitherMixedNorLost) {
  RunOptions options = Options("used");
  ASSERT_THAT(hm11::Run(options), IsOk());
  const std::string log = *ReadFile(options.folder + "/train.log");
  EXPECT_THAT(hm11::Run(options),
              StatusIs(absl::StatusCode::kAlreadyExists, options.folder + " holds a run"));
  EXPECT_EQ(*ReadFile(options.folder + "/train.log"), log);
  options.use = FolderUse::kOverwrite;
  options.config.seed = 3;
  ASSERT_THAT(hm11::Run(options), IsOk());
  EXPECT_NE(*ReadFile(options.folder + "/train.log"), log);
}

TEST_F(RunTest, ARunDoesNotGoOnOnOtherText) {
  RunOptions options = Options("text");
  ASSERT_THAT(hm11::Run(options), IsOk());
  const TokenStream stream = *TokenStream::Open(*folder_ + "/t_train_*.bin", 300);
  ASSERT_THAT(WriteShard(*folder_ + "/other_000000.bin", stream.Read(1, stream.size())), IsOk());
  options.use = FolderUse::kResume;
  options.train_pattern = *folder_ + "/other_*.bin";
  EXPECT_THAT(hm11::Run(options), StatusIs(absl::StatusCode::kInvalidArgument, "training text: "));
  // The same text elsewhere is the same text.
  ASSERT_THAT(WriteShard(*folder_ + "/copy_000000.bin", stream.Read(0, stream.size())), IsOk());
  options.train_pattern = *folder_ + "/copy_*.bin";
  EXPECT_THAT(hm11::Run(options), IsOk());
}

TEST_F(RunTest, AnotherRunGoesOnOnlyWhereThatIsAskedForAndTheLogSaysSo) {
  RunOptions options = Options("anyway");
  ASSERT_THAT(hm11::Run(options), IsOk());
  options.use = FolderUse::kResume;
  options.config.log_every = 3;  // what is told when may change
  EXPECT_THAT(hm11::Run(options), IsOk());
  options.config.schedule.max_steps = 30;
  options.config.optimizer.muon_lr = 0.001;
  EXPECT_THAT(hm11::Run(options), StatusIs(absl::StatusCode::kInvalidArgument, "muon_lr: 0.018 -> 0.001"));
  EXPECT_THAT(hm11::Run(options), StatusIs(absl::StatusCode::kInvalidArgument, "max_steps: 24 -> 30"));
  options.resume_anyway = true;
  EXPECT_THAT(hm11::Run(options), IsOk());
  EXPECT_THAT(*ReadFile(options.folder + "/train.log"),
              testing::HasSubstr("resumed_anyway: muon_lr: 0.018 -> 0.001\n"));
}

TEST_F(RunTest, AResumedRunCutsBatchesAsBefore) {
  // As a GPU with other free memory would plan it: what the checkpoint says is what is done.
  RunOptions options = Options("cut");
  options.config.micro_batch_tokens = 0;
  ASSERT_THAT(hm11::Run(options), IsOk());
  const std::string path = options.folder + "/checkpoint.safetensors";
  Checkpoint checkpoint = *ReadCheckpoint(path);
  EXPECT_EQ(checkpoint.book.micro_batch_tokens, 32);
  checkpoint.book.micro_batch_tokens = 64;
  ASSERT_THAT(WriteCheckpoint(path, checkpoint), IsOk());
  options.use = FolderUse::kResume;
  ASSERT_THAT(hm11::Run(options), IsOk());
  const std::string log = *ReadFile(options.folder + "/train.log");
  EXPECT_THAT(log.substr(log.find("resumed:") - 300), testing::HasSubstr("micro_batch_tokens:64\n"));
}

// Of shuffled sequences, which do not depend on it; read in order, spans of micro-batches are a token apart.
TEST_F(RunTest, HowABatchIsCutShowsInRoundingOnly) {
  const auto loss = [&](const char* micro_batch) {
    RunOptions options = Options(absl::StrCat("micro_", micro_batch));
    EXPECT_THAT(
        ApplyOverrides(absl::StrCat("shuffle=true,micro_batch_tokens=", micro_batch), &options.config),
        IsOk());
    EXPECT_THAT(hm11::Run(options), IsOk());
    const std::string name = absl::StrCat("micro_", micro_batch);
    return std::pair(Logged(name, "step:4/24 train_loss:"), Logged(name, "step:24/24 val_loss:"));
  };
  const auto [early, late] = loss("256");
  for (const char* micro_batch : {"32", "128"}) {
    const auto [other_early, other_late] = loss(micro_batch);
    EXPECT_NEAR(other_early, early, 1e-3);
    EXPECT_NEAR(other_late, late, 2e-2);  // Muon makes more of the last bits with every step.
  }
}

TEST_F(RunTest, ATimeLimitEndsTheRunAndPeriodsValidateAndSave) {
  RunOptions options = Options("timed");
  ASSERT_THAT(ApplyOverrides("time_limit_seconds=4,calibration_seconds=1,validation_seconds=1,"
                             "validation_tokens=500,checkpoint_seconds=0.9,max_steps=1000",
                             &options.config),
              IsOk());
  options.training_seconds = [](int64_t steps) { return 0.25 * static_cast<double>(steps); };
  ASSERT_THAT(hm11::Run(options), IsOk());
  const std::string log = *ReadFile(options.folder + "/train.log");
  // One second of four is calibration's.
  EXPECT_THAT(log, testing::HasSubstr("stopping_early: wallclock_cap train_time:3000ms step:12/1000"));
  for (const char* line : {"step:0/1000 val_loss:", "step:4/1000 val_loss:", "step:8/1000 val_loss:",
                           "step:12/1000 val_loss:"}) {
    EXPECT_EQ(log.find(line), log.rfind(line)) << line;
    EXPECT_THAT(log, testing::HasSubstr(line));
  }
  EXPECT_THAT(log, testing::Not(testing::HasSubstr("step:5/1000 val_loss:")));
  EXPECT_EQ(ReadCheckpoint(options.folder + "/checkpoint.safetensors")->position.step, 12);
}

TEST_F(RunTest, SpeedsAreTokensOverTheSecondsThatTheyTook) {
  RunOptions options = Options("speeds");
  ASSERT_THAT(ApplyOverrides("log_every=1,max_steps=5", &options.config), IsOk());
  options.training_seconds = [](int64_t steps) { return 0.5 * static_cast<double>(steps); };
  ASSERT_THAT(hm11::Run(options), IsOk());
  const std::string log = *ReadFile(options.folder + "/train.log");
  for (int step = 1; step <= 5; ++step) {
    EXPECT_THAT(log, testing::ContainsRegex(absl::StrCat("step:", step, "/5 train_loss:[0-9.]+ train_time:",
                                                         step * 500, "ms step_avg:500.00ms tok/s:512\n")));
  }
  for (const StepMetrics& step : ParseMetrics(*ReadFile(options.folder + "/metrics.jsonl")).steps) {
    EXPECT_DOUBLE_EQ(step.tokens_per_second, 512) << step.step;
  }
}

TEST_F(RunTest, TheClockStandsStillWhileTheRunValidatesAndGoesOnBehindIt) {
  RunOptions options = Options("clock");
  options.val_pattern = options.train_pattern;  // long, so that validating takes most of the time
  ASSERT_THAT(ApplyOverrides("validation_seconds=0.001,report_tokens=0,sample_tokens=0,"
                             "calibration_tokens=0",
                             &options.config),
              IsOk());
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_THAT(hm11::Run(options), IsOk());
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const Metrics metrics = ParseMetrics(*ReadFile(options.folder + "/metrics.jsonl"));
  EXPECT_GT(metrics.validations.size(), 3u);
  double before = 0;
  for (const StepMetrics& step : metrics.steps) {
    EXPECT_GE(step.train_seconds, before) << "step " << step.step;
    before = step.train_seconds;
  }
  // Whatever the machine does meanwhile, what is done in turn takes no longer than all of it.
  for (const StageMetrics& stage : metrics.stages) seconds -= stage.seconds;
  EXPECT_LE(metrics.validations.back().train_seconds, seconds);
}

TEST_F(RunTest, TheAverageIsWhatIsExported) {
  const auto weights = [&](const std::string& name, const char* settings) {
    RunOptions options = Options(name);
    EXPECT_THAT(ApplyOverrides(settings, &options.config), IsOk());
    EXPECT_THAT(hm11::Run(options), IsOk());
    return *ReadSafetensors(options.folder + "/model.safetensors");
  };
  const Safetensors averaged = weights("averaged", "average_decay=0.9,export_average=true"),
                    last = weights("not_averaged", "average_decay=0.9");
  const Checkpoint checkpoint = *ReadCheckpoint(*folder_ + "/averaged/checkpoint.safetensors");
  EXPECT_TRUE(SameTensors(averaged.tensors, checkpoint.state.average));
  EXPECT_TRUE(SameTensors(last.tensors, checkpoint.state.weights));
  EXPECT_FALSE(SameTensors(last.tensors, averaged.tensors));
}

TEST_F(RunTest, ADiskThatIsFullAtACheckpointDoesNotEndTheRun) {
  RunOptions options = Options("full_disk");
  ASSERT_THAT(ApplyOverrides("checkpoint_seconds=1", &options.config), IsOk());
  rlimit before = {};
  getrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_IGN);
  // Full from the second checkpoint to the third; a step is a quarter of a second.
  options.training_seconds = [&](int64_t steps) {
    rlimit now = before;
    if (steps >= 6 && steps < 10) now.rlim_cur = 2000;
    setrlimit(RLIMIT_FSIZE, &now);
    return 0.25 * static_cast<double>(steps);
  };
  ASSERT_THAT(hm11::Run(options), IsOk());
  const std::string log = *ReadFile(options.folder + "/train.log");
  EXPECT_THAT(log,
              testing::HasSubstr("checkpoint.safetensors: File too large; the run goes on and tries again; "
                                 "last good checkpoint: "));
  EXPECT_THAT(log, testing::HasSubstr("checkpoint.safetensors (step 4)\n"));
  EXPECT_EQ(ReadCheckpoint(options.folder + "/checkpoint.safetensors")->position.step, 24);
}

TEST_F(RunTest, TheSizeIsToldBeforeTrainingAndTheProgramIsKept) {
  ASSERT_THAT(hm11::Run(Options("sized")), IsOk());
  const std::string folder = *folder_ + "/sized";
  const double told = Logged("sized", "artifact_estimate:"), weights = Logged("sized", "Serialized model: ");
  // In 24 steps most bigrams were never met: their rows are zeros still, which cost next to nothing.
  EXPECT_THAT(told / weights, testing::AllOf(testing::Gt(1.0), testing::Lt(1.2)));
  EXPECT_EQ(weights, static_cast<double>(ReadFile(folder + "/artifact.hm11")->size()));
  const std::string log = *ReadFile(folder + "/train.log");
  EXPECT_LT(log.find("artifact_estimate:"), log.find("step:1/"));
  // What is counted is what lies there, launcher included.
  const std::string packed = *ReadFile(folder + "/program.tar.xz"),
                    launcher = *ReadFile(folder + "/train_gpt.py");
  EXPECT_EQ(Logged("sized", "Code size: "), static_cast<double>(packed.size() + launcher.size()));
  EXPECT_EQ(Logged("sized", "Total submission size: "),
            weights + static_cast<double>(packed.size() + launcher.size()));
  EXPECT_THAT(launcher,
              testing::HasSubstr("\nTRAINING = [\"--preset=tiny\", \"--set=sequence=32,batch_tokens=256,"));
  EXPECT_THAT(log,
              testing::HasSubstr(absl::StrFormat("program_crc64:%016x ", Crc64(launcher, Crc64(packed)))));
}

TEST_F(RunTest, AModelThatCannotFitIsRefusedBeforeTraining) {
  RunOptions options = Options("large");
  ASSERT_THAT(ApplyOverrides("budget_bytes=4000", &options.config), IsOk());
  const absl::Status status = hm11::Run(options);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("budget_bytes"));
  EXPECT_FALSE(FileExists(options.folder)) << "nothing is begun";
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// A process of its own, that can be given a limit. (Sanitizers reserve terabytes themselves.)
TEST_F(RunTest, ASmallRunNeedsLittleAddressSpace) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run_within = [](rlim_t more_bytes) {
    int64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlim_t bytes = static_cast<rlim_t>(pages * getpagesize()) + more_bytes;
    const rlimit limit = {.rlim_cur = bytes, .rlim_max = bytes};
    setrlimit(RLIMIT_AS, &limit);
    const absl::Status status = hm11::Run(Options("little_space"));
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    std::exit(status.ok() ? 0 : 1);
  };
  EXPECT_EXIT(run_within(rlim_t{2} << 30), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(run_within(rlim_t{1} << 29), testing::ExitedWithCode(1),
              "bytes and device cpu has [0-9]+ free");
}
#endif

TEST_F(RunTest, ALossThatIsNotANumberStopsTheRunWithItsStep) {
  RunOptions options = Options("diverges");
  options.config.optimizer.control_lr = 1e30;
  options.config.optimizer.embedding_lr = 1e30;
  const absl::Status status = hm11::Run(options);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("not a number at step"));
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("last good checkpoint"));
}

// A step's loss is that of the weights before it: the last step may leave weights that no loss was seen of.
TEST_F(RunTest, WeightsWhoseLossIsNotANumberAreNeitherCheckpointNorArtifact) {
  RunOptions options = Options("diverges_at_the_end");
  options.config.optimizer.control_lr = 1e30;
  options.config.optimizer.embedding_lr = 1e30;
  const auto diverges = [&](const char* message) {
    const absl::Status status = hm11::Run(options);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kAborted, message));
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("last good checkpoint: none was written"));
    EXPECT_FALSE(FileExists(options.folder + "/checkpoint.safetensors"));
    EXPECT_FALSE(FileExists(options.folder + "/artifact.hm11"));
  };
  options.config.schedule.max_steps = 1;
  diverges("not a number after step 1");
  options = Options("diverges_before_a_checkpoint");
  options.config.optimizer.control_lr = 1e30;
  options.config.optimizer.embedding_lr = 1e30;
  options.config.checkpoint_seconds = 1e-9;
  diverges("not a number after step 1");
}

}  // namespace
}  // namespace hm11
