// A finished run of //train:hm11, read from its folder and checked: what the log says, what metrics.jsonl
// says and what the files are must agree.
#ifndef HM11_TOOLS_SUBMISSION_FINISHED_RUN_H_
#define HM11_TOOLS_SUBMISSION_FINISHED_RUN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "program/counted_program.h"
#include "tools/compliance/run_log.h"
#include "train/config.h"

namespace hm11 {

struct FinishedRun {
  std::string path = {};
  RunConfig config = {};
  LoggedRun log = {};
  std::string artifact = {};   // the file's bytes
  std::string tokenizer = {};  // the file's bytes
  Program program = {};        // that its size was counted with
  double val_loss = 0;         // nats a token, of the artifact
  double val_bpb = 0;
  int64_t steps = 0;
  double train_seconds = 0;
  double eval_seconds = 0;
  std::string device = {};        // "NVIDIA H200, 140 GiB, CUDA 12.4"
  std::string cuda_version = {};  // "12.4", or "" where it ran on the CPU
  std::string train_pattern = {};
  std::string val_pattern = {};
  int64_t train_tokens = 0;
  int64_t val_tokens = 0;  // all of the validation shards
  int64_t scored_tokens = 0;
  int64_t scored_bytes = 0;
  int64_t parameters = 0;
  // What differs from the run that was begun, where it was resumed as another: "muon_lr: 0.02 -> 0.01".
  std::vector<std::string> resumed_anyway = {};

  int64_t seed() const { return config.seed; }
  int64_t total_bytes() const { return static_cast<int64_t>(artifact.size()) + program.size_bytes(); }
  double step_ms() const { return 1e3 * train_seconds / static_cast<double>(steps); }
};

// Errors begin with the folder and say what is missing, cut off or at odds.
absl::StatusOr<FinishedRun> ReadFinishedRun(const std::string& path);

// Whether the runs are one submission: the same program, settings, tokenizer and data, no seed twice. An
// error names two folders and what they differ in.
absl::Status CheckTogether(const std::vector<FinishedRun>& runs);

}  // namespace hm11

#endif  // HM11_TOOLS_SUBMISSION_FINISHED_RUN_H_
