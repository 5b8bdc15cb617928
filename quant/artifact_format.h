// What the writer and the reader of artifacts share: constants of the format, and which numbers are in which
// section.
#ifndef HM11_QUANT_ARTIFACT_FORMAT_H_
#define HM11_QUANT_ARTIFACT_FORMAT_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/dtype.h"
#include "quant/artifact.h"
#include "quant/code_models.h"

namespace hm11::artifact_format {

static_assert(std::endian::native == std::endian::little);

inline constexpr absl::string_view kMagic = "HM11.ART";
inline constexpr uint32_t kVersion = 2;
inline constexpr size_t kHeaderBytes = 32;
inline constexpr size_t kCrcBytes = 8;
inline constexpr size_t kMaxTextBytes = size_t{1} << 24;   // configuration and directory, each
inline constexpr int64_t kMaxElements = int64_t{1} << 28;  // of all tensors

inline constexpr uint8_t kHasColumns = 0x80;  // beside the bits of a code

enum Coder : uint8_t { kNone = 0, kLzma = 1, kRange = 2, kRangeGivenUpper = 3 };

// T with the constness of From.
template <typename T, typename From>
using ConstAs = std::conditional_t<std::is_const_v<From>, const T, T>;

template <typename AnyArtifact>
std::vector<BasicFp16Matrix<ConstAs<Fp16, AnyArtifact>>> ScalesOf(AnyArtifact& artifact) {
  std::vector<BasicFp16Matrix<ConstAs<Fp16, AnyArtifact>>> matrices;
  for (auto& tensor : artifact.tensors) {
    if (tensor.storage != Storage::kCodes) continue;
    matrices.push_back({tensor.codes.scales.data(), static_cast<int64_t>(tensor.codes.scales.size()), 1});
  }
  return matrices;
}

template <typename AnyArtifact>
std::vector<std::span<ConstAs<int8_t, AnyArtifact>>> ColumnsOf(AnyArtifact& artifact) {
  std::vector<std::span<ConstAs<int8_t, AnyArtifact>>> rows;
  for (auto& tensor : artifact.tensors) {
    if (tensor.storage == Storage::kCodes && !tensor.codes.column_exponents.empty()) {
      rows.emplace_back(tensor.codes.column_exponents);
    }
  }
  return rows;
}

template <typename AnyArtifact>
std::vector<BasicFp16Matrix<ConstAs<Fp16, AnyArtifact>>> Fp16TensorsOf(AnyArtifact& artifact) {
  std::vector<BasicFp16Matrix<ConstAs<Fp16, AnyArtifact>>> matrices;
  for (auto& tensor : artifact.tensors) {
    if (tensor.storage != Storage::kFloat16) continue;
    const int64_t cols = tensor.shape.size() < 2 ? 1 : std::max<int64_t>(1, tensor.shape.back());
    matrices.push_back({tensor.float16s.data(), static_cast<int64_t>(tensor.float16s.size()), cols});
  }
  return matrices;
}

template <typename AnyArtifact>
std::vector<BasicCodeMatrix<ConstAs<int8_t, AnyArtifact>>> CodesOf(AnyArtifact& artifact) {
  std::vector<BasicCodeMatrix<ConstAs<int8_t, AnyArtifact>>> matrices;
  for (auto& tensor : artifact.tensors) {
    if (tensor.storage != Storage::kCodes) continue;
    matrices.push_back({tensor.codes.codes.data(), tensor.codes.rows, tensor.codes.cols, tensor.codes.bits});
  }
  return matrices;
}

}  // namespace hm11::artifact_format

#endif  // HM11_QUANT_ARTIFACT_FORMAT_H_
