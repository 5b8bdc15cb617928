// Checkpoints, as safetensors with a checksum in the metadata.
#include "train/checkpoint.h"

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "core/crc64.h"
#include "core/status.h"
#include "model/safetensors.h"

namespace hm11 {
namespace {

constexpr char kFormat[] = "hm11-checkpoint";
constexpr size_t kMostSnapshots = 100000;

// Each set of tensors with its prefix.
template <typename C>
auto Parts(C& checkpoint) {
  auto& state = checkpoint.state;
  std::vector<std::pair<std::string, decltype(&state.weights)>> parts = {
      {"weights.", &state.weights},
      {"first_moment.", &state.first_moment},
      {"second_moment.", &state.second_moment},
      {"average.", &state.average}};
  for (size_t i = 0; i < checkpoint.snapshots.sets.size(); ++i) {
    parts.emplace_back(absl::StrCat("snapshots.", i, "."), &checkpoint.snapshots.sets[i]);
  }
  return parts;
}

// Of names, shapes, values and all metadata but the checksum itself; of tensors by name, since other programs
// write them in an order of their own.
std::string Checksum(const Safetensors& file, int version) {
  uint64_t crc = 0;
  for (const auto& [key, value] : file.metadata) {
    if (key != "crc64") crc = Crc64(absl::StrCat(key, "\n", value, "\n"), crc);
  }
  std::vector<const NamedTensor*> tensors;
  for (const NamedTensor& tensor : file.tensors) tensors.push_back(&tensor);
  if (version > 1) {
    std::stable_sort(tensors.begin(), tensors.end(),
                     [](const NamedTensor* a, const NamedTensor* b) { return a->name < b->name; });
  }
  for (const NamedTensor* tensor : tensors) {
    crc = Crc64(tensor->name, crc);
    for (int64_t extent : tensor->shape) crc = Crc64(absl::StrCat(" ", extent), crc);
    crc = Crc64(absl::string_view(reinterpret_cast<const char*>(tensor->values.data()),
                                  tensor->values.size() * sizeof(float)),
                crc);
  }
  return absl::StrFormat("%016x", crc);
}

// Puts a file's tensor where its prefix says; false where it says nothing known.
bool Place(NamedTensor tensor, Checkpoint* checkpoint) {
  for (const auto& [prefix, tensors] : Parts(*checkpoint)) {
    absl::string_view name = tensor.name;
    if (!absl::ConsumePrefix(&name, prefix)) continue;
    tensors->push_back({std::string(name), tensor.shape, std::move(tensor.values)});
    return true;
  }
  return false;
}

template <typename... Words>
absl::Status Bad(const Words&... why) {
  return absl::DataLossError(absl::StrCat(why...));
}

absl::StatusOr<int> Version(Safetensors& file) {
  int version = 0;
  if (file.metadata["format"] != kFormat) return Bad("not a checkpoint of hm11");
  if (!absl::SimpleAtoi(file.metadata["version"], &version) || version < 1) {
    return Bad("checkpoint without a version");
  }
  if (version > kCheckpointVersion) {
    return Bad("checkpoint of version ", version, ", newer than this program's ", kCheckpointVersion);
  }
  return version;
}

}  // namespace

absl::Status WriteCheckpoint(const std::string& path, const Checkpoint& checkpoint) {
  Safetensors file;
  file.metadata = {{"format", kFormat},
                   {"version", absl::StrCat(kCheckpointVersion)},
                   {"config", checkpoint.config},
                   {"step", absl::StrCat(checkpoint.position.step)},
                   {"elapsed_seconds", absl::StrFormat("%a", checkpoint.position.elapsed_seconds)},
                   {"validation_seconds", absl::StrFormat("%a", checkpoint.book.validation_seconds)},
                   {"phase", absl::StrCat(checkpoint.book.phase)},
                   {"metrics_bytes", absl::StrCat(checkpoint.book.metrics_bytes)},
                   {"micro_batch_tokens", absl::StrCat(checkpoint.book.micro_batch_tokens)},
                   {"device", checkpoint.device},
                   {"snapshots_taken", absl::StrCat(checkpoint.snapshots.taken)},
                   {"snapshot_sets", absl::StrCat(checkpoint.snapshots.sets.size())},
                   {"tokenizer_crc64", checkpoint.tokenizer_crc64},
                   {"matmul_tuning", checkpoint.matmul_tuning}};
  for (const auto& [prefix, tensors] : Parts(checkpoint)) {
    for (const NamedTensor& tensor : *tensors) {
      file.tensors.push_back({absl::StrCat(prefix, tensor.name), tensor.shape, tensor.values});
    }
  }
  file.metadata["crc64"] = Checksum(file, kCheckpointVersion);
  return WriteSafetensors(path, file);
}

absl::StatusOr<Checkpoint> ReadCheckpoint(const std::string& path) {
  HM_ASSIGN_OR_RETURN(Safetensors file, ReadSafetensors(path));
  const absl::StatusOr<int> version = Version(file);
  absl::StatusOr<Checkpoint> checkpoint =
      !version.ok() ? version.status()
      : file.metadata["crc64"] != Checksum(file, *version)
          ? absl::DataLossError("checkpoint was altered: its checksum differs")
          : CheckpointFromTensors(std::move(file));
  if (checkpoint.ok()) return checkpoint;
  return absl::Status(checkpoint.status().code(), absl::StrCat(path, ": ", checkpoint.status().message()));
}

absl::StatusOr<Checkpoint> CheckpointFromTensors(Safetensors file) {
  HM_ASSIGN_OR_RETURN(const int version, Version(file));
  Checkpoint checkpoint;
  checkpoint.config = file.metadata["config"];
  checkpoint.device = file.metadata["device"];
  checkpoint.tokenizer_crc64 = file.metadata["tokenizer_crc64"];
  checkpoint.matmul_tuning = file.metadata["matmul_tuning"];
  // SimpleAtod does not read hexadecimal floats.
  checkpoint.position.elapsed_seconds = std::strtod(file.metadata["elapsed_seconds"].c_str(), nullptr);
  checkpoint.book.validation_seconds =
      version == 1 ? checkpoint.position.elapsed_seconds
                   : std::strtod(file.metadata["validation_seconds"].c_str(), nullptr);
  uint64_t sets = 0;
  const std::pair<const char*, int64_t*> numbers[] = {
      {"step", &checkpoint.position.step},
      {"phase", &checkpoint.book.phase},
      {"metrics_bytes", &checkpoint.book.metrics_bytes},
      {"micro_batch_tokens", &checkpoint.book.micro_batch_tokens},
      {"snapshots_taken", &checkpoint.snapshots.taken}};
  for (const auto& [key, number] : numbers) {
    if (version == 1 && number != &checkpoint.position.step) continue;
    if (!absl::SimpleAtoi(file.metadata[key], number)) return Bad("checkpoint without ", key);
  }
  if (version > 1 && (!absl::SimpleAtoi(file.metadata["snapshot_sets"], &sets) || sets > kMostSnapshots)) {
    return Bad("checkpoint without snapshot_sets");
  }
  checkpoint.snapshots.sets.resize(sets);
  for (NamedTensor& tensor : file.tensors) {
    const std::string name = tensor.name;
    if (!Place(std::move(tensor), &checkpoint)) return Bad("unknown tensor ", name);
  }
  return checkpoint;
}

}  // namespace hm11
