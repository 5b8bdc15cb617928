// StatefulScorer: cuts the stream in blocks, blocks at documents, and those in chunks of like windows.
#include "eval/stateful_scorer.h"

#include <algorithm>
#include <vector>

#include "data/shard.h"
#include "model/language_model.h"

namespace hm11 {

template <typename T>
AttentionWindows StatefulScorer<T>::LargestChunk(const ScorerOptions& options) {
  const int64_t window = options.score.window, overlap = options.stateful->Overlap(window);
  return {.context = overlap,
          .fresh = window - overlap,
          .count = std::max<int64_t>(1, options.score.rows_at_once / window),
          .rope_length = window};
}

template <typename T>
StatefulScorer<T>::StatefulScorer(const RowMaker<T>& maker, int64_t tokens, const ScorerOptions& options)
    : maker_(maker),
      whole_([&] {
        AttentionWindows whole = LargestChunk(options);
        // Sliding has no longer windows than the stream.
        if (!options.isolate_documents) whole.rope_length = std::min(whole.rope_length, tokens - 1);
        return whole;
      }()),
      isolate_(options.isolate_documents),
      inputs_(tokens - 1),
      window_(options.score.window),
      memory_(maker.work.device(), SequenceStateBytes<T>(maker.config, window_)),
      state_(NewSequenceState<T>(memory_, maker.config, window_)) {}

template <typename T>
int64_t StatefulScorer<T>::NextEnd() const {
  return read_ < inputs_ ? std::min(inputs_, read_ + whole_.tokens()) + 1 : 0;
}

template <typename T>
ScoredRows StatefulScorer<T>::Score(std::span<const uint16_t> tokens) {
  HM_CHECK_EQ(static_cast<int64_t>(tokens.size()), NextEnd());
  ScoredRows rows;
  const int64_t end = static_cast<int64_t>(tokens.size()) - 1;
  while (read_ < end) {
    if (isolate_ && tokens[static_cast<size_t>(read_)] == kBosToken) {
      state_.Forget();
      document_ = read_;
    }
    // A chunk does not know where its document ends, lest the rounding of rows before depend on it: it reads
    // on, and the state forgets.
    state_.windows = NextChunk(end);
    Read(tokens, isolate_ ? DocumentEnd(tokens, read_, end) : end, &rows);
  }
  return rows;
}

template <typename T>
AttentionWindows StatefulScorer<T>::NextChunk(int64_t end) const {
  const int64_t at = read_ - document_, into = at % whole_.fresh;
  AttentionWindows windows = whole_;
  windows.context = into + std::min(at - into, whole_.context);
  windows.fresh = std::min(whole_.fresh - into, end - read_);
  windows.count = 1;
  if (!isolate_ && windows.length() == whole_.length() && windows.fresh == whole_.fresh) {
    windows.count = std::min(whole_.count, (end - read_) / whole_.fresh);
  }
  return windows;
}

template <typename T>
void StatefulScorer<T>::Read(std::span<const uint16_t> tokens, int64_t end, ScoredRows* rows) {
  maker_.work.Reset();
  const int64_t count = state_.windows.tokens();
  const auto begin = tokens.begin() + read_;
  const std::vector<int32_t> ids(begin, begin + count);
  ModelSaved<T> saved;
  const Tensor<T> hidden =
      HiddenForward<T>(maker_.work, maker_.config, maker_.weights, UploadIds(maker_.work, ids, 1), &saved,
                       {.keep = false, .sequence = &state_});
  const int64_t scored = std::min(count, end - read_);
  for (int64_t done = 0; done < scored; done += window_) {
    maker_.Append(hidden.Slice(done, std::min(window_, count - done)), std::min(window_, scored - done),
                  read_ + done + 1, tokens, rows);
  }
  read_ += scored;
}

template <typename T>
int64_t StatefulScorer<T>::WorkBytes(const ModelConfig& config, const ScorerOptions& options,
                                     const Device& device) {
  Arena plan = Arena::Plan(device);
  const ModelWeights<T> weights = NewWeights<T>(plan, config);
  SequenceState<T> state = NewSequenceState<T>(plan, config, options.score.window);
  const int64_t before = plan.used_bytes();
  state.windows = LargestChunk(options);
  state.kept = options.score.window;
  const int64_t count = state.windows.tokens();
  ModelSaved<T> saved;
  const Tensor<T> hidden = HiddenForward<T>(plan, config, weights, plan.New<int32_t>({1, count}), &saved,
                                            {.keep = false, .sequence = &state});
  LogProbabilities<T>(plan, config, weights, hidden.Slice(0, std::min(options.score.window, count)));
  return plan.high_water_bytes() - before;
}

template class StatefulScorer<float>;
template class StatefulScorer<Bf16>;

}  // namespace hm11
