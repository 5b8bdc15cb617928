// The fast scan on the CPU: every input is read once and every output written once.
//
// Both directions are one recurrence over a carry, carry = gate * carry + value: forward the carry is h_t,
// and backward it is a_t G_t, what step t hands to step t-1. Time-major, vectors run over the channels of a
// step, in blocks that keep the carries in L1. Channel-major, a vector is kLanes steps of one channel: Hillis
// & Steele's scan within the register, then one product and sum with the carry. Pieces of work are (batch
// row, block of channels) and (batch row, channel). Where that is one piece, it is cut in time: each cut is
// first reduced to the one step it amounts to, these are composed, and then each cut is scanned from its true
// beginning.
#include <algorithm>
#include <array>
#include <cstring>

#include "core/parallel.h"
#include "scan/linear_recurrence_cpu.h"

// A build for a CPU without AVX passes vectors of 32 bytes through functions that are all inlined.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace hm11::cpu {
namespace {

constexpr int64_t kBlockChannels = 256;
constexpr int64_t kCuts = 8;
constexpr int64_t kCutElements = int64_t{1} << 15;  // at least, in each cut
constexpr int64_t kPieceElements = int64_t{1} << 14;
constexpr int64_t kTile = 1024;  // steps whose carries backward keeps before it uses them

template <typename A>
struct VectorOf {
  typedef A Type __attribute__((vector_size(32)));
};
template <typename A>
using Vector = typename VectorOf<A>::Type;
template <typename A>
constexpr int64_t kLanes = 32 / static_cast<int64_t>(sizeof(A));

template <typename A>
inline Vector<A> Reverse(Vector<A> v) {
  if constexpr (sizeof(A) == 4) {
    return __builtin_shufflevector(v, v, 7, 6, 5, 4, 3, 2, 1, 0);
  } else {
    return __builtin_shufflevector(v, v, 3, 2, 1, 0);
  }
}

// The lanes moved up by kBy, the first ones taken from `fill`.
template <int kBy, typename A>
inline Vector<A> ShiftUp(Vector<A> v, Vector<A> fill) {
  if constexpr (sizeof(A) == 4) {
    if constexpr (kBy == 1) return __builtin_shufflevector(v, fill, 8, 0, 1, 2, 3, 4, 5, 6);
    if constexpr (kBy == 2) return __builtin_shufflevector(v, fill, 8, 8, 0, 1, 2, 3, 4, 5);
    if constexpr (kBy == 4) return __builtin_shufflevector(v, fill, 8, 8, 8, 8, 0, 1, 2, 3);
  } else {
    if constexpr (kBy == 1) return __builtin_shufflevector(v, fill, 4, 0, 1, 2);
    if constexpr (kBy == 2) return __builtin_shufflevector(v, fill, 4, 4, 0, 1);
  }
}

// kLanes steps that begin at `from` in the order of the scan.
template <bool kDown, typename T>
inline Vector<Accum<T>> LoadSteps(const T* from) {
  using A = Accum<T>;
  const T* const first = kDown ? from - (kLanes<A> - 1) : from;
  Vector<A> v;
  if constexpr (std::is_same_v<T, A>) {
    std::memcpy(&v, first, sizeof(v));
  } else {
    for (int64_t i = 0; i < kLanes<A>; ++i) v[i] = ToAccum(first[i]);
  }
  return kDown ? Reverse<A>(v) : v;
}

template <bool kDown, typename T>
inline void StoreSteps(T* to, Vector<Accum<T>> v) {
  using A = Accum<T>;
  T* const first = kDown ? to - (kLanes<A> - 1) : to;
  if (kDown) v = Reverse<A>(v);
  if constexpr (std::is_same_v<T, A>) {
    std::memcpy(first, &v, sizeof(v));
  } else {
    for (int64_t i = 0; i < kLanes<A>; ++i) first[i] = FromAccumClamped<T>(v[i]);
  }
}

template <int kBy, typename A>
inline void SweepLanes(Vector<A>& gates, Vector<A>& values) {
  const Vector<A> zero = {};
  values = gates * ShiftUp<kBy, A>(values, zero) + values;
  gates = gates * ShiftUp<kBy, A>(gates, zero + 1);
}

// The scan of `count` steps of one channel from `carry`, upwards or downwards in memory from the pointers
// given; returns the last carry. With kTimesGate a step's value is multiplied by its gate first. A null `out`
// drops the states.
template <bool kDown, bool kTimesGate, typename T, typename Out>
Accum<T> ScanRow(const T* gates, const T* values, int64_t count, Accum<T> carry, Out* out) {
  using A = Accum<T>;
  constexpr int64_t kStep = kDown ? -1 : 1;
  int64_t i = 0;
  for (; i + kLanes<A> <= count; i += kLanes<A>) {
    Vector<A> a = LoadSteps<kDown>(gates + kStep * i);
    Vector<A> b = LoadSteps<kDown>(values + kStep * i);
    if (kTimesGate) b = a * b;
    SweepLanes<1, A>(a, b);
    SweepLanes<2, A>(a, b);
    if constexpr (kLanes<A> == 8) SweepLanes<4, A>(a, b);
    const Vector<A> states = a * (Vector<A>{} + carry) + b;
    carry = states[kLanes<A> - 1];
    if (out != nullptr) StoreSteps<kDown>(out + kStep * i, states);
  }
  for (; i < count; ++i) {
    const A gate = ToAccum(gates[kStep * i]);
    const A value = ToAccum(values[kStep * i]);
    carry = gate * carry + (kTimesGate ? gate * value : value);
    if (out != nullptr) out[kStep * i] = FromAccumClamped<Out>(carry);
  }
  return carry;
}

template <typename T>
Accum<T> Product(const T* numbers, int64_t count) {
  std::array<Accum<T>, 8> products;
  products.fill(1);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (int64_t k = 0; k < 8; ++k) products[static_cast<size_t>(k)] *= ToAccum(numbers[i + k]);
  }
  for (; i < count; ++i) products[0] *= ToAccum(numbers[i]);
  Accum<T> product = 1;
  for (Accum<T> factor : products) product *= factor;
  return product;
}

