// The fast scan on the CPU: every input is read once and every output written once.
//
// Both directions are one recurrence over a carry, carry = gate * carry + value: forward the carry is h_t,
// and backward it is a_t G_t, what step t hands to step t-1. Time-major, vectors run over the channels of a
// step, in blocks that keep the carries in L1. Channel-major, a vector is kLanes steps of one channel: Hillis
// & Steele's scan within the register, then one product and sum with the carry. Threads share out (batch row,
// block of channels), a block being one channel where the layout is channel-major. Where that is one block,
// it is cut in time: each cut is first reduced to the one step it amounts to, these are composed, and then
// each cut is scanned from its true beginning. Large results are written past the caches, by non-temporal
// stores.
#include <algorithm>
#include <array>
#include <initializer_list>
#include <type_traits>

#include "core/parallel.h"
#include "scan/linear_recurrence_cpu.h"
#include "scan/linear_recurrence_vectors.h"

namespace hm11::cpu {
namespace {

constexpr int64_t kBlockChannels = 256;
constexpr int64_t kCuts = 8;
constexpr int64_t kCutElements = int64_t{1} << 16;  // at least, in each cut
constexpr int64_t kTaskElements = int64_t{1} << 14;
constexpr int64_t kTile = 1024;  // steps whose carries backward keeps before it uses them
constexpr int64_t kNonTemporalBytes = int64_t{8} << 20;  // of a result: more than stays in a core's own cache
constexpr int64_t kRowsAhead = 4;  // that are fetched ahead of non-temporal stores, across pages

// What all four kinds of block know: where it lies, how wide it is, and whether its results are written by
// non-temporal stores.
// Scan and Reduce work on positions [begin, end) of the order in which the carry runs.
template <typename T, typename Args>
struct ChannelBlock {
  const ScanGeometry& geometry;
  const Args& args;
  bool non_temporal;
  int64_t b, first, width;

