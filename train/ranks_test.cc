// The main job on several ranks, as real processes on the CPU: the same model as one rank's, the same bits
// again, checkpoints that do not know how many ranks wrote them, deaths, and bad input by name.
#include "core/ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/file.h"
#include "core/rank_group.h"
#include "data/shard.h"
#include "data/token_stream.h"
#include "model/safetensors.h"
#include "testing/devices.h"
#include "testing/matchers.h"
#include "testing/rank_processes.h"
#include "train/checkpoint.h"
#include "train/rank_agreement.h"
#include "train/run.h"
#include "train/run_test_data.h"

namespace hm11 {
namespace {

using testing::HasSubstr;

volatile std::sig_atomic_t interrupted = 0;

// What each rank does: the run that the variables describe. Settings may differ for one rank.
TEST(RankBody, DISABLED_Trains) {
  const Ranks ranks = *RanksFromProcess();
  const auto variable = [](const std::string& name) -> std::string {
    const char* value = getenv(name.c_str());
    return value == nullptr ? "" : value;
  };
  const absl::StatusOr<std::shared_ptr<RankGroup>> group =
      RankGroup::Join(ranks, 20, [] { return interrupted != 0 ? 130 : 1; });
  ASSERT_THAT(group, IsOk());
  signal(SIGINT, [](int) { interrupted = 1; });
  RunOptions options = SmallRun(variable("DATA_FOLDER"), variable("RUN_NAME"));
  options.group = *group;
  options.use = variable("RESUME").empty() ? FolderUse::kNewRun : FolderUse::kResume;
  options.resume_anyway = options.resumes();  // with other limits, so that a run has a middle
  options.interrupted = [group = *group] { return group->BadCode() != 1; };
  for (const auto& [what, path] :
       {std::pair("TRAIN", &options.train_pattern), std::pair("VAL", &options.val_pattern),
        std::pair("TOKENIZER", &options.tokenizer_path)}) {
    const std::string own = variable(absl::StrCat(what, "_OF_", ranks.rank));
    if (!own.empty()) *path = own;
  }
  const std::string settings =
      absl::StrCat("batch_tokens=768,micro_batch_tokens=32,max_steps=20,log_every=1000,",
                   variable("SETTINGS"), variable(absl::StrCat("SETTINGS_OF_", ranks.rank)));
  ASSERT_THAT(ApplyOverrides(settings, &options.config), IsOk());
  std::_Exit((*group)->Finish(hm11::Run(options)));
}

TEST(StreamFingerprintTest, EveryTokenOfAShortTextCounts) {
  const std::string path = testing::TempDir() + "/fingerprint_000000.bin";
  const auto fingerprint = [&](const std::vector<uint16_t>& tokens) {
    EXPECT_THAT(WriteShard(path, tokens), IsOk());
    return StreamFingerprint(*TokenStream::Open(path, 300));
  };
  for (const size_t size : {2, 300, 64 * 256 + 5, 3'000'000}) {
    std::vector<uint16_t> tokens(size, 7);
    const std::string before = fingerprint(tokens);
    for (const size_t place : {size_t{0}, size / 2, size - 1}) {
      tokens[place] = 8;
      EXPECT_NE(fingerprint(tokens), before) << place << " of " << size;
      tokens[place] = 7;
    }
    EXPECT_EQ(fingerprint(tokens), before);
  }
}

class RanksTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { folder_ = new std::string(NewSmallDataFolder("hm11_ranks")); }
  static void TearDownTestSuite() { delete folder_; }

  using Variables = std::vector<std::pair<std::string, std::string>>;
  static Variables For(const std::string& name, Variables more = {}) {
    more.insert(more.end(), {{"DATA_FOLDER", *folder_}, {"RUN_NAME", name}, {"OPENBLAS_NUM_THREADS", "1"}});
    return more;
  }
  static std::string Folder(const std::string& name) { return *folder_ + "/" + name; }
  static void Train(int ranks, const std::string& name, const Variables& more = {}) {
    ASSERT_TRUE(RankProcesses("RankBody.DISABLED_Trains", ranks, For(name, more)).AllPass());
  }
  static std::string File(const std::string& name, const std::string& file) {
    return ReadFile(Folder(name) + "/" + file).value_or("");
  }
  static double Logged(const std::string& name, const std::string& key) {
    const std::string log = File(name, "train.log");
    const size_t at = log.rfind(key);
    EXPECT_NE(at, std::string::npos) << key;
    return at == std::string::npos ? NAN : std::stod(log.substr(at + key.size()));
  }
  // |a - b| / |a| over all weights.
  static double WeightsDiffer(const std::string& a, const std::string& b) {
    const Safetensors one = *ReadSafetensors(Folder(a) + "/model.safetensors"),
                      other = *ReadSafetensors(Folder(b) + "/model.safetensors");
    double difference = 0, norm = 0;
    for (size_t t = 0; t < one.tensors.size(); ++t) {
      for (size_t i = 0; i < one.tensors[t].values.size(); ++i) {
        const double x = one.tensors[t].values[i], y = other.tensors[t].values[i];
        difference += (x - y) * (x - y);
        norm += x * x;
      }
    }
    return std::sqrt(difference / norm);
  }

