// What a measurement was taken on and of: this machine's CPU and GPU, the commit of a tree, the output of a
// program.
#ifndef HM11_TOOLS_MACHINE_H_
#define HM11_TOOLS_MACHINE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace hm11 {

// "AMD EPYC 9654 96-Core Processor, 2 cores, NVIDIA H200"; the GPU's part is left out where there is none.
std::string DescribeMachine();

// "2026-01-31T12:00:00Z"
std::string UtcNow();

struct TreeState {
  std::string commit;  // 12 digits; "unknown" outside a git tree
  bool dirty = false;  // something else than `except` is changed or new
};
TreeState DescribeTree(const std::string& folder, const std::string& except);

// Runs a program, found along PATH when its name has no slash, and returns what it printed; its errors go
// where ours go. An error names the program and how it ended.
absl::StatusOr<std::string> RunAndRead(const std::vector<std::string>& command);

struct EndedProgram {
  int exit_code = 0;
  std::string output = {};  // what it printed, errors too
};

// Runs a program as RunAndRead does, to whatever exit code. An error when it did not start or died of a
// signal.
absl::StatusOr<EndedProgram> RunToItsEnd(const std::vector<std::string>& command);

// Under `bazel run` a program starts in a folder of Bazel's; this goes to where the user stands, so that
// relative paths on the command line mean what they say.
void GoToCallersFolder();

// The root of the source tree: Bazel's workspace under `bazel run`, else git's, else ".".
std::string SourceRoot();

}  // namespace hm11

#endif  // HM11_TOOLS_MACHINE_H_
