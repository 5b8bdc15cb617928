// exp, sigmoid and tanh for the CPU as straight lines of arithmetic, which compilers turn into vector code.
//
// float: within 3 units in the last place; exp's argument is clamped to [-87, 88], so nothing overflows. NaN stays
// NaN. double: the C library's.
#ifndef HM11_OPS_VECTOR_MATH_H_
#define HM11_OPS_VECTOR_MATH_H_

#include <bit>
#include <cmath>
#include <cstdint>

namespace hm11 {

namespace vector_math_internal {

// x = n ln 2 + r with |r| <= ln 2 / 2. power: 2^n. exp_minus_1: exp(r) - 1, by its Taylor series to r^7.
struct Reduced {
  float power;
  float exp_minus_1;
};

inline Reduced Reduce(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits.
  constexpr float kRound = 12582912.0f;
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts, the first exact in 10 bits
  const uint32_t bits = (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound) + 127u) << 23;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  return {std::bit_cast<float>(bits), p * r * r + r};
}

}  // namespace vector_math_internal

inline float Exp(float x) {
  const auto [power, exp_minus_1] = vector_math_internal::Reduce(x);
  return power * exp_minus_1 + power;
}
inline double Exp(double x) { return std::exp(x); }

inline float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }
inline double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// (exp(2x) - 1) / (exp(2x) + 1), the difference without cancellation; 2x beyond 18 is as good as infinite.
inline float Tanh(float x) {
  float twice = 2 * x;
  twice = twice < -18.0f ? -18.0f : twice;
  twice = twice > 18.0f ? 18.0f : twice;
  const auto [power, exp_minus_1] = vector_math_internal::Reduce(twice);
  const float difference = power * exp_minus_1 + (power - 1);
  return difference / (difference + 2);
}
inline double Tanh(double x) { return std::tanh(x); }

}  // namespace hm11

#endif  // HM11_OPS_VECTOR_MATH_H_
