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
// nearest plane. Ours keeps, row by row, plain rounding where that is better.
//
// Properties:
//   1. The weighted error of every row is at most that of plain rounding (to float32 accuracy).
//   2. With H a multiple of the identity the codes are those of plain rounding.
//
// Deterministic on one machine; the BLAS's own sums may differ between CPUs. Cost: cols^3 once, 5 rows
// cols^2.
#ifndef HM11_QUANT_GPTQ_H_
#define HM11_QUANT_GPTQ_H_

#include <span>
#include <vector>

#include "core/dtype.h"
#include "quant/row_quantizer.h"

namespace hm11 {

// `hessian` [cols, cols] is symmetric; `damping` times the mean of its diagonal is added to the diagonal.
QuantizedMatrix QuantizeWithHessian(const MatrixView& matrix, std::span<const float> hessian,
                                    std::vector<Fp16> scales, int bits, double damping = 0.01);

// e H e^T of each row.
std::vector<double> WeightedErrors(const MatrixView& matrix, const QuantizedMatrix& quantized,
                                   std::span<const float> hessian);

}  // namespace hm11

#endif  // HM11_QUANT_GPTQ_H_
