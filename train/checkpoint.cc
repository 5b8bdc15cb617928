// Checkpoints, as safetensors with a checksum in the metadata.
#include "train/checkpoint.h"

#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "core/lzma.h"
#include "core/status.h"
#include "model/safetensors.h"

namespace hm11 {
namespace {

constexpr char kFormat[] = "hm11-checkpoint";

// Each set of tensors with its prefix.
template <typename State>
auto Parts(State& state) {
  return std::vector<std::pair<const char*, decltype(&state.weights)>>{
      {"weights.", &state.weights},
      {"first_moment.", &state.first_moment},
      {"second_moment.", &state.second_moment},
      {"average.", &state.average}};
}

// Of names, shapes, values and all metadata but the checksum itself.
std::string Checksum(const Safetensors& file) {
  uint64_t crc = 0;
  for (const auto& [key, value] : file.metadata) {
    if (key != "crc64") crc = Crc64(absl::StrCat(key, "\n", value, "\n"), crc);
  }
  for (const NamedTensor& tensor : file.tensors) {
    crc = Crc64(tensor.name, crc);
    for (int64_t extent : tensor.shape) crc = Crc64(absl::StrCat(" ", extent), crc);
    crc = Crc64(absl::string_view(reinterpret_cast<const char*>(tensor.values.data()),
                                  tensor.values.size() * sizeof(float)),
                crc);
  }
  return absl::StrFormat("%016x", crc);
}

}  // namespace

absl::Status WriteCheckpoint(const std::string& path, const Checkpoint& checkpoint) {
  Safetensors file;
  file.metadata = {{"format", kFormat},
                   {"version", absl::StrCat(kCheckpointVersion)},
                   {"config", checkpoint.config},
                   {"step", absl::StrCat(checkpoint.position.step)},
                   {"elapsed_seconds", absl::StrFormat("%a", checkpoint.position.elapsed_seconds)},
                   {"tokenizer_crc64", checkpoint.tokenizer_crc64},
                   {"matmul_tuning", checkpoint.matmul_tuning}};
  for (const auto& [prefix, tensors] : Parts(checkpoint.state)) {
    for (const NamedTensor& tensor : *tensors) {
      file.tensors.push_back({absl::StrCat(prefix, tensor.name), tensor.shape, tensor.values});
    }
  }
  file.metadata["crc64"] = Checksum(file);
  return WriteSafetensors(path, file);
}

absl::StatusOr<Checkpoint> ReadCheckpoint(const std::string& path) {
  HM_ASSIGN_OR_RETURN(Safetensors file, ReadSafetensors(path));
  const auto bad = [&](absl::string_view why) { return absl::DataLossError(absl::StrCat(path, ": ", why)); };
  int version = 0;
  if (file.metadata["format"] != kFormat) return bad("not a checkpoint of hm11");
  if (!absl::SimpleAtoi(file.metadata["version"], &version)) return bad("checkpoint without a version");
  if (version > kCheckpointVersion) {
    return bad(
        absl::StrCat("checkpoint of version ", version, ", newer than this program's ", kCheckpointVersion));
  }
  if (file.metadata["crc64"] != Checksum(file)) return bad("checkpoint was altered: its checksum differs");
  Checkpoint checkpoint;
  checkpoint.config = file.metadata["config"];
  checkpoint.tokenizer_crc64 = file.metadata["tokenizer_crc64"];
  checkpoint.matmul_tuning = file.metadata["matmul_tuning"];
  // SimpleAtod does not read hexadecimal floats.
  checkpoint.position.elapsed_seconds = std::strtod(file.metadata["elapsed_seconds"].c_str(), nullptr);
  if (!absl::SimpleAtoi(file.metadata["step"], &checkpoint.position.step))
    return bad("checkpoint without a step");
  for (NamedTensor& tensor : file.tensors) {
    bool known = false;
    for (const auto& [prefix, tensors] : Parts(checkpoint.state)) {
      absl::string_view name = tensor.name;
      if (!absl::ConsumePrefix(&name, prefix)) continue;
      tensors->push_back({std::string(name), tensor.shape, std::move(tensor.values)});
      known = true;
      break;
    }
    if (!known) return bad(absl::StrCat("unknown tensor ", tensor.name));
  }
  return checkpoint;
}

}  // namespace hm11
