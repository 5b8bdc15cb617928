// Vectors of the chunked linear recurrence: kLanes numbers of Accum<T>, from and to memory in T.
//
// In an anonymous namespace, for the one file that includes this.
#ifndef HM11_SCAN_LINEAR_RECURRENCE_VECTORS_H_
#define HM11_SCAN_LINEAR_RECURRENCE_VECTORS_H_

#include <immintrin.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/dtype.h"
#include "scan/linear_recurrence.h"

namespace hm11::cpu {
namespace {

#ifdef __AVX__
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif

template <typename A>
struct VectorOf {
  typedef A Type __attribute__((vector_size(kVectorBytes)));
};
template <typename A>
using Vector = typename VectorOf<A>::Type;
template <typename A>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(A));

template <typename T>
inline Vector<Accum<T>> Load(const T* from) {
  using A = Accum<T>;
  Vector<A> v = {};
  if constexpr (std::is_same_v<T, A>) {
    std::memcpy(&v, from, sizeof(v));
  } else {
    for (int64_t i = 0; i < kLanes<A>; ++i) v[i] = ToAccum(from[i]);
  }
  return v;
}

// kNonTemporal stores go past the caches, for results that are too many to be found there again: it saves
// reading the lines that are to be overwritten. `to` must then be aligned to a vector.
template <bool kNonTemporal, typename T>
inline void Store(T* to, Vector<Accum<T>> v) {
  using A = Accum<T>;
  if constexpr (std::is_same_v<T, A>) {
    if constexpr (kNonTemporal) {
#ifdef __AVX__
      __m256i bits;
      std::memcpy(&bits, &v, sizeof(v));
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to), bits);
#else
      __m128i bits;
      std::memcpy(&bits, &v, sizeof(v));
      _mm_stream_si128(reinterpret_cast<__m128i*>(to), bits);
#endif
      return;
    }
    std::memcpy(to, &v, sizeof(v));
  } else {
    for (int64_t i = 0; i < kLanes<A>; ++i) to[i] = FromAccumClamped<T>(v[i]);
  }
}

template <typename A>
inline Vector<A> Reverse(Vector<A> v) {
  if constexpr (kLanes<A> == 8) return __builtin_shufflevector(v, v, 7, 6, 5, 4, 3, 2, 1, 0);
  if constexpr (kLanes<A> == 4) return __builtin_shufflevector(v, v, 3, 2, 1, 0);
  if constexpr (kLanes<A> == 2) return __builtin_shufflevector(v, v, 1, 0);
}

// The lanes moved up by kBy, the first ones taken from `fill`.
template <int kBy, typename A>
inline Vector<A> ShiftUp(Vector<A> v, Vector<A> fill) {
  if constexpr (kLanes<A> == 8) {
    if constexpr (kBy == 1) return __builtin_shufflevector(v, fill, 8, 0, 1, 2, 3, 4, 5, 6);
    if constexpr (kBy == 2) return __builtin_shufflevector(v, fill, 8, 8, 0, 1, 2, 3, 4, 5);
    if constexpr (kBy == 4) return __builtin_shufflevector(v, fill, 8, 8, 8, 8, 0, 1, 2, 3);
  } else if constexpr (kLanes<A> == 4) {
    if constexpr (kBy == 1) return __builtin_shufflevector(v, fill, 4, 0, 1, 2);
    if constexpr (kBy == 2) return __builtin_shufflevector(v, fill, 4, 4, 0, 1);
  } else {
    return __builtin_shufflevector(v, fill, 2, 0);
  }
}

// Every lane composed with all lanes below it.
template <int kBy, typename A>
inline void SweepLanes(Vector<A>& gates, Vector<A>& values) {
  if constexpr (kBy < kLanes<A>) {
    const Vector<A> zero = {};
    values = gates * ShiftUp<kBy, A>(values, zero) + values;
    gates = gates * ShiftUp<kBy, A>(gates, zero + 1);
    SweepLanes<2 * kBy, A>(gates, values);
  }
}

// The scan of `count` steps of one channel from `carry`, upwards or downwards in memory from the pointers
// given; returns the last carry. With kTimesGate a step's value is multiplied by its gate first. A null `out`
// drops the states.
template <bool kDown, bool kTimesGate, bool kNonTemporal, typename T, typename Out>
Accum<T> ScanRow(const T* gates, const T* values, int64_t count, Accum<T> carry, Out* out) {
  using A = Accum<T>;
  constexpr int64_t kStep = kDown ? -1 : 1;
  constexpr int64_t kLowest = kDown ? 1 - kLanes<A> : 0;  // of a vector's steps, in memory
  int64_t i = 0;
  for (; i + kLanes<A> <= count; i += kLanes<A>) {
    Vector<A> a = Load(gates + kStep * i + kLowest);
    Vector<A> b = Load(values + kStep * i + kLowest);
    if (kTimesGate) b = a * b;
    if (kDown) a = Reverse<A>(a);
    if (kDown) b = Reverse<A>(b);
    SweepLanes<1, A>(a, b);
    const Vector<A> states = a * (Vector<A>{} + carry) + b;
    carry = states[kLanes<A> - 1];
    if (out != nullptr) Store<kNonTemporal>(out + kStep * i + kLowest, kDown ? Reverse<A>(states) : states);
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

}  // namespace
}  // namespace hm11::cpu

#endif  // HM11_SCAN_LINEAR_RECURRENCE_VECTORS_H_
