// Undoing the encodings and compressions in Python literals.
#include "tools/compliance/packed_code.h"

#include <brotli/decode.h>
#include <lzma.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tools/compliance/python_literals.h"

namespace hm11 {
namespace {

constexpr int kMostLayers = 16;
constexpr int kMostLiterals = 500;      // tried to be unpacked
constexpr size_t kShortestPacked = 80;  // characters; shorter literals are names, formats and messages
constexpr size_t kShortestOpaque = 400;

constexpr char kBase64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr char kBase85[] =
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";

// The place of each character in an alphabet; -1 where it has none.
std::array<int, 256> Places(const char* alphabet) {
  std::array<int, 256> places;
  places.fill(-1);
  for (int i = 0; alphabet[i] != '\0'; ++i) places[static_cast<unsigned char>(alphabet[i])] = i;
  return places;
}

// Groups of five digits to base 85 are four bytes; the last group may be shorter. `digit` gives 0 to 84 or
// -1.
template <typename Digit>
std::optional<std::string> DecodeGroupsOf85(absl::string_view text, bool with_z, Digit digit) {
  std::string bytes;
  uint64_t group = 0;
  int count = 0;
  for (char c : text) {
    if (absl::ascii_isspace(static_cast<unsigned char>(c))) continue;
    if (with_z && c == 'z' && count == 0) {
      bytes.append(4, '\0');
      continue;
    }
    const int value = digit(c);
    if (value < 0) return std::nullopt;
    group = group * 85 + static_cast<uint64_t>(value);
    if (++count < 5) continue;
    if (group > 0xffffffffu) return std::nullopt;
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(group >> shift);
    group = 0;
    count = 0;
  }
  if (count == 1) return std::nullopt;
  if (count > 1) {
    for (int i = count; i < 5; ++i) group = group * 85 + 84;
    if (group > 0xffffffffu) return std::nullopt;
    for (int i = 0; i < count - 1; ++i) bytes += static_cast<char>(group >> (24 - 8 * i));
  }
  return bytes;
}

// Source text has words of a programming language and next to no control characters.
bool LooksLikeSource(absl::string_view text) {
  if (text.size() < 8) return false;
  int64_t odd = 0;
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    odd += byte == 0x7f || (byte < 0x20 && c != '\n' && c != '\r' && c != '\t' && c != '\f');
  }
  if (odd * 1000 > static_cast<int64_t>(text.size())) return false;
  for (const char* word :
       {"import ", "def ", "exec(", "lambda ", "print(", "#include", "struct ", "return "}) {
    if (absl::StrContains(text, word)) return true;
  }
  return false;
}

// The texts of a tar archive one after the other; nothing when it is none.
std::optional<std::string> TextsOfTar(absl::string_view bytes) {
  const auto files = FilesOfTar(bytes);
  if (!files) return std::nullopt;
  std::string texts;
  for (const auto& [name, contents] : *files) absl::StrAppend(&texts, contents, "\n");
  return texts;
}

std::optional<std::string> FinishLzma(lzma_stream* stream, lzma_ret ready, absl::string_view bytes,
                                      int64_t max_bytes) {
  std::string result;
  char buffer[65536];
  lzma_ret state = ready;
  stream->next_in = reinterpret_cast<const uint8_t*>(bytes.data());
  stream->avail_in = bytes.size();
  while (state == LZMA_OK) {
    stream->next_out = reinterpret_cast<uint8_t*>(buffer);
    stream->avail_out = sizeof(buffer);
    state = lzma_code(stream, LZMA_FINISH);
    result.append(buffer, sizeof(buffer) - stream->avail_out);
    if (static_cast<int64_t>(result.size()) > max_bytes) state = LZMA_MEMLIMIT_ERROR;
  }
  lzma_end(stream);
  if (state != LZMA_STREAM_END) return std::nullopt;
  return result;
}

std::optional<std::string> Xz(absl::string_view bytes, int64_t max_bytes) {
  lzma_stream stream = LZMA_STREAM_INIT;
  return FinishLzma(&stream, lzma_auto_decoder(&stream, uint64_t{256} << 20, 0), bytes, max_bytes);
}

std::optional<std::string> RawLzma2(absl::string_view bytes, int64_t max_bytes) {
  lzma_stream stream = LZMA_STREAM_INIT;
  lzma_options_lzma options;
  lzma_lzma_preset(&options, 6);
  options.dict_size = 64u << 20;  // a larger window than the packer's does no harm
  const lzma_filter filters[] = {{LZMA_FILTER_LZMA2, &options}, {LZMA_VLI_UNKNOWN, nullptr}};
  return FinishLzma(&stream, lzma_raw_decoder(&stream, filters), bytes, max_bytes);
}

// window_bits as zlib has them: 47 for zlib or gzip, -15 for a raw stream.
std::optional<std::string> Inflate(absl::string_view bytes, int window_bits, int64_t max_bytes) {
  z_stream stream = {};
  if (inflateInit2(&stream, window_bits) != Z_OK) return std::nullopt;
  std::string result;
  char buffer[65536];
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  int state = Z_OK;
  while (state == Z_OK && static_cast<int64_t>(result.size()) <= max_bytes) {
    stream.next_out = reinterpret_cast<Bytef*>(buffer);
    stream.avail_out = sizeof(buffer);
    state = inflate(&stream, Z_NO_FLUSH);
    result.append(buffer, sizeof(buffer) - stream.avail_out);
  }
  inflateEnd(&stream);
  if (state != Z_STREAM_END || static_cast<int64_t>(result.size()) > max_bytes) return std::nullopt;
  return result;
}

std::optional<std::string> Brotli(absl::string_view bytes, int64_t max_bytes) {
  BrotliDecoderState* decoder = BrotliDecoderCreateInstance(nullptr, nullptr, nullptr);
  std::string result;
  char buffer[65536];
  size_t left = bytes.size();
  const uint8_t* in = reinterpret_cast<const uint8_t*>(bytes.data());
  BrotliDecoderResult state = BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT;
  while (state == BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT &&
         static_cast<int64_t>(result.size()) <= max_bytes) {
    size_t room = sizeof(buffer);
    uint8_t* out = reinterpret_cast<uint8_t*>(buffer);
    state = BrotliDecoderDecompressStream(decoder, &left, &in, &room, &out, nullptr);
    result.append(buffer, sizeof(buffer) - room);
  }
  BrotliDecoderDestroyInstance(decoder);
  if (state != BROTLI_DECODER_RESULT_SUCCESS || left > 0) return std::nullopt;
  return result;
}

struct Unpacked {
  std::string text;
  std::string how;
};

// The source text in decoded bytes: as they are, in an archive, compressed, or both.
std::optional<Unpacked> UnpackBytes(const std::string& bytes, int64_t max_bytes) {
  if (LooksLikeSource(bytes)) return Unpacked{bytes, ""};
  std::string how;
  std::optional<std::string> content = Decompress(bytes, max_bytes, &how);
  if (std::optional<std::string> texts = TextsOfTar(content ? *content : bytes)) {
    content = std::move(texts);
    absl::StrAppend(&how, how.empty() ? "" : ", ", "tar");
  }
  if (!content || !LooksLikeSource(*content)) return std::nullopt;
  return Unpacked{*std::move(content), how};
}

// What a literal hides, if it hides source text.
std::optional<Unpacked> UnpackLiteral(const std::string& literal, int64_t max_bytes) {
  using Decoder = std::optional<std::string> (*)(absl::string_view);
  static constexpr std::pair<const char*, Decoder> kDecoders[] = {
      {"hex", DecodeHex}, {"base64", DecodeBase64}, {"base85", DecodeBase85}, {"ascii85", DecodeAscii85}};
  if (!LooksLikeSource(literal)) {
    if (std::optional<Unpacked> unpacked = UnpackBytes(literal, max_bytes)) return unpacked;
  }
  for (const auto& [name, decode] : kDecoders) {
    const std::optional<std::string> bytes = decode(literal);
    if (!bytes || bytes->empty()) continue;
    std::optional<Unpacked> unpacked = UnpackBytes(*bytes, max_bytes);
    if (!unpacked) continue;
    unpacked->how = absl::StrCat(name, unpacked->how.empty() ? "" : ", ", unpacked->how);
    return unpacked;
  }
  return std::nullopt;
}

bool LooksEncoded(const std::string& literal) {
  if (literal.size() < kShortestOpaque) return false;
  return std::none_of(literal.begin(), literal.end(), [](char c) { return c == ' ' || c == '\n'; });
}

}  // namespace

