// RunLog: what a run tells - to the terminal, to train.log in the challenge's line format, and to
// metrics.jsonl.
#ifndef HM11_TRAIN_RUN_LOG_H_
#define HM11_TRAIN_RUN_LOG_H_

#include <cstdio>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hm11 {

class RunLog {
 public:
  // Appends to folder/train.log and folder/metrics.jsonl when `append`, else begins them anew.
  // With `quiet` nothing comes to the terminal.
  static absl::StatusOr<RunLog> Open(const std::string& folder, bool append, bool quiet = false);
  // Of a rank that tells nothing.
  static RunLog Silent() { return RunLog("", nullptr, nullptr, true); }
  RunLog(RunLog&& other) noexcept;
  RunLog& operator=(RunLog&&) = delete;
  ~RunLog();

  // One line to standard output and train.log; to the first alone; to the second alone.
  void Line(absl::string_view text);
  void Screen(absl::string_view text);
  void Detail(absl::string_view text);
  // One JSON object to metrics.jsonl.
  void Metric(absl::string_view json);
  // A line that the next one overwrites, on a terminal only; "" clears it.
  void Progress(absl::string_view text);
  // OK, or the first write that failed (a full disk).
  absl::Status status() const { return status_; }

 private:
  RunLog(std::string folder, std::FILE* log, std::FILE* metrics, bool quiet);
  void Write(std::FILE* file, const char* name, absl::string_view text);

  bool silent() const { return log_ == nullptr; }

  std::string folder_;
  std::FILE* log_;
  std::FILE* metrics_;
  bool quiet_;
  bool terminal_;
  bool progress_shown_ = false;
  absl::Status status_;
};

// "1:05" or "2:03:04".
std::string FormatDuration(double seconds);

}  // namespace hm11

#endif  // HM11_TRAIN_RUN_LOG_H_
