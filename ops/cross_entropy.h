// Soft-capped cross entropy: capped = cap tanh(logits / cap); loss = log sum exp(capped) - capped[target].
//
// With p = exp(capped - log sum exp(capped)): dlogits = dloss (p - [v = target]) (1 - tanh^2(logits / cap)).
//
// Properties
//   1. Equal logits lose log(vocab), whatever the target.
//   2. A row's exp(log_probs) sum to 1, and log_probs[target] is minus its loss.
//   3. A row's loss is at most log(vocab) + 2 cap, and never below zero by more than rounding.
//   4. A row with a negative target has loss 0 and gradient 0.
//   5. CrossEntropyGradient makes CrossEntropyForward's losses.
// Determinism: bits repeat.
// Cost: forward reads the logits once (twice with a soft_cap above 40), the gradient reads and writes them once
// (on a GPU reads them twice with rows of more than 8192, with a soft_cap above 40, or not in whole 16-byte
// packs), and SoftCapLogSoftmax reads them twice and writes once. Two transcendental functions a logit.
// Source: the cap is that of Bello et al. 2016 (arXiv 1611.09940) as in Gemma 2 (arXiv 2408.00118).
#ifndef HM11_OPS_CROSS_ENTROPY_H_
#define HM11_OPS_CROSS_ENTROPY_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T>
struct CrossEntropyArgs {
  Tensor<const T> logits;         // [rows, vocab], before the cap
  Tensor<const int32_t> targets;  // [rows], below vocab; a negative target has loss 0 and no gradient
  Accum<T> soft_cap = 30;
  Tensor<Accum<T>> losses;  // [rows], nats; out
};

template <typename T>
struct CrossEntropyGradArgs {
  Tensor<T> logits;               // [rows, vocab], before the cap; out: their gradient
  Tensor<const int32_t> targets;  // [rows]
  Accum<T> soft_cap = 30;
  Accum<T> dloss = 1;       // gradient of every row's loss (1 / rows for the mean)
  Tensor<Accum<T>> losses;  // [rows]; out
};

template <typename T>
void CrossEntropyForward(Arena& arena, const CrossEntropyArgs<T>& args);
// Forward and backward in one pass over the logits.
template <typename T>
void CrossEntropyGradient(Arena& arena, const CrossEntropyGradArgs<T>& args);

// Full rows of log-probabilities, for scoring: log_probs[row, v] = capped[v] - log sum exp(capped).
template <typename T>
void SoftCapLogSoftmax(Arena& arena, Tensor<const T> logits, Accum<T> soft_cap, Tensor<Accum<T>> log_probs);

// Up to this cap the exponentials of a row are taken relative to the cap itself, the least of them e^(-2 cap)
// of that and still a normal float; above it, relative to the row's largest logit.
inline constexpr double kMaxFixedCap = 40;

namespace cuda {
template <typename T>
void CrossEntropyForward(const Device& device, const CrossEntropyArgs<T>& args);
template <typename T>
void CrossEntropyGradient(const Device& device, const CrossEntropyGradArgs<T>& args);
template <typename T>
void SoftCapLogSoftmax(const Device& device, Tensor<const T> logits, float soft_cap, Tensor<float> log_probs);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_CROSS_ENTROPY_H_
