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
  // Puts all bytes on the disk, then renames.
  absl::Status Commit();

 private:
  AtomicFileWriter(std::string path, std::string temporary, std::FILE* file);
  absl::Status Error(absl::string_view what) const;

  std::string path_;
  std::string temporary_;
  std::FILE* file_ = nullptr;
};

// A file's bytes, read only, mapped into memory for as long as this lives.
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
  const char* data_ = nullptr;
  int64_t size_bytes_ = 0;
};

// Paths that match a shell pattern, sorted. NotFound when none does.
absl::StatusOr<std::vector<std::string>> Glob(const std::string& pattern);

// Makes a folder and its parents; not an error when it is there.
absl::Status MakeFolders(const std::string& path);

bool FileExists(const std::string& path);

// A folder for what may be kept between runs: $XDG_CACHE_HOME/hm11 or $HOME/.cache/hm11, made when missing; a
// folder under /tmp where there is no home that can be written.
absl::StatusOr<std::string> CacheFolder();

}  // namespace hm11

#endif  // HM11_CORE_FILE_H_
