// RunFolder: the folder that one run writes to, and nobody else while it does.
//
// Properties:
//   1. A folder that a running process holds is refused by name, whatever it is wanted for.
//   2. A folder that holds a run is begun anew only where that is asked for; then nothing of the old run is
//      left that the new one could be taken for.
//   3. What is refused stays as it is.
//   4. What a killed run was in the middle of writing is gone once the folder is held.
#ifndef HM11_TRAIN_RUN_FOLDER_H_
#define HM11_TRAIN_RUN_FOLDER_H_

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "core/folder_lock.h"

namespace hm11 {

enum class FolderUse { kNewRun, kOverwrite, kResume };

class RunFolder {
 public:
  // Makes the folder where need be and holds it until this is destroyed or the process ends. Errors name the
  // folder: AlreadyExists when it holds a run and `use` is kNewRun; Unavailable when another process holds
  // it; PermissionDenied or what else keeps it from being written.
  static absl::StatusOr<RunFolder> Open(const std::string& path, FolderUse use);

  const std::string& path() const { return path_; }

 private:
  RunFolder(std::string path, FolderLock lock) : path_(std::move(path)), lock_(std::move(lock)) {}

  std::string path_;
  FolderLock lock_;
};

}  // namespace hm11

#endif  // HM11_TRAIN_RUN_FOLDER_H_
