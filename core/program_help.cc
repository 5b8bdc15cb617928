// --help, made of what flags say of themselves.
#include "core/program_help.h"

#include <fcntl.h>

#include <cstdio>
#include <cstdlib>

#include "absl/flags/parse.h"
#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/check.h"
#include "core/version.h"

namespace hm11 {
namespace {

constexpr size_t kColumns = 79;
constexpr size_t kMeaningColumn = 22;

// `text` from column `column` on, where `lines` already ends, broken between words.
void AppendWrapped(absl::string_view text, size_t column, std::string* lines) {
  size_t at = column;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (at > column && at + 1 + word.size() > kColumns) {
      absl::StrAppend(lines, "\n", std::string(column, ' '));
      at = column;
    } else if (at > column) {
      absl::StrAppend(lines, " ");
      ++at;
    }
    absl::StrAppend(lines, word);
    at += word.size();
  }
  absl::StrAppend(lines, "\n");
}

// The default where the meaning does not tell it.
std::string Meaning(const absl::CommandLineFlag& flag) {
  const std::string meaning = flag.Help(), value = flag.DefaultValue();
  if (value.empty() || value == "false" || absl::StrContains(meaning, "default:") ||
      absl::StrContains(meaning, absl::StrCat(value, ":"))) {
    return meaning;
  }
  return absl::StrCat(meaning, " [", value, "]");
}

bool IsHelp(absl::string_view argument) { return argument == "--help" || argument == "-help"; }

// A standard stream that the caller closed stays unusable, and says so when it is used: else the next file that is
// opened takes its number, and what is printed goes into that file.
void HoldStandardStreams() {
  for (const int stream : {0, 1, 2}) {
    if (fcntl(stream, F_GETFD) < 0) (void)open("/dev/null", stream == 0 ? O_WRONLY : O_RDONLY);
  }
}

}  // namespace

std::string HelpText(const ProgramHelp& help) {
  std::string text;
  AppendWrapped(help.summary, 0, &text);
  absl::StrAppend(&text, "\nExamples\n");
  for (const std::string& example : help.examples) absl::StrAppend(&text, "  ", example, "\n");
  for (const FlagGroup& group : help.groups) {
    absl::StrAppend(&text, "\n", group.title, "\n");
    for (const std::string& name : group.flags) {
      const absl::CommandLineFlag* const flag = absl::FindCommandLineFlag(name);
      HM_CHECK(flag != nullptr);
      std::string line = absl::StrCat("  --", name, " ");
      if (line.size() > kMeaningColumn) absl::StrAppend(&line, "\n");
      const size_t begun = line.back() == '\n' ? 0 : line.size();
      absl::StrAppend(&line, std::string(kMeaningColumn - begun, ' '));
      AppendWrapped(Meaning(*flag), kMeaningColumn, &line);
      absl::StrAppend(&text, line);
    }
  }
  return text;
}

std::vector<char*> ParseCommandLine(int argc, char** argv, const ProgramHelp& help) {
  HoldStandardStreams();
  for (int i = 1; i < argc && absl::string_view(argv[i]) != "--"; ++i) {
    if (!IsHelp(argv[i])) continue;
    const std::string text = HelpText(help);
    const bool written =
        std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
    std::exit(written ? 0 : 1);
  }
  DescribeProgram(help.summary.c_str());
  return absl::ParseCommandLine(argc, argv);
}

absl::Status ParseFlags(int argc, char** argv, const ProgramHelp& help) {
  const std::vector<char*> words = ParseCommandLine(argc, argv, help);
  if (words.size() == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("unexpected argument '", words[1], "'; flags begin with --"));
}

int ExitCode(const absl::Status& status, int of_error) {
  if (status.ok()) return 0;
  std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return of_error;
}

}  // namespace hm11
