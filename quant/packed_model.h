// A model as its artifact holds it, with its configuration and the mark of its tokenizer: packing it and
// reading it back.
#ifndef HM11_QUANT_PACKED_MODEL_H_
#define HM11_QUANT_PACKED_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/named_tensor.h"
#include "data/tokenizer.h"
#include "model/config.h"
#include "quant/config.h"
#include "quant/model_artifact.h"

namespace hm11 {

// The configuration text of an artifact.
struct ArtifactConfig {
  ModelConfig model;        // without multi-token-prediction heads
  int64_t sequence = 2048;  // tokens of a training sequence: the window to score with

  template <typename Self, typename F>
  static void ForEachField(Self& self, F&& f) {
    f("sequence", self.sequence);
    ModelConfig::ForEachField(self.model, f);
  }
};

// Quantizes and packs. `tensors` are ExportWeights' of `model`, else an error names the one that is not;
// heads that are only for training are dropped.
absl::StatusOr<EncodedArtifact> PackModel(const ModelConfig& model, int64_t sequence,
                                          const Tokenizer& tokenizer, const std::vector<NamedTensor>& tensors,
                                          const QuantConfig& quant, const Calibration* calibration = nullptr);

// What PackModel would make of trained weights, told before there are any.
absl::StatusOr<SizeEstimate> EstimatePackedSize(const ModelConfig& model, int64_t sequence,
                                                const QuantConfig& quant);

// An artifact's contents, checked: its configuration is possible and its tensors are those of the
// configuration.
struct UnpackedModel {
  ArtifactConfig config;
  uint64_t tokenizer_crc = 0;
  std::vector<NamedTensor> tensors;  // the reference's, as ImportWeights takes them
};
absl::StatusOr<UnpackedModel> UnpackModel(absl::string_view bytes, absl::string_view source);
absl::StatusOr<UnpackedModel> ReadModel(const std::string& path);
// The same of an artifact or of weights before rounding, a model.safetensors as training leaves it; those
// name no tokenizer and have a tokenizer_crc of 0.
absl::StatusOr<UnpackedModel> ReadModelOrWeights(const std::string& path);

// Whether every value is finite as Fp16.
bool FitsFp16(const std::vector<NamedTensor>& tensors);

// InvalidArgument names both files when the artifact was made with another tokenizer, as far as it says.
absl::Status CheckTokenizer(const UnpackedModel& model, const std::string& artifact_path,
                            const Tokenizer& tokenizer, const std::string& tokenizer_path);

}  // namespace hm11

#endif  // HM11_QUANT_PACKED_MODEL_H_
