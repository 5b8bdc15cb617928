// Quantizing a matrix row by row: integer codes, symmetric around zero, and a float16 scale a row.
//
//   code[r, c] = round_half_even(w[r, c] / step[r]), clipped to -L..L,  L = 2^(bits-1) - 1
//   w'[r, c]   = code[r, c] * scale[r],                                 scale = float16(step)
//
// Two ways to choose steps:
//   sigma      step = a multiple of the row's standard deviation around zero, taken to the nearest 2^(i/8).
//              At equal steps in standard deviations all rows cost the same after entropy coding, about
//              log2(sigma / step) + 2.05 bits a code when normal, with no regard to their outliers; the
//              coarse grid costs 0.1 % in squared error and leaves so few different scales that they code to
//              nothing.
//   published  step = clip / L with the clip a percentile of the row's magnitudes (interpolated linearly),
//              never under 1 / L. 6 bits: the percentile of 99.9, 99.95, 99.99, 99.999, 100 with the least squared
//              error over the matrix, the step rounded to float16 before it divides. 8 bits: 99.99984.
//
// Properties:
//   1. Without clipping, |w' - w| <= step / 2 (plus float16 rounding of an 8-bit published scale).
//   2. Codes do not depend on the scale of a row: 2 w gives the codes of w and twice its scales (where
//      float16 is not subnormal).
//   3. A row of zeros has scale 0 (sigma) and decodes to zeros.
//   4. Codes and scales of the published scheme equal the reference's.
//
// Deterministic. Cost: one pass over the matrix (published 6 bits: a partial sort and five).
#ifndef HM11_QUANT_ROW_QUANTIZER_H_
#define HM11_QUANT_ROW_QUANTIZER_H_

#include <array>
#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "quant/code_models.h"

namespace hm11 {

struct MatrixView {
  const float* values;  // [rows, cols], row-major, finite
  int64_t rows;
  int64_t cols;
};

struct QuantizedMatrix {
  int64_t rows = 0;
  int64_t cols = 0;
  int bits = 8;                    // 2 to 8
  std::vector<int8_t> codes = {};  // [rows, cols]
  std::vector<Fp16> scales = {};   // [rows]
  // [cols], or none: value = code * scale * 2^(exponent / 4). Within -kLargestExponent..kLargestExponent.
  std::vector<int8_t> column_exponents = {};
};

inline constexpr int kLargestExponent = 120;

// 2^(exponent / 4), the same float on every machine.
float ColumnScale(int exponent);

// Each row's root mean square, its standard deviation around zero, taken to the nearest 2^(i/8).
std::vector<float> RowDeviations(const MatrixView& matrix);

// Each column's root mean square, its rows divided by their scales [rows]; rows of scale 0 are left out.
std::vector<double> ColumnDeviations(const MatrixView& matrix, const std::vector<float>& scales);

// float16(step_in_deviations * deviation), at most the largest finite float16.
std::vector<Fp16> DeviationScales(const std::vector<float>& deviations, double step_in_deviations);

// Codes for given scales. Where a scale is 0 so are the codes.
QuantizedMatrix QuantizeRows(const MatrixView& matrix, std::vector<Fp16> scales, int bits);
// The same with a scale for each column.
QuantizedMatrix QuantizeOnGrid(const MatrixView& matrix, std::vector<Fp16> scales,
                               std::vector<int8_t> column_exponents, int bits);

// How often each magnitude 0..127 occurs.
std::array<int64_t, 128> MagnitudeCounts(const QuantizedMatrix& matrix);

// The fewest bits from `least` to `most` for which clipping the codes counted here (of 8 bits) adds at most
// 1 % to the squared error of rounding, in steps.
int BitsWithoutClipping(const std::array<int64_t, 128>& magnitudes, int least, int most);

// Clips codes to fewer bits.
void NarrowCodes(QuantizedMatrix* matrix, int bits);

// Bits of the codes at the entropy of their magnitudes, signs even.
double EntropyBits(const std::array<int64_t, 128>& magnitudes);

QuantizedMatrix QuantizePublished6(const MatrixView& matrix);
QuantizedMatrix QuantizePublished8(const MatrixView& matrix);

std::vector<float> Dequantize(const QuantizedMatrix& matrix);

}  // namespace hm11

#endif  // HM11_QUANT_ROW_QUANTIZER_H_
