// Files over POSIX calls, so that errors carry the system's own reason.
#include "core/file.h"

#include <fcntl.h>
#include <glob.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/status.h"

namespace hm11 {
namespace {

absl::Status SystemError(absl::string_view what, const std::string& path, int error) {
  const std::string message = absl::StrCat(what, " ", path, ": ", std::strerror(error));
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::UnknownError(message);
  }
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  HM_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  return std::string(file.bytes());
}

absl::Status WriteFile(const std::string& path, absl::string_view contents) {
  HM_ASSIGN_OR_RETURN(AtomicFileWriter writer, AtomicFileWriter::Open(path));
  HM_RETURN_IF_ERROR(writer.Append(contents));
  return writer.Commit();
}

AtomicFileWriter::AtomicFileWriter(std::string path, std::string temporary, std::FILE* file)
    : path_(std::move(path)), temporary_(std::move(temporary)), file_(file) {}

AtomicFileWriter::AtomicFileWriter(AtomicFileWriter&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      file_(std::exchange(other.file_, nullptr)) {
  other.temporary_.clear();
}

AtomicFileWriter::~AtomicFileWriter() {
  if (file_ != nullptr) std::fclose(file_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

absl::StatusOr<AtomicFileWriter> AtomicFileWriter::Open(const std::string& path) {
  // Past a limit on the size of files a write shall fail as on a full disk, not end the process.
  static const auto replaced = std::signal(SIGXFSZ, SIG_IGN);
  static_cast<void>(replaced);
  const std::string temporary = absl::StrCat(path, ".writing.", getpid());
  std::FILE* file = std::fopen(temporary.c_str(), "wb");
  if (file == nullptr) return SystemError("cannot write", path, errno);
  return AtomicFileWriter(path, temporary, file);
}

absl::Status AtomicFileWriter::Error(absl::string_view what) const { return SystemError(what, path_, errno); }

absl::Status AtomicFileWriter::Append(absl::string_view bytes) {
  if (bytes.empty()) return absl::OkStatus();  // data() may be null, which fwrite does not allow.
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) return Error("cannot write");
  return absl::OkStatus();
}

absl::Status AtomicFileWriter::WriteAt(int64_t offset, absl::string_view bytes) {
  if (fseeko(file_, offset, SEEK_SET) != 0) return Error("cannot write");
  HM_RETURN_IF_ERROR(Append(bytes));
  if (fseeko(file_, 0, SEEK_END) != 0) return Error("cannot write");
  return absl::OkStatus();
}

absl::Status AtomicFileWriter::Commit() {
  if (std::fflush(file_) != 0 || fsync(fileno(file_)) != 0) return Error("cannot write");
  const int closed = std::fclose(std::exchange(file_, nullptr));
  if (closed != 0) return Error("cannot write");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) return Error("cannot write");
  temporary_.clear();
  return absl::OkStatus();
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<char*>(data_), static_cast<size_t>(size_bytes_));
}

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return SystemError("cannot read", path, errno);
  struct stat info;
  const int failed = fstat(descriptor, &info) == 0 ? 0 : errno;
  if (failed != 0 || !S_ISREG(info.st_mode)) {
    close(descriptor);
    return SystemError("cannot read", path, failed != 0 ? failed : S_ISDIR(info.st_mode) ? EISDIR : EINVAL);
  }
  MappedFile file;
  file.size_bytes_ = info.st_size;
  if (file.size_bytes_ > 0) {
    void* data = mmap(nullptr, static_cast<size_t>(file.size_bytes_), PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED) {
      const int error = errno;
      close(descriptor);
      return SystemError("cannot read", path, error);
    }
    file.data_ = static_cast<const char*>(data);
  }
  close(descriptor);
  return file;
}

absl::StatusOr<std::vector<std::string>> Glob(const std::string& pattern) {
  glob_t found = {};
  const int result = glob(pattern.c_str(), 0, nullptr, &found);
  std::vector<std::string> paths;
  if (result == 0) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  globfree(&found);
  if (paths.empty()) return absl::NotFoundError(absl::StrCat("no file matches ", pattern));
  return paths;  // glob sorts.
}

absl::Status MakeFolders(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error && !std::filesystem::is_directory(path, error) && !error) {
    error = std::make_error_code(std::errc::not_a_directory);
  }
  if (error) return SystemError("cannot make folder", path, error.value());
  return absl::OkStatus();
}

bool FileExists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

absl::StatusOr<std::string> CacheFolder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  std::vector<std::string> candidates;
  if (cache != nullptr && *cache == '/') candidates.push_back(absl::StrCat(cache, "/hm11"));
  if (home != nullptr && *home == '/') candidates.push_back(absl::StrCat(home, "/.cache/hm11"));
  candidates.push_back(absl::StrCat("/tmp/hm11-cache-", getuid()));
  absl::Status status;
  for (const std::string& folder : candidates) {
    status = MakeFolders(folder);
    if (status.ok() && access(folder.c_str(), W_OK) == 0) return folder;
  }
  return status.ok() ? absl::PermissionDeniedError("no cache folder can be written") : status;
}

}  // namespace hm11
