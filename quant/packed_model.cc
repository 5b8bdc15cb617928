// Between a model and the bytes of its artifact.
#include "quant/packed_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/crc64.h"
#include "core/fields.h"
#include "core/file.h"
#include "core/status.h"
#include "model/safetensors.h"
#include "model/weights.h"

namespace hm11 {
namespace {

absl::Status WithSource(const absl::Status& status, absl::string_view source) {
  return absl::Status(status.code(), absl::StrCat(source, ": ", status.message()));
}

// Without what is only for training, and without numbers.
ArtifactContents ContentsOf(const ModelConfig& model, int64_t sequence) {
  ArtifactConfig config{.model = model, .sequence = sequence};
  config.model.mtp_heads = 0;
  ArtifactContents contents{.config_text = FormatFields(config)};
  for (const StoredWeight& weight : StoredWeights(model)) {
    contents.tensors.push_back({weight.name, weight.shape, {}});
    contents.classes.push_back(weight.storage);
  }
  return contents;
}

// Imports into host memory only to see that every tensor is there in its shape.
absl::Status CheckTensors(const UnpackedModel& model) {
  Arena host = Arena::Cpu();
  ModelWeights<float> weights = NewWeights<float>(host, model.config.model);
  return ImportWeights<float>(host, model.config.model, model.tensors, &weights);
}

// The configuration in a file of weights.
absl::Status ConfigOfWeights(const Safetensors& file, ArtifactConfig* config) {
  const auto text = file.metadata.find("config");
  if (text == file.metadata.end()) {
    return absl::InvalidArgumentError("no configuration of a model in its metadata, under 'config'");
  }
  HM_RETURN_IF_ERROR(ParseFields(text->second, &config->model));
  if (const auto sequence = file.metadata.find("sequence");
      sequence != file.metadata.end() &&
      (!absl::SimpleAtoi(sequence->second, &config->sequence) || config->sequence < 1)) {
    return absl::InvalidArgumentError(absl::StrCat("sequence ", sequence->second, " in its metadata"));
  }
  return config->model.Validate();
}

}  // namespace

absl::StatusOr<EncodedArtifact> PackModel(const ModelConfig& model, int64_t sequence,
                                          const Tokenizer& tokenizer, const std::vector<NamedTensor>& tensors,
                                          const QuantConfig& quant, const Calibration* calibration) {
  ArtifactContents contents = ContentsOf(model, sequence);
  HM_ASSIGN_OR_RETURN(contents.tensors, SplitBanks(model, tensors));
  contents.tokenizer_crc = Crc64(tokenizer.model());
  contents.vocab_size = tokenizer.vocab();
  return EncodeArtifact(contents, quant, calibration);
}

absl::StatusOr<SizeEstimate> EstimatePackedSize(const ModelConfig& model, int64_t sequence,
                                                const QuantConfig& quant) {
  return EstimateSize(ContentsOf(model, sequence), quant);
}

absl::StatusOr<UnpackedModel> UnpackModel(absl::string_view bytes, absl::string_view source) {
  HM_ASSIGN_OR_RETURN(const ArtifactContents contents, DecodeArtifact(bytes, source));
  UnpackedModel model{.config = {}, .tokenizer_crc = contents.tokenizer_crc, .tensors = {}};
  absl::Status status = ParseFields(contents.config_text, &model.config);
  if (status.ok()) status = model.config.model.Validate();
  if (!status.ok()) return WithSource(status, source);
  if (model.config.sequence < 1)
    return absl::DataLossError(absl::StrCat(source, ": sequence must be at least 1"));
  absl::StatusOr<std::vector<NamedTensor>> tensors = JoinBanks(model.config.model, contents.tensors);
  if (!tensors.ok()) return WithSource(tensors.status(), source);
  model.tensors = *std::move(tensors);
  return model;
}

absl::StatusOr<UnpackedModel> ReadModel(const std::string& path) {
  HM_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  return UnpackModel(bytes, path);
}

absl::StatusOr<UnpackedModel> ReadModelOrWeights(const std::string& path) {
  if (!absl::EndsWith(path, ".safetensors")) return ReadModel(path);
  HM_ASSIGN_OR_RETURN(Safetensors file, ReadSafetensors(path));
  UnpackedModel model;
  absl::Status status = ConfigOfWeights(file, &model.config);
  if (!status.ok()) return WithSource(status, path);
  model.tensors = std::move(file.tensors);
  for (const ReferenceParameter& parameter : ReferenceParameters(model.config.model)) {
    if (parameter.storage != StorageClass::kTrainingOnly) continue;
    std::erase_if(model.tensors, [&](const NamedTensor& tensor) { return tensor.name == parameter.name; });
  }
  model.config.model.mtp_heads = 0;
  status = CheckTensors(model);
  if (!status.ok()) return WithSource(status, path);
  return model;
}

bool FitsFp16(const std::vector<NamedTensor>& tensors) {
  constexpr float kLargest = 65504;
  return std::all_of(tensors.begin(), tensors.end(), [](const NamedTensor& tensor) {
    return std::all_of(tensor.values.begin(), tensor.values.end(),
                       [](float value) { return std::abs(value) <= kLargest; });
  });
}

absl::Status CheckTokenizer(const UnpackedModel& model, const std::string& artifact_path,
                            const Tokenizer& tokenizer, const std::string& tokenizer_path) {
  if (tokenizer.vocab() != model.config.model.vocab) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer ", tokenizer_path, " has ", tokenizer.vocab(),
                                                   " pieces, the model of ", artifact_path, " has ",
                                                   model.config.model.vocab));
  }
  if (model.tokenizer_crc != 0 && Crc64(tokenizer.model()) != model.tokenizer_crc) {
    return absl::InvalidArgumentError(
        absl::StrCat("artifact ", artifact_path, " was made with another tokenizer than ", tokenizer_path));
  }
  return absl::OkStatus();
}

}  // namespace hm11
