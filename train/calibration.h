// Calibration: second moments of what each matrix reads, and of the loss's gradients, from training text, for
// quantization (quant/calibration.h).
#ifndef HM11_TRAIN_CALIBRATION_H_
#define HM11_TRAIN_CALIBRATION_H_

#include <cstdint>

#include "core/arena.h"
#include "core/communicator.h"
#include "data/batcher.h"
#include "model/config.h"
#include "model/weights.h"
#include "quant/calibration.h"

namespace hm11 {

// Sums x^T x over the inputs x of the attention layers' banks, the Mamba layers' in_proj, x_proj and
// out_proj, all MLPs and the output head (the token embedding, when tied), under the names matrices are
// stored by. Reads micro-batches 0, 1, ... of the batcher's steps from `first_step` on, until `tokens` have
// passed, over all `ranks`, which take turns; all get the sums of all. The arena is reset. Collective.
template <typename T>
HessianMap CollectHessians(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                           const Batcher& batcher, int64_t first_step, int64_t tokens,
                           const Communicator& ranks = Communicator());

// Of each matrix's rows, the squared gradients of sequences' losses, summed over sequences: a pass forward
// and backward for each sequence of those micro-batches, until `tokens` have passed, over all `ranks`, which
// take turns; all get the sums of all. Takes memory for gradients beside the arena, which is reset.
// Collective.
template <typename T>
GradientMap CollectGradientSquares(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                                   const Batcher& batcher, int64_t first_step, int64_t tokens,
                                   const Communicator& ranks = Communicator());

// Memory that both functions here take of an arena on `device`, of micro-batches of that many sequences, in
// bytes.
template <typename T>
int64_t CalibrationWorkBytes(const ModelConfig& config, int64_t batch, int64_t time, const Device& device);

}  // namespace hm11

#endif  // HM11_TRAIN_CALIBRATION_H_
