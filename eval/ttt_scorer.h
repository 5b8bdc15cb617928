// A scorer that trains on what it has scored (test-time training, score first).
#ifndef HM11_EVAL_TTT_SCORER_H_
#define HM11_EVAL_TTT_SCORER_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/arena.h"
#include "core/tensor.h"
#include "eval/scored_rows.h"
#include "eval/scorer.h"
#include "eval/window_scorer.h"
#include "model/config.h"
#include "model/weights.h"

namespace hm11 {

// The weights that a TttScorer changes, there before its base. SGD adds small steps to float weights; rows and
// gradients are computed by `weights`, their copy in T: the same tensors where T is float.
template <typename T>
struct LearningState {
  LearningState(const Device& device, const ModelConfig& config, const ModelWeights<T>& start);

  // Memory of the device that one takes.
  static int64_t Bytes(const ModelConfig& config);

  Arena arena;
  ModelWeights<float> master, grad, momentum;
  ModelWeights<T> weights;
};

template <typename T>
class TttScorer : private LearningState<T>, public WindowScorer<T> {
 public:
  // By weights of its own that start as `start`'s.
  TttScorer(const RowMaker<T>& start, std::vector<Window> windows, int64_t targets, const ScoreOptions& score,
            const TttOptions& options);

  ScoredRows Score(std::span<const uint16_t> tokens) override;
  void Update(std::span<const uint16_t> tokens) override;
  uint64_t ParameterHash() override;

 private:
  bool Trains(const WeightInfo& info) const;
  void Step(std::span<const uint16_t> tokens, int64_t batch, double rate);
  // What brings the gradient of what trains to a norm of at most `clip`.
  float ClipScale(const Tensor<float>& squares);

  const TttOptions options_;
  const int64_t sequence_, targets_, chunks_;
  int64_t scored_chunk_ = 0;
  std::optional<uint64_t> hash_;
};

}  // namespace hm11

#endif  // HM11_EVAL_TTT_SCORER_H_
