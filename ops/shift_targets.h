// Targets further ahead: shifted[b, t] = targets[b, t + shift], or -1 past the end of the row.
#ifndef HM11_OPS_SHIFT_TARGETS_H_
#define HM11_OPS_SHIFT_TARGETS_H_

#include "core/arena.h"
#include "core/tensor.h"

namespace hm11 {

// targets and shifted: [batch, time], two different tensors.
void ShiftTargets(Arena& arena, Tensor<const int32_t> targets, int64_t shift, Tensor<int32_t> shifted);

namespace cuda {
void ShiftTargets(const Device& device, Tensor<const int32_t> targets, int64_t shift,
                  Tensor<int32_t> shifted);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_SHIFT_TARGETS_H_