// What all four kinds of piece know: where it lies and how wide it is. Steps are counted in the order of the
// forward scan.
template <typename T, typename Args>
struct Piece {
  const ScanGeometry& geometry;
  const Args& args;
  int64_t b, first, width;

  int64_t At(int64_t step) const { return geometry.At(b, step, first); }
  int64_t row() const { return b * geometry.channels + first; }
};

// One channel, forward. Scan and Reduce work on positions [begin, end) of the order in which this piece's
// carry runs; here that of the steps.
template <typename T>
struct RowForward : Piece<T, LinearRecurrenceArgs<T>> {
  using A = Accum<T>;
  void Reduce(int64_t begin, int64_t end, LinearStep<A>* whole) const {
    const int64_t at = this->At(begin), count = end - begin;
    const T* const gates = this->args.gates.data() + at;
    const T* const values = this->args.values.data() + at;
    whole->gate = Product(this->geometry.reversed ? gates - (count - 1) : gates, count);
    whole->value = Dispatch(gates, values, count, A{0}, static_cast<T*>(nullptr));
  }
  void Scan(int64_t begin, int64_t end, A* carry) const {
    const int64_t at = this->At(begin);
    *carry = Dispatch(this->args.gates.data() + at, this->args.values.data() + at, end - begin, *carry,
                      this->args.states.data() + at);
  }
  A Dispatch(const T* gates, const T* values, int64_t count, A carry, T* out) const {
    return this->geometry.reversed ? ScanRow<true, false>(gates, values, count, carry, out)
                                   : ScanRow<false, false>(gates, values, count, carry, out);
  }
};

