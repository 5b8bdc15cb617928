// Rounding a matrix so that its products with the inputs it sees change least.
//
// For y = x W^T with inputs of second moment H = sum of x^T x, the squared change of y is the sum over rows
// of e H e^T, e = w' - w. Columns are rounded one by one, the largest H[j, j] first, and each column's error
// is made up for by the columns still to come: with H = R R^T, R upper triangular in the order of rounding,
// and U = R^-1,
//
//   e_j = (w_j - w'_j) / U[j, j],   w_k -= e_j U[j, k]  for all k after j.
//
// Source: Frantar et al., GPTQ (ICLR 2023, arXiv 2210.17323), algorithm 1; its steps are those of Babai's
// nearest plane. QuantizeWithHessian keeps, row by row, plain rounding where that is better. A step for each
// column in inverse proportion to its weight 1 / U[j, j] makes all errors weigh the same, which at many bits
// is best: the sum of squares falls from the arithmetic to the geometric mean of the squared weights.
//
// Properties:
//   1. Of QuantizeWithHessian, the weighted error of every row is at most that of plain rounding (to float32
//      accuracy).
//   2. With H a multiple of the identity the codes are those of plain rounding.
//
// Deterministic on one machine; the BLAS's own sums may differ between CPUs.
// Cost: cols^3 once, 5 rows cols^2.
#ifndef HM11_QUANT_GPTQ_H_
#define HM11_QUANT_GPTQ_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/dtype.h"
#include "quant/rate_costs.h"
#include "quant/row_quantizer.h"

namespace hm11 {

// What is known of a matrix's inputs, made ready for rounding; serves all matrices that read them.
class HessianFactor {
 public:
  // `hessian` [cols, cols] is symmetric; `damping` times the mean of its diagonal is added to the diagonal,
  // ten times as much where that is not enough. Nothing when the Hessian is zero or beyond such repair.
  static std::optional<HessianFactor> Create(std::span<const float> hessian, int64_t cols, double damping);

  int64_t cols() const { return static_cast<int64_t>(order_.size()); }
  // Of each column, 1 / U[j, j]: what its rounding error weighs once the columns after it have made up for
  // it.
  const std::vector<float>& weights() const { return weights_; }

 private:
  friend QuantizedMatrix RoundWithFactor(const MatrixView&, const HessianFactor&, QuantizedMatrix,
                                         const RateCosts*);
  std::vector<int64_t> order_;  // columns in the reverse order of rounding
  std::vector<float> inverse_;  // [cols, cols], rows of R^-1 in that order
  std::vector<float> weights_;  // in the columns' own order
};

// Fills in the codes of `grid`, which has bits, scales and, if any, column exponents. With `rates`, each code
// is the one that costs least in squared error (in steps) and bits; without, the nearest.
QuantizedMatrix RoundWithFactor(const MatrixView& matrix, const HessianFactor& factor, QuantizedMatrix grid,
                                const RateCosts* rates);

// Rounds to the nearest codes, and keeps plain rounding row by row where that is better.
QuantizedMatrix QuantizeWithHessian(const MatrixView& matrix, std::span<const float> hessian,
                                    std::vector<Fp16> scales, int bits, double damping = 0.01);

// e H e^T of each row.
std::vector<double> WeightedErrors(const MatrixView& matrix, const QuantizedMatrix& quantized,
                                   std::span<const float> hessian);

}  // namespace hm11

#endif  // HM11_QUANT_GPTQ_H_
