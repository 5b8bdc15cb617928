// Decoder: a model that reads a text a token at a time and says after each what may come next. Cost per
// token: a read of the weights, and attention to the last `window` tokens, whose keys and values it keeps;
// what Mamba layers remember reaches back to the text's begin.
//
// On a GPU a step is a captured graph. On the CPU the weights may be of 16 bits (T float, W Fp16), for a step
// waits for the memory that they are read from.
//
// Properties
//   1. After token t of a text no longer than the window, the log-probabilities are, but for rounding, those
//      that a forward pass over the text has at t, with the RoPE base of sequences of the window's length and
//      weights of W.
//   2. Past the window they are those of model/sequence_state.h's chunks of one token.
//   3. After Forget it is a new one.
#ifndef HM11_EVAL_DECODER_H_
#define HM11_EVAL_DECODER_H_

#include <cstdint>
#include <memory>
#include <span>

#include "core/arena.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/step_graph.h"
#include "model/config.h"
#include "model/sequence_state.h"
#include "model/weights.h"

namespace hm11 {

template <typename T, typename W = T>
class Decoder {
 public:
  // `weights`, on `device`, must outlive it. window >= 1, on a GPU at most kMaxStepWindow
  // (ops/attention_step.h).
  Decoder(const Device& device, const ModelConfig& config, const ModelWeights<W>& weights, int64_t window);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  // Reads a token, below the vocabulary. Log-probabilities of the one after it, [vocab], until the next call.
  std::span<const Accum<T>> Next(uint16_t token);

  // The next token begins a text.
  void Forget() { state_.Forget(); }

 private:
  static int64_t StateBytes(const ModelConfig& config, int64_t window);
  static int64_t StepBytes(const Device& device, const ModelConfig& config, int64_t window);
  // Log-probabilities, [1, vocab], in work_.
  Tensor<Accum<T>> Step();

  const ModelConfig config_;
  const ModelWeights<W>& weights_;
  Arena memory_, work_;
  SequenceState<T> state_;
  Tensor<int32_t> id_;  // [1, 1]
  // Both on the host, in memory that copies need not wait for.
  int32_t* const next_id_;
  const std::span<Accum<T>> result_;  // [vocab]
  int64_t plain_steps_ = 0;           // that went on from a token and were not launched as a graph
  Tensor<Accum<T>> recorded_;         // what graph_ gives
  std::unique_ptr<StepGraph> graph_;  // of a step that goes on from a token
};

}  // namespace hm11

#endif  // HM11_EVAL_DECODER_H_
