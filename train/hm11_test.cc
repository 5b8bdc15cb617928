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

class Hm11Test : public testing::Test {
 protected:
  void SetUp() override { folder_ = NewSmallDataFolder("hm11_main"); }

  // Starts the program on the small data; standard output and errors go to files, or output to `output`.
  pid_t Start(const std::string& settings, const std::vector<std::string>& more = {}, int output = -1) {
    std::vector<std::string> words = {"train/hm11", "--device=cpu", "--preset=tiny",
                                      absl::StrCat("--set=", kSmall, ",", settings), "--out=" + Path("run")};
    if (more.empty() || more[0] != "--resume") words.push_back("--data=" + folder_);
    words.insert(words.end(), more.begin(), more.end());
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    const std::string errors = Path("errors"), printed = Path("output");
    const pid_t child = fork();
    if (child == 0) {
      dup2(open(errors.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600), STDERR_FILENO);
      dup2(output >= 0 ? output : open(printed.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600), STDOUT_FILENO);
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
  const pid_t child = Start("max_steps=1000000,seed=5", {"--resume", "--resume_anyway"});
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
  const pid_t child = Start("max_steps=12", {}, ends[1]);
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

}  // namespace
}  // namespace hm11
