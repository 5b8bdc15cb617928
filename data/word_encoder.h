// WordEncoder: the tokens of Tokenizer::Encode, several times faster, by remembering words.
//
// Where no piece reaches from one word into the next - SentencePiece never learns such pieces by default -
// byte-pair encoding treats words one by one, so a word that was seen before need not be split again. A word
// is what stands between spaces and line ends; it is encoded behind another word and a space, so that what is
// at its front is normalized as it would be in the text. Tokenizers for which this does not hold are noticed
// by their pieces and on the first texts, which are encoded both ways; for them every text goes to the
// tokenizer.
//
// Properties:
//   1. Encode appends what Tokenizer::Encode does.
#ifndef HM11_DATA_WORD_ENCODER_H_
#define HM11_DATA_WORD_ENCODER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "data/tokenizer.h"

namespace hm11 {

// For one thread at a time.
class WordEncoder {
 public:
  // `tokenizer` outlives the encoder.
  explicit WordEncoder(const Tokenizer& tokenizer);

  void Encode(absl::string_view text, std::vector<uint16_t>* tokens);
  bool remembers_words() const { return remembers_words_; }

 private:
  struct Range {
    uint32_t begin = 0;  // in remembered_
    uint32_t count = 0;
  };
  void EncodeByWords(absl::string_view text, std::vector<uint16_t>* tokens);
  // Appends the tokens of a word that is not the first.
  void AppendRemembered(absl::string_view word, std::vector<uint16_t>* tokens);

  const Tokenizer& tokenizer_;
  int64_t tokens_of_word_before_;
  bool remembers_words_;
  int64_t checked_bytes_ = 0;
  absl::flat_hash_map<std::string, Range> words_;
  std::vector<uint16_t> remembered_;
};

}  // namespace hm11

#endif  // HM11_DATA_WORD_ENCODER_H_
