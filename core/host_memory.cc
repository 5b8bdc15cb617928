// HostMemory, out of /proc and the process's limits.
#include "core/host_memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace hm11 {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

// A line "KEY: 123 kB" of /proc/meminfo, in bytes.
int64_t MemoryInfo(const std::string& key) {
  std::ifstream info("/proc/meminfo");
  std::string word;
  while (info >> word) {
    int64_t kib = 0;
    if (word == key + ":" && info >> kib) return kib * 1024;
    std::getline(info, word);
  }
  return kUnknown;
}

int64_t AvailableBytes() {
  const int64_t available = MemoryInfo("MemAvailable");
  return available != kUnknown ? available
                               : static_cast<int64_t>(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
}

int64_t AddressSpaceLeft() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kUnknown;
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return std::max<int64_t>(0, static_cast<int64_t>(limit.rlim_cur) - pages * sysconf(_SC_PAGE_SIZE));
}

int64_t PromisesLeft() {
  int mode = 0;
  std::ifstream("/proc/sys/vm/overcommit_memory") >> mode;
  const int64_t limit = MemoryInfo("CommitLimit"), promised = MemoryInfo("Committed_AS");
  if (mode != 2 || limit == kUnknown || promised == kUnknown) return kUnknown;
  return std::max<int64_t>(0, limit - promised);
}

}  // namespace

int64_t FreeHostBytes() { return std::min({AvailableBytes(), AddressSpaceLeft(), PromisesLeft()}); }

}  // namespace hm11
