// Step plans: errors cost the loss the same everywhere, and what is asked of the mean holds; rounding that
// weighs error against bits.
#include "quant/step_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/random.h"
#include "quant/rate_costs.h"
#include "testing/generators.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

// Matrices with rows, gradients and column weights of very different sizes.
struct Uses {
  std::vector<std::vector<float>> values, deviations, weights;
  std::vector<std::vector<double>> gradients;
  std::vector<MatrixUse> uses;
};

Uses SomeUses(int64_t count, uint64_t seed) {
  Uses some;
  const size_t n = static_cast<size_t>(count);
  some.values.resize(n);
  some.deviations.resize(n);
  some.weights.resize(n);
  some.gradients.resize(n);
  for (size_t i = 0; i < n; ++i) {
    const auto log_normal = [&](uint64_t stream, int64_t j, double spread) {
      return std::exp(spread * RandomNormal(seed + i, stream, static_cast<uint64_t>(j)));
    };
    const int64_t rows = 5 + 3 * static_cast<int64_t>(i), cols = 40;
    for (int64_t j = 0; j < rows * cols; ++j) {
      const double row = log_normal(1, j / cols, 1);
      some.values[i].push_back(static_cast<float>(row * RandomNormal(seed + i, 2, static_cast<uint64_t>(j))));
    }
    for (int64_t r = 0; r < rows; ++r) some.gradients[i].push_back(log_normal(3, r, 1.5));
    for (int64_t c = 0; c < cols; ++c) some.weights[i].push_back(static_cast<float>(log_normal(4, c, 1)));
    const MatrixView view = {some.values[i].data(), rows, cols};
    some.deviations[i] = RowDeviations(view);
    some.uses.push_back({.matrix = view,
                         .deviations = &some.deviations[i],
                         .gradients = &some.gradients[i],
                         .trace = log_normal(5, 0, 2),
                         .weights = i % 3 == 2 ? nullptr : &some.weights[i]});
  }
  return some;
}

RC_GTEST_PROP(StepPlanTest, AStepsErrorCostsTheSameEverywhere, ()) {
  const Uses some = SomeUses(*rc::gen::inRange<int64_t>(1, 5), *Seed());
  QuantConfig config;
  config.sensitivity = config.row_sensitivity = config.column_steps = 1;
  const std::vector<MatrixSteps> plan = PlanSteps(some.uses, config, 0.4);
  double least = 1e30, most = -1e30;
  for (size_t i = 0; i < plan.size(); ++i) {
    const MatrixUse& use = some.uses[i];
    double mean = 0;  // of which a part is added to each row's
    for (const double g : *use.gradients) mean += g / static_cast<double>(use.matrix.rows);
    for (int64_t r = 0; r < use.matrix.rows; ++r) {
      const double gradient = std::log2(((*use.gradients)[r] + 0.02 * mean) / use.trace);
      for (int64_t c = 0; c < use.matrix.cols; ++c) {
        const double column =
            use.weights ? plan[i].column_exponents[c] / 4.0 + std::log2((*use.weights)[c]) : 0;
        const double cost = 0.5 * gradient + plan[i].octaves[r] + column;
        least = std::min(least, cost);
        most = std::max(most, cost);
      }
    }
  }
  // Rows and columns are each taken to a quarter octave.
  RC_ASSERT(most - least < 0.55);
}

RC_GTEST_PROP(StepPlanTest, TheMeanStepIsTheOneAskedFor, ()) {
  const Uses some = SomeUses(*rc::gen::inRange<int64_t>(1, 5), *Seed());
  QuantConfig config;
  config.sensitivity = *rc::gen::inRange(0, 11) / 10.0;
  config.row_sensitivity = *rc::gen::inRange(0, 11) / 10.0;
  config.column_steps = *rc::gen::inRange(0, 11) / 10.0;
  const std::vector<MatrixSteps> plan = PlanSteps(some.uses, config, 0.3);
  double sum = 0, count = 0;
  for (size_t i = 0; i < plan.size(); ++i) {
    for (int64_t r = 0; r < some.uses[i].matrix.rows; ++r) {
      sum += plan[i].octaves[r] - std::log2(some.deviations[i][r]);
      ++count;
    }
  }
  RC_ASSERT(std::fabs(sum / count - std::log2(0.3)) < 0.25);
}

RC_GTEST_PROP(StepPlanTest, WithoutSensitivityToRowsAMatrixHasOneStep, ()) {
  const Uses some = SomeUses(*rc::gen::inRange<int64_t>(1, 5), *Seed());
  QuantConfig config;
  config.sensitivity = 1;
  config.row_sensitivity = 0;
  for (const MatrixSteps& steps : PlanSteps(some.uses, config, 0.4)) {
    // A quarter octave apart where the last bits decide how one is rounded.
    for (const double octave : steps.octaves) RC_ASSERT(std::fabs(octave - steps.octaves.front()) < 0.26);
  }
}

RC_GTEST_PROP(StepPlanTest, CoarserStepsTakeFewerBits, ()) {
  const Uses some = SomeUses(1, *Seed());
  const std::vector<MatrixSteps> plan = PlanSteps(some.uses, QuantConfig(), 0.4);
  double before = 1e30;
  for (const double multiplier : {0.25, 0.7, 1.0, 3.0, 10.0, 30.0}) {
    const double bits = PlannedBits(plan[0], multiplier);
    RC_ASSERT(bits >= 0 && bits < before);
    before = bits;
  }
}