  // Training loss and gradient norm of every step.
  static HostTensor<float> Steps(const std::string& name) {
    HostTensor<float> steps;
    const std::vector<std::string> lines =
        absl::StrSplit(File(name, "metrics.jsonl"), '\n', absl::SkipEmpty());
    for (const std::string& line : lines) {
      const nlohmann::json metrics = nlohmann::json::parse(line);
      if (!metrics.contains("train_loss")) continue;
      for (const char* key : {"train_loss", "gradient_norm"}) steps.values.push_back(metrics.at(key));
    }
    steps.shape = {static_cast<int64_t>(steps.values.size())};
    return steps;
  }

  static std::string* folder_;
};

std::string* RanksTest::folder_ = nullptr;

TEST_F(RanksTest, RanksTrainWhatOneRankOfAsManyMicroBatchesDoes) {
  // Inputs are hidden too: who holds them makes no difference. The text is read more than once.
  const Variables settings = {{"SETTINGS", "input_mask=0.1,validation_seconds=1e-9,max_steps=20,"}};
  Train(1, "one", settings);
  const double loss = Logged("one", "final_int8_zlib_roundtrip_exact val_loss:");
  const double before = Logged("one", "step:20/20 val_loss:");
  for (const int ranks : {2, 3, 4, 8}) {
    const std::string name = absl::StrCat("ranks", ranks);
    Train(ranks, name, settings);
    EXPECT_LT(WeightsDiffer("one", name), 1e-5) << ranks;
    EXPECT_EQ(Steps(name).size(), 40);
    EXPECT_THAT(Steps(name), IsNear(Steps("one"), 1e-5)) << ranks;
    EXPECT_NEAR(Logged(name, "step:20/20 val_loss:"), before, 1e-4);
    EXPECT_NEAR(Logged(name, "final_int8_zlib_roundtrip_exact val_loss:"), loss, 2e-3 * loss);
    EXPECT_THAT(File(name, "train.log"),
                HasSubstr(absl::StrCat("world_size:", ranks, " grad_accum_steps:", 24 / ranks)));
  }
}

TEST_F(RanksTest, TwiceTheSameBits) {
  Train(3, "once");
  Train(3, "twice");
  for (const char* file : {"model.safetensors", "artifact.hm11"}) {
    EXPECT_EQ(File("once", file), File("twice", file)) << file;
  }
}

TEST_F(RanksTest, ScoresDoNotDependOnTheNumberOfRanks) {
  // No step: the same weights, exactly.
  const Variables none = {{"SETTINGS", "max_steps=1,muon_lr=0,embedding_lr=0,control_lr=0,head_lr=0,"}};
  Train(1, "score_of_one", none);
  Train(3, "score_of_three", none);
  const std::string key = "final_int8_zlib_roundtrip_exact val_loss:", bpb = " val_bpb:";
  EXPECT_EQ(WeightsDiffer("score_of_one", "score_of_three"), 0);
  EXPECT_NEAR(Logged("score_of_one", "step:1/1 val_loss:"), Logged("score_of_three", "step:1/1 val_loss:"),
              1e-4);
  // Second moments are added up in another order, which the artifact may show; its score hardly.
  EXPECT_NEAR(Logged("score_of_one", key), Logged("score_of_three", key), 1e-4);
}

TEST_F(RanksTest, ACheckpointOfTwoRanksIsGoneOnWithByOneAndByThree) {
  const char* const constant = "warmup_fraction=0,warmdown_fraction=0,momentum_warmup_fraction=0,";
  Train(1, "whole", {{"SETTINGS", constant}});
  for (const int ranks : {1, 3}) {
    const std::string name = absl::StrCat("begun_by_two_ended_by_", ranks);
    Train(2, name, {{"SETTINGS", absl::StrCat(constant, "max_steps=10,")}});
    Train(ranks, name, {{"SETTINGS", constant}, {"RESUME", "1"}});
    EXPECT_EQ(ReadCheckpoint(Folder(name) + "/checkpoint.safetensors")->position.step, 20);
    EXPECT_LT(WeightsDiffer("whole", name), 1e-5) << ranks;
  }
}

void WaitForSteps(const std::string& folder) {
  for (int i = 0; i < 6000; ++i) {
    if (ReadFile(folder + "/train.log").value_or("").find("step:5/") != std::string::npos) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ADD_FAILURE() << "no step in " << folder;
}

TEST_F(RanksTest, AKilledRankEndsTheOtherAndTheFolderGoesOn) {
  for (const int victim : {0, 1}) {
    const std::string name = absl::StrCat("killed_", victim);
    RankProcesses ranks("RankBody.DISABLED_Trains", 2,
                        For(name, {{"SETTINGS", "max_steps=1000000,checkpoint_seconds=0.05,"}}));
    WaitForSteps(Folder(name));
    while (!FileExists(Folder(name) + "/checkpoint.safetensors")) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    kill(ranks.pid(victim), SIGKILL);
    EXPECT_EQ(ranks.ExitOf(1 - victim, 30), 1);
    EXPECT_THAT(ranks.ErrorsOf(1 - victim), HasSubstr(absl::StrCat("error: rank ", victim, " on ")));
    const int64_t step = ReadCheckpoint(Folder(name) + "/checkpoint.safetensors")->position.step;
    Train(2, name, {{"SETTINGS", absl::StrCat("max_steps=", step + 2, ",")}, {"RESUME", "1"}});
  }
}

// Whichever ranks the signal reaches: a terminal's reaches all, a scheduler's may reach those of one host.
TEST_F(RanksTest, AnInterruptStopsAllWithACheckpoint) {
  for (const std::vector<int>& reached : {std::vector<int>{0, 1}, {0}, {1}}) {
    const std::string name = absl::StrCat("interrupted_", absl::StrJoin(reached, "_"));
    RankProcesses ranks("RankBody.DISABLED_Trains", 2, For(name, {{"SETTINGS", "max_steps=1000000,"}}));
    WaitForSteps(Folder(name));
    for (const int rank : reached) kill(ranks.pid(rank), SIGINT);
    for (const int rank : {0, 1}) EXPECT_EQ(ranks.ExitOf(rank, 30), 130) << name;
    const std::string errors = ranks.ErrorsOf(0) + ranks.ErrorsOf(1);
    EXPECT_THAT(errors, HasSubstr("interrupted; go on with --resume"));
    EXPECT_EQ(errors.find("error:"), errors.rfind("error:")) << errors;
    const absl::StatusOr<Checkpoint> checkpoint = ReadCheckpoint(Folder(name) + "/checkpoint.safetensors");
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status() << "\n" << errors << File(name, "train.log");
    EXPECT_GT(checkpoint->position.step, 0);
  }
}

TEST_F(RanksTest, BadInputIsNamedOnce) {
  const auto refused = [](int count, const Variables& more, const std::string& message,
                          const std::string& name = "refused") {
    RankProcesses ranks("RankBody.DISABLED_Trains", count, For(name, more));
    std::string errors;
    for (int rank = 0; rank < count; ++rank) {
      EXPECT_EQ(ranks.ExitOf(rank, 30), 1) << message;
      errors += ranks.ErrorsOf(rank);
    }
    EXPECT_THAT(errors, HasSubstr(message));
    EXPECT_EQ(errors.find("error:"), errors.rfind("error:")) << errors;
  };
  refused(2, {{"SETTINGS_OF_1", "muon_lr=0.5,"}}, "has muon_lr=0.5, rank 0 has muon_lr=");
  refused(2, {{"SETTINGS", "micro_batch_tokens=768,"}},
          "batch_tokens=768: 2 ranks take a multiple of 1536 (a micro-batch each), the nearest is 1536");
  // A token of the text, and a tokenizer that is the same but for a field that says nothing.
  for (const auto& [split, name] :
       {std::pair("train", "training data"), std::pair("val", "validation data")}) {
    const TokenStream stream = *TokenStream::Open(absl::StrCat(*folder_, "/t_", split, "_*.bin"), 300);
    std::vector<uint16_t> tokens = stream.Read(0, stream.size());
    tokens[tokens.size() / 2] ^= 1;
    const std::string other = absl::StrCat(*folder_, "/other_", split, ".bin");
    ASSERT_THAT(WriteShard(other, tokens), IsOk());
    refused(2, {{split == std::string("val") ? "VAL_OF_1" : "TRAIN_OF_1", other}},
            absl::StrCat(" has ", name, "=", stream.size(), " tokens, "));
  }
  const std::string model = *ReadFile(*folder_ + "/tokenizer.model"), other = *folder_ + "/other_tokenizer";
  ASSERT_THAT(WriteFile(other, absl::StrCat(model, absl::string_view("\xfa\x7f\0", 3))), IsOk());
  refused(2, {{"TOKENIZER_OF_1", other}}, " has tokenizer=");
  EXPECT_FALSE(FileExists(Folder("refused"))) << "nothing is begun";
  // What only rank 0 sees, when the ranks are connected or about to be.
  Train(1, "held", {{"SETTINGS", "max_steps=1,"}});
  refused(3, {}, "--overwrite", "held");
}

}  // namespace
}  // namespace hm11
