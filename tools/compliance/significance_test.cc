// The t-test by tables, on paper and by its symmetries.
#include "tools/compliance/significance.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <vector>

namespace hm11 {
namespace {

TEST(SignificanceTest, TailsAgreeWithTables) {
  // One-sided quantiles of Student's t as printed in tables.
  const struct {
    double degrees, t, p;
  } table[] = {{1, 31.821, 0.01}, {2, 6.965, 0.01}, {4, 3.747, 0.01},  {10, 2.764, 0.01},
               {4, 2.132, 0.05},  {1, 1.0, 0.25},   {30, 1.697, 0.05}, {120, 2.358, 0.01}};
  for (const auto& [degrees, t, p] : table)
    EXPECT_NEAR(StudentTail(t, degrees), p, 2e-4 * (1 + p)) << degrees;
  EXPECT_DOUBLE_EQ(StudentTail(0, 3.7), 0.5);
  EXPECT_NEAR(StudentTail(1.959964, 1e7), 0.025, 1e-6);  // the normal distribution in the limit
}

RC_GTEST_PROP(SignificanceTest, TheBetaFunctionMirrors, ()) {
  const double a = 0.1 * *rc::gen::inRange(1, 300), b = 0.1 * *rc::gen::inRange(1, 300);
  const double x = 0.001 * *rc::gen::inRange(0, 1001);
  RC_ASSERT(std::abs(IncompleteBeta(a, b, x) + IncompleteBeta(b, a, 1 - x) - 1) < 1e-12);
  // With b = 1 it is a power.
  RC_ASSERT(std::abs(IncompleteBeta(a, 1, x) - std::pow(x, a)) < 1e-12);
}

TEST(SignificanceTest, AnExampleOnPaper) {
  // Means 1 and 3, variances of the means 1/3 each: t = 2 / sqrt(2/3), four degrees of freedom.
  const WelchResult result = WelchTest({0, 1, 2}, {2, 3, 4}, 0);
  EXPECT_DOUBLE_EQ(result.difference, 2);
  EXPECT_NEAR(result.t, 2.449490, 1e-6);
  EXPECT_NEAR(result.degrees, 4, 1e-9);
  EXPECT_NEAR(result.p, 0.035242, 1e-6);
  EXPECT_NEAR(WelchTest({0, 1, 2}, {2, 3, 4}, 2).p, 0.5, 1e-12);
  EXPECT_EQ(WelchTest({1, 1}, {2, 2}, 0).p, 0);
  EXPECT_EQ(WelchTest({1, 1}, {2, 2}, 1).p, 1);
}

RC_GTEST_PROP(SignificanceTest, MoreGainIsMoreSignificantAndOrderDoesNotMatter, ()) {
  std::vector<double> a, b;
  for (int i = *rc::gen::inRange(2, 6); i > 0; --i) a.push_back(0.001 * *rc::gen::inRange(0, 1000));
  for (int i = *rc::gen::inRange(2, 6); i > 0; --i) b.push_back(0.001 * *rc::gen::inRange(0, 1000));
  const double p = WelchTest(a, b, 0).p;
  RC_ASSERT(p >= 0 && p <= 1);
  std::vector<double> reversed(a.rbegin(), a.rend()), worse = b;
  for (double& value : worse) value += 0.1;
  RC_ASSERT(std::abs(WelchTest(reversed, b, 0).p - p) < 1e-9);
  RC_ASSERT(WelchTest(a, worse, 0).p <= p + 1e-12);
  RC_ASSERT(std::abs(WelchTest(a, worse, 0.1).p - p) < 1e-6);
}

}  // namespace
}  // namespace hm11
