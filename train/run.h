// Run: the main job from data to scored artifact. Train, export, quantize, reload, score, show a sample.
//
// The run's folder receives config.txt, train.log, metrics.jsonl, tokenizer.model, checkpoint.safetensors,
// model.safetensors (the exported weights under the reference's names), artifact.hm11, and program.tar.xz and
// train_gpt.py, the program that the artifact's size is counted with (quant/program_size.h).
#ifndef HM11_TRAIN_RUN_H_
#define HM11_TRAIN_RUN_H_

#include <string>

#include "absl/status/status.h"
#include "core/device.h"
#include "train/config.h"

namespace hm11 {

struct RunOptions {
  RunConfig config;
  Device device = Device::Cpu();
  std::string train_pattern;
  std::string val_pattern;
  std::string tokenizer_path;
  std::string folder;
  bool resume = false;  // go on from the folder's checkpoint
};

absl::Status Run(const RunOptions& options);

}  // namespace hm11

#endif  // HM11_TRAIN_RUN_H_