// One channel, backward: position p is step L-1-p.
template <typename T>
struct RowBackward : Piece<T, LinearRecurrenceGradArgs<T>> {
  using A = Accum<T>;
  void Reduce(int64_t begin, int64_t end, LinearStep<A>* whole) const {
    const int64_t at = this->At(this->geometry.length - 1 - begin), count = end - begin;
    const T* const gates = this->args.gates.data() + at;
    const T* const dstates = this->args.dstates.data() + at;
    whole->gate = Product(this->geometry.reversed ? gates : gates - (count - 1), count);
    whole->value = Dispatch(gates, dstates, count, A{0}, static_cast<A*>(nullptr));
  }
  void Scan(int64_t begin, int64_t end, A* carry) const {
    for (; begin < end; begin += kTile) ScanTile(begin, std::min(kTile, end - begin), carry);
  }
  void ScanTile(int64_t begin, int64_t count, A* carry) const {
    const int64_t last_step = this->geometry.length - 1 - begin;
    const int64_t at = this->At(last_step), stride = this->geometry.step_stride();
    // carries[i] is what position i hands on; they run through memory as the steps do.
    std::array<A, kTile + 1> memory;
    A* const carries = memory.data() + (stride > 0 ? kTile : 0);
    *carries = *carry;
    *carry = Dispatch(this->args.gates.data() + at, this->args.dstates.data() + at, count, *carry,
                      carries - stride);
    const T* const dstates = this->args.dstates.data() + at;
    const T* const states = this->args.states.data() + at;
    T* const dvalues = this->args.dvalues.data() + at;
    T* const dgates = this->args.dgates.data() + at;
    const int64_t with_step_before = last_step - count + 1 == 0 ? count - 1 : count;
    for (int64_t i = 0; i < with_step_before; ++i) {
      const A gradient = ToAccum(dstates[-stride * i]) + carries[-stride * i];
      dvalues[-stride * i] = FromAccumClamped<T>(gradient);
      dgates[-stride * i] = FromAccumClamped<T>(gradient * ToAccum(states[-stride * (i + 1)]));
    }
    for (int64_t i = with_step_before; i < count; ++i) {
      const A gradient = ToAccum(dstates[-stride * i]) + carries[-stride * i];
      const A before = this->args.initial_state.empty() ? A{0} : this->args.initial_state[this->row()];
      dvalues[-stride * i] = FromAccumClamped<T>(gradient);
      dgates[-stride * i] = FromAccumClamped<T>(gradient * before);
    }
  }
  A Dispatch(const T* gates, const T* dstates, int64_t count, A carry, A* out) const {
    return this->geometry.reversed ? ScanRow<false, true>(gates, dstates, count, carry, out)
                                   : ScanRow<true, true>(gates, dstates, count, carry, out);
  }
};

// A block of channels, forward.
template <typename T>
struct BlockForward : Piece<T, LinearRecurrenceArgs<T>> {
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
  void Scan(int64_t begin, int64_t end, A* __restrict carry) const {
    for (int64_t step = begin; step < end; ++step) {
      const T* const gates = this->args.gates.data() + this->At(step);
      const T* const values = this->args.values.data() + this->At(step);
      T* __restrict const states = this->args.states.data() + this->At(step);
      for (int64_t c = 0; c < this->width; ++c) {
        carry[c] = ToAccum(gates[c]) * carry[c] + ToAccum(values[c]);
        states[c] = FromAccumClamped<T>(carry[c]);
      }
    }
  }
};

// A block of channels, backward: position p is step L-1-p.
template <typename T>
struct BlockBackward : Piece<T, LinearRecurrenceGradArgs<T>> {
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
    for (int64_t p = begin; p < end; ++p) {
      const int64_t step = this->geometry.length - 1 - p;
      if (step > 0) {
        Step(step, carry, this->args.states.data() + this->At(step - 1));
      } else if (!this->args.initial_state.empty()) {
        Step(step, carry, this->args.initial_state.data() + this->row());
      } else {
        const std::array<A, kBlockChannels> zeros = {};
        Step(step, carry, zeros.data());
      }
    }
  }
  template <typename Before>
  void Step(int64_t step, A* __restrict carry, const Before* before) const {
    const int64_t at = this->At(step);
    const T* const gates = this->args.gates.data() + at;
    const T* const dstates = this->args.dstates.data() + at;
    T* __restrict const dgates = this->args.dgates.data() + at;
    T* __restrict const dvalues = this->args.dvalues.data() + at;
    for (int64_t c = 0; c < this->width; ++c) {
      const A gradient = ToAccum(dstates[c]) + carry[c];
      dvalues[c] = FromAccumClamped<T>(gradient);
      dgates[c] = FromAccumClamped<T>(gradient * ToAccum(before[c]));
      carry[c] = ToAccum(gates[c]) * gradient;
    }
  }
};

