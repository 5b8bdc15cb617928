// ShiftTargets: the choice of a device and the CPU path.
#include "ops/shift_targets.h"

#include "core/check.h"
#include "core/dispatch.h"

namespace hm11 {
namespace {

void CpuShift(Tensor<const int32_t> targets, int64_t shift, Tensor<int32_t> shifted) {
  const int64_t time = targets.dim(1);
  for (int64_t i = 0; i < targets.size(); ++i) {
    shifted[i] = i % time + shift < time ? targets[i + shift] : -1;
  }
}

}  // namespace

void ShiftTargets(Arena& arena, Tensor<const int32_t> targets, int64_t shift, Tensor<int32_t> shifted) {
  HM_CHECK_EQ(targets.rank(), 2);
  HM_CHECK_EQ(targets.shape(), shifted.shape());
  HM_CHECK_GE(shift, 0);
  const Device& device = arena.device();
  const OpScope op("ShiftTargets", targets, shifted);
  Dispatch<float>(
      "ShiftTargets", device, [&]<typename>() { CpuShift(targets, shift, shifted); },
      [&]<typename>() { cuda::ShiftTargets(device, targets, shift, shifted); });
}

}  // namespace hm11
