// SentencePiece's headers, usable beside Abseil's: theirs declare an absl::string_view of their own, an alias
// of std::string_view, which another namespace holds as well.
#ifndef HM11_THIRD_PARTY_SENTENCEPIECE_H_
#define HM11_THIRD_PARTY_SENTENCEPIECE_H_

#define absl sentencepiece_absl
#include <sentencepiece_processor.h>  // IWYU pragma: export
#include <sentencepiece_trainer.h>    // IWYU pragma: export
#undef absl

#endif  // HM11_THIRD_PARTY_SENTENCEPIECE_H_
