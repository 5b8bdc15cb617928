// Running another program and reading what it prints.
#ifndef HM11_TOOLS_CHILD_PROGRAM_H_
#define HM11_TOOLS_CHILD_PROGRAM_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace hm11 {

enum class ProgramErrors {
  kShown,
  kDropped
};  // what it writes to standard error: where ours goes, or nowhere

// Runs a program, found along PATH when its name has no slash, and returns what it printed. An error names
// the program and how it ended.
absl::StatusOr<std::string> RunAndRead(const std::vector<std::string>& command,
                                       ProgramErrors errors = ProgramErrors::kShown);

// The first line that a program prints, without blanks around it; "" when it cannot be run or fails. Its
// errors are dropped.
std::string FirstLineOf(const std::vector<std::string>& command);

struct EndedProgram {
  int exit_code = 0;
  std::string output = {};  // what it printed, errors too
};

// Runs a program as RunAndRead does, to whatever exit code. An error when it did not start or died of a
// signal.
absl::StatusOr<EndedProgram> RunToItsEnd(const std::vector<std::string>& command);

}  // namespace hm11

#endif  // HM11_TOOLS_CHILD_PROGRAM_H_
