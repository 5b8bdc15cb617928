// Running another program, over posix_spawn.
#include "tools/child_program.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace hm11 {
namespace {

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

}  // namespace

absl::StatusOr<std::string> RunAndRead(const std::vector<std::string>& command, ProgramErrors errors) {
  absl::StatusOr<EndedProgram> ended =
      Run(command, errors == ProgramErrors::kShown ? Errors::kShown : Errors::kDropped);
  if (!ended.ok()) return ended.status();
  if (ended->exit_code != 0) {
    return absl::AbortedError(absl::StrCat(command[0], " exited with ", ended->exit_code));
  }
  return std::move(ended->output);
}

absl::StatusOr<EndedProgram> RunToItsEnd(const std::vector<std::string>& command) {
  return Run(command, Errors::kRead);
}

std::string FirstLineOf(const std::vector<std::string>& command) {
  const absl::StatusOr<std::string> output = RunAndRead(command, ProgramErrors::kDropped);
  if (!output.ok()) return "";
  return std::string(absl::StripAsciiWhitespace(output->substr(0, output->find('\n'))));
}

}  // namespace hm11
