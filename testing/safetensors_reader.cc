// The float32 tensors of a safetensors file: a length, a JSON header, the numbers.
#include "testing/safetensors_reader.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "core/status.h"

namespace hm11 {
namespace {

absl::StatusOr<Shape> ShapeOf(const nlohmann::json& extents) {
  switch (extents.size()) {
    case 0:
      return Shape{1};
    case 1:
      return Shape{extents[0].get<int64_t>()};
    case 2:
      return Shape{extents[0].get<int64_t>(), extents[1].get<int64_t>()};
    case 3:
      return Shape{extents[0].get<int64_t>(), extents[1].get<int64_t>(), extents[2].get<int64_t>()};
    case 4:
      return Shape{extents[0].get<int64_t>(), extents[1].get<int64_t>(), extents[2].get<int64_t>(),
                   extents[3].get<int64_t>()};
    default:
      return absl::DataLossError("a tensor of more than four axes");
  }
}

}  // namespace

absl::StatusOr<std::map<std::string, HostTensor<float>>> ReadFloatTensors(const std::string& path) {
  HM_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof(header_bytes)) return absl::DataLossError(absl::StrCat(path, ": truncated"));
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  if (header_bytes > bytes.size() - sizeof(header_bytes)) {
    return absl::DataLossError(absl::StrCat(path, ": truncated"));
  }
  const char* const data = bytes.data() + sizeof(header_bytes) + header_bytes;
  const uint64_t data_bytes = bytes.size() - sizeof(header_bytes) - header_bytes;
  const nlohmann::json header =
      nlohmann::json::parse(bytes.data() + sizeof(header_bytes), data, nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) return absl::DataLossError(absl::StrCat(path, ": the header is not JSON"));

  std::map<std::string, HostTensor<float>> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__" || entry.value("dtype", "") != "F32") continue;
    HM_ASSIGN_OR_RETURN(const Shape shape, ShapeOf(entry["shape"]));
    const uint64_t begin = entry["data_offsets"][0].get<uint64_t>();
    const uint64_t end = entry["data_offsets"][1].get<uint64_t>();
    const uint64_t size_bytes = static_cast<uint64_t>(shape.size()) * sizeof(float);
    if (begin > end || end > data_bytes || end - begin != size_bytes) {
      return absl::DataLossError(absl::StrCat(path, ": bad offsets of ", name));
    }
    HostTensor<float> tensor = ZeroHostTensor<float>(shape);
    std::memcpy(tensor.values.data(), data + begin, size_bytes);
    tensors.emplace(name, std::move(tensor));
  }
  return tensors;
}

}  // namespace hm11
