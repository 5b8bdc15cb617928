// What evaluate and audit say of text: every target is scored or told to be left out, the bytes are the text's own,
// and of nothing there is no score.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "data/shard.h"
#include "data/token_stream.h"
#include "data/tokenizer.h"
#include "testing/matchers.h"
#include "tools/child_program.h"
#include "train/run.h"
#include "train/run_test_data.h"

namespace hm11 {
namespace {

using testing::HasSubstr;

class ScoredTextTest : public testing::Test {
 protected:
  // A run with windows of 32 tokens, made once for all tests.
  static void SetUpTestSuite() {
    folder_ = new std::string(NewSmallDataFolder("hm11_scored"));
    ASSERT_THAT(hm11::Run(SmallRun(*folder_, "run")), IsOk());
    tokens_ = new std::vector<uint16_t>(TokenStream::Open(*folder_ + "/t_val_*.bin", 300)->Read(0, 2000));
  }
  static void TearDownTestSuite() {
    delete folder_;
    delete tokens_;
  }

  // A folder of prepared data that holds this validation text.
  static std::string Text(const std::string& name, std::span<const uint16_t> tokens) {
    const std::string folder = *folder_ + "/" + name;
    EXPECT_THAT(MakeFolders(folder), IsOk());
    EXPECT_THAT(WriteShard(folder + "/text_val_000000.bin", tokens), IsOk());
    return folder;
  }
  static EndedProgram Call(const std::string& program, const std::string& text,
                           const std::vector<std::string>& more) {
    std::vector<std::string> command = {program, "--device=cpu", "--run=" + *folder_ + "/run",
                                        "--data=" + text};
    command.insert(command.end(), more.begin(), more.end());
    const absl::StatusOr<EndedProgram> ended = RunToItsEnd(command);
    EXPECT_THAT(ended, IsOk());
    return ended.ok() ? *ended : EndedProgram{.exit_code = -1};
  }
  static double NumberIn(const EndedProgram& ended, const std::string& key) {
    const size_t at = ended.output.find(key);
    EXPECT_NE(at, std::string::npos) << key << " in " << ended.output;
    return std::strtod(ended.output.c_str() + at + key.size(), nullptr);
  }

  static std::string* folder_;
  static std::vector<uint16_t>* tokens_;
};

std::string* ScoredTextTest::folder_ = nullptr;
std::vector<uint16_t>* ScoredTextTest::tokens_ = nullptr;

TEST_F(ScoredTextTest, EveryTargetIsScoredOrToldToBeLeftOut) {
  const std::string text = Text("whole", *tokens_);
  const EndedProgram plain = Call("eval/evaluate", text, {});
  EXPECT_EQ(plain.exit_code, 0) << plain.output;
  EXPECT_EQ(NumberIn(plain, "tokens:"), 1984);  // 62 windows
  EXPECT_EQ(NumberIn(plain, "unscored:"), 15);
  const EndedProgram sliding = Call("eval/evaluate", text, {"--mode=sliding", "--stride=32"});
  EXPECT_EQ(sliding.exit_code, 0) << sliding.output;
  EXPECT_EQ(NumberIn(sliding, "tokens:"), 1999);
  EXPECT_EQ(NumberIn(sliding, "unscored:"), 0);
  EXPECT_GT(NumberIn(sliding, "val_bpb:"), 0);
}

TEST_F(ScoredTextTest, WhatCannotBePrintedIsAnError) {
  const std::string text = Text("printed", *tokens_);
  for (const auto& [program, code] : {std::pair("eval/evaluate", 1), std::pair("eval/audit", 2)}) {
    const auto ended = RunToItsEnd(
        {"/bin/sh", "-c",
         absl::StrCat(program, " --device=cpu --run=", *folder_, "/run --data=", text, " >/dev/full")});
    ASSERT_THAT(ended, IsOk());
    EXPECT_EQ(ended->exit_code, code) << program << ": " << ended->output;
    EXPECT_THAT(ended->output, HasSubstr("to the standard output")) << program;
  }
}

TEST_F(ScoredTextTest, BytesAreThoseOfTheText) {
  const EndedProgram ended =
      Call("eval/evaluate", Text("bytes", *tokens_), {"--mode=sliding", "--stride=32"});
  const Tokenizer tokenizer = *Tokenizer::Load(*folder_ + "/tokenizer.model");
  size_t bytes = 0;
  for (size_t begin = 0, end = 0; begin < tokens_->size(); begin = end) {
    for (end = begin + 1; end < tokens_->size() && (*tokens_)[end] != kBosToken;) ++end;
    bytes += tokenizer.Decode(std::span(*tokens_).subspan(begin, end - begin)).size();
  }
  EXPECT_EQ(NumberIn(ended, " bytes:"), bytes);
}

TEST_F(ScoredTextTest, DocumentsOfWhichNothingIsLeftHaveNoTokensAByte) {
  ASSERT_THAT(
      WriteFile(*folder_ + "/hollow.jsonl", "{\"text\": \"\\u0001\"}\n{\"text\": \"the cat sees a dog\"}\n"),
      IsOk());
  const absl::StatusOr<EndedProgram> ended =
      RunToItsEnd({"tools/prepare_data", "--input=" + *folder_ + "/hollow.jsonl", "--val_documents=1",
                   "--tokenizer=" + *folder_ + "/tokenizer.model", "--out=" + *folder_ + "/hollow"});
  ASSERT_THAT(ended, IsOk());
  EXPECT_EQ(ended->exit_code, 0) << ended->output;
  EXPECT_THAT(ended->output,
              HasSubstr("val: 1 documents, 1 tokens, 1 bytes of text, 0 bytes scored, 1 shard"));
  EXPECT_THAT(ended->output, HasSubstr("18 bytes scored ("));
}

TEST_F(ScoredTextTest, OfNothingThereIsNoScore) {
  const std::string brief = Text("brief", std::span(*tokens_).first(20));
  const std::string empty = Text("empty", std::vector<uint16_t>(100, kBosToken));
  const auto refused = [](const EndedProgram& ended, int exit_code, const std::string& why) {
    EXPECT_EQ(ended.exit_code, exit_code) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr(why));
    EXPECT_THAT(ended.output, testing::Not(HasSubstr("val_bpb")));
    EXPECT_THAT(ended.output, testing::Not(HasSubstr("legal")));
  };
  refused(Call("eval/evaluate", brief, {}), 1, "no target was scored");
  refused(Call("eval/audit", brief, {}), 2, "no target was scored");
  const EndedProgram whole = Call("eval/evaluate", brief, {"--mode=sliding", "--stride=8"});
  EXPECT_EQ(whole.exit_code, 0) << whole.output;
  EXPECT_EQ(NumberIn(whole, "tokens:"), 19);
  for (const char* mode : {"--mode=plain", "--mode=sliding"}) {
    refused(Call("eval/evaluate", empty, {mode}), 1, "stand for no text");
    refused(Call("eval/audit", empty, {mode}), 2, "stand for no text");
  }
  refused(Call("eval/audit", Text("unprobed", *tokens_), {"--probes=0"}), 2, "--probes=0");
}

}  // namespace
}  // namespace hm11
