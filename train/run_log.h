// RunLog: what a run tells - to the terminal, to train.log in the challenge's line format, and to
// metrics.jsonl.
//
// Properties:
//   1. A file holds whole lines only, whenever the run is killed.
//   2. A write that fails does not end the run: it is told once, what could not be written is kept and tried
//      again with the next line, and the end says whether something is missing.
//   3. Going on, metrics.jsonl is cut to what the checkpoint knows of: no step stands there twice.
#ifndef HM11_TRAIN_RUN_LOG_H_
#define HM11_TRAIN_RUN_LOG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hm11 {

// A file that lines are added to.
class LineFile {
 public:
  // Keeps the file's first `keep_bytes` (all for -1), up to its last line end.
  static absl::StatusOr<LineFile> Open(const std::string& path, int64_t keep_bytes);
  LineFile(LineFile&& other) noexcept;
  LineFile& operator=(LineFile&&) = delete;
  ~LineFile();

  // OK when this line and all before it are in the file.
  absl::Status Add(absl::string_view line);
  int64_t size_bytes() const { return size_bytes_; }

 private:
  LineFile(std::string path, int descriptor, int64_t size_bytes)
      : path_(std::move(path)), descriptor_(descriptor), size_bytes_(size_bytes) {}

  std::string path_;
  int descriptor_;
  int64_t size_bytes_;
  std::string pending_;  // lines that could not be written yet
};

class RunLog {
 public:
  static constexpr int64_t kNew = 0, kAll = -1;

  // Begins folder/train.log and folder/metrics.jsonl anew (kNew), or goes on with the log and so many bytes
  // of the metrics (kAll: with all of them). With `quiet` nothing comes to the terminal but warnings.
  static absl::StatusOr<RunLog> Open(const std::string& folder, bool go_on, int64_t metrics_bytes = kAll,
                                     bool quiet = false);
  // Of a rank that tells nothing.
  static RunLog Silent() { return RunLog(); }
  RunLog(RunLog&&) noexcept = default;
  RunLog& operator=(RunLog&&) = delete;
  ~RunLog() { Progress(""); }

  // One line to standard output and train.log; to the first alone; to the second alone.
  void Line(absl::string_view text);
  void Screen(absl::string_view text);
  void Detail(absl::string_view text);
  // One JSON object to metrics.jsonl.
  void Metric(absl::string_view json);
  // A line that the next one overwrites, on a terminal only; "" clears it.
  void Progress(absl::string_view text);
  bool shows_progress() const { return !silent() && terminal_; }
  // OK, or why lines are missing in a file.
  absl::Status status() const { return log_status_.ok() ? metrics_status_ : log_status_; }
  int64_t metrics_bytes() const { return silent() ? 0 : metrics_->size_bytes(); }

 private:
  RunLog() = default;
  bool silent() const { return !log_.has_value(); }
  void Tell(absl::Status now, absl::Status* before);

  std::optional<LineFile> log_, metrics_;
  absl::Status log_status_, metrics_status_;
  bool quiet_ = false;
  bool terminal_ = false;
  bool output_failed_ = false;
  bool progress_shown_ = false;
};

}  // namespace hm11

#endif  // HM11_TRAIN_RUN_LOG_H_
