// Tensors of an artifact to layers and kinds, by the list of weights.
#include "train/report/artifact_facts.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/check.h"
#include "core/status.h"
#include "model/weights.h"
#include "quant/artifact.h"

namespace hm11 {
namespace {

constexpr const char* kKinds[] = {"attention",  "MLP",         "Mamba",
                                  "embeddings", "output head", "vectors and scales"};
enum Kind { kAttention, kMlp, kMamba, kEmbeddings, kHead, kVectors, kKindCount };

// Consecutive numbers of a parameter that belong to one part and are of one kind.
struct Range {
  int64_t begin = 0, end = 0;
  size_t part = 0;
  Kind kind = kVectors;
};

int64_t Product(const std::vector<int64_t>& extents) {
  return std::accumulate(extents.begin(), extents.end(), int64_t{1}, std::multiplies<>());
}

// A table, or what its rows are projected by.
bool IsOfTables(const WeightInfo& info) {
  return info.kind == WeightKind::kEmbedding || (info.kind == WeightKind::kSmallMatrix && info.layer < 0);
}

size_t PartOf(const ModelConfig& config, const WeightInfo& info) {
  const size_t layers = static_cast<size_t>(config.layer_count());
  if (info.layer >= 0) return static_cast<size_t>(info.layer);
  return IsOfTables(info) || info.kind == WeightKind::kHead ? layers : layers + 1;
}

Kind KindOf(const WeightInfo& info) {
  if (IsOfTables(info)) return kEmbeddings;
  switch (info.kind) {
    case WeightKind::kBankMatrix:
      return info.mlp ? kMlp : kAttention;
    case WeightKind::kMambaMatrix:
      return info.mlp ? kMlp : kMamba;
    case WeightKind::kSmallMatrix:
      return kAttention;
    case WeightKind::kEmbedding:
      return kEmbeddings;
    case WeightKind::kHead:
      return kHead;
    case WeightKind::kControl:
      return kVectors;
  }
  return kVectors;
}

// By the reference's parameter.
using RangeMap = std::map<std::string, std::vector<Range>>;

RangeMap RangesOf(const ModelConfig& config) {
  RangeMap ranges;
  ModelWeights<float> shapes;
  ResizeWeights(config, &shapes);
  ForEachWeight(
      config,
      [&](const WeightInfo& info, Tensor<float>&) {
        int64_t rows = 0;
        for (const MatrixPart& part : info.parts) rows += part.rows;
        const int64_t row_size = info.shape.size() / std::max<int64_t>(1, rows);
        for (const MatrixPart& part : info.parts) {
          const int64_t size = part.rows * row_size;
          ranges[part.parameter].push_back(
              {part.slot * size, (part.slot + 1) * size, PartOf(config, info), KindOf(info)});
        }
      },
      shapes);
  return ranges;
}

// Where a stored tensor, a parameter or one matrix of a bank, begins among its parameter's numbers.
std::optional<Range> RangeOfStored(const RangeMap& ranges, const StoredTensor& tensor) {
  std::string name = tensor.name;
  int64_t index = 0;
  if (!ranges.contains(name)) {
    const size_t dot = name.rfind('.');
    if (dot == std::string::npos || !absl::SimpleAtoi(name.substr(dot + 1), &index)) return std::nullopt;
    name.resize(dot);
  }
  const auto found = ranges.find(name);
  if (found == ranges.end()) return std::nullopt;
  const int64_t begin = index * Product(tensor.shape);
  for (const Range& range : found->second) {
    if (begin >= range.begin && begin < range.end) return range;
  }
  return std::nullopt;
}

// Bits of the codes of a tensor, by how often each occurs.
double CodeBits(const QuantizedMatrix& matrix) {
  double counts[256] = {};
  for (const int8_t code : matrix.codes) ++counts[static_cast<uint8_t>(code)];
  const double all = static_cast<double>(matrix.codes.size());
  double bits = 0;
  for (const double count : counts) {
    if (count > 0) bits -= count * std::log2(count / all);
  }
  return bits;
}

// What the sections cost, shared out to tensors.
class Shares {
 public:
  Shares(const Artifact& artifact, const SectionSizes& sizes) : sizes_(sizes) {
    for (const StoredTensor& tensor : artifact.tensors) {
      code_bits_ += tensor.storage == Storage::kCodes ? CodeBits(tensor.codes) : 0;
      scales_ += static_cast<double>(tensor.codes.scales.size());
      columns_ += static_cast<double>(tensor.codes.column_exponents.size());
      float16s_ += static_cast<double>(tensor.float16s.size());
      floats_ += static_cast<double>(tensor.floats.size());
    }
  }
  // Of the section of codes alone.
  double CodeBytes(const StoredTensor& tensor) const {
    return tensor.storage == Storage::kCodes ? Part(CodeBits(tensor.codes), code_bits_, sizes_.codes) : 0;
  }
  double Bytes(const StoredTensor& tensor) const {
    const auto count = [](const auto& numbers) { return static_cast<double>(numbers.size()); };
    return CodeBytes(tensor) + Part(count(tensor.codes.scales), scales_, sizes_.scales) +
           Part(count(tensor.codes.column_exponents), columns_, sizes_.columns) +
           Part(count(tensor.float16s), float16s_, sizes_.float16) +
           Part(count(tensor.floats), floats_, sizes_.float32);
  }

