// Soft-capped cross entropy: capped = cap tanh(logits / cap); loss = log sum exp(capped) - capped[target].
#ifndef HM11_OPS_CROSS_ENTROPY_H_
#define HM11_OPS_CROSS_ENTROPY_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T>
struct CrossEntropyArgs {
  Tensor<const T> logits;         // [rows, vocab], before the cap
  Tensor<const int32_t> targets;  // [rows]; a negative target has loss 0 and no gradient
  Accum<T> soft_cap = 30;
  Tensor<Accum<T>> losses;          // [rows], nats; out
  Tensor<Accum<T>> log_normalizer;  // [rows], log sum exp(capped); out
};

template <typename T>
struct CrossEntropyGradArgs {
  Tensor<const T> logits;         // [rows, vocab]
  Tensor<const int32_t> targets;  // [rows]
  Accum<T> soft_cap = 30;
  Tensor<const Accum<T>> log_normalizer;  // [rows]
  Accum<T> dloss = 1;                     // gradient of every row's loss (1 / rows for the mean)
  Tensor<T> dlogits;                      // [rows, vocab]; may be the same memory as logits
};

template <typename T>
void CrossEntropyForward(Arena& arena, const CrossEntropyArgs<T>& args);
template <typename T>
void CrossEntropyBackward(Arena& arena, const CrossEntropyGradArgs<T>& args);

// Full rows of log-probabilities, for scoring: log_probs[row, v] = capped[v] - log sum exp(capped).
template <typename T>
void SoftCapLogSoftmax(Arena& arena, Tensor<const T> logits, Accum<T> soft_cap, Tensor<Accum<T>> log_probs);

#if HM11_HAVE_CUDA
namespace cuda {
template <typename T>
void CrossEntropyForward(const Device& device, const CrossEntropyArgs<T>& args);
template <typename T>
void CrossEntropyBackward(const Device& device, const CrossEntropyGradArgs<T>& args);
template <typename T>
void SoftCapLogSoftmax(const Device& device, Tensor<const T> logits, float soft_cap, Tensor<float> log_probs);
}  // namespace cuda
#endif

}  // namespace hm11

#endif  // HM11_OPS_CROSS_ENTROPY_H_
