// RunConfig: everything that, with the data, determines a run; and the presets.
//
// One flat list of settings: the model's, the optimizer's, the schedule's, the quantizer's and the run's own.
// Its text form (core/fields.h) is printed at start, stored beside the run, in checkpoints and artifacts, and
// parses back to itself.
#ifndef HM11_TRAIN_CONFIG_H_
#define HM11_TRAIN_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/config.h"
#include "quant/config.h"
#include "train/optimizer_config.h"
#include "train/phases.h"
#include "train/schedule.h"

namespace hm11 {

struct RunConfig {
  std::string preset = "hm11";
  ModelConfig model;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  QuantConfig quant;

  int64_t seed = 1337;
  int64_t sequence = 2048;         // tokens of a training sequence, and of an evaluation window
  std::string sequence_stages;     // shorter sequences first, "1024:0.4+...": train/phases.h
  double loop_from = 0;            // share of the run from which layers loop, where the model has loops
  bool shuffle = false;            // sequences in an order of their own in each epoch; false: as they stand
  int64_t batch_tokens = 65536;    // of a step, over all micro-batches
  int64_t micro_batch_tokens = 0;  // of a forward and backward pass; 0: the most that fits in memory
  // On GPUs of compute capability 9.0 the first product of every mixer and all of the MLPs', gradients and all, are of
  // 8-bit numbers (ops/fp8.h); what is scored and exported is computed without.
  bool fp8 = false;
  double input_mask = 0;      // share of the inputs hidden once text is read again: data/batcher.h
  int64_t warmup_steps = 20;  // run first and undone: they load kernels and choose algorithms, nothing else
  int64_t log_every = 50;     // steps between lines of the log
  double validation_seconds = 60;  // of training between validations; 0: only at the end
  int64_t validation_tokens = 0;   // at most so many of the validation tokens while training; 0: all
  double checkpoint_seconds = 0;   // of training between checkpoints; 0: only at the end
  bool export_average = false;     // the moving average is what is exported, not the last weights
  int64_t swa_every = 0;  // steps between snapshots averaged while the rate is under swa_lr_scale; 0: off
  double swa_lr_scale = 0.2;
  int64_t lawa_snapshots = 0;                   // export the mean of the last so many snapshots; 0: off
  int64_t lawa_every = 100;                     // steps between those
  int64_t calibration_tokens = 262144;          // of training text that quantization is fitted to; 0: none
  int64_t calibration_gradient_tokens = 65536;  // of it that steps are shared out by; 0: by deviations alone
  double calibration_seconds = 3;               // kept back for it from the time limit
  int64_t sample_tokens = 120;                  // of generated text shown at the end
  int64_t report_tokens = 1048576;  // of validation text that the page's scores are of at most; 0: none

  template <typename Self, typename F>
  static void ForEachField(Self& self, F&& f) {
    f("preset", self.preset);
    f("seed", self.seed);
    f("sequence", self.sequence);
    f("sequence_stages", self.sequence_stages);
    f("loop_from", self.loop_from);
    f("shuffle", self.shuffle);
    f("batch_tokens", self.batch_tokens);
    f("micro_batch_tokens", self.micro_batch_tokens);
    f("fp8", self.fp8);
    f("input_mask", self.input_mask);
    f("warmup_steps", self.warmup_steps);
    f("log_every", self.log_every);
    f("validation_seconds", self.validation_seconds);
    f("validation_tokens", self.validation_tokens);
    f("checkpoint_seconds", self.checkpoint_seconds);
    f("export_average", self.export_average);
    f("swa_every", self.swa_every);
    f("swa_lr_scale", self.swa_lr_scale);
    f("lawa_snapshots", self.lawa_snapshots);
    f("lawa_every", self.lawa_every);
    f("calibration_tokens", self.calibration_tokens);
    f("calibration_gradient_tokens", self.calibration_gradient_tokens);
    f("calibration_seconds", self.calibration_seconds);
    f("sample_tokens", self.sample_tokens);
    f("report_tokens", self.report_tokens);
    ModelConfig::ForEachField(self.model, f);
    OptimizerConfig::ForEachField(self.optimizer, f);
    ScheduleConfig::ForEachField(self.schedule, f);
    QuantConfig::ForEachField(self.quant, f);
  }

  // InvalidArgument names the field.
  absl::Status Validate() const;

  std::vector<Phase> Phases() const;              // of a valid configuration
  ModelConfig ModelIn(const Phase& phase) const;  // the model as it runs in it
};

std::vector<std::string> PresetNames();

// NotFound names the preset and lists those there are.
absl::StatusOr<RunConfig> Preset(absl::string_view name);

// "key=value,key=value": sets each. Errors name an unknown key or a bad value.
absl::Status ApplyOverrides(absl::string_view overrides, RunConfig* config);

// The quantizer's settings beside a program of so many bytes: its budget is at most what they leave of the
// cap.
QuantConfig QuantConfigWithProgram(const RunConfig& config, int64_t program_bytes);

// The flags of //train:hm11 that make this configuration but for its seed: the preset and what differs from
// it. Errors name an unknown preset, or a text that a list of settings cannot hold.
absl::StatusOr<std::vector<std::string>> TrainingFlags(const RunConfig& config);

}  // namespace hm11

#endif  // HM11_TRAIN_CONFIG_H_
