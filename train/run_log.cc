// RunLog over file descriptors: a line is one write, taken back where it was not whole.
#include "train/run_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "core/status.h"

namespace hm11 {

absl::StatusOr<LineFile> LineFile::Open(const std::string& path, int64_t keep_bytes) {
  int64_t size_bytes = 0;
  if (keep_bytes != 0 && FileExists(path)) {
    HM_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
    if (keep_bytes > 0) text.resize(std::min(text.size(), static_cast<size_t>(keep_bytes)));
    size_bytes = static_cast<int64_t>(text.rfind('\n') + 1);  // npos + 1 is 0
  }
  const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor < 0 || ftruncate(descriptor, size_bytes) != 0) {
    const int error = errno;
    if (descriptor >= 0) close(descriptor);
    return absl::PermissionDeniedError(absl::StrCat("cannot write ", path, ": ", std::strerror(error)));
  }
  return LineFile(path, descriptor, size_bytes);
}

LineFile::LineFile(LineFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_bytes_(other.size_bytes_),
      pending_(std::move(other.pending_)) {}

LineFile::~LineFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::Status LineFile::Add(absl::string_view line) {
  absl::StrAppend(&pending_, line, "\n");
  size_t done = 0;
  while (done < pending_.size()) {
    const ssize_t count = pwrite(descriptor_, pending_.data() + done, pending_.size() - done,
                                 size_bytes_ + static_cast<int64_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      const int error = count < 0 ? errno : ENOSPC;
      // Where this fails too, half a line stays until it is written again.
      [[maybe_unused]] const int cut = ftruncate(descriptor_, size_bytes_);
      return absl::ResourceExhaustedError(absl::StrCat("cannot write ", path_, ": ", std::strerror(error)));
    }
    done += static_cast<size_t>(count);
  }
  size_bytes_ += static_cast<int64_t>(done);
  pending_.clear();
  return absl::OkStatus();
}

absl::StatusOr<RunLog> RunLog::Open(const std::string& folder, bool go_on, int64_t metrics_bytes,
                                    bool quiet) {
  RunLog log;
  HM_ASSIGN_OR_RETURN(LineFile lines, LineFile::Open(folder + "/train.log", go_on ? kAll : kNew));
  HM_ASSIGN_OR_RETURN(LineFile metrics,
                      LineFile::Open(folder + "/metrics.jsonl", go_on ? metrics_bytes : kNew));
  log.log_.emplace(std::move(lines));
  log.metrics_.emplace(std::move(metrics));
  log.quiet_ = quiet;
  log.terminal_ = !quiet && isatty(STDERR_FILENO) == 1;
  return log;
}

// Failures are told when they begin.
void RunLog::Tell(absl::Status now, absl::Status* before) {
  if (!now.ok() && before->ok()) {
    Progress("");
    std::fprintf(stderr, "warning: %s; the run goes on and tries again\n",
                 std::string(now.message()).c_str());
  }
  *before = std::move(now);
}

void RunLog::Line(absl::string_view text) {
  Screen(text);
  Detail(text);
}

void RunLog::Screen(absl::string_view text) {
  if (silent() || quiet_) return;
  Progress("");
  if (output_failed_) return;
  const std::string line = absl::StrCat(text, "\n");
  output_failed_ =
      std::fwrite(line.data(), 1, line.size(), stdout) != line.size() || std::fflush(stdout) != 0;
  if (!output_failed_) return;
  const std::string why = absl::StrCat("standard output failed (", std::strerror(errno),
                                       "); the run goes on and its lines are in train.log");
  std::fprintf(stderr, "warning: %s\n", why.c_str());
  Detail(absl::StrCat("warning: ", why));
}

void RunLog::Detail(absl::string_view text) {
  if (!silent()) Tell(log_->Add(text), &log_status_);
}

void RunLog::Metric(absl::string_view json) {
  if (!silent()) Tell(metrics_->Add(json), &metrics_status_);
}

void RunLog::Progress(absl::string_view text) {
  if (!shows_progress() || (text.empty() && !progress_shown_)) return;
  std::fprintf(stderr, "\r\x1b[K%.*s", static_cast<int>(text.size()), text.data());
  std::fflush(stderr);
  progress_shown_ = !text.empty();
}

}  // namespace hm11
