// A scorer of documents each as if it were alone, by windows.
#ifndef HM11_EVAL_DOCUMENT_SCORER_H_
#define HM11_EVAL_DOCUMENT_SCORER_H_

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "eval/scored_rows.h"
#include "eval/scorer.h"

namespace hm11 {

// Blocks are of `rows_at_once` targets, and every pass is of the same size, a quarter of that, as the last of
// a block is seldom full: neither where a block ends nor how a row is rounded depends on what is read later.
template <typename T>
class DocumentScorer : public Scorer {
 public:
  DocumentScorer(const RowMaker<T>& maker, int64_t tokens, const ScoreOptions& options)
      : maker_(maker),
        options_(options),
        tokens_(tokens),
        block_(std::max(options.window, options.rows_at_once)),
        windows_at_once_(std::max<int64_t>(1, options.rows_at_once / 4 / options.window)) {}

  int64_t NextEnd() const override { return next_ < tokens_ ? std::min(tokens_, next_ + block_) : 0; }

  ScoredRows Score(std::span<const uint16_t> tokens) override {
    HM_CHECK_EQ(static_cast<int64_t>(tokens.size()), NextEnd());
    ScoredRows rows;
    const std::vector<Window> windows =
        LayDocumentWindows(options_.mode, tokens, next_, options_.window, options_.stride);
    for (size_t first = 0; first < windows.size(); first += static_cast<size_t>(windows_at_once_)) {
      const size_t count = std::min(static_cast<size_t>(windows_at_once_), windows.size() - first);
      maker_.AppendWindows(std::span(windows).subspan(first, count), windows_at_once_, options_.window,
                           tokens, &rows);
    }
    next_ = static_cast<int64_t>(tokens.size());
    return rows;
  }

  void Update(std::span<const uint16_t>) override {}

 private:
  const RowMaker<T> maker_;
  const ScoreOptions options_;
  const int64_t tokens_, block_, windows_at_once_;
  int64_t next_ = 1;  // target
};

}  // namespace hm11

#endif  // HM11_EVAL_DOCUMENT_SCORER_H_
