// The way to the Gloo engine's library: beside the program, where Bazel builds both.
#include <dlfcn.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/engines.h"

namespace hm11 {
namespace {

constexpr char kLibrary[] = "core/gloo_engine.so";

// HM11_GLOO, or the library under the folders that the program's own lies in.
std::vector<std::string> Candidates() {
  if (const char* named = std::getenv("HM11_GLOO"); named != nullptr) return {named};
  char path[PATH_MAX] = "";
  const ssize_t size = readlink("/proc/self/exe", path, sizeof(path) - 1);
  std::string folder(path, size > 0 ? static_cast<size_t>(size) : 0);
  std::vector<std::string> candidates;
  for (int up = 0; up < 2; ++up) {
    folder = folder.substr(0, folder.rfind('/'));
    candidates.push_back(absl::StrCat(folder, "/", kLibrary));
  }
  return candidates;
}

RankMeeting MeetingOf(const std::shared_ptr<RankGroup>& group) {
  return {.rank = group->rank(),
          .size = group->size(),
          .address = group->address(),
          .seconds = group->seconds(),
          .all_gather = [group](const std::string& own) { return group->AllGather(own); },
          .fail = [group](const std::string& why) { group->Fail(why); }};
}

}  // namespace

absl::StatusOr<std::shared_ptr<CollectiveEngine>> NewGlooEngine(std::shared_ptr<RankGroup> group) {
  std::vector<std::string> tried;
  for (const std::string& path : Candidates()) {
    void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      tried.push_back(dlerror());
      continue;
    }
    auto* const make = reinterpret_cast<NewGlooEngineFunction*>(dlsym(library, kNewGlooEngine));
    std::string why = "not a library of hm11";
    CollectiveEngine* const engine = make == nullptr ? nullptr : make(MeetingOf(group), &why);
    if (engine == nullptr) return absl::UnavailableError(absl::StrCat(path, ": ", why));
    return std::shared_ptr<CollectiveEngine>(engine);
  }
  return absl::UnavailableError(
      absl::StrCat("CPU ranks need the library of hm11's Gloo engine (HM11_GLOO may name it): ",
                   absl::StrJoin(tried, "; ")));
}

}  // namespace hm11
