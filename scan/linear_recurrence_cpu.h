// The CPU side of the linear recurrence: three algorithms behind one geometry.
#ifndef HM11_SCAN_LINEAR_RECURRENCE_CPU_H_
#define HM11_SCAN_LINEAR_RECURRENCE_CPU_H_

#include <cstdint>

#include "core/tensor.h"
#include "scan/linear_recurrence.h"

namespace hm11::cpu {

// Where an element lies: `step` counts in the order of the scan, from 0 at its beginning.
struct ScanGeometry {
  int64_t batch, length, channels;
  int64_t batch_stride, time_stride, channel_stride;
  bool reversed;

  int64_t At(int64_t b, int64_t step, int64_t channel) const {
    const int64_t time = reversed ? length - 1 - step : step;
    return b * batch_stride + time * time_stride + channel * channel_stride;
  }
  // Elements from one step to the next.
  int64_t step_stride() const { return reversed ? -time_stride : time_stride; }
  // Whether a channel's steps lie side by side, rather than the channels of a step.
  bool has_rows() const { return time_stride == 1; }
  int64_t size() const { return batch * length * channels; }
};

template <typename T>
void SequentialForward(const ScanGeometry& geometry, const LinearRecurrenceArgs<T>& args);
template <typename T>
void SequentialBackward(const ScanGeometry& geometry, const LinearRecurrenceGradArgs<T>& args);

// `scratch` holds 2 * geometry.size() numbers.
template <typename T>
void HillisSteeleForward(const ScanGeometry& geometry, Tensor<Accum<T>> scratch,
                         const LinearRecurrenceArgs<T>& args);
template <typename T>
void HillisSteeleBackward(const ScanGeometry& geometry, Tensor<Accum<T>> scratch,
                          const LinearRecurrenceGradArgs<T>& args);

template <typename T>
void ChunkedForward(const ScanGeometry& geometry, const LinearRecurrenceArgs<T>& args);
template <typename T>
void ChunkedBackward(const ScanGeometry& geometry, const LinearRecurrenceGradArgs<T>& args);

}  // namespace hm11::cpu

#endif  // HM11_SCAN_LINEAR_RECURRENCE_CPU_H_
