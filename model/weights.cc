// ModelWeights: allocation, counting, and the mapping to the reference's names and banks.
#include "model/weights.h"

#include <map>

#include "absl/status/status.h"
#include "absl/strings/str_join.h"

namespace hm11 {
namespace {

// A weight set on no device, for walking the list.
ModelWeights<double> Shadow(const ModelConfig& config) {
  ModelWeights<double> weights;
  ResizeWeights(config, &weights);
  return weights;
}

std::vector<int64_t> ReferenceShape(const WeightInfo& info) {
  const Shape& shape = info.shape;
  if (info.name == "bigram.scale" || info.name == "ve_shared.scale") return {};
  if (info.name.ends_with("conv1d.weight")) return {shape[0], 1, shape[1]};
  if (info.name.ends_with("dtg_gate.weight")) return {1, shape[0]};
  std::vector<int64_t> extents;
  for (int axis = 0; axis < shape.rank(); ++axis) extents.push_back(shape[axis]);
  return extents;
}

void AppendBanks(const ModelConfig& config, std::vector<ReferenceParameter>* parameters) {
  const int64_t dim = config.dim, kv_dim = config.kv_dim(), attention = config.attention_count();
  ReferenceParameter qo{.name = "qo_bank", .shape = {2 * attention, dim, dim}, .pieces = {}};
  ReferenceParameter kv{.name = "kv_bank", .shape = {2 * attention, kv_dim, dim}, .pieces = {}};
  ReferenceParameter up{.name = "mlp_up_bank", .shape = {attention, config.mlp_width, dim}, .pieces = {}};
  ReferenceParameter down{.name = "mlp_down_bank", .shape = {attention, dim, config.mlp_width}, .pieces = {}};
  const auto append = [&](ReferenceParameter* bank, const char* tensor, int64_t first_row, int64_t rows) {
    for (int64_t layer = 0; layer < config.layer_count(); ++layer) {
      if (config.is_mamba(layer)) continue;
      bank->pieces.push_back({absl::StrCat("blocks.", layer, ".", tensor), first_row, rows});
    }
  };
  append(&qo, "attn.qkv", 0, dim);
  append(&qo, "attn.out", 0, dim);
  append(&kv, "attn.qkv", dim, kv_dim);
  append(&kv, "attn.qkv", dim + kv_dim, kv_dim);
  append(&up, "mlp.up", 0, config.mlp_width);
  append(&down, "mlp.down", 0, dim);
  for (ReferenceParameter* bank : {&qo, &kv, &up, &down}) parameters->push_back(std::move(*bank));
}

int64_t Product(const std::vector<int64_t>& extents) {
  int64_t product = 1;
  for (int64_t extent : extents) product *= extent;
  return product;
}

int64_t ColumnsOf(const WeightInfo& info) { return info.shape.rank() > 1 ? info.shape[1] : 1; }

}  // namespace

template <typename T>
ModelWeights<T> NewWeights(Arena& arena, const ModelConfig& config) {
  ModelWeights<T> weights;
  ResizeWeights(config, &weights);
  ForEachWeight(
      config,
      [&](const WeightInfo& info, auto& tensor) {
        using Element = std::remove_pointer_t<decltype(tensor.data())>;
        tensor = arena.NewZero<Element>(info.shape);
      },
      weights);
  return weights;
}
template ModelWeights<double> NewWeights<double>(Arena&, const ModelConfig&);
template ModelWeights<float> NewWeights<float>(Arena&, const ModelConfig&);
template ModelWeights<Bf16> NewWeights<Bf16>(Arena&, const ModelConfig&);
template ModelWeights<Fp16> NewWeights<Fp16>(Arena&, const ModelConfig&);

int64_t CountParameters(const ModelConfig& config) {
  int64_t count = 0;
  ModelWeights<double> shadow = Shadow(config);
  ForEachWeight(
      config, [&](const WeightInfo& info, auto&) { count += info.shape.size(); }, shadow);
  return count;
}

template <typename T>
int64_t WeightBytes(const ModelConfig& config) {
  Arena plan = Arena::Plan();
  NewWeights<T>(plan, config);
  return plan.used_bytes();
}
template int64_t WeightBytes<double>(const ModelConfig&);
template int64_t WeightBytes<float>(const ModelConfig&);
template int64_t WeightBytes<Bf16>(const ModelConfig&);
template int64_t WeightBytes<Fp16>(const ModelConfig&);

std::vector<ReferenceParameter> ReferenceParameters(const ModelConfig& config) {
  std::vector<ReferenceParameter> parameters;
  ModelWeights<double> shadow = Shadow(config);
  ForEachWeight(
      config,
      [&](const WeightInfo& info, auto&) {
        if (info.kind == WeightKind::kBankMatrix) return;
        const int64_t rows = info.shape.rank() > 0 ? info.shape[0] : 1;
        parameters.push_back(
            {.name = info.name, .shape = ReferenceShape(info), .pieces = {{info.name, 0, rows}}});
        if (info.name == "skip_weights") AppendBanks(config, &parameters);
      },
      shadow);
  return parameters;
}

template <typename T>
std::vector<NamedTensor> ExportWeights(Arena& arena, const ModelConfig& config, ModelWeights<T>& weights) {
  std::map<std::string, std::pair<int64_t, std::vector<T>>> tensors;  // name -> columns, values
  ForEachWeight(
      config,
      [&](const WeightInfo& info, auto& tensor) {
        std::vector<T> values(static_cast<size_t>(tensor.size()));
        arena.device().CopyToHost(values.data(), tensor.data(), tensor.size_bytes());
        tensors[info.name] = {ColumnsOf(info), std::move(values)};
      },
      weights);
  std::vector<NamedTensor> exported;
  for (const ReferenceParameter& parameter : ReferenceParameters(config)) {
    NamedTensor out{.name = parameter.name, .shape = parameter.shape, .values = {}};
    out.values.reserve(static_cast<size_t>(Product(parameter.shape)));
    for (const ReferenceParameter::Piece& piece : parameter.pieces) {
      const auto& [columns, values] = tensors.at(piece.tensor);
      const auto begin = values.begin() + piece.first_row * columns;
      out.values.insert(out.values.end(), begin, begin + piece.rows * columns);
    }
    exported.push_back(std::move(out));
  }
  return exported;
}
template std::vector<NamedTensor> ExportWeights<double>(Arena&, const ModelConfig&, ModelWeights<double>&);
template std::vector<NamedTensor> ExportWeights<float>(Arena&, const ModelConfig&, ModelWeights<float>&);

template <typename T>
absl::Status ImportWeights(Arena& arena, const ModelConfig& config, const std::vector<NamedTensor>& tensors,
                           ModelWeights<T>* weights) {
  std::map<std::string, const NamedTensor*> given;
  for (const NamedTensor& tensor : tensors) given[tensor.name] = &tensor;
  const std::vector<ReferenceParameter> parameters = ReferenceParameters(config);
  for (const ReferenceParameter& parameter : parameters) {
    const auto found = given.find(parameter.name);
    if (found == given.end()) {
      return absl::NotFoundError(absl::StrCat("tensor ", parameter.name, " is missing"));
    }
    const NamedTensor& tensor = *found->second;
    if (tensor.shape != parameter.shape ||
        static_cast<int64_t>(tensor.values.size()) != Product(parameter.shape)) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", parameter.name, " has shape [",
                                                     absl::StrJoin(tensor.shape, ", "), "], expected [",
                                                     absl::StrJoin(parameter.shape, ", "), "]"));
    }
    given.erase(found);
  }
  if (!given.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", given.begin()->first, " does not belong to this configuration"));
  }
  std::map<std::string, std::vector<T>> values;
  ModelWeights<double> shadow = Shadow(config);
  std::map<std::string, int64_t> columns;
  ForEachWeight(
      config,
      [&](const WeightInfo& info, auto&) {
        values[info.name].resize(static_cast<size_t>(info.shape.size()));
        columns[info.name] = ColumnsOf(info);
      },
      shadow);
  std::map<std::string, const NamedTensor*> by_name;
  for (const NamedTensor& tensor : tensors) by_name[tensor.name] = &tensor;
  for (const ReferenceParameter& parameter : parameters) {
    auto source = by_name.at(parameter.name)->values.begin();
    for (const ReferenceParameter::Piece& piece : parameter.pieces) {
      const int64_t width = columns.at(piece.tensor);
      auto target = values.at(piece.tensor).begin() + piece.first_row * width;
      for (int64_t i = 0; i < piece.rows * width; ++i) *target++ = static_cast<T>(*source++);
    }
  }
  ForEachWeight(
      config,
      [&](const WeightInfo& info, auto& tensor) {
        arena.device().CopyFromHost(tensor.data(), values.at(info.name).data(), tensor.size_bytes());
      },
      *weights);
  arena.device().Synchronize();
  return absl::OkStatus();
}
template absl::Status ImportWeights<double>(Arena&, const ModelConfig&, const std::vector<NamedTensor>&,
                                            ModelWeights<double>*);
template absl::Status ImportWeights<float>(Arena&, const ModelConfig&, const std::vector<NamedTensor>&,
                                           ModelWeights<float>*);

}  // namespace hm11