// Bits of round(deviation * z), z normal: the density added up over each code's interval.
double EntropyOfRoundedNormal(double deviation) {
  constexpr int kPoints = 400;
  double bits = 0;
  for (int code = -127; code <= 127; ++code) {
    double p = 0;
    for (int i = 0; i < kPoints; ++i) {
      const double x = (code - 0.5 + (i + 0.5) / kPoints) / deviation;
      p += std::exp(-0.5 * x * x) / (std::sqrt(2 * 3.14159265358979) * deviation * kPoints);
    }
    if (p > 1e-300) bits -= p * std::log2(p);
  }
  return bits;
}

TEST(StepPlanTest, PlannedBitsAreTheEntropyOfRoundedNormalNumbers) {
  MatrixSteps steps;
  steps.histogram.assign(MatrixSteps::kBins, 0.0);
  steps.histogram[8 * MatrixSteps::kOffset] = 1000;  // numbers whose deviation is a step
  for (const double multiplier : {0.1, 0.5, 1.0, 2.0, 4.0}) {
    EXPECT_NEAR(PlannedBits(steps, multiplier), 1000 * EntropyOfRoundedNormal(1 / multiplier), 1)
        << multiplier;
  }
}

RC_GTEST_PROP(StepPlanTest, EveryNumberButThoseOfEmptyRowsIsPlannedFor, ()) {
  Uses some = SomeUses(1, *Seed());
  const MatrixView& matrix = some.uses[0].matrix;
  const int64_t empty = *rc::gen::inRange<int64_t>(-1, matrix.rows);
  if (empty >= 0) {
    std::fill_n(some.values[0].begin() + empty * matrix.cols, matrix.cols, 0.0f);
    some.deviations[0][static_cast<size_t>(empty)] = 0;
  }
  const auto steps = PlanSteps(some.uses, QuantConfig(), 0.4);  // must outlive the loop over a part of it
  double planned = 0;
  for (const double count : steps[0].histogram) planned += count;
  RC_ASSERT(planned == static_cast<double>((matrix.rows - (empty >= 0 ? 1 : 0)) * matrix.cols));
}

RC_GTEST_PROP(StepPlanTest, NoCodeOverflows, ()) {
  const Uses some = SomeUses(1, *Seed());
  const MatrixView& matrix = some.uses[0].matrix;
  const std::vector<Fp16> scales = DeviationScales(some.deviations[0], 0.4);
  std::vector<int8_t> exponents;
  for (int64_t c = 0; c < matrix.cols; ++c)
    exponents.push_back(static_cast<int8_t>(*rc::gen::inRange(-40, 41)));
  const std::vector<int8_t> raised = WithoutOverflow(matrix, scales, exponents);
  for (int64_t c = 0; c < matrix.cols; ++c) {
    float largest = 0;
    for (int64_t r = 0; r < matrix.rows; ++r) {
      const float step = static_cast<float>(scales[r]);
      largest = std::max(largest, std::fabs(matrix.values[r * matrix.cols + c]) / step);
    }
    RC_ASSERT(raised[c] >= exponents[c]);
    RC_ASSERT(largest <= 126.01f * ColumnScale(raised[c]));
    RC_ASSERT(raised[c] == exponents[c] || largest > 126 * ColumnScale(raised[c] - 1));
  }
}

TEST(StepPlanTest, ColumnScalesAreQuarterOctaves) {
  for (int exponent = -kLargestExponent; exponent <= kLargestExponent; ++exponent) {
    EXPECT_NEAR(ColumnScale(exponent) / std::exp2(exponent / 4.0), 1, 1e-6);
  }
}

RC_GTEST_PROP(RateCostsTest, RoundingCostsNoMoreThanTheNearestCode, ()) {
  const double lambda = *rc::gen::element(0.0, 0.05, 0.2, 1.0);
  const RateCosts costs(lambda);
  for (uint64_t i = 0; i < 200; ++i) {
    const float x = static_cast<float>(3 * RandomNormal(*Seed(), 1, i));
    const int of_class = static_cast<int>(RandomIndex(7, 2, i, 24)) - 12;
    const auto cost = [&](float code) {
      const int magnitude = static_cast<int>(std::fabs(code));
      return std::pow(x - code, 2) + lambda * RateCosts::Bits(of_class + RateCosts::kMiddle, magnitude);
    };
    const float code = costs.Round(x, of_class, 127), nearest = std::nearbyint(x);
    RC_ASSERT(std::fabs(code) <= std::fabs(nearest) && code * x >= 0);
    RC_ASSERT(cost(code) <= cost(nearest) + 1e-4);
    if (lambda == 0) RC_ASSERT(code == nearest);
  }
}

TEST(RateCostsTest, ProbabilitiesSumToOne) {
  for (int of_class = 0; of_class < RateCosts::kClasses - 16; ++of_class) {
    double sum = 0;
    for (int magnitude = 0; magnitude < 128; ++magnitude) {
      sum += std::exp2(-RateCosts::Bits(of_class, magnitude)) * (magnitude > 0 ? 2 : 1);
    }
    EXPECT_NEAR(sum, 1, 1e-3) << of_class;
  }
}

}  // namespace
}  // namespace hm11
