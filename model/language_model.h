// LanguageModel: token ids -> final hidden states -> loss, and back: embeddings, a U-Net of layers, the head.
//
// Rows are batch * time tokens. Weights are read as they are; gradients of weights are ADDED, so that
// micro-batches sum; everything else overwrites. `Saved` tensors come from the arena and live until the
// caller resets it.
#ifndef HM11_MODEL_LANGUAGE_MODEL_H_
#define HM11_MODEL_LANGUAGE_MODEL_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "model/config.h"
#include "model/model_saved.h"
#include "model/weights.h"

namespace hm11 {

// Final hidden states [rows, dim], normed. ids: [batch, time]. W: what tables and matrices are stored in, T;
// or Fp16 with T float, where there is one row.
template <typename T, typename W = T>
Tensor<T> HiddenForward(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights,
                        Tensor<const int32_t> ids, ModelSaved<T>* saved,
                        const ForwardOptions<T>& options = {});

template <typename T>
void HiddenBackward(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                    const ModelSaved<T>& saved, Tensor<const T> dhidden, ModelWeights<Accum<T>>& grad);

// Logits before the soft cap, [rows, vocab]. W as above.
template <typename T, typename W = T>
Tensor<T> Logits(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights,
                 Tensor<const T> hidden);

// Log-probabilities [rows, vocab] for scoring. W as above.
template <typename T, typename W = T>
Tensor<Accum<T>> LogProbabilities(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights,
                                  Tensor<const T> hidden);

template <typename T>
struct LossAndGradientArgs {
  const ModelWeights<T>& weights;
  Tensor<const int32_t> ids, targets;  // [batch, time]
  Accum<T> loss_scale = 1;             // of the gradient alone
  ModelWeights<Accum<T>>& grad;        // adds
  Tensor<Accum<T>> loss;               // [1]: mean cross entropy of the main head; out
  Tensor<Accum<T>> total_loss = {};    // [1]: with what the multi-token heads add; out, may be absent
  bool fp8 = false;                    // as ForwardOptions has it, where Fp8Serves
};

// Whether products of this model can be of 8-bit numbers there: Bf16 on a GPU of compute capability 9.0, which a
// plan for a GPU is taken to be, and widths that are multiples of 64.
template <typename T>
bool Fp8Serves(const Device& device, const ModelConfig& config);

// Forward and backward of the training loss in one call: mean cross entropy in nats, plus mtp_weight times
// the mean of the multi-token heads' losses.
template <typename T>
void LossAndGradient(Arena& arena, const ModelConfig& config, const LossAndGradientArgs<T>& args);

// Cross entropy of each target in nats, of hidden states [rows, dim]; losses: [rows]; out.
template <typename T>
void TargetLosses(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                  Tensor<const T> hidden, Tensor<const int32_t> targets, Tensor<Accum<T>> losses);

// The same of sequences that stand alone; [rows], from the arena.
template <typename T>
Tensor<Accum<T>> TokenLosses(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                             Tensor<const int32_t> ids, Tensor<const int32_t> targets);

}  // namespace hm11

#endif  // HM11_MODEL_LANGUAGE_MODEL_H_
