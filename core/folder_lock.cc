// FolderLock: flock on a file in the folder.
#include "core/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "core/status.h"

namespace hm11 {

absl::StatusOr<FolderLock> FolderLock::Take(const std::string& path) {
  HM_RETURN_IF_ERROR(MakeFolders(path));
  const int descriptor = open((path + "/.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor < 0) {
    return absl::PermissionDeniedError(absl::StrCat("cannot write in ", path, ": ", std::strerror(errno)));
  }
  FolderLock lock(descriptor);
  if (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    return absl::UnavailableError(absl::StrCat("folder ", path, ": another process is writing to it"));
  }
  RemoveUnfinished(path);
  return lock;
}

FolderLock::FolderLock(FolderLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) close(descriptor_);
}

}  // namespace hm11
