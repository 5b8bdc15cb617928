// Gradient check: a backward pass against finite differences of the forward pass, in double.
//
//   HostTensor<double> x = ..., dx = <what backward says>;
//   EXPECT_TRUE(GradientsMatch({{"x", &x, dx}, ...}, [&] { return <the scalar, from x>; }));
//
// Each input is moved along a random direction d of its own, the others held: backward's <gradient, d> must
// equal the central difference of fourth order,
//   (8 (f(x + h d) - f(x - h d)) - (f(x + 2h d) - f(x - 2h d))) / (12 h),
// whose error is O(h^4). One direction an input tells a wrong element with probability one, for a random d is
// orthogonal to no fixed error. An input whose derivative is zero both ways proves nothing and is reported
// too.
#ifndef HM11_TESTING_GRADIENT_CHECK_H_
#define HM11_TESTING_GRADIENT_CHECK_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "testing/devices.h"

namespace hm11 {

struct DifferentiableInput {
  std::string name;
  HostTensor<double>* value;    // read by the function; as it was when the check returns
  HostTensor<double> gradient;  // of the function by the value, as backward says
};

struct GradientCheckOptions {
  double step = 1e-3;       // h, for inputs of order 1
  double tolerance = 1e-7;  // of the difference, relative to the gradient's L2 norm
  uint64_t seed = 1;        // of the directions
};

// Failure names every input whose gradient is wrong, or zero.
testing::AssertionResult GradientsMatch(const std::vector<DifferentiableInput>& inputs,
                                        const std::function<double()>& function,
                                        GradientCheckOptions options = {});

// The scalar that checks use: sum of weights * values, so that weights are the gradient of each value.
double Dot(const HostTensor<double>& weights, const HostTensor<double>& values);

}  // namespace hm11

#endif  // HM11_TESTING_GRADIENT_CHECK_H_
