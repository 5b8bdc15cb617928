// Help texts: flags speak for themselves, lines fit a terminal, --help is a success.
#include "core/program_help.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

ABSL_FLAG(int, apples, 3, "so many fruit");
ABSL_FLAG(std::string, a_flag_with_a_long_name, "", "what it does");
ABSL_FLAG(double, pears, 0, "so many; 0: as many as there are");

namespace hm11 {
namespace {

using testing::HasSubstr;

ProgramHelp Help() {
  return {.summary = "Counts fruit.",
          .examples = {"count --apples=4"},
          .groups = {{"What is counted", {"apples", "pears"}}, {"More", {"a_flag_with_a_long_name"}}}};
}

TEST(ProgramHelpTest, TellsEachFlagInItsGroup) {
  const std::string text = HelpText(Help());
  EXPECT_THAT(text,
              HasSubstr("Counts fruit.\n\nExamples\n  count --apples=4\n\nWhat is counted\n  --apples"));
  EXPECT_THAT(text, HasSubstr("so many fruit [3]\n"));
  EXPECT_THAT(text, HasSubstr("so many; 0: as many as there are\n"));  // says itself what its default is
  EXPECT_THAT(text,
              HasSubstr("\nMore\n  --a_flag_with_a_long_name \n" + std::string(22, ' ') + "what it does\n"));
}

TEST(ProgramHelpDeathTest, HelpEndsWithSuccessAndUnknownFlagsDoNot) {
  const auto parse = [](const char* argument) {
    char* argv[] = {const_cast<char*>("count"), const_cast<char*>(argument), nullptr};
    ParseCommandLine(2, argv, Help());
    std::exit(7);
  };
  EXPECT_EXIT(parse("--help"), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(parse("--apples=5"), testing::ExitedWithCode(7), "");
  EXPECT_EXIT(parse("--plums=5"), testing::ExitedWithCode(1), "plums");
}

TEST(ProgramHelpDeathTest, NoFileTakesTheNumberOfAClosedStream) {
  const auto open_after = [](int stream) {
    close(stream);
    char* argv[] = {const_cast<char*>("count"), nullptr};
    ParseCommandLine(1, argv, Help());
    const int file = open("/dev/null", O_RDWR);
    const char byte = 0;
    const bool taken = file <= STDERR_FILENO || (stream != STDIN_FILENO && write(stream, &byte, 1) == 1);
    _exit(taken ? 1 : 0);
  };
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    EXPECT_EXIT(open_after(stream), testing::ExitedWithCode(0), "") << stream;
  }
}

RC_GTEST_PROP(ProgramHelpTest, LinesAreShortAndNoWordIsLost, ()) {
  const auto word = rc::gen::mapcat(rc::gen::inRange<size_t>(1, 70), [](size_t size) {
    return rc::gen::container<std::string>(size, rc::gen::inRange('a', 'j'));
  });
  const auto words = *rc::gen::nonEmpty(rc::gen::container<std::vector<std::string>>(word));
  ProgramHelp help = {.summary = absl::StrJoin(words, " "), .examples = {}, .groups = {}};
  const std::string text = HelpText(help);
  const std::string summary = text.substr(0, text.find("\n\nExamples\n"));
  std::vector<std::string> found;
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(summary, '\n'))) {
    RC_ASSERT(line.size() <= 79u);
    for (const auto word : absl::StrSplit(line, ' ')) found.emplace_back(word);
  }
  RC_ASSERT(found == words);
}

}  // namespace
}  // namespace hm11