// Scans a piece in kCuts cuts at once. `carry` is its first carry, and its last one when this returns.
template <typename A, typename P>
void ScanInCuts(const P& piece, A* carry) {
  const int64_t length = piece.geometry.length;
  auto begin_of = [&](int64_t cut) { return cut * length / kCuts; };
  std::array<std::array<LinearStep<A>, kBlockChannels>, kCuts> wholes;
  ParallelFor(kCuts, 1, [&](int64_t first, int64_t last) {
    for (int64_t cut = first; cut < last; ++cut) {
      wholes[static_cast<size_t>(cut)].fill({});
      piece.Reduce(begin_of(cut), begin_of(cut + 1), wholes[static_cast<size_t>(cut)].data());
    }
  });
  std::array<std::array<A, kBlockChannels>, kCuts> carries;
  for (size_t cut = 0; cut < kCuts; ++cut) {
    std::copy_n(carry, piece.width, carries[cut].data());
    for (int64_t c = 0; c < piece.width; ++c) {
      const LinearStep<A>& whole = wholes[cut][static_cast<size_t>(c)];
      carry[c] = whole.gate * carry[c] + whole.value;
    }
  }
  ParallelFor(kCuts, 1, [&](int64_t first, int64_t last) {
    for (int64_t cut = first; cut < last; ++cut) {
      piece.Scan(begin_of(cut), begin_of(cut + 1), carries[static_cast<size_t>(cut)].data());
    }
  });
}

// Runs all pieces of kind P, each of up to `block` channels, from the rows of `initial` (or zeros) to
// `final`.
template <typename P, typename A, typename Args>
void RunPieces(const ScanGeometry& geometry, const Args& args, int64_t block, const Tensor<const A>& initial,
               const Tensor<A>& final) {
  const int64_t blocks = (geometry.channels + block - 1) / block;
  const int64_t pieces = geometry.batch * blocks;
  const int64_t piece_elements = geometry.length * std::min(block, geometry.channels);
  ParallelFor(
      pieces, (kPieceElements + piece_elements - 1) / piece_elements, [&](int64_t begin, int64_t end) {
        for (int64_t index = begin; index < end; ++index) {
          const int64_t first = index % blocks * block;
          const P piece{{geometry, args, index / blocks, first, std::min(block, geometry.channels - first)}};
          std::array<A, kBlockChannels> carry = {};
          if (!initial.empty()) std::copy_n(initial.data() + piece.row(), piece.width, carry.data());
          if (pieces == 1 && piece_elements >= kCuts * kCutElements) {
            ScanInCuts(piece, carry.data());
          } else {
            piece.Scan(0, geometry.length, carry.data());
          }
          if (!final.empty()) std::copy_n(carry.data(), piece.width, final.data() + piece.row());
        }
      });
}

}  // namespace

template <typename T>
void ChunkedForward(const ScanGeometry& geometry, const LinearRecurrenceArgs<T>& args) {
  if (geometry.has_rows()) {
    RunPieces<RowForward<T>, Accum<T>>(geometry, args, 1, args.initial_state, args.final_state);
  } else {
    RunPieces<BlockForward<T>, Accum<T>>(geometry, args, kBlockChannels, args.initial_state,
                                         args.final_state);
  }
}

template <typename T>
void ChunkedBackward(const ScanGeometry& geometry, const LinearRecurrenceGradArgs<T>& args) {
  if (geometry.has_rows()) {
    RunPieces<RowBackward<T>, Accum<T>>(geometry, args, 1, args.dfinal_state, args.dinitial_state);
  } else {
    RunPieces<BlockBackward<T>, Accum<T>>(geometry, args, kBlockChannels, args.dfinal_state,
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
