// Checkpoints: all that a run needs to go on to the bit, in one safetensors file.
//
// Tensors are the reference's parameters under the prefixes weights., first_moment., second_moment. and
// average., so that PyTorch code can pick out the weights. Metadata: format (hm11-checkpoint), version, crc64
// of everything else, config (RunConfig's text), step, elapsed_seconds, tokenizer_crc64, matmul_tuning.
#ifndef HM11_TRAIN_CHECKPOINT_H_
#define HM11_TRAIN_CHECKPOINT_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "train/schedule.h"
#include "train/trainer.h"

namespace hm11 {

inline constexpr int kCheckpointVersion = 1;

struct Checkpoint {
  std::string config;  // RunConfig's text
  RunPosition position;
  std::string tokenizer_crc64;  // of the model file, in hexadecimal
  std::string matmul_tuning;
  TrainingState state;
};

// Atomic: the checkpoint that was there stays whole until the new one is.
absl::Status WriteCheckpoint(const std::string& path, const Checkpoint& checkpoint);

// Errors name the file: not a checkpoint, truncated, altered (its checksum differs), or of a newer version.
absl::StatusOr<Checkpoint> ReadCheckpoint(const std::string& path);

}  // namespace hm11

#endif  // HM11_TRAIN_CHECKPOINT_H_
