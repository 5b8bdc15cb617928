// The sequential scan: the loop, one thread, kept so simple that it can be believed.
#include <algorithm>
#include <vector>

#include "scan/linear_recurrence_cpu.h"

namespace hm11::cpu {
namespace {

// Calls function(step, channel) for every step of every channel, in the order of memory as far as the order
// of steps (ascending, or descending) allows.
template <typename F>
void ForEachStep(const ScanGeometry& geometry, bool descending, F&& function) {
  const int64_t length = geometry.length;
  auto step_of = [&](int64_t i) { return descending ? length - 1 - i : i; };
  if (geometry.has_rows()) {
    for (int64_t c = 0; c < geometry.channels; ++c) {
      for (int64_t i = 0; i < length; ++i) function(step_of(i), c);
    }
  } else {
    for (int64_t i = 0; i < length; ++i) {
      for (int64_t c = 0; c < geometry.channels; ++c) function(step_of(i), c);
    }
  }
}

// Row b of a [batch, channels] tensor, or zeros.
template <typename A>
std::vector<A> RowOrZeros(const Tensor<const A>& tensor, int64_t b, int64_t channels) {
  if (tensor.empty()) return std::vector<A>(static_cast<size_t>(channels));
  return std::vector<A>(tensor.data() + b * channels, tensor.data() + (b + 1) * channels);
}

}  // namespace

template <typename T>
void SequentialForward(const ScanGeometry& geometry, const LinearRecurrenceArgs<T>& args) {
  using A = Accum<T>;
  const int64_t channels = geometry.channels;
  for (int64_t b = 0; b < geometry.batch; ++b) {
    std::vector<A> row = RowOrZeros<A>(args.initial_state, b, channels);
    A* const state = row.data();
    ForEachStep(geometry, /*descending=*/false, [&](int64_t step, int64_t c) {
      const int64_t at = geometry.At(b, step, c);
      state[c] = ToAccum(args.gates[at]) * state[c] + ToAccum(args.values[at]);
      args.states[at] = FromAccumClamped<T>(state[c]);
    });
    if (!args.final_state.empty()) std::copy_n(state, channels, args.final_state.data() + b * channels);
  }
}

template <typename T>
void SequentialBackward(const ScanGeometry& geometry, const LinearRecurrenceGradArgs<T>& args) {
  using A = Accum<T>;
  const int64_t channels = geometry.channels;
  for (int64_t b = 0; b < geometry.batch; ++b) {
    const std::vector<A> initial = RowOrZeros<A>(args.initial_state, b, channels);
    std::vector<A> row = RowOrZeros<A>(args.dfinal_state, b, channels);
    A* const carry = row.data();  // what reaches h_t through h_{t+1}
    ForEachStep(geometry, /*descending=*/true, [&](int64_t step, int64_t c) {
      const int64_t at = geometry.At(b, step, c);
      const A before =
          step == 0 ? initial[static_cast<size_t>(c)] : ToAccum(args.states[geometry.At(b, step - 1, c)]);
      const A gradient = ToAccum(args.dstates[at]) + carry[c];
      args.dvalues[at] = FromAccumClamped<T>(gradient);
      args.dgates[at] = FromAccumClamped<T>(gradient * before);
      carry[c] = ToAccum(args.gates[at]) * gradient;
    });
    if (!args.dinitial_state.empty()) {
      std::copy_n(carry, channels, args.dinitial_state.data() + b * channels);
    }
  }
}

#define HM_INSTANTIATE(T)                                                               \
  template void SequentialForward(const ScanGeometry&, const LinearRecurrenceArgs<T>&); \
  template void SequentialBackward(const ScanGeometry&, const LinearRecurrenceGradArgs<T>&);
HM_INSTANTIATE(double)
HM_INSTANTIATE(float)
HM_INSTANTIATE(Bf16)
HM_INSTANTIATE(Fp16)
#undef HM_INSTANTIATE

}  // namespace hm11::cpu
