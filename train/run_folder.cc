// RunFolder: a locked folder, and what is in it.
#include "train/run_folder.h"

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
  HM_ASSIGN_OR_RETURN(FolderLock lock, FolderLock::Take(path));
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
  return RunFolder(path, std::move(lock));
}

}  // namespace hm11
