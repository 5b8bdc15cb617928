// Columns are held in the reverse order of rounding, so that R of the header becomes a lower triangular
// Cholesky factor.
#include "quant/gptq.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>

#include "core/check.h"
#include "core/parallel.h"

namespace hm11 {
namespace {

constexpr int64_t kBlock = 128;

// The lower triangle of `a` [n, n] becomes L with L L^T = a. False when `a` is not positive definite.
bool Cholesky(double* a, int64_t n) {
  for (int64_t k = 0; k < n; k += kBlock) {
    const int64_t size = std::min(kBlock, n - k);
    for (int64_t j = k; j < k + size; ++j) {
      double pivot = a[j * n + j];
      for (int64_t i = k; i < j; ++i) pivot -= a[j * n + i] * a[j * n + i];
      if (!(pivot > 0)) return false;
      pivot = std::sqrt(pivot);
      a[j * n + j] = pivot;
      for (int64_t r = j + 1; r < k + size; ++r) {
        double sum = a[r * n + j];
        for (int64_t i = k; i < j; ++i) sum -= a[r * n + i] * a[j * n + i];
        a[r * n + j] = sum / pivot;
      }
    }
    const int64_t rest = n - k - size;
    if (rest == 0) break;
    double* panel = a + (k + size) * n + k;
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, rest, size, 1.0,
                a + k * n + k, n, panel, n);
    cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, rest, size, -1.0, panel, n, 1.0,
                a + (k + size) * n + k + size, n);
  }
  return true;
}

// Rows of L^-1, float32, where L L^T is the damped hessian with its rows and columns in `order`. Empty when
// it is zero or beyond repair by damping.
std::vector<float> InverseFactor(std::span<const float> hessian, const std::vector<int64_t>& order,
                                 double damping) {
  const int64_t n = static_cast<int64_t>(order.size());
  double mean = 0;
  for (int64_t i = 0; i < n; ++i) mean += static_cast<double>(hessian[i * n + i]) / static_cast<double>(n);
  if (!(mean > 0) || !std::isfinite(mean)) return {};
  std::vector<double> factor(n * n);
  bool positive = false;
  for (int attempt = 0; attempt < 4 && !positive; ++attempt, damping *= 10) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) factor[i * n + j] = hessian[order[i] * n + order[j]];
      factor[i * n + i] += damping * mean;
    }
    positive = Cholesky(factor.data(), n);
  }
  if (!positive) return {};
  std::vector<double> inverse(n * n, 0.0);
  for (int64_t i = 0; i < n; ++i) inverse[i * n + i] = 1;
  cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, n, n, 1.0, factor.data(), n,
              inverse.data(), n);
  return std::vector<float>(inverse.begin(), inverse.end());
}

// How the codes of one row are chosen.
struct RowRule {
  float scale;
  float largest;
  int deviation_class;  // of RateCosts, the row's part
};

// How those of each column are, in the order in which columns are rounded.
struct ColumnRules {
  std::vector<float> scales;
  std::vector<int> deviation_classes;  // of RateCosts, the column's part
  const RateCosts* rates;              // null: the nearest code
};

ColumnRules RulesOf(const MatrixView& matrix, const std::vector<int64_t>& order, const QuantizedMatrix& grid,
                    const RateCosts* rates, std::vector<int>* row_classes) {
  const int64_t rows = matrix.rows, n = matrix.cols;
  ColumnRules columns = {std::vector<float>(n, 1.0f), std::vector<int>(n, 0), rates};
  row_classes->assign(rows, 0);
  for (int64_t j = 0; j < n && !grid.column_exponents.empty(); ++j) {
    columns.scales[j] = ColumnScale(grid.column_exponents[order[j]]);
  }
  if (rates == nullptr) return columns;
  const std::vector<double> in_steps =
      ColumnDeviations(matrix, std::vector<float>(grid.scales.begin(), grid.scales.end()));
  double squares = 0;
  for (const double deviation : in_steps) squares += deviation * deviation / static_cast<double>(n);
  for (int64_t j = 0; j < n; ++j) {
    columns.deviation_classes[j] = RateCosts::ClassOf(in_steps[order[j]] / columns.scales[j]);
  }
  const std::vector<float> deviations = RowDeviations(matrix);
  const double mean = std::sqrt(squares);  // of all rows, in their steps
  for (int64_t r = 0; r < rows; ++r) {
    const double scale = static_cast<float>(grid.scales[r]);
    (*row_classes)[r] = scale > 0 && mean > 0 ? RateCosts::ClassOf(deviations[r] / scale / mean) : 0;
  }
  return columns;
}

