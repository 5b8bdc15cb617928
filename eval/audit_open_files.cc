// What this process has open, as /proc lists it.
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "eval/audit.h"

namespace hm11 {
namespace {

bool IsOfInterest(absl::string_view path) {
  if (!absl::StartsWith(path, "/") || absl::StrContains(path, ".so")) return false;
  for (const char* folder : {"/dev/", "/proc/", "/sys/", "/memfd:"}) {
    if (absl::StartsWith(path, folder)) return false;
  }
  return true;
}

// Local sockets, by inode, as /proc lists them.
std::set<std::string> LocalSockets() {
  std::set<std::string> found;
  std::ifstream list("/proc/self/net/unix");
  std::string line;
  while (std::getline(list, line)) {
    std::istringstream words(line);
    std::string word;
    for (int i = 0; i < 7 && words >> word; ++i) continue;
    found.insert(absl::StrCat("socket:[", word, "]"));
  }
  return found;
}

}  // namespace

std::set<std::string> OpenFilesAndSockets() {
  namespace fs = std::filesystem;
  std::set<std::string> found;
  const std::set<std::string> local = LocalSockets();
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc/self/fd", error)) {
    const std::string path = fs::read_symlink(entry.path(), error).string();
    if (error) continue;
    if (absl::StartsWith(path, "socket:") ? local.count(path) == 0 : IsOfInterest(path)) found.insert(path);
  }
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) {
    const size_t at = line.find('/');
    if (at != std::string::npos && IsOfInterest(absl::string_view(line).substr(at)))
      found.insert(line.substr(at));
  }
  return found;
}

}  // namespace hm11
