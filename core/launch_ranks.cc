// RunRanks: fork, exec, wait.
#include "core/launch_ranks.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/socket.h"
#include "core/status.h"

namespace hm11 {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kGraceSeconds = 15;  // for ranks to end by themselves

volatile std::sig_atomic_t asked_signal = 0;  // to be handed on
volatile std::sig_atomic_t first_signal = 0;

void Remember(int signal) {
  asked_signal = signal;
  if (first_signal == 0) first_signal = signal;
}

struct Child {
  pid_t pid = 0;
  bool running = true;
  int status = 0;  // waitpid's

  bool good() const { return WIFEXITED(status) && WEXITSTATUS(status) == 0; }
};

// Of this program. The link's target, as ranks started by the link itself would all be named "exe" in ps and pgrep.
std::string ProgramPath() {
  constexpr char kLink[] = "/proc/self/exe";
  std::error_code error;
  const std::filesystem::path path = std::filesystem::read_symlink(kLink, error);
  return !error && std::filesystem::exists(path, error) ? path.string() : kLink;
}

// In the child: becomes the rank.
[[noreturn]] void BecomeRank(int rank, int count, int port, pid_t launcher, char** argv) {
  // A group of its own: the terminal's Ctrl-C comes through the launcher, once.
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != launcher) _exit(1);
  setenv("RANK", std::to_string(rank).c_str(), 1);
  setenv("LOCAL_RANK", std::to_string(rank).c_str(), 1);
  setenv("WORLD_SIZE", std::to_string(count).c_str(), 1);
  setenv("MASTER_ADDR", "127.0.0.1", 1);
  setenv("MASTER_PORT", std::to_string(port).c_str(), 1);
  execv(ProgramPath().c_str(), argv);
  std::fprintf(stderr, "error: cannot start rank %d\n", rank);
  _exit(1);
}

void SignalAll(const std::vector<Child>& children, int signal) {
  for (const Child& child : children) {
    if (child.running) kill(child.pid, signal);
  }
}

bool AnyRuns(const std::vector<Child>& children) {
  return std::any_of(children.begin(), children.end(), [](const Child& child) { return child.running; });
}

// Waits for all. `first_bad`: the first that ended badly, or -1.
void WaitForAll(std::vector<Child>& children, int* first_bad) {
  Clock::time_point bad_since;
  while (AnyRuns(children)) {
    int status = 0;
    const pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid <= 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    for (Child& child : children) {
      if (pid != child.pid) continue;
      child.running = false;
      child.status = status;
      if (!child.good() && *first_bad < 0) {
        *first_bad = static_cast<int>(&child - children.data());
        bad_since = Clock::now();
      }
    }
    if (asked_signal != 0) {
      SignalAll(children, asked_signal);
      asked_signal = 0;
    }
    if (*first_bad >= 0 && std::chrono::duration<double>(Clock::now() - bad_since).count() > kGraceSeconds) {
      SignalAll(children, SIGKILL);
    }
  }
}

}  // namespace

int CountGpusApart() {
  const pid_t child = fork();
  if (child == 0) _exit(std::min(Device::CountGpus(), 255));
  int status = 0;
  if (child < 0) return 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 0;
}

