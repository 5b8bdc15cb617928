// CRC-64: the published check value, and cutting the bytes changes nothing.
#include "core/crc64.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>

namespace hm11 {
namespace {

TEST(Crc64Test, HasThePublishedCheckValue) {
  EXPECT_EQ(Crc64("123456789"), 0x995dc9bbdf1939fau);
  EXPECT_EQ(Crc64(""), 0u);
}

RC_GTEST_PROP(Crc64Test, GoesOnFromWhatCameBefore, (const std::string& bytes)) {
  const auto cut = *rc::gen::inRange<size_t>(0, bytes.size() + 1);
  RC_ASSERT(Crc64(bytes.substr(cut), Crc64(bytes.substr(0, cut))) == Crc64(bytes));
}

}  // namespace
}  // namespace hm11
