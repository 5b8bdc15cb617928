// What a program answers to --help: what it does, examples, and its flags in groups.
//
// Meanings and defaults are the flags' own; a program names only which flags belong together.
#ifndef HM11_CORE_PROGRAM_HELP_H_
#define HM11_CORE_PROGRAM_HELP_H_

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace hm11 {

struct FlagGroup {
  std::string title;
  std::vector<std::string> flags;  // names, without dashes
};

struct ProgramHelp {
  std::string summary;
  std::vector<std::string> examples;  // command lines
  std::vector<FlagGroup> groups;
};

// Lines of at most 79 columns, but for long words. The flags must exist.
std::string HelpText(const ProgramHelp& help);

// absl::ParseCommandLine, but --help prints the text above to standard output and ends the program with code
// 0. Gives the words that are no flags, the program's name first. Standard streams that are closed are held, so
// that no file takes their numbers.
std::vector<char*> ParseCommandLine(int argc, char** argv, const ProgramHelp& help);

// The same for a program that takes flags alone: InvalidArgument names another word.
absl::Status ParseFlags(int argc, char** argv, const ProgramHelp& help);

// What main returns: 0, or `of_error` with the error in a line on the standard error stream.
int ExitCode(const absl::Status& status, int of_error = 1);

}  // namespace hm11

#endif  // HM11_CORE_PROGRAM_HELP_H_
