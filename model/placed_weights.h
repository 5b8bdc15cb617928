// Weights out of a file on a device, in the type that their model runs in.
#ifndef HM11_MODEL_PLACED_WEIGHTS_H_
#define HM11_MODEL_PLACED_WEIGHTS_H_

#include <vector>

#include "absl/status/statusor.h"
#include "core/arena.h"
#include "core/named_tensor.h"
#include "model/config.h"
#include "model/weights.h"

namespace hm11 {

// Weights on the arena's device; T is Bf16 on a GPU, float on the CPU, Fp16 there where a token is read at a
// time. Errors are those of ImportWeights, whose tensors these are.
template <typename T>
absl::StatusOr<ModelWeights<T>> PlaceWeights(Arena& arena, const ModelConfig& config,
                                             const std::vector<NamedTensor>& tensors);

}  // namespace hm11

#endif  // HM11_MODEL_PLACED_WEIGHTS_H_
