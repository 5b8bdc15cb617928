// What the losses of single targets say of a score: by position, by document, by kind of token.
//
// Properties:
//   1. Bytes and nats over the positions are those of all targets scored; so are those over the kinds.
//   2. Documents are counted once each, those shorter than kLeastDocumentBytes not at all.
#ifndef HM11_TRAIN_REPORT_SCORE_FACTS_H_
#define HM11_TRAIN_REPORT_SCORE_FACTS_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "train/report/run_facts.h"

namespace hm11 {

inline constexpr int64_t kLeastDocumentBytes = 500;

// Losses of targets of a stream, scored in windows side by side.
struct TargetLosses {
  std::vector<double> nats;  // [tokens], by position in the stream; below 0: not scored
  int64_t window = 0;        // tokens
};

ScoreFacts ScoreFactsOf(std::span<const uint16_t> tokens, const TargetLosses& losses,
                        const Tokenizer& tokenizer);

// `nats` beside each token, below 0 where it was given. Pieces of one character's bytes are one piece.
ScoredSample SampleOf(const std::string& title, std::span<const uint16_t> tokens,
                      std::span<const double> nats, const Tokenizer& tokenizer);

// Where the documents with the best, the median and the worst score begin and end: what samples are cut from.
struct DocumentPlace {
  std::string title;
  int64_t begin = 0;
  int64_t end = 0;
};
std::vector<DocumentPlace> PlacesToShow(std::span<const uint16_t> tokens, const TargetLosses& losses,
                                        const Tokenizer& tokenizer);

}  // namespace hm11

#endif  // HM11_TRAIN_REPORT_SCORE_FACTS_H_
