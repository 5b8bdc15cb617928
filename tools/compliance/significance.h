// Whether one set of scores is better than another by more than chance: Welch's t-test, one-sided.
#ifndef HM11_TOOLS_COMPLIANCE_SIGNIFICANCE_H_
#define HM11_TOOLS_COMPLIANCE_SIGNIFICANCE_H_

#include <vector>

namespace hm11 {

// Regularized incomplete beta function I_x(a, b) for a, b > 0 and x in [0, 1].
double IncompleteBeta(double a, double b, double x);

// P(T > t) of Student's t distribution; the degrees of freedom need not be whole.
double StudentTail(double t, double degrees);

struct WelchResult {
  double difference = 0;  // mean of `worse` - mean of `better`
  double t = 0;
  double degrees = 0;
  double p = 1;  // chance of a difference as great when the true one is at most `least`
};

// Tests against "the mean of `worse` exceeds that of `better` by no more than `least`". Both need two values
// at least. Without any spread the answer is certain: p is 0 or 1. Source: Welch, "The generalization of
// 'Student's' problem when several different population variances are involved", Biometrika 1947; degrees of
// freedom after Satterthwaite 1946.
WelchResult WelchTest(const std::vector<double>& better, const std::vector<double>& worse, double least);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_SIGNIFICANCE_H_
