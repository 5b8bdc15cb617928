// Reading Python's string literals.
#include "tools/compliance/python_literals.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "absl/strings/ascii.h"

namespace hm11 {
namespace {

void AppendUtf8(uint32_t code, std::string* text) {
  if (code < 0x80) {
    *text += static_cast<char>(code);
  } else if (code < 0x800) {
    *text += {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
  } else if (code < 0x10000) {
    *text += {static_cast<char>(0xe0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 63)),
              static_cast<char>(0x80 | (code & 63))};
  } else {
    *text += {static_cast<char>(0xf0 | (code >> 18 & 7)), static_cast<char>(0x80 | (code >> 12 & 63)),
              static_cast<char>(0x80 | (code >> 6 & 63)), static_cast<char>(0x80 | (code & 63))};
  }
}

// Reads Python source a literal at a time.
class LiteralReader {
 public:
  explicit LiteralReader(absl::string_view source) : source_(source) {}

  // Goes to the next literal and reads it, with those that Python joins to it; false at the end.
  bool Next(std::string* value) {
    value->clear();
    while (at_ < source_.size()) {
      if (AtLiteral()) {
        ReadLiteral(value);
        while (SkipToJoined()) ReadLiteral(value);
        return true;
      }
      if (source_[at_] == '#') {
        SkipLine();
      } else if (IsWord(source_[at_])) {
        while (at_ < source_.size() && IsWord(source_[at_])) ++at_;
      } else {
        if (std::strchr("([{", source_[at_]) != nullptr && source_[at_] != '\0') ++brackets_;
        if (std::strchr(")]}", source_[at_]) != nullptr && source_[at_] != '\0') --brackets_;
        ++at_;
      }
    }
    return false;
  }

 private:
  static bool IsWord(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }
  char CharAt(size_t i) const { return i < source_.size() ? source_[i] : '\0'; }
  void SkipLine() { at_ = std::min(source_.size(), source_.find('\n', at_)); }

  // Whether a literal begins here: a quote, or one or two letters of a prefix and a quote.
  bool AtLiteral() {
    size_t quote = at_;
    while (quote < at_ + 2 && std::strchr("rRbBuUfF", CharAt(quote)) != nullptr && CharAt(quote) != '\0')
      ++quote;
    if (CharAt(quote) != '"' && CharAt(quote) != '\'') return false;
    prefix_ = source_.substr(at_, quote - at_);
    quote_ = quote;
    return true;
  }

  // Past what may stand between two joined literals, if another one follows it. A statement ends with its
  // line, unless a bracket is open.
  bool SkipToJoined() {
    const size_t before = at_;
    while (at_ < source_.size()) {
      const char c = source_[at_];
      if (c == '#') {
        SkipLine();
      } else if (c == '\n' && brackets_ <= 0) {
        break;
      } else if (c == '\\' && CharAt(at_ + 1) == '\n') {
        at_ += 2;
      } else if (absl::ascii_isspace(static_cast<unsigned char>(c)) || c == '+') {
        ++at_;
      } else {
        break;
      }
    }
    if (at_ < source_.size() && AtLiteral()) return true;
    at_ = before;
    return false;
  }

  void ReadLiteral(std::string* value) {
    const char quote = source_[quote_];
    const bool triple = CharAt(quote_ + 1) == quote && CharAt(quote_ + 2) == quote;
    const bool raw = prefix_.find_first_of("rR") != absl::string_view::npos;
    const bool bytes = prefix_.find_first_of("bB") != absl::string_view::npos;
    at_ = quote_ + (triple ? 3 : 1);
    while (at_ < source_.size()) {
      const char c = source_[at_];
      if (c == quote && (!triple || (CharAt(at_ + 1) == quote && CharAt(at_ + 2) == quote))) {
        at_ += triple ? 3 : 1;
        return;
      }
      if (c == '\n' && !triple) return;  // not Python; go on behind it
      if (c == '\\' && at_ + 1 < source_.size()) {
        if (raw) {
          value->append(source_.data() + at_, 2);
          at_ += 2;
        } else {
          ReadEscape(bytes, value);
        }
        continue;
      }
      *value += c;
      ++at_;
    }
  }

  void ReadEscape(bool bytes, std::string* value) {
    static constexpr char kLetters[] = "abfnrtv\\'\"", kMeanings[] = "\a\b\f\n\r\t\v\\'\"";
    const char c = source_[at_ + 1];
    at_ += 2;
    if (c == '\n') return;
    if (const char* letter = std::strchr(kLetters, c)) {
      *value += kMeanings[letter - kLetters];
    } else if (c == 'x' || (!bytes && (c == 'u' || c == 'U'))) {
      const uint32_t code = ReadDigits(c == 'x' ? 2 : c == 'u' ? 4 : 8, 16);
      if (bytes) {
        *value += static_cast<char>(code);
      } else {
        AppendUtf8(code, value);
      }
    } else if (c >= '0' && c <= '7') {
      --at_;
      const uint32_t code = ReadDigits(3, 8);
      if (bytes) {
        *value += static_cast<char>(code);
      } else {
        AppendUtf8(code, value);
      }
    } else {
      *value += {'\\', c};
    }
  }

  uint32_t ReadDigits(int most, int base) {
    uint32_t code = 0;
    for (int i = 0; i < most && at_ < source_.size(); ++i, ++at_) {
      const char c = absl::ascii_tolower(static_cast<unsigned char>(source_[at_]));
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
      if (digit >= base) break;
      code = code * static_cast<uint32_t>(base) + static_cast<uint32_t>(digit);
    }
    return code;
  }

  absl::string_view source_;
  absl::string_view prefix_;
  size_t at_ = 0;
  size_t quote_ = 0;
  int64_t brackets_ = 0;  // open ones
};

}  // namespace

std::vector<std::string> PythonLiterals(absl::string_view source) {
  std::vector<std::string> literals;
  LiteralReader reader(source);
  std::string value;
  while (reader.Next(&value)) literals.push_back(value);
  return literals;
}

}  // namespace hm11
