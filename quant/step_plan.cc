// StepPlan: logarithms of steps, and what they cost.
#include "quant/step_plan.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "core/check.h"
#include "core/parallel.h"

namespace hm11 {
namespace {

double Quarter(double octave) { return std::round(4 * octave) / 4; }

// A matrix's plan but for what all matrices share.
MatrixSteps StepsOf(const MatrixUse& use, const QuantConfig& config) {
  const int64_t rows = use.matrix.rows, cols = use.matrix.cols;
  MatrixSteps steps;
  double weight = 1;  // mean of the squares of L[c, c] times the column's scale
  if (use.weights != nullptr) {
    double mean = 0;
    for (const float w : *use.weights) mean += std::log2(w) / static_cast<double>(cols);
    weight = 0;
    for (const float w : *use.weights) {
      const double exponent = std::round(-4 * config.column_steps * (std::log2(w) - mean));
      steps.column_exponents.push_back(static_cast<int8_t>(std::clamp(exponent, -40.0, 40.0)));
      const double scaled = w * ColumnScale(steps.column_exponents.back());
      weight += scaled * scaled / static_cast<double>(cols);
    }
    if (config.column_steps == 0) steps.column_exponents.clear();
  }
  double mean_gradient = 0;
  for (const double g : *use.gradients) mean_gradient += g / static_cast<double>(rows);
  mean_gradient = std::max(mean_gradient, 1e-30);
  for (const double g : *use.gradients) {
    // A row may go unused in the little text that gradients come from, as rare tokens' do.
    const double own = g + 0.02 * mean_gradient;
    const double blended =
        config.row_sensitivity * std::log2(own) + (1 - config.row_sensitivity) * std::log2(mean_gradient);
    steps.octaves.push_back(-0.5 * (blended - std::log2(use.trace) + std::log2(weight)));
  }
  return steps;
}

int BinOf(double octave) {
  return static_cast<int>(
      std::clamp<double>(std::round(8 * (octave + MatrixSteps::kOffset)), 0, MatrixSteps::kBins - 1));
}

void FillHistogram(const MatrixUse& use, MatrixSteps* steps) {
  const std::vector<double> profile = ColumnDeviations(use.matrix, *use.deviations);
  std::vector<double> rows(MatrixSteps::kBins, 0.0), cols(MatrixSteps::kBins, 0.0);
  for (size_t r = 0; r < steps->octaves.size(); ++r) {
    const float deviation = (*use.deviations)[r];
    if (deviation > 0) ++rows[BinOf(std::log2(deviation) - steps->octaves[r])];
  }
  for (size_t c = 0; c < profile.size(); ++c) {
    const double exponent = steps->column_exponents.empty() ? 0 : steps->column_exponents[c] / 4.0;
    if (profile[c] > 0) ++cols[BinOf(std::log2(profile[c]) - exponent)];
  }
  steps->histogram.assign(MatrixSteps::kBins, 0.0);
  for (int i = 0; i < MatrixSteps::kBins; ++i) {
    for (int j = 0; rows[i] > 0 && j < MatrixSteps::kBins; ++j) {
      const int sum = std::clamp(i + j - 8 * MatrixSteps::kOffset, 0, MatrixSteps::kBins - 1);
      steps->histogram[sum] += rows[i] * cols[j];
    }
  }
}

// Of a normal number of so many steps' deviation.
double NormalBits(double deviation) {
  const auto below = [](double x) { return 0.5 * std::erfc(-x * std::sqrt(0.5)); };
  double bits = 0;
  for (int code = 0; code <= 127; ++code) {
    const double p = below((code + 0.5) / deviation) - below((code - 0.5) / deviation);
    if (p > 1e-12) bits -= (code == 0 ? 1 : 2) * p * std::log2(p);
  }
  return bits;
}

}  // namespace

std::vector<MatrixSteps> PlanSteps(const std::vector<MatrixUse>& uses, const QuantConfig& config,
                                   double mean_step) {
  std::vector<MatrixSteps> plan;
  double sum = 0, count = 0;  // of log2(step / deviation), over all numbers
  for (const MatrixUse& use : uses) {
    HM_CHECK_EQ(static_cast<int64_t>(use.gradients->size()), use.matrix.rows);
    plan.push_back(StepsOf(use, config));
    for (int64_t r = 0; r < use.matrix.rows; ++r) {
      const float deviation = (*use.deviations)[r];
      if (deviation == 0) continue;
      sum += static_cast<double>(use.matrix.cols) * (plan.back().octaves[r] - std::log2(deviation));
      count += static_cast<double>(use.matrix.cols);
    }
  }
  const double mean = sum / std::max(1.0, count), aim = std::log2(mean_step);
  for (size_t i = 0; i < uses.size(); ++i) {
    for (int64_t r = 0; r < uses[i].matrix.rows; ++r) {
      const float deviation = (*uses[i].deviations)[r];
      if (deviation == 0) continue;
      const double relative = plan[i].octaves[r] - std::log2(deviation) - mean;
      plan[i].octaves[r] = Quarter(std::log2(deviation) + config.sensitivity * relative) + aim;
    }
    FillHistogram(uses[i], &plan[i]);
  }
  return plan;
}

std::vector<int8_t> WithoutOverflow(const MatrixView& matrix, const std::vector<Fp16>& scales,
                                    std::vector<int8_t> column_exponents) {
  ParallelFor(static_cast<int64_t>(column_exponents.size()), 64, [&](int64_t begin, int64_t end) {
    std::vector<float> largest(static_cast<size_t>(end - begin), 0.0f);
    for (int64_t r = 0; r < matrix.rows; ++r) {
      const float scale = static_cast<float>(scales[r]);
      if (scale == 0) continue;
      for (int64_t c = begin; c < end; ++c) {
        largest[c - begin] =
            std::max(largest[c - begin], std::fabs(matrix.values[r * matrix.cols + c]) / scale);
      }
    }
    for (int64_t c = begin; c < end; ++c) {
      int8_t& exponent = column_exponents[c];
      while (exponent < kLargestExponent && largest[c - begin] > 126 * ColumnScale(exponent)) ++exponent;
    }
  });
  return column_exponents;
}

double PlannedBits(const MatrixSteps& steps, double multiplier) {
  double bits = 0;
  for (int i = 0; i < MatrixSteps::kBins; ++i) {
    if (steps.histogram[i] == 0) continue;
    const double octave = i / 8.0 - MatrixSteps::kOffset - std::log2(multiplier);
    if (octave > -6) bits += steps.histogram[i] * NormalBits(std::exp2(std::min(octave, 5.5)));
  }
  return bits;
}

}  // namespace hm11
