// Configurations as text: what is printed parses back to the same bits, and what is wrong is named.
#include "core/fields.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "testing/matchers.h"

namespace hm11 {
namespace {

struct Sample {
  bool flag = false;
  int64_t count = 3;
  double rate = 0.1;
  std::string name = "x";
  template <typename Self, typename F>
  static void ForEachField(Self& self, F&& f) {
    f("flag", self.flag);
    f("count", self.count);
    f("rate", self.rate);
    f("name", self.name);
  }
};

TEST(FieldsTest, PrintsOneLineAField) {
  EXPECT_EQ(FormatFields(Sample()), "flag=false\ncount=3\nrate=0.1\nname=x\n");
}

RC_GTEST_PROP(FieldsProperty, WhatIsPrintedParsesBackToTheSameBits, ()) {
  Sample sample;
  sample.flag = *rc::gen::arbitrary<bool>();
  sample.count = *rc::gen::arbitrary<int64_t>();
  sample.rate = std::bit_cast<double>(*rc::gen::arbitrary<uint64_t>());
  RC_PRE(!std::isnan(sample.rate));
  sample.name = *rc::gen::container<std::string>(rc::gen::inRange('!', '~'));
  Sample back;
  RC_ASSERT(ParseFields(FormatFields(sample), &back).ok());
  RC_ASSERT(back.flag == sample.flag);
  RC_ASSERT(back.count == sample.count);
  RC_ASSERT(std::bit_cast<uint64_t>(back.rate) == std::bit_cast<uint64_t>(sample.rate));
  RC_ASSERT(back.name == sample.name);
}

TEST(FieldsTest, BlankLinesAndRemarksArePassedOverAndOtherFieldsKept) {
  Sample sample;
  EXPECT_THAT(ParseFields("\n# remark\n  count = 9 \nname=a=b\n", &sample), IsOk());
  EXPECT_EQ(sample.count, 9);
  EXPECT_EQ(sample.name, "a=b");
  EXPECT_EQ(sample.rate, 0.1);
}

TEST(FieldsTest, OfManyTheNearestNamesAreTold) {
  const std::vector<std::string> names = {"vocab", "muon_lr", "embedding_lr", "control_lr",
                                          "state", "dim",     "muon_momentum"};
  const absl::Status status = UnknownField("muon_rl", names);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound, "unknown setting 'muon_rl'; nearest: muon_lr "));
  EXPECT_THAT(status.message(), testing::Not(testing::HasSubstr("muon_momentum")));
  EXPECT_THAT(UnknownField("embeding_lr", names),
              StatusIs(absl::StatusCode::kNotFound, "nearest: embedding_lr "));
}

TEST(FieldsTest, ErrorsNameTheKeyAndTheValue) {
  Sample sample;
  EXPECT_THAT(SetField(&sample, "cuont", "1"), StatusIs(absl::StatusCode::kNotFound, "'cuont'"));
  EXPECT_THAT(SetField(&sample, "cuont", "1"), StatusIs(absl::StatusCode::kNotFound, "flag count rate name"));
  EXPECT_THAT(SetField(&sample, "count", "1.5"),
              StatusIs(absl::StatusCode::kInvalidArgument, "'count': '1.5' is not a whole number"));
  EXPECT_THAT(SetField(&sample, "rate", "fast"),
              StatusIs(absl::StatusCode::kInvalidArgument, "'fast' is not a number"));
  EXPECT_THAT(SetField(&sample, "flag", "perhaps"),
              StatusIs(absl::StatusCode::kInvalidArgument, "'perhaps' is not true or false"));
  EXPECT_THAT(ParseFields("count", &sample), StatusIs(absl::StatusCode::kInvalidArgument, "key=value"));
  EXPECT_EQ(sample.count, 3);
}

}  // namespace
}  // namespace hm11
