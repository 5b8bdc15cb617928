// Calibration: second moments of what each matrix reads, from training text, for quantization (quant/gptq.h).
#ifndef HM11_TRAIN_CALIBRATION_H_
#define HM11_TRAIN_CALIBRATION_H_

#include <cstdint>

#include "core/arena.h"
#include "core/communicator.h"
#include "data/batcher.h"
#include "model/config.h"
#include "model/weights.h"
#include "quant/tensor_quantizer.h"

namespace hm11 {

// Sums x^T x over the inputs x of the attention layers' banks, the Mamba layers' in_proj, x_proj and out_proj
// and all MLPs, under the names matrices are stored by. Reads micro-batches 0, 1, ... of the batcher's steps
// from `first_step` on, until `tokens` have passed, over all `ranks`, which take turns; all get the sums of
// all. The arena is reset. Collective.
template <typename T>
HessianMap CollectHessians(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                           const Batcher& batcher, int64_t first_step, int64_t tokens,
                           const Communicator& ranks = Communicator());

}  // namespace hm11

#endif  // HM11_TRAIN_CALIBRATION_H_
