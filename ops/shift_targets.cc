// ShiftTargets: the choice of a device and the CPU path.
#include "ops/shift_targets.h"

#include "core/check.h"
#include "core/dtype.h"

namespace hm11 {

void ShiftTargets(Arena& arena, Tensor<const int32_t> targets, int64_t shift, Tensor<int32_t> shifted) {
  HM_CHECK_EQ(targets.rank(), 2);
  HM_CHECK_EQ(targets.shape(), shifted.shape());
  HM_CHECK_GE(shift, 0);
  if (arena.device().is_plan()) return;
  if constexpr (kHaveCuda) {
    if (arena.device().is_cuda()) return cuda::ShiftTargets(arena.device(), targets, shift, shifted);
  }
  const int64_t time = targets.dim(1);
  for (int64_t i = 0; i < targets.size(); ++i) {
    shifted[i] = i % time + shift < time ? targets[i + shift] : -1;
  }
}

}  // namespace hm11
