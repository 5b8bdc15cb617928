// StepPlan: how finely each row and column of each matrix is quantized, all matrices under one budget.
//
// At many bits a step s adds s^2 / 12 to a weight's squared error and saves log2 of it in bits, so that bits
// are spent best where every code's error costs the loss the same (reverse water-filling): with H = L L^T the
// Hessian in the order of rounding (quant/gptq.h) and G the gradient's second moments (quant/calibration.h),
//
//   s[r, c] proportional to (G[r])^(-1/2) / L[c, c],    G[r] = gradient[r] / trace(H)
//
// Columns' part is stored as quarter octaves, rows' part too before it is multiplied by the common factor. Of
// the settings (quant/config.h), `sensitivity` blends steps from proportional to rows' deviations (0) to
// these (1), `row_sensitivity` rows' gradients from their matrix's mean (0) to their own (1), `column_steps`
// columns' steps from equal (0) to these (1), in logarithms.
#ifndef HM11_QUANT_STEP_PLAN_H_
#define HM11_QUANT_STEP_PLAN_H_

#include <cstdint>
#include <vector>

#include "quant/config.h"
#include "quant/row_quantizer.h"

namespace hm11 {

struct MatrixSteps {
  std::vector<double> octaves = {};           // [rows]: log2 of a row's step at multiplier 1
  std::vector<int8_t> column_exponents = {};  // [cols], or none: all 0
  // How many numbers have deviations of about 2^(i / 8 - kOffset) steps at multiplier 1.
  std::vector<double> histogram = {};
  static constexpr int kBins = 512;
  static constexpr int kOffset = 32;
};

// What the plan is made from, of one matrix.
struct MatrixUse {
  MatrixView matrix;
  const std::vector<float>* deviations = nullptr;  // RowDeviations of the matrix
  const std::vector<double>* gradients = nullptr;  // [rows]
  double trace = 1;                                // of the Hessian, or the number of columns
  const std::vector<float>* weights = nullptr;     // [cols], L[c, c]; null: all 1
};

// Steps of all matrices at once; at multiplier 1 they are, in the geometric mean over all numbers,
// `mean_step` of their rows' deviations. Rows of zeros have step 0 whatever their octaves.
std::vector<MatrixSteps> PlanSteps(const std::vector<MatrixUse>& uses, const QuantConfig& config,
                                   double mean_step);

// Column exponents raised where, at these scales, a code would be larger than 126.
std::vector<int8_t> WithoutOverflow(const MatrixView& matrix, const std::vector<Fp16>& scales,
                                    std::vector<int8_t> column_exponents);

// Bits of all codes at a multiplier, numbers being normal.
double PlannedBits(const MatrixSteps& steps, double multiplier);

}  // namespace hm11

#endif  // HM11_QUANT_STEP_PLAN_H_
