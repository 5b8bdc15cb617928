// ModelWeights: allocation, counting, and the mapping to the reference's names and banks.
#include "model/weights.h"

#include <algorithm>
#include <map>

#include "absl/status/status.h"
#include "absl/strings/str_join.h"
#include "core/check.h"
#include "core/status.h"

namespace hm11 {
namespace {

// A weight set on no device, for walking the list.
ModelWeights<double> Shadow(const ModelConfig& config) {
  ModelWeights<double> weights;
  ResizeWeights(config, &weights);
  return weights;
}

int64_t Product(const std::vector<int64_t>& extents) {
  int64_t product = 1;
  for (int64_t extent : extents) product *= extent;
  return product;
}

int64_t ColumnsOf(const WeightInfo& info) { return info.shape.rank() > 1 ? info.shape[1] : 1; }

int64_t SizeOf(const WeightInfo& info, const MatrixPart& part) { return part.rows * ColumnsOf(info); }

std::vector<ReferenceParameter> EmptyBanks(const ModelConfig& config) {
  std::vector<ReferenceParameter> banks;
  for (const Bank& bank : Banks(config)) {
    banks.push_back({.name = bank.name,
                     .shape = {bank.matrices, bank.rows, bank.cols},
                     .storage = StorageClass::kMatrix,
                     .bank = true,
                     .matrices = std::vector<ReferenceParameter::Matrix>(static_cast<size_t>(bank.matrices),
                                                                         {"", InitialValue::Zero()})});
  }
  return banks;
}

void FillBanks(const WeightInfo& info, std::vector<ReferenceParameter>* banks) {
  for (const MatrixPart& part : info.parts) {
    const auto bank = std::find_if(banks->begin(), banks->end(), [&](const ReferenceParameter& candidate) {
      return candidate.name == part.parameter;
    });
    HM_CHECK(bank != banks->end());
    bank->storage = info.storage;
    bank->matrices[static_cast<size_t>(part.slot)] = {part.stored_name, info.initial};
  }
}

// As `parameter` stores one of its matrices.
std::vector<int64_t> StoredShape(const ReferenceParameter& parameter) {
  if (!parameter.bank) return parameter.shape;
  return {parameter.shape[1], parameter.shape[2]};
}

using TensorsByName = std::map<std::string, const NamedTensor*>;

absl::Status Missing(const std::string& name) {
  return absl::NotFoundError(absl::StrCat("tensor ", name, " is missing"));
}

absl::Status CheckShape(const NamedTensor& tensor, const std::vector<int64_t>& shape) {
  if (tensor.shape == shape && static_cast<int64_t>(tensor.values.size()) == Product(shape)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " has shape [",
                                                 absl::StrJoin(tensor.shape, ", "), "], expected [",
                                                 absl::StrJoin(shape, ", "), "]"));
}

absl::Status Unknown(const std::string& name) {
  return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " does not belong to this configuration"));
}

// The tensors by their names, when they are those of the configuration.
absl::StatusOr<TensorsByName> ReferenceTensors(const ModelConfig& config,
                                               const std::vector<NamedTensor>& tensors) {
  TensorsByName given;
  for (const NamedTensor& tensor : tensors) given[tensor.name] = &tensor;
  TensorsByName known;
  for (const ReferenceParameter& parameter : ReferenceParameters(config)) {
    const auto found = given.find(parameter.name);
    if (found == given.end()) return Missing(parameter.name);
    HM_RETURN_IF_ERROR(CheckShape(*found->second, parameter.shape));
    known.insert(given.extract(found));
  }
  if (!given.empty()) return Unknown(given.begin()->first);
  return known;
}

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
  std::vector<ReferenceParameter> parameters, banks = EmptyBanks(config);
  ModelWeights<double> shadow = Shadow(config);
  ForEachWeight(
      config,
      [&](const WeightInfo& info, auto&) {
        if (info.kind == WeightKind::kBankMatrix) {
          FillBanks(info, &banks);
          return;
        }
        parameters.push_back({.name = info.name,
                              .shape = info.reference_shape,
                              .storage = info.storage,
                              .bank = false,
                              .matrices = {{info.name, info.initial}}});
      },
      shadow);
  // The reference has its banks right behind its skip weights, which are the first of all.
  parameters.insert(parameters.begin() + 1, banks.begin(), banks.end());
  return parameters;
}

std::vector<StoredWeight> StoredWeights(const ModelConfig& config) {
  std::vector<StoredWeight> stored;
  for (const ReferenceParameter& parameter : ReferenceParameters(config)) {
    if (parameter.storage == StorageClass::kTrainingOnly) continue;
    for (const ReferenceParameter::Matrix& matrix : parameter.matrices) {
      stored.push_back({matrix.stored_name, StoredShape(parameter), parameter.storage});
    }
  }
  return stored;
}

