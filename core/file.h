// Files: read whole, map, glob, and write so that a reader never sees half of one.
//
// Every error names the path and what the system said.
#ifndef HM11_CORE_FILE_H_
#define HM11_CORE_FILE_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hm11 {

absl::StatusOr<std::string> ReadFile(const std::string& path);

// Writes beside `path`, syncs and renames: on any error (full disk, no permission) the old file is untouched
// and nothing new is left behind.
absl::Status WriteFile(const std::string& path, absl::string_view contents);

// The same for contents that come in parts. Without Commit the destructor removes what was written.
class AtomicFileWriter {
 public:
  static absl::StatusOr<AtomicFileWriter> Open(const std::string& path);
  AtomicFileWriter(AtomicFileWriter&& other) noexcept;
  AtomicFileWriter& operator=(AtomicFileWriter&&) = delete;
  ~AtomicFileWriter();

  absl::Status Append(absl::string_view bytes);
  // Overwrites bytes written before; the end of the file stays where it is.
  absl::Status WriteAt(int64_t offset, absl::string_view bytes);
  // Puts all bytes on the disk; from then on the writer holds no open file, and only Commit may follow.
  absl::Status Close();
  // Close where that is still to be done, then renames.
  absl::Status Commit();

 private:
  AtomicFileWriter(std::string path, std::string temporary, std::FILE* file);
  absl::Status Error(absl::string_view what) const;

  std::string path_;
  std::string temporary_;
  std::FILE* file_ = nullptr;
};

// A file's bytes, read only, mapped into memory for as long as this lives. A file that another process cuts
// short meanwhile ends this one with a line that names it, where it reads what is gone.
class MappedFile {
 public:
  static absl::StatusOr<MappedFile> Open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const char* data() const { return data_; }
  int64_t size_bytes() const { return size_bytes_; }
  absl::string_view bytes() const { return absl::string_view(data_, static_cast<size_t>(size_bytes_)); }

 private:
  MappedFile() = default;
  struct Mapping;  // known to the signal that the system sends
  const char* data_ = nullptr;
  int64_t size_bytes_ = 0;
  Mapping* mapping_ = nullptr;
};

// Paths that match a shell pattern, sorted. NotFound when none does. A pattern that is a file's name is that
// file, whatever signs it has in it.
absl::StatusOr<std::vector<std::string>> Glob(const std::string& pattern);

// The pattern that matches this path alone.
std::string GlobLiteral(absl::string_view path);

// Makes a folder and its parents; not an error when it is there.
absl::Status MakeFolders(const std::string& path);

bool FileExists(const std::string& path);

// Removes what WriteFile and AtomicFileWriter of processes that were killed left in a folder, of all files or
// of those whose names begin with `prefix`. Only for who knows that nobody is writing there.
void RemoveUnfinished(const std::string& folder, absl::string_view prefix = "");

// A folder for what may be kept between runs: $XDG_CACHE_HOME/hm11 or $HOME/.cache/hm11, made when missing.
// Where there is no home that can be written, a folder under $TMPDIR or /tmp that is this user's alone:
// PermissionDenied where somebody else made it or can write to it.
absl::StatusOr<std::string> CacheFolder();

// OK when all that was printed is where standard output goes; for the end of a program.
absl::Status FlushStandardOutput();

}  // namespace hm11

#endif  // HM11_CORE_FILE_H_
