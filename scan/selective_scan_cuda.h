// The CUDA side of the selective scan: what scan/selective_scan.cc calls once operands are checked.
#ifndef HM11_SCAN_SELECTIVE_SCAN_CUDA_H_
#define HM11_SCAN_SELECTIVE_SCAN_CUDA_H_

#include <cstdint>

#include "core/device.h"
#include "core/tensor.h"
#include "scan/selective_scan.h"

namespace hm11::cuda {

// Bytes of scratch the call of the same name needs: a function of shapes alone, so that it is the same on the
// plan device. May be 0.
template <typename T>
int64_t SelectiveScanForwardScratchBytes(const SelectiveScanArgs<T>& args);
template <typename T>
int64_t SelectiveScanBackwardScratchBytes(const SelectiveScanGradArgs<T>& args);

// T is float or Bf16. `scratch` holds at least the bytes above, aligned to Arena::kAlignment.
template <typename T>
void SelectiveScanForward(const Device& device, Tensor<uint8_t> scratch, const SelectiveScanArgs<T>& args);
template <typename T>
void SelectiveScanBackward(const Device& device, Tensor<uint8_t> scratch,
                           const SelectiveScanGradArgs<T>& args);

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_CUDA_H_
