// Welch's test over the incomplete beta function.
#include "tools/compliance/significance.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "core/check.h"

namespace hm11 {
namespace {

// The continued fraction of the incomplete beta function (Abramowitz and Stegun 26.5.8), evaluated from the
// front after Lentz; converges fast for x < (a + 1) / (a + b + 2).
double BetaFraction(double a, double b, double x) {
  constexpr double kTiny = 1e-300;
  const auto kept_from_zero = [](double value) { return std::abs(value) < kTiny ? kTiny : value; };
  double front = 1;
  double back = 1 / kept_from_zero(1 - (a + b) * x / (a + 1));
  double result = back;
  for (int m = 1; m <= 10000; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    double step = 1;
    for (double term : {even, odd}) {
      back = 1 / kept_from_zero(1 + term * back);
      front = kept_from_zero(1 + term / front);
      step = front * back;
      result *= step;
    }
    if (std::abs(step - 1) < 1e-15) break;
  }
  return result;
}

double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

// Estimated variance of the mean.
double MeanVariance(const std::vector<double>& values) {
  const double mean = Mean(values);
  double sum = 0;
  for (double value : values) sum += (value - mean) * (value - mean);
  const auto count = static_cast<double>(values.size());
  return sum / (count - 1) / count;
}

}  // namespace

double IncompleteBeta(double a, double b, double x) {
  HM_CHECK(a > 0 && b > 0 && x >= 0 && x <= 1);
  if (x == 0 || x == 1) return x;
  const double log_front =
      a * std::log(x) + b * std::log1p(-x) + std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b);
  if (x < (a + 1) / (a + b + 2)) return std::exp(log_front) * BetaFraction(a, b, x) / a;
  return 1 - std::exp(log_front) * BetaFraction(b, a, 1 - x) / b;
}

double StudentTail(double t, double degrees) {
  HM_CHECK(degrees > 0);
  if (std::isinf(t)) return t > 0 ? 0 : 1;
  const double both_tails = IncompleteBeta(degrees / 2, 0.5, degrees / (degrees + t * t));
  return t > 0 ? both_tails / 2 : 1 - both_tails / 2;
}

WelchResult WelchTest(const std::vector<double>& better, const std::vector<double>& worse, double least) {
  HM_CHECK_GE(better.size(), size_t{2});
  HM_CHECK_GE(worse.size(), size_t{2});
  WelchResult result;
  result.difference = Mean(worse) - Mean(better);
  const double of_better = MeanVariance(better), of_worse = MeanVariance(worse);
  const double variance = of_better + of_worse;
  const double excess = result.difference - least;
  if (variance <= 0) {
    result.t =
        excess > 0 ? std::numeric_limits<double>::infinity() : -std::numeric_limits<double>::infinity();
    result.degrees = static_cast<double>(better.size() + worse.size() - 2);
    result.p = excess > 0 ? 0 : 1;
    return result;
  }
  result.t = excess / std::sqrt(variance);
  result.degrees = variance * variance /
                   (of_better * of_better / static_cast<double>(better.size() - 1) +
                    of_worse * of_worse / static_cast<double>(worse.size() - 1));
  result.p = StudentTail(result.t, result.degrees);
  return result;
}

}  // namespace hm11