  int64_t At(int64_t step) const { return geometry.At(b, step, first); }
  int64_t row() const { return b * geometry.channels + first; }
};

// One channel, forward: positions are steps.
template <typename T>
struct RowForward : ChannelBlock<T, LinearRecurrenceArgs<T>> {
  using A = Accum<T>;
  void Reduce(int64_t begin, int64_t end, LinearStep<A>* whole) const {
    const int64_t at = this->At(begin), count = end - begin;
    const T* const gates = this->args.gates.data() + at;
    whole->gate = Product(this->geometry.reversed ? gates - (count - 1) : gates, count);
    whole->value = ScanSteps<false>(at, count, A{0}, nullptr);
  }
  void Scan(int64_t begin, int64_t end, A* carry) const {
    const int64_t at = this->At(begin);
    T* const states = this->args.states.data() + at;
    *carry = this->non_temporal ? ScanSteps<true>(at, end - begin, *carry, states)
                                : ScanSteps<false>(at, end - begin, *carry, states);
  }
  template <bool kNonTemporal>
  A ScanSteps(int64_t at, int64_t count, A carry, T* out) const {
    const T* const gates = this->args.gates.data() + at;
    const T* const values = this->args.values.data() + at;
    return this->geometry.reversed ? ScanRow<true, false, kNonTemporal>(gates, values, count, carry, out)
                                   : ScanRow<false, false, kNonTemporal>(gates, values, count, carry, out);
  }
};

// One channel, backward: position p is step L-1-p.
template <typename T>
struct RowBackward : ChannelBlock<T, LinearRecurrenceGradArgs<T>> {
  using A = Accum<T>;
  void Reduce(int64_t begin, int64_t end, LinearStep<A>* whole) const {
    const int64_t at = this->At(this->geometry.length - 1 - begin), count = end - begin;
    const T* const gates = this->args.gates.data() + at;
    whole->gate = Product(this->geometry.reversed ? gates : gates - (count - 1), count);
    whole->value = ScanCarries(at, count, A{0}, nullptr);
  }
  void Scan(int64_t begin, int64_t end, A* carry) const {
    for (; begin < end; begin += kTile) ScanTile(begin, std::min(kTile, end - begin), carry);
  }
  // entering[i] is the carry that reaches the i-th number of the tile in memory.
  void ScanTile(int64_t begin, int64_t count, A* carry) const {
    const int64_t last_step = this->geometry.length - 1 - begin, first_step = last_step - count + 1;
    const bool reversed = this->geometry.reversed;
    const int64_t lowest = this->At(reversed ? last_step : first_step);
    std::array<A, kTile + 1> memory;
    A* const entering = memory.data() + (reversed ? 0 : 1);
    entering[reversed ? 0 : count - 1] = *carry;
    *carry = ScanCarries(this->At(last_step), count, *carry, reversed ? entering + 1 : entering + count - 2);
    // The state before the sequence's first step is not beside the others.
    const bool has_first = first_step == 0;
    const int64_t skipped = has_first && !reversed ? 1 : 0;
    if (this->non_temporal) {
      StoreGradients<true>(lowest + skipped, count - has_first, entering + skipped);
    } else {
      StoreGradients<false>(lowest + skipped, count - has_first, entering + skipped);
    }
    if (!has_first) return;
    const int64_t at = this->At(0);
    const A gradient = ToAccum(this->args.dstates[at]) + entering[reversed ? count - 1 : 0];
    const A before = this->args.initial_state.empty() ? A{0} : this->args.initial_state[this->row()];
    this->args.dvalues[at] = FromAccumClamped<T>(gradient);
    this->args.dgates[at] = FromAccumClamped<T>(gradient * before);
  }
  template <bool kNonTemporal>
  void StoreGradients(int64_t lowest, int64_t count, const A* entering) const {
    const T* const dstates = this->args.dstates.data() + lowest;
    const T* const before = this->args.states.data() + lowest - this->geometry.step_stride();
    T* const dvalues = this->args.dvalues.data() + lowest;
    T* const dgates = this->args.dgates.data() + lowest;
    int64_t i = 0;
    const auto one = [&] {
      const A gradient = ToAccum(dstates[i]) + entering[i];
      dvalues[i] = FromAccumClamped<T>(gradient);
      dgates[i] = FromAccumClamped<T>(gradient * ToAccum(before[i]));
      ++i;
    };
    while (kNonTemporal && i < count && (lowest + i) % kLanes<A> != 0) one();
    for (; i + kLanes<A> <= count; i += kLanes<A>) {
      const Vector<A> gradient = Load(dstates + i) + Load(entering + i);
      Store<kNonTemporal>(dvalues + i, gradient);
      Store<kNonTemporal>(dgates + i, gradient * Load(before + i));
    }
    while (i < count) one();
  }
  A ScanCarries(int64_t at, int64_t count, A carry, A* out) const {
    const T* const gates = this->args.gates.data() + at;
    const T* const dstates = this->args.dstates.data() + at;
    return this->geometry.reversed ? ScanRow<false, true, false>(gates, dstates, count, carry, out)
                                   : ScanRow<true, true, false>(gates, dstates, count, carry, out);
  }
};

// A block of channels, forward.
template <typename T>
struct BlockForward : ChannelBlock<T, LinearRecurrenceArgs<T>> {
  using A = Accum<T>;
  void Reduce(int64_t begin, int64_t end, LinearStep<A>* whole) const {
    for (int64_t step = begin; step < end; ++step) {
      const T* const gates = this->args.gates.data() + this->At(step);
      const T* const values = this->args.values.data() + this->At(step);
      for (int64_t c = 0; c < this->width; ++c) {
        whole[c] = Compose(whole[c], LinearStep<A>{ToAccum(gates[c]), ToAccum(values[c])});
      }
    }
  }
  void Scan(int64_t begin, int64_t end, A* carry) const {
    for (int64_t step = begin; step < end; ++step) {
      if (this->non_temporal) {
        Step<true>(step, carry);
      } else {
        Step<false>(step, carry);
      }
    }
  }
  template <bool kNonTemporal>
  void Step(int64_t step, A* __restrict carry) const {
    const int64_t ahead = kRowsAhead * this->geometry.step_stride();
    const T* const gates = this->args.gates.data() + this->At(step);
    const T* const values = this->args.values.data() + this->At(step);
    T* const states = this->args.states.data() + this->At(step);
    int64_t c = 0;
    for (; c + kLanes<A> <= this->width; c += kLanes<A>) {
      if (kNonTemporal) __builtin_prefetch(gates + c + ahead);
      if (kNonTemporal) __builtin_prefetch(values + c + ahead);
      const Vector<A> state = Load(gates + c) * Load(carry + c) + Load(values + c);
      Store<false>(carry + c, state);
      Store<kNonTemporal>(states + c, state);
    }
    for (; c < this->width; ++c) {
      carry[c] = ToAccum(gates[c]) * carry[c] + ToAccum(values[c]);
      states[c] = FromAccumClamped<T>(carry[c]);
    }
  }
};

// A block of channels, backward: position p is step L-1-p.
template <typename T>
struct BlockBackward : ChannelBlock<T, LinearRecurrenceGradArgs<T>> {
  using A = Accum<T>;
  void Reduce(int64_t begin, int64_t end, LinearStep<A>* whole) const {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t at = this->At(this->geometry.length - 1 - p);
      const T* const gates = this->args.gates.data() + at;
      const T* const dstates = this->args.dstates.data() + at;
      for (int64_t c = 0; c < this->width; ++c) {
        const A gate = ToAccum(gates[c]);
        whole[c] = {gate * whole[c].gate, gate * (ToAccum(dstates[c]) + whole[c].value)};
      }
    }
  }
  void Scan(int64_t begin, int64_t end, A* carry) const {
    const std::array<A, kBlockChannels> zeros = {};
    for (int64_t p = begin; p < end; ++p) {
      const int64_t step = this->geometry.length - 1 - p;
      if (step == 0) {
        const bool starts_at_zero = this->args.initial_state.empty();
        Step<false>(0, carry, starts_at_zero ? zeros.data() : this->args.initial_state.data() + this->row());
      } else if (this->non_temporal) {
        Step<true>(step, carry, this->args.states.data() + this->At(step - 1));
      } else {
        Step<false>(step, carry, this->args.states.data() + this->At(step - 1));
      }
    }
  }
  template <bool kNonTemporal, typename Before>
  void Step(int64_t step, A* __restrict carry, const Before* before) const {
    const int64_t at = this->At(step), ahead = -kRowsAhead * this->geometry.step_stride();
    const T* const gates = this->args.gates.data() + at;
    const T* const dstates = this->args.dstates.data() + at;
    T* const dgates = this->args.dgates.data() + at;
    T* const dvalues = this->args.dvalues.data() + at;
    int64_t c = 0;
    for (; c + kLanes<A> <= this->width; c += kLanes<A>) {
      if (kNonTemporal) __builtin_prefetch(gates + c + ahead);
      if (kNonTemporal) __builtin_prefetch(dstates + c + ahead);
      if (kNonTemporal) __builtin_prefetch(before + c + ahead);
      const Vector<A> gradient = Load(dstates + c) + Load(carry + c);
      Store<kNonTemporal>(dvalues + c, gradient);
      Store<kNonTemporal>(dgates + c, gradient * Load(before + c));
      Store<false>(carry + c, Load(gates + c) * gradient);
    }
    for (; c < this->width; ++c) {
      const A gradient = ToAccum(dstates[c]) + carry[c];
      dvalues[c] = FromAccumClamped<T>(gradient);
      dgates[c] = FromAccumClamped<T>(gradient * ToAccum(before[c]));
      carry[c] = ToAccum(gates[c]) * gradient;
    }
  }
};

// Scans a block in kCuts cuts at once. `carry` is its first carry, and its last one when this returns.
template <typename A, typename P>
void ScanInCuts(const P& block, A* carry) {
  const int64_t length = block.geometry.length;
  // Whole vectors, so that non-temporal stores stay aligned.
  auto begin_of = [&](int64_t cut) {
    return cut == kCuts ? length : cut * length / kCuts / kLanes<A> * kLanes<A>;
  };
  std::array<std::array<LinearStep<A>, kBlockChannels>, kCuts> wholes;
  ParallelFor(kCuts, 1, [&](int64_t first, int64_t last) {
    for (int64_t cut = first; cut < last; ++cut) {
      wholes[static_cast<size_t>(cut)].fill({});
      block.Reduce(begin_of(cut), begin_of(cut + 1), wholes[static_cast<size_t>(cut)].data());
    }
  });
  std::array<std::array<A, kBlockChannels>, kCuts> carries;
  for (size_t cut = 0; cut < kCuts; ++cut) {
    std::copy_n(carry, block.width, carries[cut].data());
    for (int64_t c = 0; c < block.width; ++c) {
      const LinearStep<A>& whole = wholes[cut][static_cast<size_t>(c)];
      carry[c] = whole.gate * carry[c] + whole.value;
    }
  }
  ParallelFor(kCuts, 1, [&](int64_t first, int64_t last) {
    for (int64_t cut = first; cut < last; ++cut) {
      block.Scan(begin_of(cut), begin_of(cut + 1), carries[static_cast<size_t>(cut)].data());
    }
    if (block.non_temporal) _mm_sfence();
  });
}

// Whether results of this shape, at `data`, are written by non-temporal stores: they are large, and every row
// of them is aligned to vectors.
template <typename T>
bool WantsNonTemporalStores(const ScanGeometry& geometry, std::initializer_list<const T*> results) {
  if (!std::is_same_v<T, Accum<T>>) return false;
  const int64_t row = geometry.has_rows() ? geometry.length : geometry.channels;
  bool aligned = row % kLanes<Accum<T>> == 0;
  for (const T* data : results) aligned = aligned && reinterpret_cast<uintptr_t>(data) % 32 == 0;
  return aligned && geometry.size() * static_cast<int64_t>(sizeof(T)) >= kNonTemporalBytes;
}

// Runs all blocks of kind P, each of up to `block_width` channels, from the rows of `initial` (or zeros) to
// `final`.
template <typename P, typename A, typename Args>
void RunBlocks(const ScanGeometry& geometry, const Args& args, bool non_temporal, int64_t block_width,
               const Tensor<const A>& initial, const Tensor<A>& final) {
  const int64_t row_blocks = (geometry.channels + block_width - 1) / block_width;
  const int64_t blocks = geometry.batch * row_blocks;
  const int64_t block_elements = geometry.length * std::min(block_width, geometry.channels);
  ParallelFor(blocks, (kTaskElements + block_elements - 1) / block_elements, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t first = index % row_blocks * block_width;
      const P block{{geometry, args, non_temporal, index / row_blocks, first,
                     std::min(block_width, geometry.channels - first)}};
      std::array<A, kBlockChannels> carry = {};
      if (!initial.empty()) std::copy_n(initial.data() + block.row(), block.width, carry.data());
      if (blocks == 1 && block_elements >= kCuts * kCutElements) {
        ScanInCuts(block, carry.data());
      } else {
        block.Scan(0, geometry.length, carry.data());
      }
      if (!final.empty()) std::copy_n(carry.data(), block.width, final.data() + block.row());
    }
    if (non_temporal) _mm_sfence();
  });
}

}  // namespace

