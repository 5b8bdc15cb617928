// The mains called wrongly: one line that names the flag or file, an exit code of an error, nothing written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/file.h"
#include "testing/matchers.h"
#include "tools/child_program.h"

namespace hm11 {
namespace {

struct BadCall {
  std::vector<std::string> command;
  std::string names;  // what the line must name
};

std::string Out() { return testing::TempDir() + "/bad_calls_out"; }

void ExpectOneLine(const BadCall& call, int exit_code) {
  const std::string shown = absl::StrJoin(call.command, " ");
  const auto ended = RunToItsEnd(call.command);
  ASSERT_THAT(ended, IsOk()) << shown;
  EXPECT_EQ(ended->exit_code, exit_code) << shown;
  EXPECT_THAT(ended->output, testing::AnyOf(testing::StartsWith("error: "), testing::StartsWith("ERROR: ")))
      << shown;
  EXPECT_EQ(std::count(ended->output.begin(), ended->output.end(), '\n'), 1)
      << shown << ": " << ended->output;
  EXPECT_THAT(ended->output, testing::HasSubstr(call.names)) << shown;
  EXPECT_FALSE(std::filesystem::exists(Out())) << shown;
}

TEST(BadCallsTest, TheTrainersAreOneLine) {
  const auto call = [](std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"train/hm11", "--device=cpu"});
    return flags;
  };
  const std::string out = "--out=" + Out();
  const std::vector<BadCall> calls = {
      {call({"--preset=big", out}), "unknown preset 'big'"},
      {call({"--set=foo=3", out}), "unknown setting 'foo'"},
      {call({"--set=dim=many", out}), "'many'"},
      {call({"--set=heads=3", out}), "heads=3"},
      {call({"--seed=-2", out}), "--seed=-2"},
      {call({"--data=no/such_train_*.bin", "--tokenizer=none.model", out}), "none.model"},
      {call({"--device=tpu", out}), "'tpu'"},
      {call({"stray", out}), "'stray'"},
      {call({"--rank_timeout=nan", out}), "--rank_timeout=nan"},
      {call({"--rank_timeout=inf", out}), "--rank_timeout=inf"},
      {call({"--resume"}), "--out"},
      {call({"--overwrite"}), "--out"},
      {call({"--resume", "--overwrite", out}), "--resume excludes --overwrite"},
      {call({"--resume", out}), absl::StrCat("nothing to resume in ", Out())},
  };
  for (const BadCall& bad : calls) ExpectOneLine(bad, 1);
  const std::string begun = testing::TempDir() + "/begun";
  ASSERT_THAT(MakeFolders(begun), IsOk());
  ASSERT_THAT(WriteFile(begun + "/config.txt", "preset=tiny\n"), IsOk());
  ExpectOneLine({call({"--resume", "--preset=hm11", "--out=" + begun}), "--preset=hm11"}, 1);
}

TEST(BadCallsTest, TheScorersAreOneLine) {
  const std::vector<std::string> whole = {"--artifact=none.hm11", "--tokenizer=none.model",
                                          "--data=none_*.bin"};
  const auto call = [&](const std::string& program, const std::vector<std::string>& more) {
    std::vector<std::string> command = {program};
    command.insert(command.end(), whole.begin(), whole.end());
    command.insert(command.end(), more.begin(), more.end());
    return command;
  };
  ExpectOneLine({{"eval/evaluate"}, "--artifact"}, 1);
  ExpectOneLine({call("eval/evaluate", {}), "none.hm11"}, 1);
  ExpectOneLine({call("eval/evaluate", {"--mode=fast"}), "'fast'"}, 1);
  // A pattern that the shell has expanded: all files but the first would else be left out unsaid.
  ExpectOneLine({call("eval/evaluate", {"none_1.bin"}), "'none_1.bin'"}, 1);
  ExpectOneLine({call("eval/audit", {"none_1.bin"}), "'none_1.bin'"}, 2);
  ExpectOneLine({{"eval/evaluate", "--run=no_run"}, "no_run"}, 1);
  ExpectOneLine({{"eval/audit", "--run=no_run"}, "no_run"}, 2);
  ExpectOneLine({{"eval/generate"}, "--run"}, 1);
  ExpectOneLine({{"eval/generate", "--run=no_run"}, "no_run"}, 1);
  ExpectOneLine({{"eval/generate", "--run=no_run", "--tokens=0"}, "--tokens=0"}, 1);
  ExpectOneLine({{"eval/generate", "--run=no_run", "--top_p=2"}, "top_p=2"}, 1);
  ExpectOneLine({{"eval/generate", "--artifact=none.hm11", "--tokenizer=none.model"}, "none.hm11"}, 1);
}

TEST(BadCallsTest, DataPreparationsAreOneLine) {
  const std::string out = "--out=" + Out();
  const std::vector<BadCall> calls = {
      {{"tools/prepare_data"}, "--input"},
      {{"tools/prepare_data", "--input=none_*.txt", out}, "none_*.txt"},
      {{"tools/prepare_data", "--input=/proc/self/status", out, "--document=page"}, "--document=page"},
      {{"tools/prepare_data", "--input=/proc/self/status", out, "--vocab_size=0"}, "--vocab_size=0"},
      {{"tools/prepare_data", "--input=/proc/self/status", out, "--threads=-1"}, "--threads=-1"},
      {{"tools/prepare_data", "--input=/proc/self/status", out, "--val_documents=-1"}, "--val_documents=-1"},
  };
  for (const BadCall& bad : calls) ExpectOneLine(bad, 1);
}

TEST(BadCallsTest, ThePackagersAreOneLine) {
  ExpectOneLine({{"tools/submission/submission"}, "--name"}, 1);
  ExpectOneLine({{"tools/submission/submission", "--name=a", "--author=b", "--github_id=c"}, "--run"}, 1);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Sanitizers reserve terabytes themselves.
TEST(BadCallsTest, AProgramWithLittleAddressSpaceEnds) {
  int begun = 0;
  for (int64_t kilobytes = 60000; kilobytes < 4000000; kilobytes += kilobytes / 8) {
    const auto ended =
        RunToItsEnd({"/bin/sh", "-c",
                     absl::StrCat("ulimit -v ", kilobytes,
                                  "; exec timeout -s KILL 20 train/hm11 --device=cpu --preset=big")});
    ASSERT_THAT(ended, IsOk());
    EXPECT_NE(ended->exit_code, 137) << kilobytes << " KB: it had to be ended";
    // Less than its libraries take is the loader's to tell.
    if (absl::StrContains(ended->output, "error while loading shared libraries")) continue;
    ++begun;
    EXPECT_EQ(ended->exit_code, 1) << kilobytes << " KB: " << ended->output;
    EXPECT_THAT(ended->output, testing::HasSubstr("unknown preset 'big'"));
  }
  EXPECT_GE(begun, 5);
}
#endif

TEST(BadCallsTest, EveryProgramTellsTheCommitItWasBuiltFrom) {
  for (const char* program :
       {"train/hm11", "eval/evaluate", "eval/audit", "tools/prepare_data", "tools/submission/submission"}) {
    const auto ended = RunToItsEnd({program, "--version"});
    ASSERT_THAT(ended, IsOk()) << program;
    EXPECT_EQ(ended->exit_code, 0) << program;
    EXPECT_THAT(ended->output, testing::MatchesRegex("hm11, commit (unknown|[0-9a-f]{12}[+]?)\n")) << program;
  }
}

}  // namespace
}  // namespace hm11
