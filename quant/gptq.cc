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

// Rounds columns [begin, end) of one row from the last to the first, passing errors on within the block.
void RoundBlock(float* row, int64_t begin, int64_t end, float scale, float largest, const float* inverse,
                int64_t n, float* codes, float* errors) {
  for (int64_t j = end - 1; j >= begin; --j) {
    const float* u = inverse + j * n;
    float code = scale > 0 ? std::nearbyint(row[j] / scale) : 0.0f;
    code = std::min(std::max(code, -largest), largest);
    codes[j] = code;
    const float error = (row[j] - code * scale) / u[j];
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

QuantizedMatrix QuantizeWithHessian(const MatrixView& matrix, std::span<const float> hessian,
                                    std::vector<Fp16> scales, int bits, double damping) {
  const int64_t rows = matrix.rows;
  const int64_t n = matrix.cols;
  HM_CHECK_EQ(static_cast<int64_t>(hessian.size()), n * n);
  QuantizedMatrix plain = QuantizeRows(matrix, scales, bits);
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return hessian[a * n + a] < hessian[b * n + b]; });
  const std::vector<float> inverse = InverseFactor(hessian, order, damping);
  if (inverse.empty()) return plain;

  std::vector<float> work(rows * n);
  std::vector<float> codes(rows * n);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < n; ++c) work[r * n + c] = matrix.values[r * n + order[c]];
  }
  std::vector<float> errors(rows * kBlock);
  const float largest = static_cast<float>(LargestCode(bits));
  for (int64_t end = n; end > 0;) {
    const int64_t begin = std::max<int64_t>(0, end - kBlock);
    ParallelFor(rows, 16, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        RoundBlock(&work[r * n], begin, end, static_cast<float>(scales[r]), largest, inverse.data(), n,
                   &codes[r * n], &errors[r * kBlock]);
      }
    });
    if (begin > 0) {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, begin, end - begin, -1.0f, errors.data(),
                  kBlock, &inverse[begin * n], n, 1.0f, work.data(), n);
    }
    end = begin;
  }

  QuantizedMatrix best = plain;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < n; ++c) best.codes[r * n + order[c]] = static_cast<int8_t>(codes[r * n + c]);
  }
  const std::vector<double> before = WeightedErrors(matrix, plain, hessian);
  const std::vector<double> after = WeightedErrors(matrix, best, hessian);
  for (int64_t r = 0; r < rows; ++r) {
    if (after[r] < before[r]) continue;
    std::copy_n(&plain.codes[r * n], n, &best.codes[r * n]);
  }
  return best;
}

}  // namespace hm11
