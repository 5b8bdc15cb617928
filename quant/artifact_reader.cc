// Reads the format of artifact.h; nothing read is believed before it is checked.
#include <array>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/crc64.h"
#include "core/lzma.h"
#include "core/status.h"
#include "quant/artifact.h"
#include "quant/artifact_format.h"
#include "quant/code_models.h"

namespace hm11 {
namespace {

using namespace artifact_format;  // NOLINT: the format's own words

// Takes values off the front of bytes; false when there are too few.
class Cursor {
 public:
  explicit Cursor(absl::string_view bytes) : bytes_(bytes) {}
  template <typename T>
  bool Take(T* value) {
    absl::string_view part;
    if (!TakeBytes(sizeof(T), &part)) return false;
    std::memcpy(value, part.data(), sizeof(T));
    return true;
  }
  bool TakeBytes(size_t size, absl::string_view* part) {
    if (bytes_.size() < size) return false;
    *part = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return true;
  }
  bool AtEnd() const { return bytes_.empty(); }

 private:
  absl::string_view bytes_;
};

std::string FromPlanes(absl::string_view planes, size_t width) {
  const size_t count = planes.size() / width;
  std::string numbers(planes.size(), '\0');
  for (size_t i = 0; i < count; ++i) {
    for (size_t b = 0; b < width; ++b) numbers[i * width + b] = planes[b * count + i];
  }
  return numbers;
}

absl::Status Damaged(absl::string_view what) { return absl::DataLossError(absl::StrCat("damaged: ", what)); }

struct PackedSection {
  uint8_t coder = 0;
  absl::string_view bytes;
};

absl::StatusOr<std::string> Unpack(const PackedSection& section, size_t max_bytes, absl::string_view what) {
  if (section.coder == kNone) {
    if (section.bytes.size() > max_bytes) return Damaged(absl::StrCat("its ", what, " is too long"));
    return std::string(section.bytes);
  }
  if (section.coder != kLzma) return Damaged(absl::StrCat("its ", what, " has an unknown coder"));
  absl::StatusOr<std::string> bytes = LzmaDecompress(section.bytes, static_cast<int64_t>(max_bytes));
  if (!bytes.ok()) return Damaged(absl::StrCat("its ", what, ": ", bytes.status().message()));
  return bytes;
}

absl::StatusOr<std::string> UnpackExactly(const PackedSection& section, size_t size, absl::string_view what) {
  HM_ASSIGN_OR_RETURN(std::string bytes, Unpack(section, size, what));
  if (bytes.size() != size) return Damaged(absl::StrCat("its ", what, " has a wrong length"));
  return bytes;
}

// One entry, with memory for its numbers; `elements` counts those of all entries.
absl::Status TakeEntry(Cursor* cursor, StoredTensor* tensor, int64_t* elements) {
  const absl::Status wrong = Damaged("its directory is not one");
  uint16_t name_size = 0;
  absl::string_view name;
  uint8_t storage = 0;
  uint8_t bits = 0;
  uint8_t rank = 0;
  if (!cursor->Take(&name_size) || !cursor->TakeBytes(name_size, &name) || !cursor->Take(&storage) ||
      !cursor->Take(&bits) || !cursor->Take(&rank) || storage > 2 || rank > 8) {
    return wrong;
  }
  tensor->name = std::string(name);
  tensor->storage = static_cast<Storage>(storage);
  int64_t size = 1;
  for (int axis = 0; axis < rank; ++axis) {
    uint32_t extent = 0;
    if (!cursor->Take(&extent)) return wrong;
    tensor->shape.push_back(extent);
    if (extent > kMaxElements || (size *= extent) > kMaxElements) return Damaged("its tensors are too large");
  }
  *elements += size;
  if (*elements > kMaxElements) return Damaged("its tensors are too large");
  switch (tensor->storage) {
    case Storage::kFloat32:
      tensor->floats.resize(size);
      break;
    case Storage::kFloat16:
      tensor->float16s.resize(size);
      break;
    case Storage::kCodes:
      if (rank < 1 || size == 0) return wrong;
      if ((bits & kHasColumns) != 0) tensor->codes.column_exponents.resize(size / tensor->shape[0]);
      bits &= static_cast<uint8_t>(~kHasColumns);
      if (bits < 2 || bits > 8) return wrong;
      tensor->codes.bits = bits;
      tensor->codes.rows = tensor->shape[0];
      tensor->codes.cols = size / tensor->shape[0];
      tensor->codes.scales.resize(tensor->shape[0]);
      tensor->codes.codes.resize(size);
      break;
  }
  return absl::OkStatus();
}

absl::Status ParseDirectory(const PackedSection& section, Artifact* artifact) {
  const absl::StatusOr<std::string> bytes = Unpack(section, kMaxTextBytes, "directory");
  if (!bytes.ok()) return bytes.status();
  Cursor cursor(*bytes);
  uint32_t count = 0;
  int64_t elements = 0;
  if (!cursor.Take(&count)) return Damaged("its directory is not one");
  for (uint32_t i = 0; i < count; ++i) {
    StoredTensor tensor;
    HM_RETURN_IF_ERROR(TakeEntry(&cursor, &tensor, &elements));
    artifact->tensors.push_back(std::move(tensor));
  }
  if (!cursor.AtEnd()) return Damaged("its directory is longer than it says");
  return absl::OkStatus();
}

absl::Status ReadFp16s(const PackedSection& section, const std::vector<Fp16Matrix>& matrices,
                       absl::string_view what) {
  if (section.coder == kRange || section.coder == kRangeGivenUpper) {
    const absl::Status status = DecodeFp16s(section.bytes, matrices, section.coder == kRangeGivenUpper);
    return status.ok() ? status : Damaged(status.message());
  }
  size_t size = 0;
  for (const Fp16Matrix& matrix : matrices) size += matrix.size * sizeof(Fp16);
  HM_ASSIGN_OR_RETURN(const std::string planes, UnpackExactly(section, size, what));
  const std::string numbers = FromPlanes(planes, sizeof(Fp16));
  const char* next = numbers.data();
  for (const Fp16Matrix& matrix : matrices) {
    const size_t part = matrix.size * sizeof(Fp16);
    if (part > 0) std::memcpy(matrix.values, next, part);
    next += part;
  }
  return absl::OkStatus();
}

absl::Status ReadColumns(const PackedSection& section, const std::vector<std::span<int8_t>>& rows) {
  if (section.coder != kRange) return Damaged("its column exponents have an unknown coder");
  const absl::Status status = DecodeExponents(section.bytes, rows);
  if (!status.ok()) return Damaged(status.message());
  for (const std::span<int8_t> row : rows) {
    for (const int8_t exponent : row) {
      if (std::abs(int{exponent}) > kLargestExponent) return Damaged("a column exponent is out of range");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadFloats(const PackedSection& section, Artifact* artifact) {
  size_t size = 0;
  for (const StoredTensor& tensor : artifact->tensors) size += tensor.floats.size() * sizeof(float);
  HM_ASSIGN_OR_RETURN(const std::string planes, UnpackExactly(section, size, "float32 numbers"));
  const std::string numbers = FromPlanes(planes, sizeof(float));
  const char* next = numbers.data();
  for (StoredTensor& tensor : artifact->tensors) {
    const size_t part = tensor.floats.size() * sizeof(float);
    if (part > 0) std::memcpy(tensor.floats.data(), next, part);
    next += part;
  }
  return absl::OkStatus();
}

absl::Status ReadCodes(const PackedSection& section, const std::vector<CodeMatrix>& matrices) {
  if (section.coder == kRange) {
    const absl::Status status = DecodeCodes(section.bytes, matrices);
    return status.ok() ? status : Damaged(status.message());
  }
  size_t size = 0;
  for (const CodeMatrix& matrix : matrices) size += matrix.rows * matrix.cols;
  HM_ASSIGN_OR_RETURN(const std::string bytes, UnpackExactly(section, size, "codes"));
  const char* next = bytes.data();
  for (const CodeMatrix& matrix : matrices) {
    const size_t part = matrix.rows * matrix.cols;
    std::memcpy(matrix.codes, next, part);
    next += part;
    for (size_t i = 0; i < part; ++i) {
      if (std::abs(int{matrix.codes[i]}) > LargestCode(matrix.bits)) return Damaged("a code is out of range");
    }
  }
  return absl::OkStatus();
}

// The header, the size and the checksum; what follows the header, without the checksum, goes to `body`.
absl::Status CheckFrame(absl::string_view bytes, Artifact* artifact, absl::string_view* body) {
  const absl::string_view magic = bytes.substr(0, kMagic.size());
  if (magic != kMagic.substr(0, magic.size())) return absl::DataLossError("not an artifact of hm11");
  Cursor cursor(bytes.substr(magic.size()));
  uint32_t version = 0;
  uint32_t vocab_size = 0;
  uint64_t size = 0;
  if (!cursor.Take(&version) || !cursor.Take(&vocab_size) || !cursor.Take(&artifact->tokenizer_crc) ||
      !cursor.Take(&size) || bytes.size() < kHeaderBytes + kCrcBytes) {
    return absl::DataLossError(absl::StrCat("truncated: only ", bytes.size(), " bytes"));
  }
  if (version != kVersion) {
    return absl::FailedPreconditionError(absl::StrCat("has version ", version, " of the artifact's format; ",
                                                      "this program reads version ", kVersion));
  }
  if (bytes.size() != size) {
    const absl::string_view fault = bytes.size() < size ? "truncated: " : "too long: ";
    return absl::DataLossError(absl::StrCat(fault, bytes.size(), " bytes instead of ", size));
  }
  if (!ArtifactChecksum(bytes).has_value()) return absl::DataLossError("altered: its checksum is wrong");
  bytes.remove_suffix(kCrcBytes);
  artifact->vocab_size = vocab_size;
  *body = bytes.substr(kHeaderBytes);
  return absl::OkStatus();
}

absl::StatusOr<Artifact> Parse(absl::string_view bytes, SectionSizes* sizes) {
  Artifact artifact;
  absl::string_view body;
  HM_RETURN_IF_ERROR(CheckFrame(bytes, &artifact, &body));
  Cursor cursor(body);
  std::array<PackedSection, 7> sections;
  for (PackedSection& section : sections) {
    uint32_t size = 0;
    if (!cursor.Take(&section.coder) || !cursor.Take(&size) || !cursor.TakeBytes(size, &section.bytes)) {
      return Damaged("a section is cut short");
    }
  }
  if (!cursor.AtEnd()) return Damaged("something follows the last section");
  if (sizes != nullptr) {
    const auto size = [&](size_t i) { return static_cast<int64_t>(5 + sections[i].bytes.size()); };
    *sizes = {size(0), size(1), size(2), size(3), size(4), size(5), size(6)};
  }
  HM_ASSIGN_OR_RETURN(artifact.config_text, Unpack(sections[0], kMaxTextBytes, "configuration"));
  HM_RETURN_IF_ERROR(ParseDirectory(sections[1], &artifact));
  HM_RETURN_IF_ERROR(ReadFp16s(sections[2], ScalesOf(artifact), "scales"));
  HM_RETURN_IF_ERROR(ReadColumns(sections[3], ColumnsOf(artifact)));
  HM_RETURN_IF_ERROR(ReadFp16s(sections[4], Fp16TensorsOf(artifact), "float16 numbers"));
  HM_RETURN_IF_ERROR(ReadFloats(sections[5], &artifact));
  HM_RETURN_IF_ERROR(ReadCodes(sections[6], CodesOf(artifact)));
  return artifact;
}

}  // namespace

absl::StatusOr<Artifact> ParseArtifact(absl::string_view bytes, absl::string_view source,
                                       SectionSizes* sizes) {
  absl::StatusOr<Artifact> artifact = Parse(bytes, sizes);
  if (artifact.ok()) return artifact;
  return absl::Status(artifact.status().code(), absl::StrCat(source, ": ", artifact.status().message()));
}

std::optional<uint64_t> ArtifactChecksum(absl::string_view artifact) {
  if (artifact.size() < kCrcBytes) return std::nullopt;
  uint64_t crc = 0;
  std::memcpy(&crc, artifact.data() + artifact.size() - kCrcBytes, kCrcBytes);
  artifact.remove_suffix(kCrcBytes);
  return crc == Crc64(artifact) ? std::optional(crc) : std::nullopt;
}

}  // namespace hm11
