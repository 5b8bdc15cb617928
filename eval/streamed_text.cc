// StreamedText: bytes gathered to characters, characters held against the stop.
#include "eval/streamed_text.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_replace.h"

namespace hm11 {
namespace {

constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD

// The length of the character that `bytes` begins with: 0 where it cannot begin one, or more than there are
// where it may once more have come. Excludes surrogates, overlong forms and what is past U+10FFFF.
size_t CharacterLength(const std::string& bytes) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xc2 && first < 0xe0   ? 2
                        : first >= 0xe0 && first < 0xf0 ? 3
                        : first >= 0xf0 && first < 0xf5 ? 4
                                                        : 0;
  for (size_t i = 1; i < std::min(length, bytes.size()); ++i) {
    unsigned char low = 0x80, high = 0xbf;
    if (i == 1 && first == 0xe0) low = 0xa0;
    if (i == 1 && first == 0xed) high = 0x9f;
    if (i == 1 && first == 0xf0) low = 0x90;
    if (i == 1 && first == 0xf4) high = 0x8f;
    if (byte(i) < low || byte(i) > high) return 0;
  }
  return length;
}

}  // namespace

void StreamedText::FlushBytes(bool all) {
  while (!bytes_.empty()) {
    const size_t length = CharacterLength(bytes_);
    if (length > bytes_.size() && !all) return;
    const bool whole = length > 0 && length <= bytes_.size();
    waiting_ += whole ? bytes_.substr(0, length) : kReplacement;
    bytes_.erase(0, whole ? length : 1);
  }
}

std::string StreamedText::Given(bool all) {
  if (stopped_) return "";
  size_t given = waiting_.size();
  if (!stop_.empty()) {
    const size_t found = waiting_.find(stop_);
    stopped_ = found != std::string::npos;
    // The longest end of the text that is a begin of the stop.
    size_t held = all ? 0 : std::min(waiting_.size(), stop_.size() - 1);
    while (held > 0 && waiting_.compare(waiting_.size() - held, held, stop_, 0, held) != 0) --held;
    given = stopped_ ? found : waiting_.size() - held;
    // A stop may begin inside a character.
    while (given < waiting_.size() && (static_cast<unsigned char>(waiting_[given]) & 0xc0) == 0x80) --given;
  }
  std::string text = waiting_.substr(0, given);
  waiting_.erase(0, given);
  return text;
}

std::string StreamedText::Next(uint16_t token) {
  const PieceKind kind = tokenizer_.kind(token);
  const std::string& piece = tokenizer_.piece(token);
  if (kind == PieceKind::kByte) {
    // "<0x0A>"
    bytes_ += static_cast<char>(std::strtol(piece.substr(3, 2).c_str(), nullptr, 16));
    FlushBytes(false);
    return Given(false);
  }
  FlushBytes(true);
  if (kind == PieceKind::kControl) return Given(false);
  const uint16_t one[] = {token};
  waiting_ += kind == PieceKind::kUnknown ? tokenizer_.Decode(one)
                                          : absl::StrReplaceAll(piece, {{"\xe2\x96\x81", " "}});
  return Given(false);
}

std::string StreamedText::Finish() {
  FlushBytes(true);
  return Given(true);
}

}  // namespace hm11
