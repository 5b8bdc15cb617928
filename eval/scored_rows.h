// Rows and losses of targets, from hidden states: the part that scorers share.
#ifndef HM11_EVAL_SCORED_ROWS_H_
#define HM11_EVAL_SCORED_ROWS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "core/arena.h"
#include "core/tensor.h"
#include "eval/bits_per_byte.h"
#include "eval/scorer.h"
#include "model/config.h"
#include "model/weights.h"

namespace hm11 {

Tensor<int32_t> UploadIds(Arena& arena, const std::vector<int32_t>& ids, int64_t batch);

// A model and where it runs.
template <typename T>
struct RowMaker {
  Arena& work;
  const ModelConfig config;
  const ModelWeights<T>& weights;
  const bool rows;  // full rows, or losses only

  // What the first `count` of the hidden states [rows, dim] say of the targets `first`, `first` + 1, ... How
  // a row is rounded depends on the number of all.
  void Append(Tensor<const T> hidden, int64_t count, int64_t first, std::span<const uint16_t> tokens,
              ScoredRows* scored) const;
  // One forward pass over `batch` windows of `length` tokens, filled up behind where there are fewer or
  // shorter ones: nothing of that reaches what is scored.
  void AppendWindows(std::span<const Window> windows, int64_t batch, int64_t length,
                     std::span<const uint16_t> tokens, ScoredRows* scored) const;
};

}  // namespace hm11

#endif  // HM11_EVAL_SCORED_ROWS_H_
