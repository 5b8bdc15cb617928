// Writes the format of artifact.h.
#include <cstring>
#include <limits>
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

template <typename T>
void Append(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Planes of the bytes of `count` numbers of `width` bytes each, lowest first.
std::string ToPlanes(const std::string& numbers, size_t width) {
  const size_t count = numbers.size() / width;
  std::string planes(numbers.size(), '\0');
  for (size_t i = 0; i < count; ++i) {
    for (size_t b = 0; b < width; ++b) planes[b * count + i] = numbers[i * width + b];
  }
  return planes;
}

// Sections in the making: keeps the smallest of what it is offered.
class Section {
 public:
  void Offer(Coder coder, std::string bytes) {
    if (offered_ && bytes.size() >= bytes_.size()) return;
    offered_ = true;
    coder_ = coder;
    bytes_ = std::move(bytes);
  }
  // Text is best foretold from the byte before, numbers from nothing.
  absl::Status OfferLzma(absl::string_view bytes, int context_bits) {
    const LzmaOptions options = {.literal_context_bits = context_bits, .position_bits = 0};
    HM_ASSIGN_OR_RETURN(std::string packed, LzmaCompress(bytes, options));
    Offer(kLzma, std::move(packed));
    return absl::OkStatus();
  }
  // As it stands in the file.
  absl::StatusOr<std::string> Finish() const {
    if (bytes_.size() > std::numeric_limits<uint32_t>::max()) {
      return absl::ResourceExhaustedError("a section of the artifact is larger than 4 GiB");
    }
    std::string out;
    Append<uint8_t>(&out, coder_);
    Append<uint32_t>(&out, static_cast<uint32_t>(bytes_.size()));
    return out + bytes_;
  }

 private:
  bool offered_ = false;
  Coder coder_ = kNone;
  std::string bytes_;
};

std::string DirectoryOf(const Artifact& artifact) {
  std::string out;
  Append<uint32_t>(&out, static_cast<uint32_t>(artifact.tensors.size()));
  for (const StoredTensor& tensor : artifact.tensors) {
    Append<uint16_t>(&out, static_cast<uint16_t>(tensor.name.size()));
    out.append(tensor.name);
    Append(&out, tensor.storage);
    const int columns = tensor.codes.column_exponents.empty() ? 0 : kHasColumns;
    Append<uint8_t>(
        &out, static_cast<uint8_t>(tensor.storage == Storage::kCodes ? tensor.codes.bits | columns : 0));
    Append<uint8_t>(&out, static_cast<uint8_t>(tensor.shape.size()));
    for (const int64_t extent : tensor.shape) Append<uint32_t>(&out, static_cast<uint32_t>(extent));
  }
  return out;
}

std::string BytesOf(const std::vector<ConstFp16Matrix>& matrices) {
  std::string bytes;
  for (const ConstFp16Matrix& matrix : matrices) {
    bytes.append(reinterpret_cast<const char*>(matrix.values), matrix.size * sizeof(Fp16));
  }
  return bytes;
}

absl::StatusOr<std::string> TextSection(const std::string& text) {
  Section section;
  section.Offer(kNone, text);
  HM_RETURN_IF_ERROR(section.OfferLzma(text, 3));
  return section.Finish();
}

absl::StatusOr<std::string> Fp16Section(const std::vector<ConstFp16Matrix>& matrices) {
  Section section;
  const std::string planes = ToPlanes(BytesOf(matrices), sizeof(Fp16));
  section.Offer(kNone, planes);
  HM_RETURN_IF_ERROR(section.OfferLzma(planes, 0));
  section.Offer(kRange, EncodeFp16s(matrices, /*lower_given_upper=*/false));
  section.Offer(kRangeGivenUpper, EncodeFp16s(matrices, /*lower_given_upper=*/true));
  return section.Finish();
}

absl::StatusOr<std::string> ColumnsSection(const std::vector<std::span<const int8_t>>& rows) {
  Section section;
  section.Offer(kRange, EncodeExponents(rows));
  return section.Finish();
}

absl::StatusOr<std::string> FloatsSection(const Artifact& artifact) {
  std::string numbers;
  for (const StoredTensor& tensor : artifact.tensors) {
    if (tensor.storage != Storage::kFloat32) continue;
    numbers.append(reinterpret_cast<const char*>(tensor.floats.data()), tensor.floats.size() * sizeof(float));
  }
  Section section;
  const std::string planes = ToPlanes(numbers, sizeof(float));
  section.Offer(kNone, planes);
  HM_RETURN_IF_ERROR(section.OfferLzma(planes, 0));
  return section.Finish();
}

absl::StatusOr<std::string> CodesSection(const std::vector<ConstCodeMatrix>& matrices, CodeCoder coder) {
  Section section;
  if (coder != CodeCoder::kLzma) section.Offer(kRange, EncodeCodes(matrices));
  if (coder != CodeCoder::kRange) {
    std::string bytes;
    for (const ConstCodeMatrix& matrix : matrices) {
      bytes.append(reinterpret_cast<const char*>(matrix.codes), matrix.rows * matrix.cols);
    }
    HM_RETURN_IF_ERROR(section.OfferLzma(bytes, 0));
  }
  return section.Finish();
}

}  // namespace

absl::StatusOr<std::string> SerializeArtifact(const Artifact& artifact, CodeCoder coder, SectionSizes* sizes,
                                              KeptSections* kept) {
  KeptSections own;
  KeptSections& others = kept != nullptr ? *kept : own;
  if (others.float16.empty()) {
    HM_ASSIGN_OR_RETURN(others.float16, Fp16Section(Fp16TensorsOf(artifact)));
    HM_ASSIGN_OR_RETURN(others.float32, FloatsSection(artifact));
  }
  HM_ASSIGN_OR_RETURN(const std::string config, TextSection(artifact.config_text));
  HM_ASSIGN_OR_RETURN(const std::string directory, TextSection(DirectoryOf(artifact)));
  HM_ASSIGN_OR_RETURN(const std::string scales, Fp16Section(ScalesOf(artifact)));
  HM_ASSIGN_OR_RETURN(const std::string columns, ColumnsSection(ColumnsOf(artifact)));
  HM_ASSIGN_OR_RETURN(const std::string codes, CodesSection(CodesOf(artifact), coder));

  std::string out(kMagic);
  Append<uint32_t>(&out, kVersion);
  Append<uint32_t>(&out, static_cast<uint32_t>(artifact.vocab_size));
  Append<uint64_t>(&out, artifact.tokenizer_crc);
  Append<uint64_t>(&out, 0);  // the size, below
  absl::StrAppend(&out, config, directory, scales, columns, others.float16, others.float32);
  out += codes;
  const uint64_t size = out.size() + kCrcBytes;
  std::memcpy(&out[kHeaderBytes - sizeof(size)], &size, sizeof(size));
  Append<uint64_t>(&out, Crc64(out));
  if (sizes != nullptr) {
    const auto count = [](const std::string& section) { return static_cast<int64_t>(section.size()); };
    *sizes = {count(config),         count(directory),      count(scales), count(columns),
              count(others.float16), count(others.float32), count(codes)};
  }
  return out;
}

}  // namespace hm11
