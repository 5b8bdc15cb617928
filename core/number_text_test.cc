// Numbers as people read them: examples, and what any number's text can be read back as.
#include "core/number_text.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <cstdlib>
#include <string>

#include "absl/strings/str_replace.h"

namespace hm11 {
namespace {

TEST(NumberTextTest, ShortNumbers) {
  EXPECT_EQ(ShortNumber(0), "0");
  EXPECT_EQ(ShortNumber(1), "1");
  EXPECT_EQ(ShortNumber(0.04231), "0.0423");
  EXPECT_EQ(ShortNumber(3.456), "3.46");
  EXPECT_EQ(ShortNumber(48.06), "48.1");
  EXPECT_EQ(ShortNumber(123.4), "123");
  EXPECT_EQ(ShortNumber(-1234567), "-1,234,567");
}

RC_GTEST_PROP(NumberTextTest, AShortNumberHasThreeDigitsOrAllBeforeThePoint, ()) {
  const double value =
      *rc::gen::inRange<int>(-999999, 1000000) * std::pow(10.0, *rc::gen::inRange<int>(-8, 3));
  const double read = std::atof(absl::StrReplaceAll(ShortNumber(value), {{",", ""}}).c_str());
  RC_ASSERT(std::abs(read - value) <= std::abs(value) * 0.005 + 5e-10);
}

RC_GTEST_PROP(NumberTextTest, AWholeNumberIsItsDigitsInThrees, (int32_t value)) {
  RC_ASSERT(absl::StrReplaceAll(WholeNumber(value), {{",", ""}}) == std::to_string(value));
}

TEST(NumberTextTest, ScaledNumbers) {
  EXPECT_EQ(ScaledNumber(950), "950");
  EXPECT_EQ(ScaledNumber(12345), "12.3 k");
  EXPECT_EQ(ScaledNumber(-4100000), "-4.1 M");
  EXPECT_EQ(ScaledNumber(2e9), "2 G");
}

TEST(NumberTextTest, ClockTimes) {
  EXPECT_EQ(ClockTime(65), "1:05");
  EXPECT_EQ(ClockTime(600), "10:00");
  EXPECT_EQ(ClockTime(3599), "59:59");
  EXPECT_EQ(ClockTime(3600), "1:00:00");
  EXPECT_EQ(ClockTime(7384.4), "2:03:04");
  EXPECT_EQ(ClockTime(-3), "0:00");
}

}  // namespace
}  // namespace hm11
