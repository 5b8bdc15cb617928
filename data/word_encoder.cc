// WordEncoder: a map from words to tokens.
#include "data/word_encoder.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace hm11 {
namespace {

constexpr absl::string_view kSpaceMark = "\xe2\x96\x81";  // U+2581
constexpr absl::string_view kWordBefore = "a";
constexpr int64_t kCheckedBytes = 50'000;      // of the first texts, encoded both ways
constexpr size_t kMostRemembered = 4'000'000;  // tokens
constexpr size_t kLongestRemembered = 40;      // bytes of a word

bool IsSeparator(char c) { return c == ' ' || c == '\n'; }

std::vector<uint16_t> Tokens(const Tokenizer& tokenizer, absl::string_view text) {
  std::vector<uint16_t> tokens;
  tokenizer.Encode(text, &tokens);
  return tokens;
}

// No piece holds a space but at its front, and the tokenizer treats line ends and spaces as the challenge's
// do.
bool WordsAreIndependent(const Tokenizer& tokenizer) {
  for (int64_t token = 0; token < tokenizer.vocab(); ++token) {
    if (tokenizer.kind(token) == PieceKind::kUnused) return false;
    if (tokenizer.kind(token) != PieceKind::kNormal) continue;
    if (tokenizer.piece(token).find(kSpaceMark.data(), 1) != std::string::npos) return false;
  }
  const std::vector<uint16_t> before = Tokens(tokenizer, kWordBefore);
  const std::vector<uint16_t> both = Tokens(tokenizer, absl::StrCat(kWordBefore, " b"));
  return both == Tokens(tokenizer, absl::StrCat(" \n", kWordBefore, "  \nb \n")) &&
         before.size() < both.size() && std::equal(before.begin(), before.end(), both.begin()) &&
         tokenizer.piece(before.front()).rfind(kSpaceMark.data(), 0) != 0;
}

// The end of what stands between separators from `begin` on.
size_t EndOfWord(absl::string_view text, size_t begin) {
  while (begin < text.size() && !IsSeparator(text[begin])) ++begin;
  return begin;
}

}  // namespace

WordEncoder::WordEncoder(const Tokenizer& tokenizer)
    : tokenizer_(tokenizer),
      tokens_of_word_before_(static_cast<int64_t>(Tokens(tokenizer, kWordBefore).size())),
      remembers_words_(WordsAreIndependent(tokenizer)) {}

void WordEncoder::AppendRemembered(absl::string_view word, std::vector<uint16_t>* tokens) {
  const auto found = words_.find(word);
  if (found != words_.end()) {
    const auto begin = remembered_.begin() + found->second.begin;
    tokens->insert(tokens->end(), begin, begin + found->second.count);
    return;
  }
  std::vector<uint16_t> encoded = Tokens(tokenizer_, absl::StrCat(kWordBefore, " ", word));
  encoded.erase(encoded.begin(), encoded.begin() + tokens_of_word_before_);
  tokens->insert(tokens->end(), encoded.begin(), encoded.end());
  if (word.size() > kLongestRemembered) return;
  if (remembered_.size() > kMostRemembered) {
    words_.clear();
    remembered_.clear();
  }
  words_[std::string(word)] = {.begin = static_cast<uint32_t>(remembered_.size()),
                               .count = static_cast<uint32_t>(encoded.size())};
  remembered_.insert(remembered_.end(), encoded.begin(), encoded.end());
}

void WordEncoder::EncodeByWords(absl::string_view text, std::vector<uint16_t>* tokens) {
  const size_t tokens_before = tokens->size();
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = EndOfWord(text, begin);
    const absl::string_view word = text.substr(begin, end - begin);
    begin = end + 1;
    if (word.empty()) continue;
    if (tokens->size() == tokens_before) {
      tokenizer_.Encode(word, tokens);  // No space before the first.
    } else {
      AppendRemembered(word, tokens);
    }
  }
}

void WordEncoder::Encode(absl::string_view text, std::vector<uint16_t>* tokens) {
  if (!remembers_words_) return tokenizer_.Encode(text, tokens);
  const size_t tokens_before = tokens->size();
  EncodeByWords(text, tokens);
  if (checked_bytes_ >= kCheckedBytes) return;
  const absl::string_view start = text.substr(0, EndOfWord(text, static_cast<size_t>(kCheckedBytes)));
  checked_bytes_ += static_cast<int64_t>(start.size());
  std::vector<uint16_t> by_words;
  if (start.size() < text.size()) EncodeByWords(start, &by_words);
  const std::vector<uint16_t> whole = Tokens(tokenizer_, start);
  const auto begin = tokens->begin() + static_cast<int64_t>(tokens_before);
  if (start.size() < text.size() ? by_words == whole
                                 : std::equal(begin, tokens->end(), whole.begin(), whole.end())) {
    return;
  }
  remembers_words_ = false;
  tokens->resize(tokens_before);
  tokenizer_.Encode(text, tokens);
}

}  // namespace hm11
