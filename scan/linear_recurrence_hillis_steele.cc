// Hillis & Steele's scan: ceil(log2 L) sweeps over memory, the reference implementation's algorithm.
//
// A sweep goes from the last step to the first, so that it can be done in place: a step reads one before it,
// which the same sweep has not written yet.
#include <algorithm>

#include "core/parallel.h"
#include "scan/linear_recurrence_cpu.h"

namespace hm11::cpu {
namespace {

constexpr int64_t kBlockChannels = 64;

// The pairs of one batch row and one block of channels, in the order of the scan: [length, width] each.
template <typename A>
struct Pairs {
  A* gates;
  A* values;
  int64_t length, width;
};

template <typename A>
void Sweep(const Pairs<A>& pairs) {
  const int64_t width = pairs.width;
  for (int64_t stride = 1; stride < pairs.length; stride *= 2) {
    for (int64_t step = pairs.length - 1; step >= stride; --step) {
      A* const gates = pairs.gates + step * width;
      A* const values = pairs.values + step * width;
      const A* const gates_before = gates - stride * width;
      const A* const values_before = values - stride * width;
      for (int64_t c = 0; c < width; ++c) {
        const LinearStep<A> both = Compose<A>({gates_before[c], values_before[c]}, {gates[c], values[c]});
        gates[c] = both.gate;
        values[c] = both.value;
      }
    }
  }
}

// Calls function(batch row, first channel, its pairs in scratch) for each block of channels.
template <typename A, typename F>
void ForEachBlock(const ScanGeometry& geometry, Tensor<A> scratch, F&& function) {
  const int64_t blocks = (geometry.channels + kBlockChannels - 1) / kBlockChannels;
  ParallelFor(geometry.batch * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t b = index / blocks, first = index % blocks * kBlockChannels;
      const int64_t width = std::min(kBlockChannels, geometry.channels - first);
      A* const gates = scratch.data() + 2 * geometry.length * (b * geometry.channels + first);
      function(b, first, Pairs<A>{gates, gates + geometry.length * width, geometry.length, width});
    }
  });
}

}  // namespace

template <typename T>
void HillisSteeleForward(const ScanGeometry& geometry, Tensor<Accum<T>> scratch,
                         const LinearRecurrenceArgs<T>& args) {
  using A = Accum<T>;
  ForEachBlock<A>(geometry, scratch, [&](int64_t b, int64_t first, const Pairs<A>& pairs) {
    const int64_t length = pairs.length, width = pairs.width, row = b * geometry.channels + first;
    for (int64_t step = 0; step < length; ++step) {
      for (int64_t c = 0; c < width; ++c) {
        const int64_t at = geometry.At(b, step, first + c);
        pairs.gates[step * width + c] = ToAccum(args.gates[at]);
        pairs.values[step * width + c] = ToAccum(args.values[at]);
      }
    }
    if (!args.initial_state.empty()) {
      for (int64_t c = 0; c < width; ++c) pairs.values[c] += pairs.gates[c] * args.initial_state[row + c];
    }
    Sweep(pairs);
    for (int64_t step = 0; step < length; ++step) {
      for (int64_t c = 0; c < width; ++c) {
        args.states[geometry.At(b, step, first + c)] = FromAccumClamped<T>(pairs.values[step * width + c]);
      }
    }
    if (!args.final_state.empty()) {
      std::copy_n(pairs.values + (length - 1) * width, width, args.final_state.data() + row);
    }
  });
}

template <typename T>
void HillisSteeleBackward(const ScanGeometry& geometry, Tensor<Accum<T>> scratch,
                          const LinearRecurrenceGradArgs<T>& args) {
  using A = Accum<T>;
  ForEachBlock<A>(geometry, scratch, [&](int64_t b, int64_t first, const Pairs<A>& pairs) {
    const int64_t length = pairs.length, width = pairs.width, row = b * geometry.channels + first;
    // Pair i is step L-1-i, whose gate is that of the step after it.
    for (int64_t i = 0; i < length; ++i) {
      const int64_t step = length - 1 - i;
      for (int64_t c = 0; c < width; ++c) {
        pairs.gates[i * width + c] = i == 0 ? A{1} : ToAccum(args.gates[geometry.At(b, step + 1, first + c)]);
        pairs.values[i * width + c] = ToAccum(args.dstates[geometry.At(b, step, first + c)]);
      }
    }
    if (!args.dfinal_state.empty()) {
      for (int64_t c = 0; c < width; ++c) pairs.values[c] += args.dfinal_state[row + c];
    }
    Sweep(pairs);
    for (int64_t i = 0; i < length; ++i) {
      const int64_t step = length - 1 - i;
      for (int64_t c = 0; c < width; ++c) {
        const A gradient = pairs.values[i * width + c];
        A before = args.initial_state.empty() ? A{0} : args.initial_state[row + c];
        if (step > 0) before = ToAccum(args.states[geometry.At(b, step - 1, first + c)]);
        const int64_t at = geometry.At(b, step, first + c);
        args.dvalues[at] = FromAccumClamped<T>(gradient);
        args.dgates[at] = FromAccumClamped<T>(gradient * before);
      }
    }
    if (!args.dinitial_state.empty()) {
      for (int64_t c = 0; c < width; ++c) {
        args.dinitial_state[row + c] =
            ToAccum(args.gates[geometry.At(b, 0, first + c)]) * pairs.values[(length - 1) * width + c];
      }
    }
  });
}

#define HM_INSTANTIATE(T)                                                                                   \
  template void HillisSteeleForward(const ScanGeometry&, Tensor<Accum<T>>, const LinearRecurrenceArgs<T>&); \
  template void HillisSteeleBackward(const ScanGeometry&, Tensor<Accum<T>>,                                 \
                                     const LinearRecurrenceGradArgs<T>&);
HM_INSTANTIATE(double)
HM_INSTANTIATE(float)
HM_INSTANTIATE(Bf16)
HM_INSTANTIATE(Fp16)
#undef HM_INSTANTIATE

}  // namespace hm11::cpu
