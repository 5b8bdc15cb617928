// StreamedText: the text of tokens as they come, in whole UTF-8 characters, up to where it shall stop.
//
// Properties
//   1. All that it gives, joined, is what the tokens add to a text before them, as the tokenizer decodes it
//   (a space that they begin with stays), cut before the first occurrence of `stop`.
//   2. Each part is whole characters.
//   3. Nothing given is taken back: what may be the begin of `stop`, or of a character, waits.
#ifndef HM11_EVAL_STREAMED_TEXT_H_
#define HM11_EVAL_STREAMED_TEXT_H_

#include <cstdint>
#include <string>

#include "data/tokenizer.h"

namespace hm11 {

class StreamedText {
 public:
  // An empty `stop` stops nothing.
  StreamedText(const Tokenizer& tokenizer, std::string stop)
      : tokenizer_(tokenizer), stop_(std::move(stop)) {}

  // What can be shown now that a token has come.
  std::string Next(uint16_t token);
  // What was still waiting: there are no more tokens. A character that began and did not end is U+FFFD.
  std::string Finish();
  bool stopped() const { return stopped_; }

 private:
  void FlushBytes(bool all);
  std::string Given(bool all);

  const Tokenizer& tokenizer_;
  const std::string stop_;
  std::string bytes_;    // of byte pieces that are not a character yet
  std::string waiting_;  // whole characters, not given yet
  bool stopped_ = false;
};

}  // namespace hm11

#endif  // HM11_EVAL_STREAMED_TEXT_H_
