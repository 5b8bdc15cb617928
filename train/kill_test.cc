// A run that is killed at random moments, also while it saves, and resumed each time, ends as one that was
// not: weights, artifact and metrics are the same to the bit.
//
// RC_PARAMS=max_success=N kills N / 5 times.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/file.h"
#include "testing/matchers.h"
#include "testing/rank_processes.h"
#include "train/run.h"
#include "train/run_test_data.h"

namespace hm11 {
namespace {

// So many kinds of state that a run has to take up again.
constexpr const char* kSettings[] = {
    "swa_every=2,swa_lr_scale=0.9",
    "lawa_snapshots=3,lawa_every=2,sequence_stages=16:0.4",
    "average_decay=0.8,export_average=true,input_mask=0.2,shuffle=true",
    "time_limit_seconds=2.2,max_steps=1000,swa_every=3,swa_lr_scale=0.7",
    "micro_batch_tokens=64,calibration_seconds=0.5,time_limit_seconds=2.5,average_decay=0.9",
};

std::string Variable(const std::string& name) {
  const char* value = getenv(name.c_str());
  return value == nullptr ? "" : value;
}

// What the processes do that get killed: a tenth of a second of training a step, whatever the clock says.
TEST(KillBody, DISABLED_Trains) {
  RunOptions options = SmallRun(Variable("DATA_FOLDER"), Variable("RUN_NAME"));
  ASSERT_THAT(
      ApplyOverrides(absl::StrCat("log_every=3,warmup_steps=1,checkpoint_seconds=0.1,validation_seconds=0.7,",
                                  Variable("SETTINGS")),
                     &options.config),
      IsOk());
  options.use = Variable("USE") == "resume" ? FolderUse::kResume : FolderUse::kOverwrite;
  options.training_seconds = [](int64_t steps) { return 0.1 * static_cast<double>(steps); };
  const absl::Status status = hm11::Run(options);
  if (!status.ok()) std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  std::_Exit(status.ok() ? 0 : 1);
}

class KillTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { folder_ = new std::string(NewSmallDataFolder("hm11_kill")); }
  static void TearDownTestSuite() { delete folder_; }

  static std::string Path(const std::string& run, const std::string& file) {
    return absl::StrCat(*folder_, "/", run, "/", file);
  }
  static RankProcesses Start(const std::string& run, const std::string& settings) {
    const bool begun = FileExists(Path(run, "checkpoint.safetensors"));
    return RankProcesses("KillBody.DISABLED_Trains", 1,
                         {{"DATA_FOLDER", *folder_},
                          {"RUN_NAME", run},
                          {"SETTINGS", settings},
                          {"USE", begun ? "resume" : "overwrite"},
                          {"OPENBLAS_NUM_THREADS", "1"}});
  }
  // Metrics but for what a clock says, and which process said it.
  static std::vector<std::string> Metrics(const std::string& run) {
    std::vector<std::string> metrics;
    const std::string text = *ReadFile(Path(run, "metrics.jsonl"));
    for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      nlohmann::json numbers = nlohmann::json::parse(line);
      if (numbers.contains("schema") || numbers.contains("stage")) continue;
      for (const char* clock : {"train_seconds", "tokens_per_second"}) numbers.erase(clock);
      metrics.push_back(numbers.dump());
    }
    return metrics;
  }

  static std::string* folder_;
};

std::string* KillTest::folder_ = nullptr;

int Kills() {
  const std::string parameters = Variable("RC_PARAMS"), key = "max_success=";
  const size_t at = parameters.find(key);
  return at == std::string::npos ? 10 : std::max(5, std::stoi(parameters.substr(at + key.size())) / 5);
}

TEST_F(KillTest, ARunThatIsKilledAndResumedIsTheSameRun) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  int killed = 0, resumed = 0;
  double seconds = 0;  // that the last whole run took
  for (int turn = 0; killed < Kills(); ++turn) {
    const size_t kind = static_cast<size_t>(turn) % std::size(kSettings);
    const std::string settings = kSettings[kind], whole = absl::StrCat("whole", kind),
                      run = absl::StrCat("killed", turn);
    SCOPED_TRACE(settings);
    if (!FileExists(Path(whole, "artifact.hm11"))) {
      const auto begin = std::chrono::steady_clock::now();
      ASSERT_TRUE(Start(whole, settings).AllPass());
      seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    }
    for (int kill_in_run = 0; kill_in_run < 2; ++kill_in_run) {
      RankProcesses process = Start(run, settings);
      resumed += FileExists(Path(run, "checkpoint.safetensors"));
      const double wait = seconds * std::uniform_real_distribution<double>(0.05, 1)(random);
      if (process.ExitOf(0, wait) == 0) break;
      kill(process.pid(0), SIGKILL);
      ++killed;
    }
    ASSERT_TRUE(Start(run, settings).AllPass());
    for (const char* file : {"model.safetensors", "artifact.hm11"}) {
      EXPECT_TRUE(*ReadFile(Path(run, file)) == *ReadFile(Path(whole, file))) << run << "/" << file;
    }
    EXPECT_EQ(Metrics(run), Metrics(whole));
    for (const auto& entry : std::filesystem::directory_iterator(Path(run, ""))) {
      EXPECT_THAT(entry.path().filename().string(), testing::Not(testing::HasSubstr(".writing.")));
    }
  }
  EXPECT_GT(resumed, 0);
}

}  // namespace
}  // namespace hm11
