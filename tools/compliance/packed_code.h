// Packed Python sources, unpacked without running them: string literals and the layers of base64, base85 or
// hex and of LZMA, zlib, gzip or brotli in them that hide further source text from a reader.
#ifndef HM11_TOOLS_COMPLIANCE_PACKED_CODE_H_
#define HM11_TOOLS_COMPLIANCE_PACKED_CODE_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace hm11 {

// A literal that was source text itself, or that nothing here can read.
struct PackedLayer {
  std::string how = {};        // "base85, lzma2"
  int64_t packed_bytes = 0;    // of the literal as it stands in the source
  int64_t unpacked_bytes = 0;  // 0 when it could not be read
};

struct UnpackedCode {
  std::string text = {};                 // the source and below it every text found in it, outermost first
  std::vector<PackedLayer> layers = {};  // what was unpacked, outermost first
  std::vector<PackedLayer> opaque = {};  // long literals that hold something else
  bool cut_off = false;                  // a bound was met; more may be packed in it
  bool packed() const { return !layers.empty(); }
  int64_t innermost_bytes() const { return layers.empty() ? 0 : layers.back().unpacked_bytes; }
  int64_t largest_bytes() const {  // of what one layer unpacks to
    int64_t largest = 0;
    for (const PackedLayer& layer : layers) largest = std::max(largest, layer.unpacked_bytes);
    return largest;
  }
};

// Repeats until nothing more unpacks. Bounded against sources made to unpack forever: 16 layers, 500
// literals, `most_bytes` in all.
UnpackedCode UnpackCode(absl::string_view source, int64_t most_bytes = int64_t{64} << 20);

// The same for a file that is packed as a whole (.xz, .lzma, .gz, .br, base85, a tar archive in them); texts
// as they are.
UnpackedCode UnpackFile(absl::string_view bytes, int64_t most_bytes = int64_t{64} << 20);

// The files of a tar archive, by name; nothing when it is none, or cut off.
std::optional<std::map<std::string, std::string>> FilesOfTar(absl::string_view bytes);

// Decoders; nothing when the text is not of that form. Whitespace between the characters is skipped.
std::optional<std::string> DecodeBase64(
    absl::string_view text);  // RFC 4648, either alphabet, padding optional
std::optional<std::string> DecodeBase85(absl::string_view text);   // RFC 1924's alphabet: Python's b85encode
std::optional<std::string> DecodeAscii85(absl::string_view text);  // Adobe's, with or without <~ ~>, with z
std::optional<std::string> DecodeHex(absl::string_view text);

// Tries every format; `how` is told which one it was. Nothing when none fits or the result passes max_bytes.
std::optional<std::string> Decompress(absl::string_view bytes, int64_t max_bytes, std::string* how);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_PACKED_CODE_H_
