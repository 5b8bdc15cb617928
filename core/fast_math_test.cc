// Fast exponentials against the standard library's in double, over the floats of their range.
#include "core/fast_math.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace hm11 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// The largest relative error over every 1009th float of [low, high] whose value is a normal float.
template <typename Fast, typename Exact>
double WorstError(float low, float high, Fast fast, Exact exact) {
  double worst = 0;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 1009) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (!(x >= low && x <= high)) continue;
    const double expected = exact(static_cast<double>(x));
    if (expected < 1.2e-38 || expected > 3.4e38) continue;
    worst = std::fmax(worst, std::fabs(static_cast<double>(fast(x)) - expected) / expected);
  }
  return worst;
}

double ExactSoftplus(double x) { return std::fmax(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); }
double ExactSigmoid(double x) { return 1 / (1 + std::exp(-x)); }

TEST(FastMathTest, ErrorsAreWithinTheHeadersBounds) {
  EXPECT_LT(WorstError(-126, 127, FastExp2<float>, [](double x) { return std::exp2(x); }), 1.1e-7);
  EXPECT_LT(WorstError(-87.3f, 88.3f, FastExp<float>, [](double x) { return std::exp(x); }), 9e-8);
  EXPECT_LT(WorstError(-87, 1e30f, FastSoftplus<float>, ExactSoftplus), 2.9e-7);
  EXPECT_LT(WorstError(-87, 1e30f, FastSigmoid<float>, ExactSigmoid), 1.6e-7);
  EXPECT_LT(WorstError(1e-37f, 1e30f, FastTanh<float>, [](double x) { return std::tanh(x); }), 2.5e-7);
}

TEST(FastMathTest, ExtremesAreZeroOneAndInfinity) {
  for (float low : {-kInfinity, -1e30f, -200.0f}) {
    EXPECT_EQ(FastExp2(low), 0);
    EXPECT_EQ(FastExp(low), 0);
    EXPECT_EQ(FastSoftplus(low), 0);
    EXPECT_EQ(FastSigmoid(low), 0);
    EXPECT_EQ(FastTanh(low), -1);
  }
  for (float high : {200.0f, 1e30f, kInfinity}) {
    EXPECT_EQ(FastExp2(high), kInfinity);
    EXPECT_EQ(FastExp(high), kInfinity);
    EXPECT_EQ(FastSoftplus(high), high);
    EXPECT_EQ(FastSigmoid(high), 1);
    EXPECT_EQ(FastTanh(high), 1);
  }
  EXPECT_EQ(FastExp2(0.0f), 1);
  EXPECT_EQ(FastExp(0.0f), 1);
}

TEST(FastMathTest, TheExponentialOfNegativeNumbersHasTheSameBits) {
  for (uint64_t bits = 0x80000000u; bits < (uint64_t{1} << 32); bits += 1009) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (std::isnan(x)) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(FastExp2OfNegative(x)), std::bit_cast<uint32_t>(FastExp2(x))) << x;
  }
}

TEST(FastMathTest, NanStaysNan) {
  EXPECT_TRUE(std::isnan(FastExp2OfNegative(kNan)));
  EXPECT_TRUE(std::isnan(FastExp2(kNan)));
  EXPECT_TRUE(std::isnan(FastExp(kNan)));
  EXPECT_TRUE(std::isnan(FastSoftplus(kNan)));
  EXPECT_TRUE(std::isnan(FastSigmoid(kNan)));
  EXPECT_TRUE(std::isnan(FastTanh(kNan)));
}

template <typename V>
void ExpectLanesAreTheScalarFunctions() {
  constexpr int kLanes = sizeof(V) / sizeof(float);
  for (float x = -100; x < 100; x += 0.37f) {
    V v = {x, -x, x / 3, kNan};
    for (int lane = 4; lane < kLanes; ++lane) v[lane] = x + static_cast<float>(lane);
    const V exp2 = FastExp2(v), exp = FastExp(v), softplus = FastSoftplus(v), sigmoid = FastSigmoid(v),
            tanh = FastTanh(v);
    for (int lane = 0; lane < kLanes; ++lane) {
      if (lane == 3) continue;
      EXPECT_FLOAT_EQ(exp2[lane], FastExp2<float>(v[lane]));
      EXPECT_FLOAT_EQ(exp[lane], FastExp<float>(v[lane]));
      EXPECT_FLOAT_EQ(softplus[lane], FastSoftplus<float>(v[lane]));
      EXPECT_FLOAT_EQ(sigmoid[lane], FastSigmoid<float>(v[lane]));
      EXPECT_FLOAT_EQ(tanh[lane], FastTanh<float>(v[lane]));
    }
    for (float nan : {exp2[3], exp[3], softplus[3], sigmoid[3], tanh[3]}) EXPECT_TRUE(std::isnan(nan));
  }
}

TEST(FastMathTest, EachLaneOfAVectorIsTheScalarFunction) {
  ExpectLanesAreTheScalarFunctions<float __attribute__((vector_size(16)))>();
#ifdef __AVX__
  ExpectLanesAreTheScalarFunctions<float __attribute__((vector_size(32)))>();
#endif
}

TEST(FastMathTest, DoublesAreTheStandardLibrarys) {
  EXPECT_EQ(FastExp2(0.3), std::exp2(0.3));
  EXPECT_EQ(FastExp(-700.0), std::exp(-700.0));
  EXPECT_EQ(FastSoftplus(-30.0), ExactSoftplus(-30.0));
  EXPECT_EQ(FastSigmoid(1.5), 1 / (1 + std::exp(-1.5)));
}

}  // namespace
}  // namespace hm11
