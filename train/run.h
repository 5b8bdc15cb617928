// Run: the main job from data to scored artifact. Train, export, quantize, reload, score, show a sample.
//
// With a group of ranks all train and score together; rank 0's clock decides, and rank 0 alone writes. What
// must be alike on all ranks is compared at the start (train/rank_agreement.h).
//
// The run's folder receives config.txt, train.log, metrics.jsonl, tokenizer.model, checkpoint.safetensors,
// model.safetensors (the exported weights under the reference's names), artifact.hm11, program.tar.xz and
// train_gpt.py, the program that the artifact's size is counted with (program/counted_program.h), and, drawn
// anew at every validation, report.html (train/report/page.h).
#ifndef HM11_TRAIN_RUN_H_
#define HM11_TRAIN_RUN_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "core/device.h"
#include "core/rank_group.h"
#include "train/config.h"
#include "train/run_folder.h"

namespace hm11 {

struct RunOptions {
  RunConfig config;
  Device device = Device::Cpu();
  std::string train_pattern;
  std::string val_pattern;
  std::string tokenizer_path;
  std::string
      init;  // path of weights to begin with, as model.safetensors holds them; empty: drawn by the seed
  std::string folder;
  FolderUse use = FolderUse::kNewRun;  // with kResume, go on from the folder's checkpoint
  bool resume_anyway = false;          // as another run than was begun (train/resume.h); the log says so
  bool quiet = false;                  // nothing on the terminal
  std::string commit;                  // that the program was built from, for the log; may be empty
  std::shared_ptr<RankGroup> group;    // null: one rank
  // Whether somebody asks for the end; then rank 0's answer makes the run stop with a checkpoint and an error
  // that says so. May be empty.
  std::function<bool()> interrupted;
  // Seconds of training after so many steps; empty: the clock's. For tests, in which a run has to repeat.
  std::function<double(int64_t steps)> training_seconds;

  bool resumes() const { return use == FolderUse::kResume; }
};

absl::Status Run(const RunOptions& options);

}  // namespace hm11

#endif  // HM11_TRAIN_RUN_H_
