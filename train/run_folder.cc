// RunFolder: flock on a file in the folder.
#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "core/status.h"

namespace hm11 {
namespace {

// What a run leaves that another could be taken for.
constexpr const char* kOfARun[] = {"config.txt",        "train.log",
                                   "metrics.jsonl",     "checkpoint.safetensors",
                                   "model.safetensors", "artifact.hm11"};

}  // namespace

absl::StatusOr<RunFolder> RunFolder::Open(const std::string& path, FolderUse use) {
  HM_RETURN_IF_ERROR(MakeFolders(path));
  const std::string lock_path = path + "/.lock";
  const int lock = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock < 0) {
    return absl::PermissionDeniedError(absl::StrCat("cannot write in ", path, ": ", std::strerror(errno)));
  }
  RunFolder folder(path, lock);
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
    return absl::UnavailableError(absl::StrCat("folder ", path, ": another run is writing to it"));
  }
  for (const char* name : kOfARun) {
    const std::string file = absl::StrCat(path, "/", name);
    if (use == FolderUse::kResume || !FileExists(file)) continue;
    if (use == FolderUse::kNewRun) {
      return absl::AlreadyExistsError(absl::StrCat(
          "folder ", path, " holds a run (", name,
          "); go on with it with --resume, begin anew with --overwrite, or choose another --out"));
    }
    std::error_code error;
    std::filesystem::remove(file, error);
    if (error)
      return absl::PermissionDeniedError(absl::StrCat("cannot remove ", file, ": ", error.message()));
  }
  return folder;
}

RunFolder::RunFolder(RunFolder&& other) noexcept
    : path_(std::move(other.path_)), lock_(std::exchange(other.lock_, -1)) {}

RunFolder::~RunFolder() {
  if (lock_ >= 0) close(lock_);
}

}  // namespace hm11
