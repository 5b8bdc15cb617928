// Linear recurrence h_t = a_t h_{t-1} + b_t, sequential and in parallel, forward and backward.
//
// Forward, from h_{-1} = initial_state:    h_t = a_t h_{t-1} + b_t,    final_state = h_{L-1}
// Backward, g_t the gradient reaching h_t: G_t = g_t + a_{t+1} G_{t+1},
//                                          db_t = G_t,  da_t = G_t h_{t-1},  dinitial_state = a_0 G_0
// with a_L G_L = dfinal_state: the same scan, run the other way.
//
// Properties
//  1. The operator (a1, b1) then (a2, b2) = (a1 a2, a2 b1 + b2) is associative; (1, 0) is its identity.
//  2. Cutting a sequence anywhere and carrying the state changes nothing but rounding.
//  3. A gate of 0 is a reset: what follows is the scan of the rest alone.
//  4. The future never reaches the past: h_t keeps its bits whatever comes after t.
//  5. Batch rows and channels are independent, to the bit.
//  6. Backward is the gradient of forward.
//  7. The reversed scan of a reversed sequence is the scan, reversed: to the bit, but for kChunked on a GPU
//     in kChannelMajor, whose vectors are aligned in memory whichever way they are read, within the bound of
//     8.
//  8. Every algorithm, layout and device computes the same numbers but for rounding. Let s_t be the scan of
//     absolute values, s_t = |a_t| s_{t-1} + |b_t| with s_{-1} = |h_{-1}|, and u = 2^-24 (2^-53 for double).
//     A term of h_t, b_k times the gates after it, goes through at most t+1 products and t+1 sums in whatever
//     order they are composed, each off by a factor of at most 1 + u; hence, to first order in u,
//         |computed h_t - h_t| <= 2 (t+1) u s_t.
//     For gates drawn from (0, 1) it stays under 1e-6 s_t at any length: old terms are forgotten.
//  9. 16-bit storage adds one rounding of the result, by v = 2^-8 (Bf16) or 2^-11 (Fp16):
//         |stored h_t - h_t| <= (v + 2 (t+1) u) s_t + 2^-25,
//     and likewise for G, and for G h with the stored h. The running state is a float that is never rounded
//     to 16 bits. A number beyond the largest finite one of T is stored as that one. So with gates of at most
//     1 in size, finite inputs whose states fit a float never give Inf or NaN.
//
// Determinism: the same bits from run to run on one device; on the CPU whatever the number of threads, for
// work is cut by shapes alone. No atomics.
//
// Cost, in elements of T moved and float operations an element of h: kSequential and kChunked read 2 and
// write 1 forward (2 operations), read 3 and write 2 backward (3 operations); kHillisSteele makes ceil(log2
// L) passes over scratch of 2 Accum<T> an element, 3 operations and 6 moves each.
//
// Sources: the scan as the solution of a linear recurrence: Blelloch, "Prefix sums and their applications",
// CMU-CS-90-190, 1990, section 1.4. Its backward pass as a reversed scan: Martin & Cundy, ICLR 2018. One pass
// over memory on a GPU: Merrill & Garland, NVR-2016-002.
#ifndef HM11_SCAN_LINEAR_RECURRENCE_H_
#define HM11_SCAN_LINEAR_RECURRENCE_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

// One step h -> gate h + value, or any run of steps: what the scan composes.
template <typename A>
struct LinearStep {
  A gate = 1;
  A value = 0;
};

// First `before`, then `after`.
template <typename A>
HM_HOST_DEVICE inline LinearStep<A> Compose(const LinearStep<A>& before, const LinearStep<A>& after) {
  return {before.gate * after.gate, after.gate * before.value + after.value};
}

// A result no farther out than T's largest finite number. NaN stays NaN.
template <typename T>
HM_HOST_DEVICE inline Accum<T> Storable(Accum<T> value) {
  if constexpr (std::is_same_v<T, Bf16> || std::is_same_v<T, Fp16>) {
    constexpr float kLargest = std::is_same_v<T, Bf16> ? 0x1.fep127f : 65504.0f;
    value = value > kLargest ? kLargest : value;
    value = value < -kLargest ? -kLargest : value;
  }
  return value;
}

// A result as it is stored: in that range, and rounded to T.
template <typename T>
HM_HOST_DEVICE inline T FromAccumClamped(Accum<T> value) {
  return FromAccum<T>(Storable<T>(value));
}

// kSequential: the loop, one step after the other; the oracle.
// kHillisSteele: Hillis & Steele, "Data parallel algorithms", CACM 29(12), 1986: ceil(log2 L) sweeps, in each
// of which every position composes with the one 1, 2, 4, ... before it; O(L log L) work. A yardstick.
// kChunked: work-efficient, one pass over memory. On the CPU vectors run over channels (time-major) or along
// time (channel-major), threads over batch and channels, and over chunks of time where those are one block.
enum class ScanAlgorithm { kSequential, kHillisSteele, kChunked };
// kTimeMajor: [batch, length, channels]. kChannelMajor: [batch, channels, length].
enum class ScanLayout { kTimeMajor, kChannelMajor };

struct ScanOptions {
  ScanAlgorithm algorithm = ScanAlgorithm::kChunked;
  ScanLayout layout = ScanLayout::kTimeMajor;
  bool reversed = false;  // h_t = a_t h_{t+1} + b_t, from h_L = initial_state to final_state = h_0
};

// T is double (CPU only), float, Bf16 or Fp16; arithmetic and states are Accum<T>. Any length >= 1.
template <typename T>
struct LinearRecurrenceArgs {
  Tensor<const T> gates;                 // a, in the layout's shape
  Tensor<const T> values;                // b, the same shape
  Tensor<const Accum<T>> initial_state;  // [batch, channels], zero when absent
  Tensor<T> states;                      // h, the same shape as gates; out; not gates' or values' memory
  Tensor<Accum<T>> final_state;          // [batch, channels], may be absent; out
};

template <typename T>
struct LinearRecurrenceGradArgs {
  Tensor<const T> gates;                 // in the layout's shape
  Tensor<const T> states;                // forward's output
  Tensor<const Accum<T>> initial_state;  // as in forward
  Tensor<const T> dstates;               // the shape of gates
  Tensor<const Accum<T>> dfinal_state;   // [batch, channels], zero when absent
  Tensor<T> dgates;                      // the shape of gates; out
  Tensor<T> dvalues;                     // the shape of gates; out
  Tensor<Accum<T>> dinitial_state;       // [batch, channels], may be absent; out
};

template <typename T>
void LinearRecurrenceForward(Arena& arena, const ScanOptions& options, const LinearRecurrenceArgs<T>& args);
template <typename T>
void LinearRecurrenceBackward(Arena& arena, const ScanOptions& options,
                              const LinearRecurrenceGradArgs<T>& args);

}  // namespace hm11

#endif  // HM11_SCAN_LINEAR_RECURRENCE_H_
