// Parsers of models: artifacts, checkpoints, safetensors. What a checksum would refuse is read a second time
// with the checksum made right, as whoever means harm would do.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/crc64.h"
#include "core/file.h"
#include "model/safetensors.h"
#include "quant/artifact.h"
#include "quant/code_models.h"
#include "quant/packed_model.h"
#include "testing/golden.h"
#include "tools/fuzz/hostile_input.h"
#include "train/checkpoint.h"

namespace hm11 {
namespace {

void CheckArtifact(const Artifact& artifact) {
  for (const StoredTensor& tensor : artifact.tensors) {
    for (const int8_t code : tensor.codes.codes) {
      HM_CHECK_LE(std::abs(int{code}), LargestCode(tensor.codes.bits));
    }
  }
}

void ParseAsArtifact(absl::string_view bytes) {
  const absl::StatusOr<Artifact> artifact = ParseArtifact(bytes, "artifact");
  if (artifact.ok()) CheckArtifact(*artifact);
  (void)UnpackModel(bytes, "artifact");
  (void)ArtifactChecksum(bytes);
}

void ParseAsSealedArtifact(absl::string_view bytes) {
  constexpr size_t kSizeOffset = 24;  // quant/artifact.h
  std::string sealed(bytes);
  if (sealed.size() < kSizeOffset + 2 * sizeof(uint64_t)) return;
  const uint64_t size = sealed.size();
  std::memcpy(&sealed[kSizeOffset], &size, sizeof(size));
  const size_t end = sealed.size() - sizeof(uint64_t);
  const uint64_t crc = Crc64(absl::string_view(sealed).substr(0, end));
  std::memcpy(&sealed[end], &crc, sizeof(crc));
  ParseAsArtifact(sealed);
}

std::vector<std::string> Artifacts() {
  Artifact small{.config_text = "layers=MA\ndim=8\n", .tokenizer_crc = 7, .vocab_size = 64};
  small.tensors.push_back({.name = "a", .shape = {2, 2}, .floats = {1, 2, 3, 4}});
  small.tensors.push_back({.name = "b", .shape = {3}, .storage = Storage::kFloat16});
  small.tensors.back().float16s = {Fp16(1.f), Fp16(2.f), Fp16(2.f)};
  small.tensors.push_back({.name = "c", .shape = {2, 3}, .storage = Storage::kCodes});
  QuantizedMatrix& codes = small.tensors.back().codes;
  codes = {.rows = 2, .cols = 3, .bits = 4, .codes = {1, -7, 0, 2, 0, 0}};
  codes.scales = {Fp16(0.5f), Fp16(1.f)};
  codes.column_exponents = {0, 1, -2};
  std::vector<std::string> examples = {*ReadFile(GoldenPath("artifact_version_2.hm11"))};
  for (const CodeCoder coder : {CodeCoder::kRange, CodeCoder::kLzma}) {
    examples.push_back(*SerializeArtifact(small, coder));
  }
  return examples;
}

void CheckTensors(const std::vector<NamedTensor>& tensors) {
  for (const NamedTensor& tensor : tensors) {
    int64_t size = 1;
    for (const int64_t extent : tensor.shape) size *= extent;
    HM_CHECK_EQ(size, static_cast<int64_t>(tensor.values.size()));
  }
}

void ParseAsSafetensors(absl::string_view bytes) {
  const absl::StatusOr<Safetensors> file = ReadSafetensors(ScratchFile(bytes, ".safetensors"));
  if (file.ok()) CheckTensors(file->tensors);
}

void ParseAsCheckpoint(absl::string_view bytes) {
  const std::string path = ScratchFile(bytes, ".checkpoint");
  (void)ReadCheckpoint(path);
  absl::StatusOr<Safetensors> file = ReadSafetensors(path);
  if (!file.ok()) return;
  const absl::StatusOr<Checkpoint> checkpoint = CheckpointFromTensors(*std::move(file));
  if (!checkpoint.ok()) return;
  for (const auto& tensors : {checkpoint->state.weights, checkpoint->state.average}) CheckTensors(tensors);
}

std::vector<std::string> Checkpoints() {
  Checkpoint checkpoint{.config = "layers=MA\n", .device = "cpu", .tokenizer_crc64 = "0123456789abcdef"};
  checkpoint.position.step = 3;
  checkpoint.position.elapsed_seconds = 1.5;
  checkpoint.state.weights = {{"blocks.0.scale", {2}, {1, 2}}, {"lm_head.weight", {1, 2}, {3, 4}}};
  checkpoint.state.average = {{"blocks.0.scale", {2}, {1, 2}}};
  checkpoint.snapshots = {.taken = 1, .sets = {{{"blocks.0.scale", {2}, {5, 6}}}}};
  const std::string path = ScratchFile("", ".example");
  HM_CHECK(WriteCheckpoint(path, checkpoint).ok());
  return {*ReadFile(path)};
}

std::vector<std::string> SafetensorsFiles() {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"F64","shape":[],"data_offsets":[8,16]},"c":{"dtype":"I8","shape":[3],"data_offsets":[16,19]}})";
  const uint64_t header_bytes = header.size();
  std::string file(reinterpret_cast<const char*>(&header_bytes), sizeof(header_bytes));
  return {file + header + std::string(19, '\x3f'), Checkpoints()[0]};
}

}  // namespace

std::vector<ParserUnderTest> ModelParsers() {
  return {{"artifact", ParseAsArtifact, Artifacts},
          {"sealed_artifact", ParseAsSealedArtifact, Artifacts},
          {"checkpoint", ParseAsCheckpoint, Checkpoints},
          {"safetensors", ParseAsSafetensors, SafetensorsFiles}};
}

}  // namespace hm11
