// A scorer of windows.
#ifndef HM11_EVAL_WINDOW_SCORER_H_
#define HM11_EVAL_WINDOW_SCORER_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/check.h"
#include "eval/bits_per_byte.h"
#include "eval/scored_rows.h"
#include "eval/scorer.h"

namespace hm11 {

// Scores windows in order, as many of one length and one chunk at once as fit.
template <typename T>
class WindowScorer : public Scorer {
 public:
  WindowScorer(const RowMaker<T>& maker, std::vector<Window> windows, int64_t rows_at_once, int64_t chunk)
      : maker_(maker), windows_(std::move(windows)), rows_at_once_(rows_at_once), chunk_(chunk) {
    FindBlock();
  }

  int64_t NextEnd() const override {
    if (first_ == windows_.size()) return 0;
    int64_t end = 0;
    for (size_t w = first_; w < last_; ++w) end = std::max(end, windows_[w].begin + windows_[w].length + 1);
    return end;
  }

  ScoredRows Score(std::span<const uint16_t> tokens) override {
    HM_CHECK_EQ(static_cast<int64_t>(tokens.size()), NextEnd());
    ScoredRows rows;
    const std::span<const Window> windows = std::span(windows_).subspan(first_, last_ - first_);
    maker_.AppendWindows(windows, static_cast<int64_t>(windows.size()), windows[0].length, tokens, &rows);
    first_ = last_;
    FindBlock();
    return rows;
  }

  void Update(std::span<const uint16_t>) override {}

 protected:
  int64_t ChunkOf(size_t window) const {
    const Window& at = windows_[window];
    return (at.begin + at.length - at.scored) / chunk_;
  }
  bool done() const { return first_ == windows_.size(); }
  size_t next_window() const { return first_; }

  const RowMaker<T> maker_;

 private:
  void FindBlock() {
    if (done()) return;
    const size_t most = PassEnd(windows_, first_, rows_at_once_);
    last_ = first_ + 1;
    while (last_ < most && ChunkOf(last_) == ChunkOf(first_)) ++last_;
  }

  const std::vector<Window> windows_;
  const int64_t rows_at_once_, chunk_;
  size_t first_ = 0, last_ = 0;  // windows of the next block
};

}  // namespace hm11

#endif  // HM11_EVAL_WINDOW_SCORER_H_
