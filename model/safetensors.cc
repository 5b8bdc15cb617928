// Safetensors, over nlohmann's JSON.
#include "model/safetensors.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/dtype.h"
#include "core/file.h"
#include "core/status.h"

namespace hm11 {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxHeaderBytes = 100 << 20;  // The format's own bound.

struct Entry {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  int64_t begin = 0;
  int64_t end = 0;
};

int64_t ElementBytes(const std::string& dtype) {
  if (dtype == "F64" || dtype == "I64") return 8;
  if (dtype == "F32" || dtype == "I32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL") return 1;
  return 0;
}

template <typename Stored>
void Widen(const char* data, std::vector<float>* values) {
  for (size_t i = 0; i < values->size(); ++i) {
    Stored element;
    std::memcpy(&element, data + i * sizeof(Stored), sizeof(Stored));
    (*values)[i] = static_cast<float>(element);
  }
}

void Convert(const std::string& dtype, const char* data, std::vector<float>* values) {
  if (dtype == "F64") return Widen<double>(data, values);
  if (dtype == "F32") return Widen<float>(data, values);
  if (dtype == "F16") return Widen<Fp16>(data, values);
  if (dtype == "BF16") return Widen<Bf16>(data, values);
  if (dtype == "I64") return Widen<int64_t>(data, values);
  if (dtype == "I32") return Widen<int32_t>(data, values);
  if (dtype == "I16") return Widen<int16_t>(data, values);
  if (dtype == "I8") return Widen<int8_t>(data, values);
  Widen<uint8_t>(data, values);
}

// The entry's numbers if it is sound: known dtype, extents that multiply to the bytes it claims, inside the
// data.
absl::StatusOr<Entry> ParseEntry(const std::string& name, const Json& json, int64_t data_bytes) {
  const auto bad = [&](absl::string_view why) {
    return absl::DataLossError(absl::StrCat("tensor ", name, ": ", why));
  };
  if (!json.is_object() || !json.contains("dtype") || !json["dtype"].is_string()) return bad("no dtype");
  Entry entry{.name = name, .dtype = json["dtype"], .shape = {}};
  const int64_t element_bytes = ElementBytes(entry.dtype);
  if (element_bytes == 0) return bad(absl::StrCat("unknown dtype ", entry.dtype));
  if (!json.contains("shape") || !json["shape"].is_array()) return bad("no shape");
  int64_t size = 1;
  for (const Json& extent : json["shape"]) {
    if (!extent.is_number_unsigned()) return bad("a shape that is not whole numbers");
    const uint64_t value = extent;
    if (value > uint64_t{1} << 40 ||
        (value != 0 && size > (int64_t{1} << 40) / static_cast<int64_t>(value))) {
      return bad("a shape too large");
    }
    entry.shape.push_back(static_cast<int64_t>(value));
    size *= static_cast<int64_t>(value);
  }
  const auto offsets = json.find("data_offsets");
  if (offsets == json.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    return bad("no data_offsets");
  }
  const uint64_t begin = (*offsets)[0], end = (*offsets)[1];
  if (begin > end || end > static_cast<uint64_t>(data_bytes)) return bad("its data lies outside the file");
  entry.begin = static_cast<int64_t>(begin);
  entry.end = static_cast<int64_t>(end);
  if (entry.end - entry.begin != size * element_bytes) return bad("its shape does not fit its bytes");
  return entry;
}

absl::StatusOr<Safetensors> Parse(absl::string_view bytes) {
  uint64_t header_bytes = 0;
  if (bytes.size() < 8) return absl::DataLossError("shorter than a header");
  std::memcpy(&header_bytes, bytes.data(), 8);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - 8) {
    return absl::DataLossError("truncated, or not a safetensors file");
  }
  const char* text = bytes.data() + 8;
  const Json header = Json::parse(text, text + header_bytes, nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) return absl::DataLossError("its header is not JSON");
  const absl::string_view data = bytes.substr(8 + header_bytes);
  Safetensors file;
  std::vector<Entry> entries;
  for (const auto& [name, json] : header.items()) {
    if (name == "__metadata__") {
      for (const auto& [key, value] : json.items()) {
        if (value.is_string()) file.metadata[key] = value;
      }
      continue;
    }
    HM_ASSIGN_OR_RETURN(Entry entry, ParseEntry(name, json, static_cast<int64_t>(data.size())));
    entries.push_back(std::move(entry));
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.begin < b.begin; });
  for (Entry& entry : entries) {
    NamedTensor tensor{.name = std::move(entry.name), .shape = std::move(entry.shape), .values = {}};
    tensor.values.resize(static_cast<size_t>((entry.end - entry.begin) / ElementBytes(entry.dtype)));
    Convert(entry.dtype, data.data() + entry.begin, &tensor.values);
    file.tensors.push_back(std::move(tensor));
  }
  return file;
}

}  // namespace

absl::StatusOr<Safetensors> ReadSafetensors(const std::string& path) {
  HM_ASSIGN_OR_RETURN(const MappedFile mapped, MappedFile::Open(path));
  absl::StatusOr<Safetensors> file = Parse(mapped.bytes());
  if (!file.ok())
    return absl::Status(file.status().code(), absl::StrCat(path, ": ", file.status().message()));
  return file;
}

absl::Status WriteSafetensors(const std::string& path, const Safetensors& file) {
  nlohmann::ordered_json header;
  if (!file.metadata.empty()) header["__metadata__"] = file.metadata;
  int64_t offset = 0;
  for (const NamedTensor& tensor : file.tensors) {
    const int64_t end = offset + static_cast<int64_t>(tensor.values.size() * sizeof(float));
    header[tensor.name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.is_null() ? "{}" : header.dump();
  text.append((8 - text.size() % 8) % 8,
              ' ');  // Data begins at a multiple of 8, as readers that map it like.
  const uint64_t header_bytes = text.size();
  HM_ASSIGN_OR_RETURN(AtomicFileWriter writer, AtomicFileWriter::Open(path));
  HM_RETURN_IF_ERROR(writer.Append(absl::string_view(reinterpret_cast<const char*>(&header_bytes), 8)));
  HM_RETURN_IF_ERROR(writer.Append(text));
  for (const NamedTensor& tensor : file.tensors) {
    HM_RETURN_IF_ERROR(writer.Append(absl::string_view(reinterpret_cast<const char*>(tensor.values.data()),
                                                       tensor.values.size() * sizeof(float))));
  }
  return writer.Commit();
}

}  // namespace hm11
