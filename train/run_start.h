// What a run does in its folder before it trains: the checkpoint it goes on from, its files, the head of its
// log.
#ifndef HM11_TRAIN_RUN_START_H_
#define HM11_TRAIN_RUN_START_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/device.h"
#include "train/checkpoint.h"
#include "train/run.h"
#include "train/run_folder.h"
#include "train/run_inputs.h"
#include "train/run_log.h"

namespace hm11 {

std::string CheckpointPath(const RunOptions& options);

// As checkpoints name a device's kind.
std::string KindOf(const Device& device);

// The folder's checkpoint, if it is of this model, this tokenizer and, unless it may be another, this run;
// nothing when the run is a new one. `changes` becomes what differs from the run that wrote it.
absl::StatusOr<std::optional<Checkpoint>> CheckpointToResume(const RunOptions& options,
                                                             const RunInputs& inputs,
                                                             std::vector<std::string>* changes);

// The run's folder, held, with all that is known before training.
absl::StatusOr<RunFolder> OpenFolder(const RunOptions& options, const RunInputs& inputs);

// A run that goes on writes the steps after its checkpoint again: their metrics are dropped.
absl::Status ForgetLaterMetrics(const std::string& folder, int64_t step);

// `step`: those done before.
void LogHeader(const RunOptions& options, const RunInputs& inputs, int ranks, int64_t step, RunLog& log);

}  // namespace hm11

#endif  // HM11_TRAIN_RUN_START_H_
