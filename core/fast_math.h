// Exponential, softplus, sigmoid and tanh as branch-free arithmetic: for float, and for vectors of floats.
//
// A loop over floats that calls these is vectorized by the compiler, which it cannot do with std::exp; V may
// also be a vector type, `float __attribute__((vector_size(64)))`, and then all lanes are done at once.
// Relative errors, measured over all floats of the range: FastExp2 1.1e-7, FastExp 9e-8, FastSoftplus
// 2.9e-7, FastSigmoid 1.6e-7, FastTanh 2.5e-7. Results below 2^-126.5 are zero, above 2^127.5 infinite; NaN
// stays NaN. For double they are the standard library's functions.
//
// The argument is split into a whole number of octaves and a rest of at most half an octave, on which a
// minimax polynomial (Remez) of degree 6 is within 3e-9; adding kRound to a float rounds it to a whole number
// and leaves that number, ready as a float's exponent, in the low bits of the sum.
#ifndef HM11_CORE_FAST_MATH_H_
#define HM11_CORE_FAST_MATH_H_

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <type_traits>

namespace hm11 {
namespace fast_math_internal {

template <typename V>
struct BitsOf {
  using Type = decltype(V() < V());  // of a vector: one whole number of the same width a lane
};
template <>
struct BitsOf<float> {
  using Type = int32_t;
};

template <typename V>
inline V Splat(float value) {
  return V{} + value;
}

// The larger and the smaller of both; NaN where x is NaN. For vectors one instruction each, which gcc does
// not find by itself.
template <typename V>
inline V AtLeast(V x, float low) {
  if constexpr (sizeof(V) == 16) return static_cast<V>(_mm_max_ps(Splat<V>(low), x));
  if constexpr (sizeof(V) == 32) return static_cast<V>(_mm256_max_ps(Splat<V>(low), x));
  if constexpr (sizeof(V) == 64) return static_cast<V>(_mm512_mask_max_ps(x, 0xffff, Splat<V>(low), x));
  if constexpr (sizeof(V) == 4) return x < low ? low : x;
}
template <typename V>
inline V AtMost(V x, float high) {
  if constexpr (sizeof(V) == 16) return static_cast<V>(_mm_min_ps(Splat<V>(high), x));
  if constexpr (sizeof(V) == 32) return static_cast<V>(_mm256_min_ps(Splat<V>(high), x));
  if constexpr (sizeof(V) == 64) return static_cast<V>(_mm512_mask_min_ps(x, 0xffff, Splat<V>(high), x));
  if constexpr (sizeof(V) == 4) return x > high ? high : x;
}

inline constexpr float kRound = 12582912.0f + 127.0f;  // 1.5 * 2^23, and the bias of a float's exponent

// 2^n for the n whose rounded sum n + kRound is given; 0 for n = -127.
template <typename V>
inline V PowerOfTwo(V rounded) {
  using Bits = typename BitsOf<V>::Type;
  Bits bits;
  __builtin_memcpy(&bits, &rounded, sizeof(bits));
  bits = bits << 23;
  V power;
  __builtin_memcpy(&power, &bits, sizeof(power));
  return power;
}

// 2^x of a float or of floats, -127 <= x <= 128 or NaN.
template <typename V>
inline V Exp2InRange(V x) {
  const V rounded = x + kRound;
  const V r = x - (rounded - kRound);
  V p = Splat<V>(1.5594678e-4f);
  p = p * r + 1.3406643e-3f;
  p = p * r + 9.6176928e-3f;
  p = p * r + 5.5503104e-2f;
  p = p * r + 2.4022652e-1f;
  p = p * r + 6.9314724e-1f;
  p = p * r + 1.0f;
  return p * PowerOfTwo(rounded);
}

}  // namespace fast_math_internal

// 2^x.
template <typename V>
inline V FastExp2(V x) {
  using namespace fast_math_internal;
  if constexpr (std::is_same_v<V, double>) {
    return std::exp2(x);
  } else {
    return Exp2InRange<V>(AtMost<V>(AtLeast<V>(x, -127.0f), 128.0f));
  }
}

// 2^x of x <= 0, or NaN: the same bits with an instruction less.
template <typename V>
inline V FastExp2OfNegative(V x) {
  using namespace fast_math_internal;
  if constexpr (std::is_same_v<V, double>) {
    return std::exp2(x);
  } else {
    return Exp2InRange<V>(AtLeast<V>(x, -127.0f));
  }
}

// e^x.
template <typename V>
inline V FastExp(V x) {
  using namespace fast_math_internal;
  if constexpr (std::is_same_v<V, double>) {
    return std::exp(x);
  } else {
    x = AtMost<V>(AtLeast<V>(x, -88.0f), 89.0f);
    const V rounded = x * 1.44269504f + kRound;
    const V n = rounded - kRound;
    // ln 2 in two parts, the first short enough for n * 0.693359375 to be exact.
    const V r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    V p = Splat<V>(1.3814599e-3f);
    p = p * r + 8.3687166e-3f;
    p = p * r + 4.1668389e-2f;
    p = p * r + 1.6666521e-1f;
    p = p * r + 4.9999994e-1f;
    p = p * (r * r) + r;
    p = p + 1.0f;
    return p * PowerOfTwo(rounded);
  }
}

// log(1 + e^x), accurate where it is near 0 and where it is near x.
template <typename V>
inline V FastSoftplus(V x) {
  using namespace fast_math_internal;
  if constexpr (std::is_same_v<V, double>) {
    return std::fmax(x, 0.0) + std::log1p(std::exp(-std::fabs(x)));
  } else {
    const V positive = AtLeast<V>(x, 0.0f);
    // log(1 + u) = 2 atanh(u / (2 + u)), by its odd series.
    const V u = FastExp<V>(x < Splat<V>(0.0f) ? x : -x);
    const V s = u / (2.0f + u);
    const V z = s * s;
    V p = Splat<V>(1.4012229e-1f);
    p = p * z + 1.3999571e-1f;
    p = p * z + 2.0010850e-1f;
    p = p * z + 3.3333206e-1f;
    p = p * z + 1.0f;
    return positive + 2.0f * s * p;
  }
}

// 1 / (1 + e^-x).
template <typename V>
inline V FastSigmoid(V x) {
  if constexpr (std::is_same_v<V, double>) {
    return 1.0 / (1.0 + std::exp(-x));
  } else {
    return 1.0f / (1.0f + FastExp<V>(-x));
  }
}

// tanh x = (e^2x - 1) / (e^2x + 1), the difference taken without cancellation.
template <typename V>
inline V FastTanh(V x) {
  using namespace fast_math_internal;
  if constexpr (std::is_same_v<V, double>) {
    return std::tanh(x);
  } else {
    x = AtMost<V>(AtLeast<V>(2.0f * x, -18.0f), 18.0f);
    const V rounded = x * 1.44269504f + kRound;
    const V n = rounded - kRound;
    const V r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    V p = Splat<V>(1.3814599e-3f);
    p = p * r + 8.3687166e-3f;
    p = p * r + 4.1668389e-2f;
    p = p * r + 1.6666521e-1f;
    p = p * r + 4.9999994e-1f;
    p = p * (r * r) + r;
    const V power = PowerOfTwo(rounded);
    const V difference = p * power + (power - 1.0f);
    return difference / (difference + 2.0f);
  }
}

}  // namespace hm11

#endif  // HM11_CORE_FAST_MATH_H_
