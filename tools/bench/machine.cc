// Describing the machine, over /proc and nvidia-smi.
#include "tools/bench/machine.h"

#include <sched.h>

#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
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

std::string GpuName() {
  const absl::StatusOr<std::vector<std::string>> drivers = Glob("/proc/driver/nvidia/gpus/*/information");
  if (drivers.ok() && !drivers->empty()) {
    if (const std::string model = ProcValue(drivers->front(), "Model"); !model.empty()) return model;
  }
  return FirstLineOf({"nvidia-smi", "--query-gpu=name", "--format=csv,noheader"});
}

}  // namespace

std::string DescribeMachine() {
  std::vector<std::string> parts = {ProcValue("/proc/cpuinfo", "model name"),
                                    absl::StrCat(UsableCores(), " cores"), GpuName()};
  if (parts[0].empty()) parts[0] = "unknown CPU";
  if (parts[2].empty()) parts.pop_back();
  return absl::StrJoin(parts, ", ");
}

}  // namespace hm11
