// Tokenizer over SentencePiece; the only file that includes it.
#include "data/tokenizer.h"

#include <algorithm>
#include <exception>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/check.h"
#include "core/file.h"
#include "core/status.h"
#include "data/normalization_table.h"
#include "data/shard.h"
#include "third_party/sentencepiece.h"

namespace hm11 {
namespace {

constexpr absl::string_view kSpaceMark = "\xe2\x96\x81";  // U+2581, which stands for a space in pieces
constexpr int64_t kMostPieces = 65536;
constexpr size_t kLongestSentence = 20000;  // bytes; SentencePiece passes over longer ones
constexpr size_t kLongestWord = 16384;      // bytes; SentencePiece takes 270 times that in memory

std::string_view Standard(absl::string_view text) { return std::string_view(text.data(), text.size()); }

// Whether it is one. The library's trie of pieces throws where a piece holds a zero byte.
bool LoadModel(sentencepiece::SentencePieceProcessor& processor, const std::string& model) {
  try {
    return processor.LoadFromSerializedProto(model).ok();
  } catch (const std::exception&) {
    return false;
  }
}

PieceKind KindOf(const sentencepiece::SentencePieceProcessor& processor, int token) {
  if (processor.IsUnknown(token)) return PieceKind::kUnknown;
  if (processor.IsControl(token)) return PieceKind::kControl;
  if (processor.IsUnused(token)) return PieceKind::kUnused;
  if (processor.IsByte(token)) return PieceKind::kByte;
  return PieceKind::kNormal;
}

// Of a piece behind its leading space. Spaces further on, which the challenge's tokenizers do not have, are a
// byte each too.
size_t TextBytes(absl::string_view piece) {
  size_t bytes = piece.size();
  for (size_t at = piece.find(kSpaceMark); at != absl::string_view::npos;
       at = piece.find(kSpaceMark, at + kSpaceMark.size())) {
    bytes -= kSpaceMark.size() - 1;
  }
  return bytes;
}

void AppendToByteTable(PieceKind kind, absl::string_view piece, ByteTable* table) {
  const bool is_text = kind == PieceKind::kNormal;
  const bool is_byte = kind == PieceKind::kByte;
  const bool leading_space = is_text && absl::ConsumePrefix(&piece, kSpaceMark);
  table->base.push_back(is_byte ? 1 : is_text ? static_cast<int16_t>(TextBytes(piece)) : 0);
  table->leading_space.push_back(leading_space);
  table->boundary.push_back(!is_text && !is_byte);
}

// Whether bytes of text can be counted piece by piece: without a piece for a space by itself, three byte
// pieces stand for one.
absl::Status CheckSpaces(const std::string& name, const std::vector<std::string>& pieces) {
  if (std::find(pieces.begin(), pieces.end(), kSpaceMark) != pieces.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "tokenizer ", name, ": it has no piece for a space by itself, so the bytes of text cannot be counted"));
}

// Hands documents to SentencePiece in sentences that it does not find too long.
class Sentences : public sentencepiece::SentenceIterator {
 public:
  Sentences(const std::function<bool(std::string*)>& next, int64_t max_bytes)
      : next_(next), bytes_left_(max_bytes) {
    Next();
  }

  bool done() const override { return done_; }
  const std::string& value() const override { return sentence_; }
  sentencepiece::util::Status status() const override { return {}; }

  void Next() override {
    while (position_ == document_.size()) {
      position_ = 0;
      document_.clear();
      done_ = bytes_left_ <= 0 || !next_(&document_);
      if (done_) return;
    }
    const size_t end = EndOfSentence();
    sentence_ = document_.substr(position_, end - position_);
    position_ = end;
    bytes_left_ -= static_cast<int64_t>(sentence_.size());
  }

 private:
  // The end of the document, else behind the last space or line end that keeps the sentence short enough. A
  // cut inside a word costs nothing but that word, and it falls between characters.
  size_t EndOfSentence() const {
    if (document_.size() - position_ <= kLongestSentence) return document_.size();
    const size_t limit = position_ + kLongestSentence;
    const size_t space = document_.find_last_of(" \n", limit - 1);
    if (space != std::string::npos && space >= position_) return space + 1;
    size_t end = limit;
    while (end > position_ + 1 && (static_cast<uint8_t>(document_[end]) & 0xc0) == 0x80) --end;
    return end;
  }