absl::StatusOr<std::vector<NamedTensor>> SplitBanks(const ModelConfig& config,
                                                    const std::vector<NamedTensor>& tensors) {
  HM_ASSIGN_OR_RETURN(const TensorsByName given, ReferenceTensors(config, tensors));
  std::vector<NamedTensor> stored;
  for (const ReferenceParameter& parameter : ReferenceParameters(config)) {
    if (parameter.storage == StorageClass::kTrainingOnly) continue;
    const std::vector<float>& values = given.at(parameter.name)->values;
    const std::vector<int64_t> shape = StoredShape(parameter);
    auto next = values.begin();
    for (const ReferenceParameter::Matrix& matrix : parameter.matrices) {
      const auto end = next + Product(shape);
      stored.push_back({matrix.stored_name, shape, std::vector<float>(next, end)});
      next = end;
    }
  }
  return stored;
}

absl::StatusOr<std::vector<NamedTensor>> JoinBanks(const ModelConfig& config,
                                                   const std::vector<NamedTensor>& stored) {
  TensorsByName given;
  for (const NamedTensor& tensor : stored) given[tensor.name] = &tensor;
  std::vector<NamedTensor> tensors;
  for (const ReferenceParameter& parameter : ReferenceParameters(config)) {
    NamedTensor joined{parameter.name, parameter.shape, {}};
    for (const ReferenceParameter::Matrix& matrix : parameter.matrices) {
      const auto found = given.find(matrix.stored_name);
      if (found == given.end()) return Missing(matrix.stored_name);
      HM_RETURN_IF_ERROR(CheckShape(*found->second, StoredShape(parameter)));
      const std::vector<float>& values = found->second->values;
      joined.values.insert(joined.values.end(), values.begin(), values.end());
      given.erase(found);
    }
    tensors.push_back(std::move(joined));
  }
  if (!given.empty()) return Unknown(given.begin()->first);
  return tensors;
}

template <typename T>
std::vector<NamedTensor> ExportWeights(Arena& arena, const ModelConfig& config, ModelWeights<T>& weights) {
  std::vector<NamedTensor> exported;
  std::map<std::string, size_t> places;
  for (const ReferenceParameter& parameter : ReferenceParameters(config)) {
    places[parameter.name] = exported.size();
    exported.push_back(
        {parameter.name, parameter.shape, std::vector<float>(static_cast<size_t>(Product(parameter.shape)))});
  }
  ForEachWeight(
      config,
      [&](const WeightInfo& info, auto& tensor) {
        std::vector<T> values(static_cast<size_t>(tensor.size()));
        arena.device().CopyToHost(values.data(), tensor.data(), tensor.size_bytes());
        auto next = values.begin();
        for (const MatrixPart& part : info.parts) {
          const int64_t size = SizeOf(info, part);
          std::copy_n(next, size, exported[places.at(part.parameter)].values.begin() + part.slot * size);
          next += size;
        }
      },
      weights);
  return exported;
}
template std::vector<NamedTensor> ExportWeights<double>(Arena&, const ModelConfig&, ModelWeights<double>&);
template std::vector<NamedTensor> ExportWeights<float>(Arena&, const ModelConfig&, ModelWeights<float>&);

template <typename T>
absl::Status ImportWeights(Arena& arena, const ModelConfig& config, const std::vector<NamedTensor>& tensors,
                           ModelWeights<T>* weights) {
  HM_ASSIGN_OR_RETURN(const TensorsByName given, ReferenceTensors(config, tensors));
  ForEachWeight(
      config,
      [&](const WeightInfo& info, auto& tensor) {
        std::vector<T> values;
        for (const MatrixPart& part : info.parts) {
          const int64_t size = SizeOf(info, part);
          const auto begin = given.at(part.parameter)->values.begin() + part.slot * size;
          values.insert(values.end(), begin, begin + size);
        }
        arena.device().CopyFromHost(tensor.data(), values.data(), tensor.size_bytes());
        arena.device().Synchronize();  // before `values` goes
      },
      *weights);
  return absl::OkStatus();
}
template absl::Status ImportWeights<double>(Arena&, const ModelConfig&, const std::vector<NamedTensor>&,
                                            ModelWeights<double>*);
template absl::Status ImportWeights<float>(Arena&, const ModelConfig&, const std::vector<NamedTensor>&,
                                           ModelWeights<float>*);

}  // namespace hm11
