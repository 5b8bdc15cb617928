// Directional derivatives by central differences of fourth order.
#include "testing/gradient_check.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/random.h"

namespace hm11 {
namespace {

// What is wrong with one input's gradient; empty when nothing is.
std::string Complaint(const DifferentiableInput& input, const std::function<double()>& function,
                      double value_now, const GradientCheckOptions& options) {
  if (!(input.gradient.shape == input.value->shape)) return "its gradient has another shape";
  const std::vector<double> saved = input.value->values;
  const uint64_t stream = StreamOf(input.name);
  std::vector<double> direction(saved.size());
  for (size_t i = 0; i < saved.size(); ++i) direction[i] = RandomNormal(options.seed, stream, i);

  const auto at = [&](double steps) {
    for (size_t i = 0; i < saved.size(); ++i) {
      input.value->values[i] = saved[i] + steps * options.step * direction[i];
    }
    return function();
  };
  const double near = at(1) - at(-1);
  const double far = at(2) - at(-2);
  input.value->values = saved;
  const double by_difference = (8 * near - far) / (12 * options.step);

  double by_backward = 0;
  double squares = 0;
  for (size_t i = 0; i < saved.size(); ++i) {
    by_backward += input.gradient.values[i] * direction[i];
    squares += input.gradient.values[i] * input.gradient.values[i];
  }
  const double scale = std::max(std::sqrt(squares), std::abs(by_difference));
  const double noise = 1e-11 * (1 + std::abs(value_now));
  if (!(std::isfinite(by_difference) && std::isfinite(squares))) {
    return absl::StrCat("not finite: ", by_difference, " by difference, ", by_backward, " by backward");
  }
  if (scale <= noise) return "its derivative is zero, so nothing was checked";
  if (std::abs(by_difference - by_backward) <= options.tolerance * scale + noise) return "";
  return absl::StrCat("derivative ", by_difference, " by difference, ", by_backward, " by backward (norm ",
                      std::sqrt(squares), ")");
}

}  // namespace

testing::AssertionResult GradientsMatch(const std::vector<DifferentiableInput>& inputs,
                                        const std::function<double()>& function,
                                        GradientCheckOptions options) {
  const double value_now = function();
  testing::AssertionResult failure = testing::AssertionFailure();
  bool failed = inputs.empty();
  if (failed) failure << "no inputs were given";
  for (const DifferentiableInput& input : inputs) {
    const std::string complaint = Complaint(input, function, value_now, options);
    if (complaint.empty()) continue;
    failure << input.name << ": " << complaint << "\n";
    failed = true;
  }
  return failed ? failure : testing::AssertionSuccess();
}

double Dot(const HostTensor<double>& weights, const HostTensor<double>& values) {
  HM_CHECK_EQ(weights.size(), values.size());
  double sum = 0;
  for (int64_t i = 0; i < weights.size(); ++i) sum += weights[i] * values[i];
  return sum;
}

}  // namespace hm11
