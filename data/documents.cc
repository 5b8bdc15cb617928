// Documents: bytes from a file or an .xz stream, cut into lines, the lines made into documents.
#include "data/documents.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>
#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "core/file.h"
#include "core/lzma.h"
#include "core/status.h"

namespace hm11 {
namespace {

constexpr int64_t kReadAtOnce = 1 << 20;
// Bytes of a .txt document.
constexpr size_t kFileCutAtBlankLine = 1 << 20;
constexpr size_t kParagraphs = 2000;
constexpr size_t kCutAtLineEnd = 2 << 20;

enum class Format { kText, kJsonLines };

// The bytes of a file, unpacked when it is .xz.
class Source {
 public:
  static absl::StatusOr<Source> Open(const std::string& path, bool is_xz) {
    HM_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
    const int64_t size_bytes = file.size_bytes();
    if (!is_xz) return Source(Plain{.file = std::move(file)}, size_bytes);
    HM_ASSIGN_OR_RETURN(XzReader reader, XzReader::Open(path));
    return Source(std::move(reader), size_bytes);
  }

  absl::StatusOr<int64_t> Read(char* buffer, int64_t size_bytes) {
    if (XzReader* xz = std::get_if<XzReader>(&input_)) return xz->Read(buffer, size_bytes);
    Plain& plain = std::get<Plain>(input_);
    const int64_t count = std::min(size_bytes, plain.file.size_bytes() - plain.position);
    if (count > 0) std::memcpy(buffer, plain.file.data() + plain.position, static_cast<size_t>(count));
    plain.position += count;
    return count;
  }

  int64_t bytes_read() const {
    if (const XzReader* xz = std::get_if<XzReader>(&input_)) return xz->compressed_bytes_read();
    return std::get<Plain>(input_).position;
  }
  int64_t size_bytes() const { return size_bytes_; }

 private:
  struct Plain {
    MappedFile file;
    int64_t position = 0;
  };
  Source(std::variant<Plain, XzReader> input, int64_t size_bytes)
      : input_(std::move(input)), size_bytes_(size_bytes) {}

  std::variant<Plain, XzReader> input_;
  int64_t size_bytes_;
};

// Bytes of the well-formed character at the front of `text`, or 0 (Unicode 15, table 3-7).
int64_t CharacterBytes(absl::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0}; };
  const auto follows = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return follows(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const bool overlong = lead == 0xe0 && byte(1) < 0xa0;
    const bool surrogate = lead == 0xed && byte(1) > 0x9f;
    return follows(1) && follows(2) && !overlong && !surrogate ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const bool overlong = lead == 0xf0 && byte(1) < 0x90;
    const bool too_large = lead == 0xf4 && byte(1) > 0x8f;
    return follows(1) && follows(2) && follows(3) && !overlong && !too_large ? 4 : 0;
  }
  return 0;
}

// What is wrong with a text that is not JSON, as the parser says it.
class Reason : public nlohmann::json_sax<nlohmann::json> {
 public:
  static std::string Of(absl::string_view text) {
    Reason reason;
    nlohmann::json::sax_parse(text.begin(), text.end(), &reason);
    return reason.words_;
  }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return true; }
  bool key(string_t&) override { return true; }
  bool end_object() override { return true; }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  // "[json.exception.parse_error.101] parse error at line 1, column 12: invalid string: ...; last read: ..."
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    absl::string_view words = error.what();
    if (const size_t code = words.find("] "); code != words.npos) words.remove_prefix(code + 2);
    absl::ConsumePrefix(&words, "parse error at line 1, ");
    if (const size_t read = words.find("; last read"); read != words.npos) words = words.substr(0, read);
    words_ = std::string(words);
    return false;
  }

 private:
  std::string words_;
};

}  // namespace

