// RankProcesses: this program executed anew, since a fork would come without its threads.
#include "testing/rank_processes.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/file.h"
#include "core/socket.h"

namespace hm11 {
namespace {

int FreePort() {
  const absl::StatusOr<Socket> listening = ListenOn(0);
  HM_CHECK(listening.ok());
  return PortOf(*listening);
}

std::string PathOf(const std::string& file) {
  static int number = 0;
  return absl::StrCat(testing::TempDir(), "/ranks_", getpid(), "_", number++, "_", file);
}

// Only calls that are safe between fork and exec.
[[noreturn]] void Execute(char* const* arguments, char* const* variables, int errors, int output) {
  dup2(errors, STDERR_FILENO);
  dup2(output, STDOUT_FILENO);
  execve("/proc/self/exe", arguments, variables);
  _exit(127);
}

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

RankProcesses::RankProcesses(const std::string& test, int ranks,
                             const std::vector<std::pair<std::string, std::string>>& variables) {
  const std::string port = absl::StrCat(FreePort());
  for (int rank = 0; rank < ranks; ++rank) {
    std::map<std::string, std::string> all = {{"RANK", absl::StrCat(rank)},
                                              {"LOCAL_RANK", absl::StrCat(rank)},
                                              {"WORLD_SIZE", absl::StrCat(ranks)},
                                              {"MASTER_ADDR", "127.0.0.1"},
                                              {"MASTER_PORT", port}};
    for (const auto& [name, value] : variables) all[name] = value;
    std::vector<std::string> lines;
    for (char** variable = environ; *variable != nullptr; ++variable) {
      const std::string line = *variable;
      const std::string name = line.substr(0, line.find('='));
      // A report and a shard are the whole test's.
      if (all.count(name) == 0 && name != "XML_OUTPUT_FILE" && !name.starts_with("GTEST_")) {
        lines.push_back(line);
      }
    }
    for (const auto& [name, value] : all) lines.push_back(absl::StrCat(name, "=", value));
    std::vector<std::string> words = {"/proc/self/exe", "--gtest_also_run_disabled_tests",
                                      absl::StrCat("--gtest_filter=", test)};
    Process process{.pid = 0, .errors = PathOf("errors"), .output = PathOf("output")};
    const int errors = open(process.errors.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    const int output = open(process.output.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    const std::vector<char*> arguments = Pointers(words), environment = Pointers(lines);
    process.pid = fork();
    if (process.pid == 0) Execute(arguments.data(), environment.data(), errors, output);
    HM_CHECK(process.pid > 0 && errors >= 0 && output >= 0);
    close(errors);
    close(output);
    processes_.push_back(process);
  }
}

RankProcesses::~RankProcesses() {
  for (int rank = 0; rank < static_cast<int>(processes_.size()); ++rank) {
    if (processes_[static_cast<size_t>(rank)].ended) continue;
    kill(pid(rank), SIGKILL);
    ExitOf(rank);
  }
}

int RankProcesses::ExitOf(int rank, double seconds) {
  Process& process = processes_[static_cast<size_t>(rank)];
  const auto begin = std::chrono::steady_clock::now();
  while (!process.ended) {
    int status = 0;
    if (waitpid(process.pid, &status, WNOHANG) == process.pid) {
      process.ended = true;
      process.exit = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    } else if (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() > seconds) {
      return -1000;
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  return process.exit;
}

bool RankProcesses::AllPass(double seconds) {
  bool pass = true;
  for (int rank = 0; rank < static_cast<int>(processes_.size()); ++rank) {
    const int exit = ExitOf(rank, seconds);
    if (exit == 0) continue;
    pass = false;
    std::fprintf(stderr, "--- rank %d, exit %d:\n%s\n%s", rank, exit, ErrorsOf(rank).c_str(),
                 ReadFile(processes_[static_cast<size_t>(rank)].output).value_or("").c_str());
  }
  return pass;
}

std::string RankProcesses::ErrorsOf(int rank) const {
  return ReadFile(processes_[static_cast<size_t>(rank)].errors).value_or("");
}

}  // namespace hm11