template <typename T>
void ChunkedForward(const ScanGeometry& geometry, const LinearRecurrenceArgs<T>& args) {
  using A = Accum<T>;
  const bool non_temporal = WantsNonTemporalStores<T>(geometry, {args.states.data()});
  if (geometry.has_rows()) {
    RunBlocks<RowForward<T>, A>(geometry, args, non_temporal, 1, args.initial_state, args.final_state);
  } else {
    RunBlocks<BlockForward<T>, A>(geometry, args, non_temporal, kBlockChannels, args.initial_state,
                                  args.final_state);
  }
}

template <typename T>
void ChunkedBackward(const ScanGeometry& geometry, const LinearRecurrenceGradArgs<T>& args) {
  using A = Accum<T>;
  const bool non_temporal = WantsNonTemporalStores<T>(geometry, {args.dgates.data(), args.dvalues.data()});
  if (geometry.has_rows()) {
    RunBlocks<RowBackward<T>, A>(geometry, args, non_temporal, 1, args.dfinal_state, args.dinitial_state);
  } else {
    RunBlocks<BlockBackward<T>, A>(geometry, args, non_temporal, kBlockChannels, args.dfinal_state,
                                   args.dinitial_state);
  }
}

#define HM_INSTANTIATE(T)                                                            \
  template void ChunkedForward(const ScanGeometry&, const LinearRecurrenceArgs<T>&); \
  template void ChunkedBackward(const ScanGeometry&, const LinearRecurrenceGradArgs<T>&);
HM_INSTANTIATE(double)
HM_INSTANTIATE(float)
HM_INSTANTIATE(Bf16)
HM_INSTANTIATE(Fp16)
#undef HM_INSTANTIATE

}  // namespace hm11::cpu
