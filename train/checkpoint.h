// Checkpoints: all that a run needs to go on to the bit, in one safetensors file.
//
// Tensors are the reference's parameters under the prefixes weights., first_moment., second_moment., average.
// and snapshots.N., so that PyTorch code can pick out the weights. Metadata: format (hm11-checkpoint),
// version, crc64 of everything else, in whatever order it stands in the file, and the fields of Checkpoint.
#ifndef HM11_TRAIN_CHECKPOINT_H_
#define HM11_TRAIN_CHECKPOINT_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/safetensors.h"
#include "train/schedule.h"
#include "train/snapshots.h"
#include "train/training_state.h"

namespace hm11 {

// Version 1 had no snapshots, nothing of Bookkeeping, and a checksum that depended on the order of tensors.
inline constexpr int kCheckpointVersion = 2;

// What a run keeps of its past beside tensors.
struct Bookkeeping {
  double validation_seconds = 0;   // of training, when it last validated
  int64_t phase = 0;               // of the last step
  int64_t metrics_bytes = -1;      // of metrics.jsonl that are of steps before; -1: not known
  int64_t micro_batch_tokens = 0;  // that it trained with; 0: not known
};

struct Checkpoint {
  std::string config;  // RunConfig's text
  RunPosition position;
  Bookkeeping book;
  std::string device;           // "cpu" or "cuda"; "" where it is not known
  std::string tokenizer_crc64;  // of the model file, in hexadecimal
  std::string matmul_tuning;
  TrainingState state;
  SnapshotState snapshots;
};

// Atomic: the checkpoint that was there stays whole until the new one is.
absl::Status WriteCheckpoint(const std::string& path, const Checkpoint& checkpoint);

// Errors name the file: not a checkpoint, truncated, altered (its checksum differs), or of a newer version.
absl::StatusOr<Checkpoint> ReadCheckpoint(const std::string& path);

// The last part of ReadCheckpoint: a file's tensors and metadata, whose checksum is not looked at. Errors do not
// name the file.
absl::StatusOr<Checkpoint> CheckpointFromTensors(Safetensors file);

}  // namespace hm11

#endif  // HM11_TRAIN_CHECKPOINT_H_
