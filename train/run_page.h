// The page of a run as it goes: drawn from the run's folder, and what a finished run finds out for it.
//
// No part of the program that artifacts are counted with: a run built without this file draws none, and writes
// no sample.
#ifndef HM11_TRAIN_RUN_PAGE_H_
#define HM11_TRAIN_RUN_PAGE_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/arena.h"
#include "core/device.h"
#include "core/named_tensor.h"
#include "data/tokenizer.h"
#include "model/config.h"
#include "model/weights.h"
#include "quant/packed_model.h"

namespace hm11 {

// report.html in the run's folder, from what the other files say so far.
absl::Status DrawRunPage(const std::string& folder);

// `prompt` and the tokens that the model draws behind it, seeing a window of so many at most. T is what the model
// runs in.
template <typename T>
std::vector<uint16_t> WriteSample(const Device& device, const ModelConfig& config,
                                  const ModelWeights<T>& weights, std::span<const uint16_t> prompt,
                                  int64_t tokens, int64_t window);

struct FinishedModel {
  const std::string& folder;              // that artifact.hm11 is in
  Arena& work;                            // reset
  const std::vector<NamedTensor>& exact;  // the weights before quantizing
  const UnpackedModel& model;             // what the artifact holds
  const Tokenizer& tokenizer;
  std::span<const uint16_t> val_tokens;
  const std::vector<uint16_t>& sample;  // generated text, may be empty
  int64_t most_tokens = 0;              // of val_tokens, to score
  int64_t work_bytes = 0;               // that a forward pass may take of `work`
  int64_t rows_at_once = 0;             // tokens of a forward pass, at most
  int64_t program_bytes = 0;
};

// report.json (train/report/run_facts.h). Rounding costs are of a quarter of the tokens: each part of the
// model is scored once. T is what the model runs in.
template <typename T>
absl::Status WriteRunFacts(const FinishedModel& finished);

}  // namespace hm11

#endif  // HM11_TRAIN_RUN_PAGE_H_