std::optional<std::string> DecodeBase64(absl::string_view text) {
  static const std::array<int, 256> places = [] {
    std::array<int, 256> both = Places(kBase64);
    both['-'] = 62;
    both['_'] = 63;
    return both;
  }();
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  bool padded = false;
  for (char c : text) {
    if (absl::ascii_isspace(static_cast<unsigned char>(c))) continue;
    if (c == '=') {
      padded = true;
      continue;
    }
    const int place = places[static_cast<unsigned char>(c)];
    if (place < 0 || padded) return std::nullopt;
    bits = bits << 6 | static_cast<uint32_t>(place);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count);
  }
  if (count == 6) return std::nullopt;
  return bytes;
}

std::optional<std::string> DecodeBase85(absl::string_view text) {
  static const std::array<int, 256> places = Places(kBase85);
  return DecodeGroupsOf85(text, /*with_z=*/false,
                          [](char c) { return places[static_cast<unsigned char>(c)]; });
}

std::optional<std::string> DecodeAscii85(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  if (absl::StartsWith(text, "<~")) text.remove_prefix(2);
  if (absl::EndsWith(text, "~>")) text.remove_suffix(2);
  return DecodeGroupsOf85(text, /*with_z=*/true, [](char c) { return c >= '!' && c <= 'u' ? c - '!' : -1; });
}

