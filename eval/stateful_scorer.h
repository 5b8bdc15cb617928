// A scorer that reads the stream once, a chunk at a time, and remembers.
#ifndef HM11_EVAL_STATEFUL_SCORER_H_
#define HM11_EVAL_STATEFUL_SCORER_H_

#include <cstdint>
#include <span>

#include "core/arena.h"
#include "eval/scored_rows.h"
#include "eval/scorer.h"
#include "model/sequence_state.h"

namespace hm11 {

template <typename T>
class StatefulScorer : public Scorer {
 public:
  StatefulScorer(const RowMaker<T>& maker, int64_t tokens, const ScorerOptions& options);

  int64_t NextEnd() const override;
  ScoredRows Score(std::span<const uint16_t> tokens) override;
  void Update(std::span<const uint16_t>) override {}

  // Memory of `work` that reading and scoring the largest chunk takes.
  static int64_t WorkBytes(const ModelConfig& config, const ScorerOptions& options, const Device& device);

 private:
  // The windows of the largest chunk.
  static AttentionWindows LargestChunk(const ScorerOptions& options);
  // Those of the next chunk: the next of windows that stand every `fresh` tokens of a document, as many as
  // are alike, before input `end`.
  AttentionWindows NextChunk(int64_t end) const;
  // Reads the next chunk; what counts of it ends before input `end`.
  void Read(std::span<const uint16_t> tokens, int64_t end, ScoredRows* rows);

  const RowMaker<T> maker_;
  const AttentionWindows whole_;  // windows that lack nothing, as many as are read at once
  const bool isolate_;
  const int64_t inputs_, window_;
  Arena memory_;
  SequenceState<T> state_;
  int64_t read_ = 0;      // inputs
  int64_t document_ = 0;  // the input that the state begins with
};

}  // namespace hm11

#endif  // HM11_EVAL_STATEFUL_SCORER_H_