int64_t ValidUtf8Prefix(absl::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    uint64_t eight = 0x80;  // so that fewer than eight bytes go one by one
    if (text.size() - position >= 8) std::memcpy(&eight, text.data() + position, 8);
    if ((eight & 0x8080808080808080u) == 0) {
      position += 8;
      continue;
    }
    const int64_t bytes = CharacterBytes(text.substr(position));
    if (bytes == 0) break;
    position += static_cast<size_t>(bytes);
  }
  return static_cast<int64_t>(position);
}

struct DocumentReader::State {
  State(std::string path, Format format, bool skip_bad, DocumentUnit unit, Source source)
      : path(std::move(path)), format(format), skip_bad(skip_bad), unit(unit), source(std::move(source)) {}

  // Puts the next line, with its end, in `line`; false when there is none. The line is good until the next
  // call.
  absl::StatusOr<bool> NextLine(absl::string_view* line);
  absl::StatusOr<bool> NextText(std::string* text);
  absl::StatusOr<bool> NextJson(std::string* text);
  // The error for the current line, or OK when bad ones are to be skipped, which counts it.
  absl::Status Bad(absl::string_view what);
  absl::Status BadUtf8(absl::string_view line);

  std::string path;
  Format format;
  bool skip_bad;
  DocumentUnit unit;
  Source source;
  std::string buffer;  // what was read and not yet given out begins at `position`
  size_t position = 0;
  bool at_end = false;  // of the source
  int64_t line_number = 0;
  int64_t skipped = 0;
};

absl::StatusOr<bool> DocumentReader::State::NextLine(absl::string_view* line) {
  size_t searched = position;
  for (;;) {
    const size_t end = buffer.find('\n', searched);
    if (end != std::string::npos || at_end) {
      *line = absl::string_view(buffer).substr(position, end == std::string::npos ? end : end + 1 - position);
      position += line->size();
      if (!line->empty()) ++line_number;
      return !line->empty();
    }
    buffer.erase(0, position);
    position = 0;
    searched = buffer.size();
    buffer.resize(searched + kReadAtOnce);
    HM_ASSIGN_OR_RETURN(const int64_t count, source.Read(buffer.data() + searched, kReadAtOnce));
    buffer.resize(searched + static_cast<size_t>(count));
    at_end = count < kReadAtOnce;
  }
}

absl::Status DocumentReader::State::Bad(absl::string_view what) {
  if (!skip_bad) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " line ", line_number, ": ", what, "; --skip_bad leaves such out"));
  }
  ++skipped;
  return absl::OkStatus();
}

absl::Status DocumentReader::State::BadUtf8(absl::string_view line) {
  const int64_t column = ValidUtf8Prefix(line);
  return Bad(absl::StrFormat("not UTF-8 at byte %d (0x%02x); `iconv -f latin1 -t utf-8` makes it of Latin-1",
                             column + 1, static_cast<uint8_t>(line[static_cast<size_t>(column)])));
}

absl::StatusOr<bool> DocumentReader::State::NextText(std::string* text) {
  const size_t enough = unit == DocumentUnit::kParagraph ? kParagraphs : kFileCutAtBlankLine;
  text->clear();
  absl::string_view line;
  for (;;) {
    HM_ASSIGN_OR_RETURN(const bool found, NextLine(&line));
    if (!found) return !text->empty();
    if (line_number == 1) {
      if (absl::StartsWith(line, "%PDF-")) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, ": a PDF, not text; pdftotext takes the text out of it"));
      }
      absl::ConsumePrefix(&line, "\xef\xbb\xbf");  // the byte order mark some editors begin a file with
    }
    if (ValidUtf8Prefix(line) != static_cast<int64_t>(line.size())) {
      HM_RETURN_IF_ERROR(BadUtf8(line));
      continue;
    }
    const bool blank = absl::StripAsciiWhitespace(line).empty();
    if (blank && text->empty()) continue;
    if (absl::ConsumeSuffix(&line, "\r\n")) {
      absl::StrAppend(text, line, "\n");
    } else {
      absl::StrAppend(text, line);
    }
    if (unit == DocumentUnit::kLine || text->size() >= kCutAtLineEnd || (blank && text->size() >= enough)) {
      return true;
    }
  }
}