std::optional<std::string> DecodeHex(absl::string_view text) {
  std::string bytes;
  int high = -1;
  for (char c : text) {
    if (absl::ascii_isspace(static_cast<unsigned char>(c))) continue;
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return std::nullopt;
    const int digit = absl::ascii_isdigit(static_cast<unsigned char>(c)) ? c - '0' : (c | 32) - 'a' + 10;
    if (high >= 0) bytes += static_cast<char>(high << 4 | digit);
    high = high >= 0 ? -1 : digit;
  }
  if (high >= 0) return std::nullopt;
  return bytes;
}

std::optional<std::string> Decompress(absl::string_view bytes, int64_t max_bytes, std::string* how) {
  using Decompressor = std::optional<std::string> (*)(absl::string_view, int64_t);
  static constexpr std::pair<const char*, Decompressor> kFormats[] = {
      {"lzma", Xz},
      {"zlib", [](absl::string_view in, int64_t most) { return Inflate(in, 47, most); }},
      {"lzma2", RawLzma2},
      {"deflate", [](absl::string_view in, int64_t most) { return Inflate(in, -15, most); }},
      {"brotli", Brotli}};
  if (bytes.size() < 4) return std::nullopt;
  for (const auto& [name, decompress] : kFormats) {
    std::optional<std::string> result = decompress(bytes, max_bytes);
    if (!result || result->empty()) continue;
    *how = name;
    return result;
  }
  return std::nullopt;
}

// A header of 512 bytes has the name first, the size in octal at 124 and "ustar" at 257, names that are too
// long for it begin at 345; contents are padded to 512 bytes.
std::optional<std::map<std::string, std::string>> FilesOfTar(absl::string_view bytes) {
  constexpr size_t kBlock = 512;
  const auto text = [&](size_t begin, size_t most) {
    const absl::string_view field = bytes.substr(begin, most);
    return std::string(field.substr(0, field.find('\0')));
  };
  std::map<std::string, std::string> files;
  size_t at = 0;
  if (bytes.size() < kBlock || bytes.substr(257, 5) != "ustar") return std::nullopt;
  while (at + kBlock <= bytes.size() && bytes.substr(at + 257, 5) == "ustar") {
    size_t size = 0;
    for (char c : bytes.substr(at + 124, 11)) {
      if (c < '0' || c > '7') return std::nullopt;
      size = size * 8 + static_cast<size_t>(c - '0');
    }
    // GNU's own format, "ustar" and a blank, has other things there.
    const std::string folder = bytes[at + 262] == '\0' ? text(at + 345, 155) : "", name = text(at, 100);
    at += kBlock;
    if (size > bytes.size() - at) return std::nullopt;
    files[folder.empty() ? name : absl::StrCat(folder, "/", name)] = std::string(bytes.substr(at, size));
    at += (size + kBlock - 1) / kBlock * kBlock;
  }
  return files;
}

UnpackedCode UnpackCode(absl::string_view source, int64_t most_bytes) {
  UnpackedCode code;
  code.text = std::string(source);
  // Texts still to be searched; each unpacked literal is one more.
  std::vector<std::string> texts = {code.text};
  int64_t left = most_bytes;
  int tried = 0;
  for (size_t i = 0; i < texts.size() && i < kMostLayers; ++i) {
    const std::string text = texts[i];
    for (const std::string& literal : PythonLiterals(text)) {
      if (literal.size() < kShortestPacked) continue;
      if (++tried > kMostLiterals || left <= 0) {
        code.cut_off = true;
        continue;
      }
      // Source text does not shrink to a fiftieth.
      const auto most = std::min(left, 65536 + 50 * static_cast<int64_t>(literal.size()));
      std::optional<Unpacked> unpacked = UnpackLiteral(literal, most);
      PackedLayer layer = {.packed_bytes = static_cast<int64_t>(literal.size())};
      if (unpacked) {
        layer.how = unpacked->how;
        layer.unpacked_bytes = static_cast<int64_t>(unpacked->text.size());
        left -= layer.unpacked_bytes;
        code.layers.push_back(layer);
        absl::StrAppend(&code.text, "\n", unpacked->text);
        texts.push_back(std::move(unpacked->text));
      } else if (LooksEncoded(literal)) {
        code.opaque.push_back(layer);
      }
    }
  }
  return code;
}

UnpackedCode UnpackFile(absl::string_view bytes, int64_t most_bytes) {
  const std::string contents(bytes);
  if (LooksLikeSource(bytes)) return UnpackCode(bytes, most_bytes);
  PackedLayer layer = {.packed_bytes = static_cast<int64_t>(bytes.size())};
  std::optional<Unpacked> unpacked = UnpackLiteral(contents, most_bytes);
  if (!unpacked) return {.opaque = {layer}};
  UnpackedCode code = UnpackCode(unpacked->text, most_bytes);
  layer.how = unpacked->how;
  layer.unpacked_bytes = static_cast<int64_t>(unpacked->text.size());
  code.layers.insert(code.layers.begin(), layer);
  return code;
}

}  // namespace hm11
