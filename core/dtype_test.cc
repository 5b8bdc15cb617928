// Bf16 and Fp16 against the compiler's own 16-bit conversions and, over all 2^16 values, against themselves.
#include "core/dtype.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/parallel.h"

namespace hm11 {
namespace {

// Rounds by hand: of the two bfloat16 neighbours the nearer one, of two equally near the even one.
uint16_t NearestBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t down = static_cast<uint16_t>(bits >> 16);
  const uint32_t rest = bits & 0xffffu;
  const bool up = rest > 0x8000u || (rest == 0x8000u && (down & 1u));
  return static_cast<uint16_t>(down + up);
}

TEST(DtypeTest, Fp16WidensLikeTheCompilerForAllBits) {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    Fp16 half;
    half.bits = static_cast<uint16_t>(bits);
    const float ours = static_cast<float>(half);
    const float theirs = static_cast<float>(std::bit_cast<_Float16>(half.bits));
    if (std::isnan(theirs)) {
      ASSERT_TRUE(std::isnan(ours)) << bits;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(ours), std::bit_cast<uint32_t>(theirs)) << bits;
      ASSERT_EQ(Fp16(ours).bits, bits);
    }
  }
}

TEST(DtypeTest, Bf16WidensExactlyAndComesBackForAllBits) {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    Bf16 half;
    half.bits = static_cast<uint16_t>(bits);
    const float value = static_cast<float>(half);
    ASSERT_EQ(std::bit_cast<uint32_t>(value), bits << 16);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(static_cast<float>(Bf16(value))));
    } else {
      ASSERT_EQ(Bf16(value).bits, bits);
    }
  }
}

// One in 61 of all floats, in every part of the range.
TEST(DtypeTest, FloatsRoundToTheNearestEven) {
  ParallelFor((int64_t{1} << 32) / 61, 1 << 20, [](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float value = std::bit_cast<float>(static_cast<uint32_t>(i * 61));
      if (std::isnan(value)) {
        if (!std::isnan(static_cast<float>(Bf16(value))) || !std::isnan(static_cast<float>(Fp16(value)))) {
          ADD_FAILURE() << "NaN became a number";
        }
        continue;
      }
      const uint16_t theirs = std::bit_cast<uint16_t>(static_cast<_Float16>(value));
      if (Fp16(value).bits != theirs) ADD_FAILURE() << "Fp16 of " << value;
      if (Bf16(value).bits != NearestBf16(value)) ADD_FAILURE() << "Bf16 of " << value;
    }
  });
}

TEST(DtypeTest, TiesGoToTheEvenNeighbour) {
  EXPECT_EQ(static_cast<float>(Bf16(1.00390625f)), 1.0f);       // 1 + 2^-8, halfway to 1 + 2^-7
  EXPECT_EQ(static_cast<float>(Bf16(1.01171875f)), 1.015625f);  // 1 + 3 * 2^-8
  EXPECT_EQ(static_cast<float>(Fp16(65519.0f)), 65504.0f);
  EXPECT_TRUE(std::isinf(static_cast<float>(Fp16(65520.0f))));
  EXPECT_EQ(static_cast<float>(Fp16(0x1p-25f)), 0.0f);
  EXPECT_EQ(static_cast<float>(Fp16(0x1.8p-24f)), 0x1p-23f);
  EXPECT_TRUE(std::isinf(static_cast<float>(Bf16(std::numeric_limits<float>::max()))));
}

RC_GTEST_PROP(DtypeProperty, ErrorIsWithinHalfAUnitInTheLastPlace, ()) {
  const float value = static_cast<float>(*rc::gen::inRange(-1'000'000'000, 1'000'000'000)) * 1e-5f;
  RC_ASSERT(std::abs(static_cast<float>(Bf16(value)) - value) <= std::abs(value) * 0x1p-8f);
  RC_ASSERT(std::abs(static_cast<float>(Fp16(value)) - value) <= std::abs(value) * 0x1p-11f + 0x1p-25f);
}

}  // namespace
}  // namespace hm11