absl::StatusOr<bool> DocumentReader::State::NextJson(std::string* text) {
  absl::string_view line;
  for (;;) {
    HM_ASSIGN_OR_RETURN(const bool found, NextLine(&line));
    if (!found) return false;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    if (ValidUtf8Prefix(line) != static_cast<int64_t>(line.size())) {
      HM_RETURN_IF_ERROR(BadUtf8(line));
      continue;
    }
    nlohmann::json json =
        nlohmann::json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded()) {
      HM_RETURN_IF_ERROR(Bad(absl::StrCat("not JSON: ", Reason::Of(line))));
    } else if (!json.is_object() || !json.contains("text") || !json["text"].is_string()) {
      HM_RETURN_IF_ERROR(Bad("no field \"text\" that is a string"));
    } else {
      *text = std::move(json["text"].get_ref<std::string&>());
      if (!text->empty()) return true;
    }
  }
}

DocumentReader::DocumentReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
DocumentReader::DocumentReader(DocumentReader&&) noexcept = default;
DocumentReader& DocumentReader::operator=(DocumentReader&&) noexcept = default;
DocumentReader::~DocumentReader() = default;

absl::StatusOr<DocumentReader> DocumentReader::Open(const std::string& path, bool skip_bad,
                                                    DocumentUnit unit) {
  absl::string_view name = path;
  const bool is_xz = absl::ConsumeSuffix(&name, ".xz");
  const bool is_text = absl::EndsWith(name, ".txt");
  if (!is_text && !absl::EndsWith(name, ".jsonl")) {
    return absl::InvalidArgumentError(
        absl::StrCat("text ", path, ": the name must end in .txt or .jsonl, or in that and .xz"));
  }
  HM_ASSIGN_OR_RETURN(Source source, Source::Open(path, is_xz));
  return DocumentReader(std::make_unique<State>(path, is_text ? Format::kText : Format::kJsonLines, skip_bad,
                                                unit, std::move(source)));
}

absl::StatusOr<bool> DocumentReader::Next(std::string* text) {
  return state_->format == Format::kText ? state_->NextText(text) : state_->NextJson(text);
}

int64_t DocumentReader::skipped() const { return state_->skipped; }
int64_t DocumentReader::bytes_read() const { return state_->source.bytes_read(); }
int64_t DocumentReader::size_bytes() const { return state_->source.size_bytes(); }

DocumentSequence::DocumentSequence(std::vector<std::string> paths, bool skip_bad, DocumentUnit unit)
    : paths_(std::move(paths)), skip_bad_(skip_bad), unit_(unit) {
  for (const std::string& path : paths_) {
    std::error_code error;  // Opening the file will say what is wrong.
    const auto size_bytes = std::filesystem::file_size(path, error);
    if (!error) size_bytes_ += static_cast<int64_t>(size_bytes);
  }
}

absl::StatusOr<bool> DocumentSequence::Next(std::string* text) {
  for (;;) {
    if (!reader_.has_value()) {
      if (next_path_ == paths_.size()) return false;
      HM_ASSIGN_OR_RETURN(reader_, DocumentReader::Open(paths_[next_path_++], skip_bad_, unit_));
    }
    HM_ASSIGN_OR_RETURN(const bool found, reader_->Next(text));
    if (found) return true;
    skipped_before_ += reader_->skipped();
    bytes_before_ += reader_->size_bytes();
    reader_.reset();
  }
}

int64_t DocumentSequence::skipped() const {
  return skipped_before_ + (reader_.has_value() ? reader_->skipped() : 0);
}

double DocumentSequence::fraction_read() const {
  const int64_t read = bytes_before_ + (reader_.has_value() ? reader_->bytes_read() : 0);
  return size_bytes_ == 0 ? 0 : static_cast<double>(read) / static_cast<double>(size_bytes_);
}

}  // namespace hm11