 private:
  static double Part(double of, double all, int64_t bytes) {
    return all > 0 ? static_cast<double>(bytes) * of / all : 0;
  }

  const SectionSizes sizes_;
  double code_bits_ = 0, scales_ = 0, columns_ = 0, float16s_ = 0, floats_ = 0;
};

// A group while it is added up: bits_a_code is the bytes of codes, and `codes` their number.
struct OpenGroup {
  TensorGroup group;
  double codes = 0;

  void Add(const StoredTensor& tensor, double bytes, double code_bytes) {
    group.numbers += Product(tensor.shape);
    group.bytes += bytes;
    group.bits_a_code += code_bytes;
    codes += static_cast<double>(tensor.codes.codes.size());
  }
  TensorGroup Closed() const {
    TensorGroup closed = group;
    closed.bits_a_code = codes > 0 ? 8 * group.bits_a_code / codes : 0;
    return closed;
  }
};

}  // namespace

std::vector<std::string> PartNames(const ModelConfig& config) {
  std::vector<std::string> names;
  for (int64_t layer = 0; layer < config.layer_count(); ++layer) {
    names.push_back(absl::StrCat("layer ", layer, config.is_mamba(layer) ? ", Mamba" : ", attention"));
  }
  names.push_back("embeddings");
  names.push_back("the rest");
  return names;
}

absl::StatusOr<ArtifactFacts> ArtifactFactsOf(absl::string_view bytes, absl::string_view source,
                                              const ModelConfig& config) {
  SectionSizes sizes;
  HM_ASSIGN_OR_RETURN(const Artifact artifact, ParseArtifact(bytes, source, &sizes));
  const RangeMap ranges = RangesOf(config);
  const Shares shares(artifact, sizes);
  const std::vector<std::string> parts = PartNames(config);
  std::vector<OpenGroup> by_kind(kKindCount), by_part(parts.size());
  for (size_t kind = 0; kind < kKindCount; ++kind) by_kind[kind].group.name = kKinds[kind];
  for (size_t part = 0; part < parts.size(); ++part) by_part[part].group.name = parts[part];
  const int64_t size = static_cast<int64_t>(bytes.size());
  double told = 0;
  for (const StoredTensor& tensor : artifact.tensors) {
    const std::optional<Range> range = RangeOfStored(ranges, tensor);
    const double tensor_bytes = shares.Bytes(tensor), code_bytes = shares.CodeBytes(tensor);
    by_kind[range ? range->kind : kVectors].Add(tensor, tensor_bytes, code_bytes);
    by_part[range ? range->part : parts.size() - 1].Add(tensor, tensor_bytes, code_bytes);
    told += tensor_bytes;
  }
  ArtifactFacts facts = {.bytes = size};
  const TensorGroup others = {.name = "names, shapes, frame", .bytes = static_cast<double>(size) - told};
  for (const OpenGroup& group : by_kind) facts.kinds.push_back(group.Closed());
  for (const OpenGroup& group : by_part) facts.parts.push_back(group.Closed());
  facts.kinds.push_back(others);
  facts.parts.push_back(others);
  const std::pair<const char*, int64_t> sections[] = {
      {"codes", sizes.codes},         {"scales", sizes.scales},   {"columns", sizes.columns},
      {"float16", sizes.float16},     {"float32", sizes.float32}, {"directory", sizes.directory},
      {"configuration", sizes.config}};
  int64_t in_sections = 0;
  for (const auto& [name, bytes_of] : sections) {
    facts.sections.push_back({.name = name, .bytes = static_cast<double>(bytes_of)});
    in_sections += bytes_of;
  }
  facts.sections.push_back({.name = "frame", .bytes = static_cast<double>(size - in_sections)});
  return facts;
}

std::vector<NamedTensor> WithPartOf(const ModelConfig& config, const std::vector<NamedTensor>& exact,
                                    const std::vector<NamedTensor>& rounded, size_t part) {
  const RangeMap ranges = RangesOf(config);
  std::map<std::string, const NamedTensor*> by_name;
  for (const NamedTensor& tensor : rounded) by_name[tensor.name] = &tensor;
  std::vector<NamedTensor> mixed = exact;
  for (NamedTensor& tensor : mixed) {
    const auto from = by_name.find(tensor.name);
    const auto found = ranges.find(tensor.name);
    if (from == by_name.end() || found == ranges.end() || from->second->values.size() != tensor.values.size())
      continue;
    for (const Range& range : found->second) {
      if (range.part != part) continue;
      HM_CHECK(range.end <= static_cast<int64_t>(tensor.values.size()));
      std::copy(from->second->values.begin() + range.begin, from->second->values.begin() + range.end,
                tensor.values.begin() + range.begin);
    }
  }
  return mixed;
}

}  // namespace hm11
