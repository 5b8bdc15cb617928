// The main job from shards to a scored artifact, on a model of a few thousand parameters: it learns, repeats
// to the bit, goes on from a checkpoint to the bit, and refuses bad input by name.
#include "train/run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "core/random.h"
#include "data/shard.h"
#include "data/tokenizer.h"
#include "eval/artifact_model.h"
#include "testing/matchers.h"
#include "train/checkpoint.h"

namespace hm11 {
namespace {

// A text with something to learn: sentences of a small grammar.
std::string Sentence(uint64_t index) {
  const char* const subjects[] = {"the cat", "a dog", "my friend", "the old man"};
  const char* const verbs[] = {"sees", "likes", "follows"};
  const auto pick = [&](const auto& words, uint64_t stream) {
    return words[RandomIndex(7, stream, index, static_cast<int64_t>(std::size(words)))];
  };
  return absl::StrCat(pick(subjects, 1), " ", pick(verbs, 2), " ", pick(subjects, 3), ". ");
}

class RunTest : public testing::Test {
 protected:
  // Shards and a tokenizer, made once for all tests.
  static void SetUpTestSuite() {
    std::string pattern = testing::TempDir() + "/hm11_run_XXXXXX";
    folder_ = new std::string(mkdtemp(pattern.data()));
    uint64_t next = 0;
    absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Train(
        [&](std::string* text) {
          *text = Sentence(next++);
          return next < 2000;
        },
        {.vocab = 300});
    ASSERT_THAT(tokenizer, IsOk());
    ASSERT_THAT(WriteFile(*folder_ + "/tokenizer.model", tokenizer->model()), IsOk());
    std::vector<uint16_t> tokens;
    for (uint64_t document = 0; document < 400; ++document) {
      tokens.push_back(kBosToken);
      for (uint64_t i = 0; i < 10; ++i) tokenizer->Encode(Sentence(document * 10 + i), &tokens);
    }
    const std::span<const uint16_t> all = tokens;
    ASSERT_THAT(WriteShard(*folder_ + "/t_val_000000.bin", all.first(2000)), IsOk());
    ASSERT_THAT(WriteShard(*folder_ + "/t_train_000000.bin", all.subspan(2000)), IsOk());
  }
  static void TearDownTestSuite() { delete folder_; }

  static RunOptions Options(const std::string& name) {
    RunOptions options;
    options.config = *Preset("tiny");
    const absl::Status status = ApplyOverrides(
        absl::StrCat("layers=MA,vocab=300,dim=32,heads=2,kv_heads=1,mlp_width=48,state=4,dt_rank=4,"
                     "bigram_rows=64,bigram_dim=8,value_embedding_dim=8,rope_dims=8,sequence=32,"
                     "batch_tokens=256,micro_batch_tokens=128,max_steps=24,time_limit_seconds=0,"
                     "log_every=8,warmup_steps=2,validation_seconds=0,checkpoint_seconds=0,"
                     "calibration_tokens=256,sample_tokens=8"),
        &options.config);
    EXPECT_THAT(status, IsOk());
    options.train_pattern = *folder_ + "/t_train_*.bin";
    options.val_pattern = *folder_ + "/t_val_*.bin";
    options.tokenizer_path = *folder_ + "/tokenizer.model";
    options.folder = *folder_ + "/" + name;
    return options;
  }

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
  // The last line that holds a score is the alias other tools look for.
  EXPECT_GT(log.rfind("final_int8_zlib_roundtrip_exact"), log.rfind("final_int6_roundtrip_exact"));
  EXPECT_THAT(ReadModel(*folder_ + "/learns/artifact.hm11"), IsOk());
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

TEST_F(RunTest, AResumedRunEndsAsOneThatWasNotInterrupted) {
  // A constant schedule, so that a run of 12 steps is the first half of one of 24.
  const char* const constant = "warmup_fraction=0,warmdown_fraction=0,momentum_warmup_fraction=0";
  RunOptions whole = Options("whole"), part = Options("part");
  ASSERT_THAT(ApplyOverrides(constant, &whole.config), IsOk());
  ASSERT_THAT(ApplyOverrides(absl::StrCat(constant, ",max_steps=12"), &part.config), IsOk());
  ASSERT_THAT(hm11::Run(whole), IsOk());
  ASSERT_THAT(hm11::Run(part), IsOk());
  EXPECT_NE(*ReadFile(whole.folder + "/model.safetensors"), *ReadFile(part.folder + "/model.safetensors"));
  part.config.schedule.max_steps = 24;
  part.resume = true;
  ASSERT_THAT(hm11::Run(part), IsOk());
  EXPECT_EQ(ReadCheckpoint(part.folder + "/checkpoint.safetensors")->position.step, 24);
  for (const char* file : {"/model.safetensors", "/artifact.hm11"}) {
    EXPECT_EQ(*ReadFile(whole.folder + file), *ReadFile(part.folder + file)) << file;
  }
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
      // Harmless only where JSON does not care: white space, or the order of nothing.
      EXPECT_EQ(read->config, ReadCheckpoint(path)->config) << "byte " << at;
    } else {
      EXPECT_THAT(std::string(read.status().message()), testing::HasSubstr("damaged.safetensors"))
          << "byte " << at;
    }
  }
  ASSERT_THAT(WriteFile(damaged_path, bytes.substr(0, bytes.size() / 2)), IsOk());
  EXPECT_FALSE(ReadCheckpoint(damaged_path).ok());
  ASSERT_THAT(WriteFile(damaged_path, ""), IsOk());
  EXPECT_FALSE(ReadCheckpoint(damaged_path).ok());
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
  options.config.model.heads = 3;
  refused(options, "heads=3");
  options = Options("bad");
  options.folder = "/proc/hm11";
  refused(options, "/proc/hm11");
  options = Options("bad");
  options.resume = true;
  options.folder = *folder_ + "/never_run";
  refused(options, "checkpoint.safetensors");
}

TEST_F(RunTest, ALossThatIsNotANumberStopsTheRunWithItsStep) {
  RunOptions options = Options("diverges");
  options.config.optimizer.control_lr = 1e30;
  options.config.optimizer.embedding_lr = 1e30;
  const absl::Status status = hm11::Run(options);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("not a number at step"));
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("last good checkpoint"));
}

}  // namespace
}  // namespace hm11
