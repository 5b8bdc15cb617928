// The program itself: its exit codes, signals, an output that ends early, and what a run that goes on is
// told.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/file.h"
#include "testing/matchers.h"
#include "train/checkpoint.h"
#include "train/run_test_data.h"

namespace hm11 {
namespace {

using testing::HasSubstr;

constexpr const char* kSmall =
    "layers=MA,vocab=300,dim=32,heads=2,kv_heads=1,mlp_width=48,state=4,dt_rank=4,bigram_rows=64,bigram_dim="
    "8,"
    "value_embedding_dim=8,rope_dims=8,sequence=32,batch_tokens=256,micro_batch_tokens=128,log_every=8,"
    "time_limit_seconds=0,warmup_steps=2,validation_seconds=0,checkpoint_seconds=0,calibration_tokens=0,"
    "calibration_gradient_tokens=0,sample_tokens=0";

// Where what the program prints goes; -1: to files.
struct Ends {
  int output = -1, errors = -1;
};

class Hm11Test : public testing::Test {
 protected:
  void SetUp() override { folder_ = NewSmallDataFolder("hm11_main"); }

  // Starts the program on the small data.
  pid_t Start(const std::string& settings, const std::vector<std::string>& more = {}, Ends ends = {}) {
    std::vector<std::string> words = {"--preset=tiny", absl::StrCat("--set=", kSmall, ",", settings),
                                      "--out=" + Path("run")};
    if (more.empty() || more[0] != "--resume") words.push_back("--data=" + folder_);
    words.insert(words.end(), more.begin(), more.end());
    return StartWith(words, ends);
  }
  pid_t StartWith(std::vector<std::string> words, Ends ends = {}) {
    words.insert(words.begin(), {"train/hm11", "--device=cpu"});
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    const std::string errors = Path("errors"), printed = Path("output");
    const auto new_file = [](const std::string& path) {
      return open(path.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
    };
    const pid_t child = fork();
    if (child == 0) {
      setenv("BUILD_WORKING_DIRECTORY", folder_.c_str(), 1);  // where its relative paths begin
      dup2(ends.errors >= 0 ? ends.errors : new_file(errors), STDERR_FILENO);
      dup2(ends.output >= 0 ? ends.output : new_file(printed), STDOUT_FILENO);
      execv("train/hm11", pointers.data());
      _exit(127);
    }
    return child;
  }
  static int ExitOf(pid_t child) {
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  void WaitFor(const std::string& words) {
    for (int i = 0; i < 6000; ++i) {
      if (ReadFile(Path("run/train.log")).value_or("").find(words) != std::string::npos) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    ADD_FAILURE() << "no '" << words << "' in the log: " << Errors();
  }
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  std::string Errors() const { return ReadFile(Path("errors")).value_or(""); }

  std::string folder_;
};

TEST_F(Hm11Test, ASignalEndsTheRunWithACheckpointAndAShellsCode) {
  for (const auto& [number, code] : {std::pair(SIGINT, 130), std::pair(SIGTERM, 143)}) {
    unlink(Path("run/train.log").c_str());  // of the run before, which is not to be waited for
    const pid_t child = Start("max_steps=1000000", {"--overwrite"});
    WaitFor("step:3/");
    kill(child, number);
    EXPECT_EQ(ExitOf(child), code);
    EXPECT_THAT(Errors(), HasSubstr("interrupted; go on with --resume --out=" + Path("run")));
    EXPECT_GE(ReadCheckpoint(Path("run/checkpoint.safetensors"))->position.step, 3);
  }
  // Going on needs no more than the folder, and what makes another run is refused by name.
  EXPECT_EQ(ExitOf(Start("max_steps=1000000,seed=5", {"--resume"})), 1);
  EXPECT_THAT(Errors(), HasSubstr("seed: 1337 -> 5; leave these out, or add --resume_anyway"));
  pid_t child = StartWith({"--resume", "--out=" + Path("run")});
  WaitFor("resumed: step:");
  kill(child, SIGTERM);
  EXPECT_EQ(ExitOf(child), 143) << Errors();
  child = Start("max_steps=1000000,seed=5", {"--resume", "--resume_anyway"});
  WaitFor("resumed_anyway: seed: 1337 -> 5");
  kill(child, SIGTERM);
  EXPECT_EQ(ExitOf(child), 143);
}

TEST_F(Hm11Test, ASecondSignalEndsAtOnce) {
  const pid_t child = Start("max_steps=1000000,warmup_steps=1000000");
  WaitFor("memory:");
  kill(child, SIGSTOP);  // so that both are there before the first is answered
  kill(child, SIGINT);
  kill(child, SIGTERM);
  kill(child, SIGCONT);
  const int code = ExitOf(child);
  EXPECT_TRUE(code == 130 || code == 143) << code;
  EXPECT_FALSE(FileExists(Path("run/checkpoint.safetensors")));
}

TEST_F(Hm11Test, AnOutputThatEndsDoesNotEndTheRun) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const pid_t child = Start("max_steps=12", {}, {.output = ends[1]});
  close(ends[1]);
  char some[100];
  ASSERT_GT(read(ends[0], some, sizeof(some)), 0);
  close(ends[0]);
  EXPECT_EQ(ExitOf(child), 0) << Errors();
  EXPECT_THAT(Errors(), HasSubstr("standard output failed (Broken pipe)"));
  EXPECT_THAT(*ReadFile(Path("run/train.log")), HasSubstr("final_int6_roundtrip_exact"));
}

TEST_F(Hm11Test, AStepThatIsLongerThanTheLimitIsToldBeforeTheRun) {
  EXPECT_EQ(ExitOf(Start("time_limit_seconds=0.00001")), 1);
  EXPECT_THAT(Errors(), HasSubstr("longer than time_limit_seconds=1e-05"));
  EXPECT_THAT(*ReadFile(Path("run/train.log")), testing::Not(HasSubstr("step:")));
}

TEST_F(Hm11Test, TheWarmUpKeepsToItsShareOfTheLimit) {
  EXPECT_EQ(ExitOf(Start("time_limit_seconds=1,max_steps=1000000,warmup_steps=1000000")), 0) << Errors();
  const std::string log = *ReadFile(Path("run/train.log"));
  EXPECT_THAT(log, testing::ContainsRegex("\nwarmup_step:[0-9]{1,6}/1000000 "));
  EXPECT_THAT(log, HasSubstr("stopping_early: wallclock_cap"));
}

TEST_F(Hm11Test, RunsThatStartTogetherHaveFoldersOfTheirOwnAndTheVocabularyOfTheirText) {
  const std::string small = absl::StrReplaceAll(kSmall, {{"vocab=300,", ""}});
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i) {
    children.push_back(
        StartWith({"--preset=tiny", absl::StrCat("--set=max_steps=2,", small), "--data=" + folder_}));
  }
  for (const pid_t child : children) EXPECT_EQ(ExitOf(child), 0) << Errors();
  const absl::StatusOr<std::vector<std::string>> logs = Glob(Path("runs/*/train.log"));
  ASSERT_THAT(logs, IsOk());
  EXPECT_EQ(logs->size(), 3u);
  for (const std::string& log : *logs) {
    EXPECT_THAT(*ReadFile(log), HasSubstr("vocab=300\n"));
    EXPECT_THAT(*ReadFile(log), HasSubstr("final_int6_roundtrip_exact"));
  }
}

TEST_F(Hm11Test, ATerminalIsToldALossOnlyOnceThereIsOne) {
  const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (terminal < 0) GTEST_SKIP() << "no pseudo-terminals here";
  ASSERT_EQ(grantpt(terminal), 0);
  ASSERT_EQ(unlockpt(terminal), 0);
  const int errors = open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
  ASSERT_GE(errors, 0);
  const pid_t child = Start("max_steps=24", {}, {.errors = errors});
  close(errors);
  std::string shown;
  char some[4096];
  // Ends when nobody can write to it any more.
  for (ssize_t count; (count = read(terminal, some, sizeof(some))) > 0;)
    shown.append(some, static_cast<size_t>(count));
  close(terminal);
  EXPECT_EQ(ExitOf(child), 0) << shown;
  EXPECT_THAT(shown, HasSubstr("warming up: step 1 of 2"));
  EXPECT_THAT(shown, HasSubstr("  step 1  "));
  EXPECT_THAT(shown, testing::ContainsRegex("  step 24  loss [1-9]"));
  EXPECT_THAT(shown, testing::Not(HasSubstr("loss 0.000")));
}

}  // namespace
}  // namespace hm11
