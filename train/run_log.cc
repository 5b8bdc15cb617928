// RunLog over C streams, flushed a line at a time so that a killed run keeps its log.
#include "train/run_log.h"

#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace hm11 {

absl::StatusOr<RunLog> RunLog::Open(const std::string& folder, bool append, bool quiet) {
  const char* mode = append ? "a" : "w";
  std::FILE* log = std::fopen(absl::StrCat(folder, "/train.log").c_str(), mode);
  std::FILE* metrics =
      log == nullptr ? nullptr : std::fopen(absl::StrCat(folder, "/metrics.jsonl").c_str(), mode);
  if (metrics == nullptr) {
    const int error = errno;
    if (log != nullptr) std::fclose(log);
    return absl::PermissionDeniedError(
        absl::StrCat("cannot write logs in ", folder, ": ", std::strerror(error)));
  }
  return RunLog(folder, log, metrics, quiet);
}

RunLog::RunLog(std::string folder, std::FILE* log, std::FILE* metrics, bool quiet)
    : folder_(std::move(folder)),
      log_(log),
      metrics_(metrics),
      quiet_(quiet),
      terminal_(!quiet && isatty(STDERR_FILENO) == 1) {}

RunLog::RunLog(RunLog&& other) noexcept
    : folder_(std::move(other.folder_)),
      log_(std::exchange(other.log_, nullptr)),
      metrics_(std::exchange(other.metrics_, nullptr)),
      quiet_(other.quiet_),
      terminal_(other.terminal_),
      progress_shown_(other.progress_shown_),
      status_(std::move(other.status_)) {}

RunLog::~RunLog() {
  if (log_ == nullptr) return;
  Progress("");
  std::fclose(log_);
  std::fclose(metrics_);
}

void RunLog::Write(std::FILE* file, const char* name, absl::string_view text) {
  const std::string line = absl::StrCat(text, "\n");
  const bool written =
      std::fwrite(line.data(), 1, line.size(), file) == line.size() && std::fflush(file) == 0;
  if (!written && status_.ok()) {
    status_ = absl::ResourceExhaustedError(
        absl::StrCat("cannot write ", folder_, "/", name, ": ", std::strerror(errno)));
  }
}

void RunLog::Line(absl::string_view text) {
  Screen(text);
  Detail(text);
}

void RunLog::Screen(absl::string_view text) {
  if (silent() || quiet_) return;
  Progress("");
  std::printf("%.*s\n", static_cast<int>(text.size()), text.data());
  std::fflush(stdout);
}

void RunLog::Detail(absl::string_view text) {
  if (!silent()) Write(log_, "train.log", text);
}

void RunLog::Metric(absl::string_view json) {
  if (!silent()) Write(metrics_, "metrics.jsonl", json);
}

void RunLog::Progress(absl::string_view text) {
  if (silent() || !terminal_ || (text.empty() && !progress_shown_)) return;
  std::fprintf(stderr, "\r\x1b[K%.*s", static_cast<int>(text.size()), text.data());
  std::fflush(stderr);
  progress_shown_ = !text.empty();
}

std::string FormatDuration(double seconds) {
  const int64_t whole = std::llround(std::max(0.0, seconds));
  if (whole < 3600) return absl::StrFormat("%d:%02d", whole / 60, whole % 60);
  return absl::StrFormat("%d:%02d:%02d", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace hm11