  const std::function<bool(std::string*)>& next_;
  int64_t bytes_left_;
  std::string document_;
  size_t position_ = 0;
  std::string sentence_;
  bool done_ = false;
};

// SentencePiece's message without the line of its sources, its condition and its advice on its own flags:
// "trainer.cc(580) [(a) <= (b)] Too small. 100 vs 325. Increase vocab_size ...".
absl::string_view Reason(absl::string_view message) {
  const size_t condition = message.find(")] ");
  if (condition != absl::string_view::npos) message.remove_prefix(condition + 3);
  message = absl::StripAsciiWhitespace(message.substr(0, message.find(" Increase vocab_size")));
  return !message.empty()
             ? message
             : "none is left to learn from; SentencePiece passes over text with U+2585 or U+0000 in it";
}

// The challenge's settings. Threads stay at SentencePiece's default: their number is stored in the model.
std::unordered_map<std::string, std::string> TrainingOptions(int64_t vocab) {
  return {
      {"model_type", "bpe"},
      {"vocab_size", absl::StrCat(vocab)},
      {"character_coverage", "0.999"},
      {"max_sentence_length", absl::StrCat(kLongestSentence)},
      {"byte_fallback", "true"},
      {"split_digits", "true"},
      {"normalization_rule_name", "nmt_nfkc"},
      {"add_dummy_prefix", "false"},
      {"pad_id", absl::StrCat(kPadToken)},
      {"bos_id", absl::StrCat(kBosToken)},
      {"eos_id", absl::StrCat(kEosToken)},
      {"unk_id", absl::StrCat(kUnknownToken)},
      {"hard_vocab_limit", "false"},
      {"minloglevel", "2"},
  };
}

bool IsVisibleAscii(char c) { return c > ' ' && c < '\x7f'; }

// Where a text is cut so that no part has a run without a space or line end of more than about kLongestWord:
// the end of the text, or between two visible ASCII characters of the first run that is too long, where
// neither spaces nor accents are parted from what they belong to. Of a run without such a place in reach,
// anywhere between two characters.
size_t EndOfPart(absl::string_view text) {
  size_t begin = 0;  // of the run
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] == ' ' || text[at] == '\n') begin = at + 1;
    const size_t length = at + 1 - begin;  // up to this byte
    if (length <= kLongestWord) continue;
    if (IsVisibleAscii(text[at - 1]) && IsVisibleAscii(text[at])) return at;
    if (length >= 2 * kLongestWord && (static_cast<uint8_t>(text[at]) & 0xc0) != 0x80) return at;
  }
  return text.size();
}

}  // namespace

struct Tokenizer::Processor {
  sentencepiece::SentencePieceProcessor sentencepiece;
};

Tokenizer::Tokenizer() : processor_(std::make_unique<Processor>()) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

absl::StatusOr<Tokenizer> Tokenizer::Load(const std::string& path, int64_t vocab) {
  HM_ASSIGN_OR_RETURN(std::string model, ReadFile(path));
  return FromModel(std::move(model), path, vocab);
}

absl::StatusOr<Tokenizer> Tokenizer::FromModel(std::string model, const std::string& name, int64_t vocab) {
  if (const absl::Status tables = CheckNormalizationTables(model); !tables.ok()) {
    return absl::Status(tables.code(), absl::StrCat("tokenizer ", name, ": ", tables.message()));
  }
  Tokenizer tokenizer;
  sentencepiece::SentencePieceProcessor& processor = tokenizer.processor_->sentencepiece;
  if (!LoadModel(processor, model)) {
    return absl::DataLossError(absl::StrCat("tokenizer ", name, ": not a SentencePiece model"));
  }
  const int pieces = processor.GetPieceSize();
  if (vocab != 0 && pieces != vocab) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer ", name, ": ", pieces, " pieces, expected ", vocab));
  }
  if (pieces > kMostPieces) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer ", name, ": ", pieces, " pieces, more than a shard's ", kMostPieces));
  }
  if (processor.bos_id() != kBosToken) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer ", name, ": BOS is token ", processor.bos_id(), ", expected ", kBosToken));
  }
  for (int token = 0; token < pieces; ++token) {
    tokenizer.pieces_.push_back(processor.IdToPiece(token));
    tokenizer.kinds_.push_back(KindOf(processor, token));
    AppendToByteTable(tokenizer.kinds_.back(), tokenizer.pieces_.back(), &tokenizer.bytes_);
  }
  HM_RETURN_IF_ERROR(CheckSpaces(name, tokenizer.pieces_));
  tokenizer.model_ = std::move(model);
  return tokenizer;
}

absl::StatusOr<Tokenizer> Tokenizer::Train(const std::function<bool(std::string*)>& next,
                                           const TokenizerTraining& training) {
  if (training.vocab > kMostPieces) {
    return absl::InvalidArgumentError(absl::StrCat("cannot train a tokenizer of ", training.vocab,
                                                   " pieces, more than a shard's ", kMostPieces));
  }
  Sentences sentences(next, training.max_bytes);
  std::string model;
  const sentencepiece::util::Status status =
      sentencepiece::SentencePieceTrainer::Train(TrainingOptions(training.vocab), &sentences, &model);
  if (!status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("cannot train a tokenizer of ", training.vocab,
                                                   " pieces on these documents: ", Reason(status.message())));
  }
  absl::StatusOr<Tokenizer> tokenizer = FromModel(std::move(model), "just trained");
  if (tokenizer.ok() && tokenizer->vocab() != training.vocab) {
    return absl::InvalidArgumentError(absl::StrCat("cannot train a tokenizer of ", training.vocab,
                                                   " pieces: these documents give only ", tokenizer->vocab(),
                                                   "; ask for no more, or give more text"));
  }
  return tokenizer;
}

void Tokenizer::Encode(absl::string_view text, std::vector<uint16_t>* tokens) const {
  for (size_t end = EndOfPart(text); end < text.size(); end = EndOfPart(text)) {
    EncodePart(text.substr(0, end), tokens);
    text.remove_prefix(end);
  }
  EncodePart(text, tokens);
}

void Tokenizer::EncodePart(absl::string_view text, std::vector<uint16_t>* tokens) const {
  std::vector<int> ids;
  const sentencepiece::util::Status status = processor_->sentencepiece.Encode(Standard(text), &ids);
  HM_CHECK(status.ok());  // Fails only where no model is loaded.
  tokens->insert(tokens->end(), ids.begin(), ids.end());
}

std::string Tokenizer::Decode(std::span<const uint16_t> tokens) const {
  const std::vector<int> ids(tokens.begin(), tokens.end());
  std::string text;
  const sentencepiece::util::Status status = processor_->sentencepiece.Decode(ids, &text);
  HM_CHECK(status.ok());
  return text;
}

}  // namespace hm11