// Rounds columns [begin, end) of one row from the last to the first, passing errors on within the block.
// inverse: [columns, columns], the factor of the inverse.
void RoundBlock(int64_t begin, int64_t end, const RowRule& rule, const ColumnRules& columns,
                const float* inverse, float* row, float* codes, float* errors) {
  const int64_t n = static_cast<int64_t>(columns.scales.size());
  for (int64_t j = end - 1; j >= begin; --j) {
    const float* u = inverse + j * n;
    const float step = rule.scale * columns.scales[j];
    float code = 0;
    if (step > 0 && columns.rates != nullptr) {
      code = columns.rates->Round(row[j] / step, rule.deviation_class + columns.deviation_classes[j],
                                  rule.largest);
    } else if (step > 0) {
      code = std::min(std::max(std::nearbyint(row[j] / step), -rule.largest), rule.largest);
    }
    codes[j] = code;
    const float error = (row[j] - code * step) / u[j];
    errors[j - begin] = error;
    for (int64_t k = begin; k < j; ++k) row[k] -= error * u[k];
  }
}

}  // namespace

std::vector<double> WeightedErrors(const MatrixView& matrix, const QuantizedMatrix& quantized,
                                   std::span<const float> hessian) {
  const int64_t rows = matrix.rows;
  const int64_t n = matrix.cols;
  std::vector<float> errors = Dequantize(quantized);
  for (int64_t i = 0; i < rows * n; ++i) errors[i] -= matrix.values[i];
  std::vector<float> products(rows * n);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, n, n, 1.0f, errors.data(), n, hessian.data(),
              n, 0.0f, products.data(), n);
  std::vector<double> weighted(rows, 0.0);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < n; ++c)
      weighted[r] += static_cast<double>(errors[r * n + c]) * products[r * n + c];
  }
  return weighted;
}

std::optional<HessianFactor> HessianFactor::Create(std::span<const float> hessian, int64_t cols,
                                                   double damping) {
  HM_CHECK_EQ(static_cast<int64_t>(hessian.size()), cols * cols);
  HessianFactor factor;
  factor.order_.resize(cols);
  std::iota(factor.order_.begin(), factor.order_.end(), 0);
  std::stable_sort(factor.order_.begin(), factor.order_.end(),
                   [&](int64_t a, int64_t b) { return hessian[a * cols + a] < hessian[b * cols + b]; });
  factor.inverse_ = InverseFactor(hessian, factor.order_, damping);
  if (factor.inverse_.empty()) return std::nullopt;
  factor.weights_.resize(cols);
  for (int64_t j = 0; j < cols; ++j) {
    factor.weights_[factor.order_[j]] = 1 / factor.inverse_[j * cols + j];
  }
  return factor;
}

QuantizedMatrix RoundWithFactor(const MatrixView& matrix, const HessianFactor& factor, QuantizedMatrix grid,
                                const RateCosts* rates) {
  const int64_t rows = matrix.rows, n = matrix.cols;
  HM_CHECK_EQ(factor.cols(), n);
  HM_CHECK_EQ(static_cast<int64_t>(grid.scales.size()), rows);
  const std::vector<int64_t>& order = factor.order_;
  std::vector<int> row_classes;
  const ColumnRules columns = RulesOf(matrix, order, grid, rates, &row_classes);
  std::vector<float> work(rows * n), codes(rows * n), errors(rows * kBlock);
  ParallelFor(rows, 16, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      for (int64_t c = 0; c < n; ++c) work[r * n + c] = matrix.values[r * n + order[c]];
    }
  });
  for (int64_t end = n; end > 0;) {
    const int64_t begin = std::max<int64_t>(0, end - kBlock);
    ParallelFor(rows, 16, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const RowRule rule = {static_cast<float>(grid.scales[r]), static_cast<float>(LargestCode(grid.bits)),
                              row_classes[r]};
        RoundBlock(begin, end, rule, columns, factor.inverse_.data(), &work[r * n], &codes[r * n],
                   &errors[r * kBlock]);
      }
    });
    if (begin > 0) {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, begin, end - begin, -1.0f, errors.data(),
                  kBlock, &factor.inverse_[begin * n], n, 1.0f, work.data(), n);
    }
    end = begin;
  }
  grid.rows = rows;
  grid.cols = n;
  grid.codes.resize(rows * n);
  ParallelFor(rows, 16, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      for (int64_t c = 0; c < n; ++c) grid.codes[r * n + order[c]] = static_cast<int8_t>(codes[r * n + c]);
    }
  });
  return grid;
}

QuantizedMatrix QuantizeWithHessian(const MatrixView& matrix, std::span<const float> hessian,
                                    std::vector<Fp16> scales, int bits, double damping) {
  const int64_t n = matrix.cols;
  const std::optional<HessianFactor> factor = HessianFactor::Create(hessian, n, damping);
  QuantizedMatrix plain = QuantizeRows(matrix, scales, bits);
  if (!factor) return plain;
  QuantizedMatrix best =
      RoundWithFactor(matrix, *factor, {.bits = bits, .scales = std::move(scales)}, nullptr);
  const std::vector<double> before = WeightedErrors(matrix, plain, hessian);
  const std::vector<double> after = WeightedErrors(matrix, best, hessian);
  for (int64_t r = 0; r < matrix.rows; ++r) {
    if (after[r] < before[r]) continue;
    std::copy_n(&plain.codes[r * n], n, &best.codes[r * n]);
  }
  return best;
}

}  // namespace hm11
