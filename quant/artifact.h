// The artifact: a model's configuration and quantized weights in one small file.
//
// Byte by byte, all numbers little-endian:
//
//   offset  bytes  what
//        0      8  "HM11.ART"
//        8      4  version of the format: 2
//       12      4  pieces of the tokenizer's vocabulary
//       16      8  CRC-64 (ECMA-182) of the tokenizer's file
//       24      8  bytes of the whole file
//       32         seven sections
//   size-8      8  CRC-64 of all bytes before
//
// A section is 1 byte, its coder, 4 bytes, the size of what follows, and then that. In this order:
//
//   configuration  text, "key=value" lines
//   directory      4 bytes, number of tensors; for each: 2 bytes, length of its name; the name; 1 byte, its
//                  storage (0 float32, 1 float16, 2 codes); 1 byte, bits of a code, and 128 more where columns have
//                  scales, or 0; 1 byte, number of axes, at most 8; 4 bytes an axis
//   scales         a float16 for each row of each tensor of codes; row is the first axis
//   columns        for each tensor of codes whose columns have scales, a signed byte a column: the scale is
//                  2^(byte / 4)
//   float16        the numbers of float16 tensors
//   float32        the numbers of float32 tensors
//   codes          the numbers of tensors of codes: value = code * scale of the row * scale of the column
//
// Coders: 0 none; 1 LZMA (container of core/lzma.h); 2 range coder (quant/code_models.h); 3 range coder, for
// float16, lower byte given upper. Without coder or with LZMA a code is a signed byte, configuration and
// directory are their bytes, and other numbers lie in planes: the lowest byte of all, then the next of all, ...
//
// Properties:
//   1. ParseArtifact gives back what SerializeArtifact was given.
//   2. Every file with one bit flipped, one byte missing or one byte more is an error that names the file and
//      fault.
//   3. Bytes with a right checksum but wrong contents are an error or parse, never a crash.
#ifndef HM11_QUANT_ARTIFACT_H_
#define HM11_QUANT_ARTIFACT_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/dtype.h"
#include "quant/row_quantizer.h"

namespace hm11 {

enum class Storage : uint8_t { kFloat32 = 0, kFloat16 = 1, kCodes = 2 };

// One tensor as the artifact holds it; of the last three members one is filled, by `storage`.
struct StoredTensor {
  std::string name;
  std::vector<int64_t> shape;  // empty for a scalar
  Storage storage = Storage::kFloat32;
  std::vector<float> floats = {};
  std::vector<Fp16> float16s = {};
  QuantizedMatrix codes = {};  // rows = shape[0], cols = the product of the other extents
};

struct Artifact {
  std::string config_text;
  uint64_t tokenizer_crc = 0;
  int64_t vocab_size = 0;
  std::vector<StoredTensor> tensors;
};

// How codes are coded; kSmallest tries both.
enum class CodeCoder { kRange, kLzma, kSmallest };

// Bytes of each section in the file, with its five of coder and size.
struct SectionSizes {
  int64_t config = 0;
  int64_t directory = 0;
  int64_t scales = 0;
  int64_t columns = 0;
  int64_t float16 = 0;
  int64_t float32 = 0;
  int64_t codes = 0;
};

// Sections that stay while only codes change, as they stand in the file. Empty at first; the first call that
// is handed them fills them in and later ones take them, unlooked at.
struct KeptSections {
  std::string float16;
  std::string float32;
};

// All sections but the codes are coded every way that there is, and the smallest kept. `sizes` and `kept` may
// be null.
absl::StatusOr<std::string> SerializeArtifact(const Artifact& artifact, CodeCoder coder,
                                              SectionSizes* sizes = nullptr, KeptSections* kept = nullptr);

// `source`, a path say, is named in errors. `sizes` may be null.
absl::StatusOr<Artifact> ParseArtifact(absl::string_view bytes, absl::string_view source,
                                       SectionSizes* sizes = nullptr);

// The checksum that an artifact ends with, which tells artifacts apart (that of the whole file does not: it
// is one number for all that end with their own). Nothing when the bytes before it have another.
std::optional<uint64_t> ArtifactChecksum(absl::string_view artifact);

}  // namespace hm11

#endif  // HM11_QUANT_ARTIFACT_H_
