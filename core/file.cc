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
#include <mutex>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/status.h"

namespace hm11 {
namespace {

constexpr char kUnfinished[] = ".writing.";  // between a file's name and the process that writes it

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
  const std::string temporary = absl::StrCat(path, kUnfinished, getpid());
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

absl::Status AtomicFileWriter::Close() {
  if (std::fflush(file_) != 0 || fsync(fileno(file_)) != 0) return Error("cannot write");
  const int closed = std::fclose(std::exchange(file_, nullptr));
  return closed == 0 ? absl::OkStatus() : Error("cannot write");
}

absl::Status AtomicFileWriter::Commit() {
  if (file_ != nullptr) HM_RETURN_IF_ERROR(Close());
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) return Error("cannot write");
  temporary_.clear();
  return absl::OkStatus();
}

// In a list of all, so that the handler of SIGBUS finds the file that an address belongs to.
struct MappedFile::Mapping {
  const char* begin;
  const char* end;
  std::string path;
  Mapping* next;

  static Mapping* Add(const MappedFile& file, const std::string& path) {
    static std::once_flag once;
    std::call_once(once, [] {
      struct sigaction action = {};
      action.sa_sigaction = Name;
      action.sa_flags = SA_SIGINFO | SA_RESETHAND;
      sigaction(SIGBUS, &action, nullptr);
    });
    const std::lock_guard<std::mutex> lock(mutex);
    return first = new Mapping{file.data_, file.data_ + file.size_bytes_, path, first};
  }
  static void Remove(const Mapping* mapping) {
    const std::lock_guard<std::mutex> lock(mutex);
    Mapping** place = &first;
    while (*place != mapping) place = &(*place)->next;
    *place = mapping->next;
    delete mapping;
  }

 private:
  // The process is at its end: what else a handler must leave alone does no harm here.
  static void Name(int, siginfo_t* info, void*) {
    const char* address = static_cast<const char*>(info->si_addr);
    if (!mutex.try_lock()) return;  // And the signal comes again, to the system's own end.
    for (const Mapping* mapping = first; mapping != nullptr; mapping = mapping->next) {
      if (address < mapping->begin || address >= mapping->end) continue;
      const char* const words[] = {"error: ", mapping->path.c_str(), " was cut short while it was read\n"};
      for (const char* text : words) {
        [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, std::strlen(text));
      }
      _exit(1);
    }
  }
  static std::mutex mutex;
  static Mapping* first;
};

std::mutex MappedFile::Mapping::mutex;
MappedFile::Mapping* MappedFile::Mapping::first = nullptr;

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)),
      mapping_(std::exchange(other.mapping_, nullptr)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  std::swap(mapping_, other.mapping_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  Mapping::Remove(mapping_);
  munmap(const_cast<char*>(data_), static_cast<size_t>(size_bytes_));
}

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // Without waiting for somebody to write, should it be a pipe.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return SystemError("cannot read", path, errno);
  struct stat info;
  const int failed = fstat(descriptor, &info) == 0 ? 0 : errno;
  if (failed != 0 || !S_ISREG(info.st_mode)) {
    close(descriptor);
    if (failed == 0 && !S_ISDIR(info.st_mode)) {
      return absl::InvalidArgumentError(absl::StrCat("cannot read ", path, ": not a regular file"));
    }
    return SystemError("cannot read", path, failed != 0 ? failed : EISDIR);
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
    file.mapping_ = Mapping::Add(file, path);
  }
  close(descriptor);
  return file;
}

std::string GlobLiteral(absl::string_view path) {
  return absl::StrReplaceAll(path, {{"\\", "\\\\"}, {"[", "\\["}, {"*", "\\*"}, {"?", "\\?"}});
}

absl::StatusOr<std::vector<std::string>> Glob(const std::string& pattern) {
  if (FileExists(pattern)) return std::vector<std::string>{pattern};
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

void RemoveUnfinished(const std::string& folder, absl::string_view prefix) {
  std::error_code error;
  std::vector<std::filesystem::path> unfinished;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const size_t mark = name.rfind(kUnfinished);
    if (mark == std::string::npos || !absl::StartsWith(name, prefix)) continue;
    const std::string process = name.substr(mark + std::strlen(kUnfinished));
    if (!process.empty() && process.find_first_not_of("0123456789") == std::string::npos) {
      unfinished.push_back(entry.path());
    }
  }
  for (const std::filesystem::path& path : unfinished) std::filesystem::remove(path, error);
}

bool FileExists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

namespace {

// A folder with a name that anybody can guess, in a place where anybody can make it first.
absl::StatusOr<std::string> FolderOfThisUserAlone(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    return SystemError("cannot make folder", path, errno);
  struct stat info = {};
  if (lstat(path.c_str(), &info) != 0) return SystemError("cannot read", path, errno);
  if (S_ISDIR(info.st_mode) && info.st_uid == geteuid() && (info.st_mode & 022) == 0) {
    return chmod(path.c_str(), 0700) == 0 ? absl::StatusOr<std::string>(path)
                                          : SystemError("cannot write", path, errno);
  }
  return absl::PermissionDeniedError(absl::StrCat(
      "cache folder ", path, " is not this user's alone; remove it, or set HOME or XDG_CACHE_HOME"));
}

}  // namespace

absl::StatusOr<std::string> CacheFolder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  std::vector<std::string> candidates;
  if (cache != nullptr && *cache == '/') candidates.push_back(absl::StrCat(cache, "/hm11"));
  if (home != nullptr && *home == '/') candidates.push_back(absl::StrCat(home, "/.cache/hm11"));
  for (const std::string& folder : candidates) {
    if (MakeFolders(folder).ok() && access(folder.c_str(), W_OK) == 0) return folder;
  }
  const char* temporary = std::getenv("TMPDIR");
  return FolderOfThisUserAlone(absl::StrCat(temporary != nullptr && *temporary == '/' ? temporary : "/tmp",
                                            "/hm11-cache-", geteuid()));
}

absl::Status FlushStandardOutput() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return absl::OkStatus();
  return SystemError("cannot write", "standard output", errno);
}

}  // namespace hm11
