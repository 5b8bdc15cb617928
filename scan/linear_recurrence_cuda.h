// The CUDA side of the linear recurrence: what scan/linear_recurrence.cc calls once operands are checked.
#ifndef HM11_SCAN_LINEAR_RECURRENCE_CUDA_H_
#define HM11_SCAN_LINEAR_RECURRENCE_CUDA_H_

#include <cstdint>

#include "core/device.h"
#include "core/tensor.h"
#include "scan/linear_recurrence.h"

namespace hm11::cuda {

// Bytes of scratch the call of the same name needs: a function of options and shapes alone, so that it is the
// same on the plan device. May be 0.
template <typename T>
int64_t LinearRecurrenceForwardScratchBytes(const ScanOptions& options, const LinearRecurrenceArgs<T>& args);
template <typename T>
int64_t LinearRecurrenceBackwardScratchBytes(const ScanOptions& options,
                                             const LinearRecurrenceGradArgs<T>& args);

// T is float, Bf16 or Fp16. `scratch` holds at least the bytes above, aligned to Arena::kAlignment.
template <typename T>
void LinearRecurrenceForward(const Device& device, Tensor<uint8_t> scratch, const ScanOptions& options,
                             const LinearRecurrenceArgs<T>& args);
template <typename T>
void LinearRecurrenceBackward(const Device& device, Tensor<uint8_t> scratch, const ScanOptions& options,
                              const LinearRecurrenceGradArgs<T>& args);

}  // namespace hm11::cuda

#endif  // HM11_SCAN_LINEAR_RECURRENCE_CUDA_H_