namespace {

// Starts `count` ranks and waits for all. The exit code: 0 when all ended with 0, and a shell's for a signal
// where one asked for the end. A rank that ended without having said why is named, with this host, on standard
// error.
int LaunchRanks(int count, char** argv) {
  int port = 0;
  {
    const absl::StatusOr<Socket> free_port = ListenOn(0);
    if (!free_port.ok()) {
      std::fprintf(stderr, "error: %s\n", std::string(free_port.status().message()).c_str());
      return 1;
    }
    port = PortOf(*free_port);
  }
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action = {};
    action.sa_handler = Remember;
    sigaction(signal, &action, nullptr);
  }
  const pid_t launcher = getpid();
  std::vector<Child> children;
  for (int rank = 0; rank < count; ++rank) {
    const pid_t pid = fork();
    if (pid == 0) BecomeRank(rank, count, port, launcher, argv);
    if (pid < 0) {
      std::fprintf(stderr, "error: cannot start rank %d\n", rank);
      SignalAll(children, SIGKILL);
      return 1;
    }
    children.push_back({.pid = pid});
  }
  int first_bad = -1;
  WaitForAll(children, &first_bad);
  if (first_bad < 0) return 0;
  // Ranks that end with a code have said why, or another for them.
  if (std::none_of(children.begin(), children.end(),
                   [](const Child& child) { return WIFEXITED(child.status) && !child.good(); })) {
    std::fprintf(stderr, "error: rank %d on %s was ended by signal %d\n", first_bad, HostName().c_str(),
                 WTERMSIG(children[static_cast<size_t>(first_bad)].status));
  }
  return first_signal != 0 ? 128 + first_signal : 1;
}

// How many ranks this process is to start by itself; 1: it is the only one, or another's.
absl::StatusOr<int> RanksToStart(const Ranks& ranks, const RankFlags& flags) {
  const std::string &wanted = flags.gpus, &device = flags.device;
  int count = 0;
  if (wanted != "all" && (!absl::SimpleAtoi(wanted, &count) || count < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--gpus=", wanted, ": expected all or a number from 1 on"));
  }
  if (!ranks.launcher.empty() || count == 1 || (device != "auto" && device != "cuda")) {
    if (count > 1 && ranks.launcher.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("--gpus=", count, " with --device=", device));
    }
    return 1;
  }
  const int gpus = CountGpusApart();
  if (count > gpus) {
    return absl::InvalidArgumentError(absl::StrCat("--gpus=", count, ": this machine has ", gpus, " GPU(s)"));
  }
  return count > 0 ? count : std::max(gpus, 1);
}

absl::StatusOr<int> RunOrStart(char** argv, const RankFlags& flags,
                               const std::function<absl::Status(const std::shared_ptr<RankGroup>&)>& main) {
  constexpr double kMostSeconds = 1e6;  // a poll's limit, in milliseconds, is an int
  if (!(flags.rank_timeout > 0 && flags.rank_timeout <= kMostSeconds)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rank_timeout=", flags.rank_timeout, ": must be above 0 and at most ", kMostSeconds));
  }
  HM_ASSIGN_OR_RETURN(const Ranks ranks, RanksFromProcess());
  HM_ASSIGN_OR_RETURN(const int count, RanksToStart(ranks, flags));
  if (count > 1) return LaunchRanks(count, argv);
  HM_ASSIGN_OR_RETURN(const std::shared_ptr<RankGroup> group,
                      RankGroup::Join(ranks, flags.rank_timeout, flags.bad_code));
  return group->Finish(main(group));
}

}  // namespace

int RunRanks(char** argv, const RankFlags& flags,
             const std::function<absl::Status(const std::shared_ptr<RankGroup>&)>& main) {
  const absl::StatusOr<int> code = RunOrStart(argv, flags, main);
  if (code.ok()) return *code;
  // A rank that rank 0 did not take has nothing to say: rank 0 does.
  if (!code.status().message().empty()) {
    std::fprintf(stderr, "error: %s\n", std::string(code.status().message()).c_str());
  }
  return flags.bad_code();
}

absl::StatusOr<Device> DeviceOfRank(const Ranks& ranks, absl::string_view name) {
  if (ranks.size == 1 || (name != "auto" && name != "cuda")) return Device::FromName(name);
  const int gpus = Device::CountGpus();
  if (gpus == 0) return Device::FromName(name);
  if (gpus > 1 && ranks.local_rank >= gpus) {
    return absl::InvalidArgumentError(absl::StrCat("more ranks than GPUs: rank ", ranks.rank, " is number ",
                                                   ranks.local_rank + 1, " on ", HostName(), ", which has ",
                                                   gpus, " GPUs"));
  }
  return Device::Cuda(gpus == 1 ? 0 : ranks.local_rank);
}

}  // namespace hm11
