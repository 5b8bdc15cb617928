// Linear recurrence h_t = a_t h_{t-1} + b_t, sequential and in parallel, forward and backward.
#ifndef HM11_SCAN_LINEAR_RECURRENCE_H_
#define HM11_SCAN_LINEAR_RECURRENCE_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

// kSequential: the loop; the oracle. kHillisSteele: Hillis & Steele, CACM 29(12), 1986: ceil(log2 L) sweeps
// of O(L) each over memory; the reference's algorithm, kept as a yardstick. kChunked: one pass over memory.
enum class ScanAlgorithm { kSequential, kHillisSteele, kChunked };
// kTimeMajor: [batch, length, channels]. kChannelMajor: [batch, channels, length].
enum class ScanLayout { kTimeMajor, kChannelMajor };

struct ScanOptions {
  ScanAlgorithm algorithm = ScanAlgorithm::kChunked;
  ScanLayout layout = ScanLayout::kTimeMajor;
  bool reversed = false;  // h_t = a_t h_{t+1} + b_t: the same scan on the reversed sequence.
};

template <typename T>  // double, float, Bf16, Fp16; arithmetic and states in Accum<T>
struct LinearRecurrenceArgs {
  Tensor<const T> gates;                 // a, in the layout's shape
  Tensor<const T> values;                // b, the same shape
  Tensor<const Accum<T>> initial_state;  // [batch, channels], zero when absent
  Tensor<T> states;                      // h, the same shape as gates; out
  Tensor<Accum<T>> final_state;          // [batch, channels], may be absent; out
};

template <typename T>
struct LinearRecurrenceGradArgs {
  Tensor<const T> gates;
  Tensor<const T> states;                // forward's output
  Tensor<const Accum<T>> initial_state;  // as in forward
  Tensor<const T> dstates;
  Tensor<const Accum<T>> dfinal_state;  // zero when absent
  Tensor<T> dgates;
  Tensor<T> dvalues;
  Tensor<Accum<T>> dinitial_state;  // may be absent
};

template <typename T>
void LinearRecurrenceForward(Arena& arena, const ScanOptions& options, const LinearRecurrenceArgs<T>& args);
template <typename T>
void LinearRecurrenceBackward(Arena& arena, const ScanOptions& options,
                              const LinearRecurrenceGradArgs<T>& args);

}  // namespace hm11

#endif  // HM11_SCAN_LINEAR_RECURRENCE_H_
