// Orthogonalize, by LAPACK's Householder QR.
#include "ops/orthogonal.h"

#include <algorithm>
#include <vector>

#include "core/check.h"

extern "C" {
void dgeqrf_(const int* m, const int* n, double* a, const int* lda, double* tau, double* work,
             const int* lwork, int* info);
void dorgqr_(const int* m, const int* n, const int* k, double* a, const int* lda, const double* tau,
             double* work, const int* lwork, int* info);
}

namespace hm11 {

void Orthogonalize(int64_t rows, int64_t cols, float* matrix) {
  if (rows == 0 || cols == 0) return;
  // Column-major `tall` has its longer side down; a row-major wide matrix read column-major is its own
  // transpose.
  const bool wide = rows < cols;
  const int m = static_cast<int>(std::max(rows, cols)), n = static_cast<int>(std::min(rows, cols));
  std::vector<double> tall(static_cast<size_t>(rows * cols));
  const auto index = [&](int64_t long_index, int64_t short_index) {
    return wide ? short_index * cols + long_index : long_index * cols + short_index;
  };
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < m; ++i) tall[static_cast<size_t>(j * m + i)] = matrix[index(i, j)];
  }
  std::vector<double> tau(static_cast<size_t>(n)), sign(static_cast<size_t>(n));
  std::vector<double> work(static_cast<size_t>(n) * 64);
  const int work_size = static_cast<int>(work.size());
  int info = 0;
  dgeqrf_(&m, &n, tall.data(), &m, tau.data(), work.data(), &work_size, &info);
  HM_CHECK_EQ(info, 0);
  for (int64_t j = 0; j < n; ++j)
    sign[static_cast<size_t>(j)] = tall[static_cast<size_t>(j * m + j)] < 0 ? -1 : 1;
  dorgqr_(&m, &n, &n, tall.data(), &m, tau.data(), work.data(), &work_size, &info);
  HM_CHECK_EQ(info, 0);
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < m; ++i) {
      matrix[index(i, j)] =
          static_cast<float>(sign[static_cast<size_t>(j)] * tall[static_cast<size_t>(j * m + i)]);
    }
  }
}

}  // namespace hm11
