// What a program answers to --help: what it does, examples, and its flags in groups.
//
// Meanings and defaults are the flags' own; a program names only which flags belong together.
#ifndef HM11_CORE_PROGRAM_HELP_H_
#define HM11_CORE_PROGRAM_HELP_H_

#include <string>
#include <vector>

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
// 0.
std::vector<char*> ParseCommandLine(int argc, char** argv, const ProgramHelp& help);

}  // namespace hm11

#endif  // HM11_CORE_PROGRAM_HELP_H_
