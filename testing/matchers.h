// GoogleMock matchers: IsOk, IsOkAndHolds, StatusIs for absl::Status and StatusOr; IsNear for tensors
// (relative L2).
#ifndef HM11_TESTING_MATCHERS_H_
#define HM11_TESTING_MATCHERS_H_

#include <gmock/gmock.h>

#include <cmath>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "testing/devices.h"

namespace hm11 {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename V>
const absl::Status& StatusOf(const absl::StatusOr<V>& status_or) {
  return status_or.status();
}

MATCHER(IsOk, negation ? "is an error" : "is OK") {
  *result_listener << "status " << StatusOf(arg).ToString();
  return arg.ok();
}

MATCHER_P(IsOkAndHolds, value, "is OK and holds what was expected") {
  if (!arg.ok()) {
    *result_listener << "status " << arg.status().ToString();
    return false;
  }
  using Held = std::decay_t<decltype(*arg)>;
  return testing::ExplainMatchResult(testing::SafeMatcherCast<const Held&>(value), *arg, result_listener);
}

// The code, and a part of the message, such as the name of the file at fault.
MATCHER_P2(StatusIs, code, substring,
           absl::StrCat("is ", absl::StatusCodeToString(code), " with \"", substring, "\"")) {
  const absl::Status& status = StatusOf(arg);
  *result_listener << "status " << status.ToString();
  return status.code() == code && absl::StrContains(status.message(), substring);
}

// |a - b| / |b| over all elements; |a| where b is zero; NaN when either holds one.
template <typename A, typename B>
double RelativeL2(const HostTensor<A>& a, const HostTensor<B>& b) {
  HM_CHECK_EQ(a.shape, b.shape);
  double difference = 0;
  double norm = 0;
  for (int64_t i = 0; i < a.size(); ++i) {
    const double x = devices_internal::ConvertNumber<double>(a[i]);
    const double y = devices_internal::ConvertNumber<double>(b[i]);
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

// A HostTensor of any type whose relative L2 distance from `expected` is at most `tolerance`; shapes must
// agree.
MATCHER_P2(IsNear, expected, tolerance,
           absl::StrCat(negation ? "is not" : "is", " within ", tolerance,
                        " (relative L2) of the tensor given")) {
  if (!(arg.shape == expected.shape)) {
    *result_listener << "shape " << arg.shape << ", expected " << expected.shape;
    return false;
  }
  const double distance = RelativeL2(arg, expected);
  *result_listener << "relative L2 distance " << distance;
  return distance <= tolerance;  // false for NaN
}

}  // namespace hm11

#endif  // HM11_TESTING_MATCHERS_H_
