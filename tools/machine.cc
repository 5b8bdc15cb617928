// Describing the machine and the tree, over /proc, nvidia-smi and git.
#include "tools/machine.h"

#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/file.h"

namespace hm11 {
namespace {

// The value of the first line "key : value" of a file of /proc; "" when there is none.
std::string ProcValue(const std::string& path, absl::string_view key) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (absl::StripAsciiWhitespace(parts.first) == key)
      return std::string(absl::StripAsciiWhitespace(parts.second));
  }
  return "";
}

int UsableCores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 1;
  return CPU_COUNT(&cores);
}

enum class Errors { kShown, kDropped, kRead };  // what a program writes to standard error

absl::StatusOr<EndedProgram> Run(const std::vector<std::string>& command, Errors errors) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::UnknownError(absl::StrCat("pipe: ", std::strerror(errno)));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  if (errors == Errors::kDropped) {
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  } else if (errors == Errors::kRead) {
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
  }
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  pid_t child = 0;
  const int error = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  std::string output;
  char buffer[65536];
  ssize_t count = 0;
  while (error == 0 &&
         ((count = read(ends[0], buffer, sizeof(buffer))) > 0 || (count < 0 && errno == EINTR))) {
    if (count > 0) output.append(buffer, static_cast<size_t>(count));
  }
  close(ends[0]);
  if (error != 0)
    return absl::NotFoundError(absl::StrCat("cannot run ", command[0], ": ", std::strerror(error)));
  int state = 0;
  while (waitpid(child, &state, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(state)) {
    return absl::AbortedError(absl::StrCat(command[0], " died of signal ", WTERMSIG(state)));
  }
  return EndedProgram{.exit_code = WEXITSTATUS(state), .output = std::move(output)};
}

absl::StatusOr<std::string> OutputOf(const std::vector<std::string>& command, Errors errors) {
  absl::StatusOr<EndedProgram> ended = Run(command, errors);
  if (!ended.ok()) return ended.status();
  if (ended->exit_code != 0) {
    return absl::AbortedError(absl::StrCat(command[0], " exited with ", ended->exit_code));
  }
  return std::move(ended->output);
}

std::string FirstLine(const absl::StatusOr<std::string>& output) {
  if (!output.ok()) return "";
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(*output, absl::MaxSplits('\n', 1));
  return std::string(absl::StripAsciiWhitespace(parts.first));
}

std::string GpuName() {
  const absl::StatusOr<std::vector<std::string>> drivers = Glob("/proc/driver/nvidia/gpus/*/information");
  if (drivers.ok() && !drivers->empty()) {
    if (const std::string model = ProcValue(drivers->front(), "Model"); !model.empty()) return model;
  }
  return FirstLine(OutputOf({"nvidia-smi", "--query-gpu=name", "--format=csv,noheader"}, Errors::kDropped));
}

}  // namespace

absl::StatusOr<std::string> RunAndRead(const std::vector<std::string>& command) {
  return OutputOf(command, Errors::kShown);
}

absl::StatusOr<EndedProgram> RunToItsEnd(const std::vector<std::string>& command) {
  return Run(command, Errors::kRead);
}

std::string DescribeMachine() {
  std::vector<std::string> parts = {ProcValue("/proc/cpuinfo", "model name"),
                                    absl::StrCat(UsableCores(), " cores"), GpuName()};
  if (parts[0].empty()) parts[0] = "unknown CPU";
  if (parts[2].empty()) parts.pop_back();
  return absl::StrJoin(parts, ", ");
}

std::string UtcNow() { return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone()); }

TreeState DescribeTree(const std::string& folder, const std::string& except) {
  TreeState state;
  state.commit =
      FirstLine(OutputOf({"git", "-C", folder, "rev-parse", "--short=12", "HEAD"}, Errors::kDropped));
  if (state.commit.empty()) return {.commit = "unknown", .dirty = false};
  std::vector<std::string> command = {"git", "-C", folder, "status", "--porcelain", "--", ":/"};
  if (!except.empty()) command.push_back(absl::StrCat(":(exclude,top)", except));
  state.dirty = !FirstLine(OutputOf(command, Errors::kDropped)).empty();
  return state;
}

void GoToCallersFolder() {
  const char* folder = std::getenv("BUILD_WORKING_DIRECTORY");
  if (folder != nullptr && chdir(folder) != 0) {
    // The folder is gone; paths then mean what they mean from here.
  }
}

std::string SourceRoot() {
  if (const char* folder = std::getenv("BUILD_WORKSPACE_DIRECTORY")) return folder;
  const std::string root = FirstLine(OutputOf({"git", "rev-parse", "--show-toplevel"}, Errors::kDropped));
  return root.empty() ? "." : root;
}

}  // namespace hm11
