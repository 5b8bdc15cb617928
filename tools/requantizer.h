// Requantize: a finished run's weights quantized again, with other settings, and scored from the artifact.
//
// How quantizer settings are searched: what training took minutes for is read from the run's folder, the
// matrices' inputs are collected once, and each list of settings costs the time of quantizing and of one pass
// over the validation tokens.
//
// Properties:
//   1. With the run's own settings the artifact is the run's, to the byte, where calibration reads the same
//      text: a run that is calibrated after its last step reads on from there.
//   2. Nothing in the run's folder is written.
#ifndef HM11_TOOLS_REQUANTIZER_H_
#define HM11_TOOLS_REQUANTIZER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/device.h"

namespace hm11 {

struct RequantizeOptions {
  std::string run;  // folder with config.txt, tokenizer.model, model.safetensors
  Device device = Device::Cpu();
  std::string train_pattern;  // shards to calibrate on
  std::string val_pattern;
  std::vector<std::string> trials;  // each "key=value,key=value", over the run's settings; may be empty
  std::string out;                  // the last trial's artifact goes here; empty: nowhere
  int64_t validation_tokens = 0;    // at most so many; 0: all
  int64_t first_step = 0;           // of the training stream that calibration reads from
  // After each trial, what each kind of tensor costs alone: it as quantized, all others in float.
  bool sensitivity = false;
};

// Hands each line of results to `line`. Errors name the file, the setting or the trial at fault.
absl::Status Requantize(const RequantizeOptions& options,
                        const std::function<void(const std::string&)>& line);

}  // namespace hm11

#endif  // HM11_TOOLS_REQUANTIZER_H_
