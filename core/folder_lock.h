// FolderLock: a folder that one process writes to, and nobody else while it does.
#ifndef HM11_CORE_FOLDER_LOCK_H_
#define HM11_CORE_FOLDER_LOCK_H_

#include <string>

#include "absl/status/statusor.h"

namespace hm11 {

class FolderLock {
 public:
  // Makes the folder where need be, holds it until this is destroyed or the process ends, however it does,
  // and removes what killed writers left in it (core/file.h). Errors name the folder: Unavailable when
  // another process holds it; PermissionDenied or what else keeps it from being written.
  static absl::StatusOr<FolderLock> Take(const std::string& path);
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&&) = delete;
  ~FolderLock();

 private:
  explicit FolderLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;  // of the file .lock in the folder, which is locked
};

}  // namespace hm11

#endif  // HM11_CORE_FOLDER_LOCK_H_
