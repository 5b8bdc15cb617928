// The gradient check itself: right gradients pass; each kind of wrong one is reported by name.
#include "testing/gradient_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>

#include "testing/devices.h"
#include "testing/generators.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

using testing::HasSubstr;
using testing::Not;

// f(x, w) = sum of sin(x_i) w_i^2, with gradients cos(x_i) w_i^2 and 2 sin(x_i) w_i.
class GradientCheckTest : public testing::Test {
 protected:
  double Value() const {
    double sum = 0;
    for (int64_t i = 0; i < x_.size(); ++i) sum += std::sin(x_[i]) * w_[i] * w_[i];
    return sum;
  }
  testing::AssertionResult Check() {
    return GradientsMatch({{"x", &x_, dx_}, {"w", &w_, dw_}}, [this] { return Value(); });
  }
  void SetUp() override {
    for (int64_t i = 0; i < x_.size(); ++i) {
      dx_[i] = std::cos(x_[i]) * w_[i] * w_[i];
      dw_[i] = 2 * std::sin(x_[i]) * w_[i];
    }
  }

  HostTensor<double> x_ = RandomHostTensor<double>({7, 5}, 1);
  HostTensor<double> w_ = RandomHostTensor<double>({7, 5}, 2);
  HostTensor<double> dx_ = ZeroHostTensor<double>({7, 5});
  HostTensor<double> dw_ = ZeroHostTensor<double>({7, 5});
};

TEST_F(GradientCheckTest, PassesTheRightGradients) {
  const HostTensor<double> before = x_;
  EXPECT_TRUE(Check());
  EXPECT_EQ(x_.values, before.values);
}

TEST_F(GradientCheckTest, ReportsAWrongSign) {
  for (double& value : dw_.values) value = -value;
  const testing::AssertionResult result = Check();
  EXPECT_FALSE(result);
  EXPECT_THAT(result.message(), HasSubstr("w: derivative"));
  EXPECT_THAT(result.message(), Not(HasSubstr("x: derivative")));
}

TEST_F(GradientCheckTest, ReportsAZeroGradient) {
  dx_ = ZeroHostTensor<double>(dx_.shape);
  EXPECT_FALSE(Check());
}

TEST_F(GradientCheckTest, ReportsAMissingTerm) {
  dx_[17] = 0;
  EXPECT_FALSE(Check());
}

TEST_F(GradientCheckTest, ReportsASmallRelativeError) {
  for (double& value : dx_.values) value *= 1 + 1e-5;
  EXPECT_FALSE(Check());
}

TEST_F(GradientCheckTest, ReportsADerivativeThatIsIdenticallyZero) {
  w_ = ZeroHostTensor<double>(w_.shape);
  SetUp();
  const testing::AssertionResult result = Check();
  EXPECT_FALSE(result);
  EXPECT_THAT(result.message(), HasSubstr("nothing was checked"));
}

TEST_F(GradientCheckTest, ReportsNan) {
  dx_[0] = std::nan("");
  EXPECT_FALSE(Check());
}

TEST_F(GradientCheckTest, ReportsAWrongShape) {
  dx_ = ZeroHostTensor<double>({35});
  EXPECT_THAT(Check().message(), HasSubstr("shape"));
}

TEST_F(GradientCheckTest, ReportsAnEmptyList) {
  EXPECT_FALSE(GradientsMatch({}, [] { return 1.0; }));
}

RC_GTEST_PROP(GradientCheckProperties, AnyOneWrongElementIsReported, ()) {
  HostTensor<double> x = RandomHostTensor<double>({*SizeAroundTile(32)}, *rc::gen::arbitrary<uint64_t>());
  HostTensor<double> dx = x;
  for (double& value : dx.values) value = 3 * value * value;
  const auto cubes = [&] {
    double sum = 0;
    for (double value : x.values) sum += value * value * value;
    return sum;
  };
  RC_ASSERT(GradientsMatch({{"x", &x, dx}}, cubes));
  dx[*rc::gen::inRange<int64_t>(0, dx.size())] += 0.1;
  RC_ASSERT_FALSE(GradientsMatch({{"x", &x, dx}}, cubes));
}

}  // namespace
}  // namespace hm11
