// Describing the machine and the tree, over /proc, nvidia-smi and git.
#include "tools/bench/machine.h"

#include <sched.h>

#include <cstdlib>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/file.h"
#include "tools/child_program.h"

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
  return FirstLine(
      RunAndRead({"nvidia-smi", "--query-gpu=name", "--format=csv,noheader"}, ProgramErrors::kDropped));
}

}  // namespace

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
  state.commit = FirstLine(
      RunAndRead({"git", "-C", folder, "rev-parse", "--short=12", "HEAD"}, ProgramErrors::kDropped));
  if (state.commit.empty()) return {.commit = "unknown", .dirty = false};
  std::vector<std::string> command = {"git", "-C", folder, "status", "--porcelain", "--", ":/"};
  if (!except.empty()) command.push_back(absl::StrCat(":(exclude,top)", except));
  state.dirty = !FirstLine(RunAndRead(command, ProgramErrors::kDropped)).empty();
  return state;
}

std::string SourceRoot() {
  if (const char* folder = std::getenv("BUILD_WORKSPACE_DIRECTORY")) return folder;
  const std::string root =
      FirstLine(RunAndRead({"git", "rev-parse", "--show-toplevel"}, ProgramErrors::kDropped));
  return root.empty() ? "." : root;
}

}  // namespace hm11
