// Rows are independent and run on all cores.
#include "quant/row_quantizer.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <utility>

#include "core/check.h"
#include "core/parallel.h"

namespace hm11 {
namespace {

constexpr float kLargestFp16 = 65504.0f;

int64_t RowsAChunk(int64_t cols) { return std::max<int64_t>(1, 65536 / std::max<int64_t>(1, cols)); }

void RoundRow(const float* values, int64_t count, float step, int largest, int8_t* codes) {
  if (step == 0) {
    std::fill_n(codes, count, int8_t{0});
    return;
  }
  const float limit = static_cast<float>(largest);
  for (int64_t i = 0; i < count; ++i) {
    const float code = std::nearbyint(values[i] / step);  // half to even
    codes[i] = static_cast<int8_t>(std::min(std::max(code, -limit), limit));
  }
}

double SquaredError(const MatrixView& matrix, const QuantizedMatrix& quantized) {
  double sum = 0;
  for (int64_t r = 0; r < matrix.rows; ++r) {
    const float scale = static_cast<float>(quantized.scales[r]);
    const float* row = matrix.values + r * matrix.cols;
    const int8_t* codes = quantized.codes.data() + r * matrix.cols;
    for (int64_t c = 0; c < matrix.cols; ++c) {
      const float difference = row[c] - static_cast<float>(codes[c]) * scale;
      sum += static_cast<double>(difference) * difference;
    }
  }
  return sum;
}

// Quantile `q` of `count` numbers, of which `largest_first` holds the greatest in falling order, in the
// reference's float32 arithmetic.
float InterpolatedQuantile(const std::vector<float>& largest_first, int64_t count, float q) {
  const float rank = q * static_cast<float>(count - 1);
  const int64_t below = static_cast<int64_t>(std::floor(rank));
  const int64_t above = std::min(below + 1, count - 1);
  const float weight = rank - static_cast<float>(below);
  const float low = largest_first[count - 1 - below];
  const float high = largest_first[count - 1 - above];
  return weight < 0.5f ? low + weight * (high - low) : high - (high - low) * (1 - weight);
}

// The numbers that quantiles from `least_q` up can need.
std::vector<float> LargestMagnitudes(const float* row, int64_t count, float least_q) {
  std::vector<float> magnitudes(row, row + count);
  for (float& value : magnitudes) value = std::fabs(value);
  const int64_t needed =
      std::min(count, count - static_cast<int64_t>(std::floor(least_q * static_cast<float>(count - 1))));
  std::partial_sort(magnitudes.begin(), magnitudes.begin() + needed, magnitudes.end(), std::greater<float>());
  magnitudes.resize(needed);
  return magnitudes;
}

constexpr std::array<float, 5> kPercentiles6 = {0.9990f, 0.9995f, 0.9999f, 0.99999f, 1.0f};
constexpr float kPercentile8 = 0.9999984f;

}  // namespace

std::vector<double> ColumnDeviations(const MatrixView& matrix, const std::vector<float>& scales) {
  std::vector<double> sums(static_cast<size_t>(matrix.cols), 0.0);
  double rows = 0;
  for (int64_t r = 0; r < matrix.rows; ++r) {
    const float scale = scales[static_cast<size_t>(r)];
    if (scale == 0) continue;
    ++rows;
    for (int64_t c = 0; c < matrix.cols; ++c) {
      const double value = matrix.values[r * matrix.cols + c] / scale;
      sums[static_cast<size_t>(c)] += value * value;
    }
  }
  for (double& sum : sums) sum = std::sqrt(sum / std::max(1.0, rows));
  return sums;
}

std::vector<float> RowDeviations(const MatrixView& matrix) {
  std::vector<float> deviations(matrix.rows);
  ParallelFor(matrix.rows, RowsAChunk(matrix.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      double squares = 0;
      for (int64_t c = 0; c < matrix.cols; ++c) {
        const double value = matrix.values[r * matrix.cols + c];
        squares += value * value;
      }
      const double deviation = std::sqrt(squares / static_cast<double>(std::max<int64_t>(1, matrix.cols)));
      const double snapped = deviation > 0 ? std::exp2(std::round(8 * std::log2(deviation)) / 8) : 0;
      deviations[r] = static_cast<float>(snapped);
    }
  });
  return deviations;
}

std::vector<Fp16> DeviationScales(const std::vector<float>& deviations, double step_in_deviations) {
  std::vector<Fp16> scales(deviations.size());
  for (size_t r = 0; r < deviations.size(); ++r) {
    const double step = step_in_deviations * deviations[r];
    scales[r] = Fp16(static_cast<float>(std::min<double>(step, kLargestFp16)));
  }
  return scales;
}

QuantizedMatrix QuantizeRows(const MatrixView& matrix, std::vector<Fp16> scales, int bits) {
  HM_CHECK(bits >= 2 && bits <= 8);
  HM_CHECK_EQ(static_cast<int64_t>(scales.size()), matrix.rows);
  QuantizedMatrix quantized{.rows = matrix.rows, .cols = matrix.cols, .bits = bits};
  quantized.codes.resize(matrix.rows * matrix.cols);
  ParallelFor(matrix.rows, RowsAChunk(matrix.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      RoundRow(matrix.values + r * matrix.cols, matrix.cols, static_cast<float>(scales[r]), LargestCode(bits),
               quantized.codes.data() + r * matrix.cols);
    }
  });
  quantized.scales = std::move(scales);
  return quantized;
}

float ColumnScale(int exponent) {
  // 2^0, 2^(1/4), 2^(1/2), 2^(3/4), to float.
  constexpr std::array<float, 4> kQuarters = {1.0f, 1.18920707f, 1.41421354f, 1.68179286f};
  const int octave = exponent >> 2;  // rounds down
  return std::ldexp(kQuarters[static_cast<size_t>(exponent - 4 * octave)], octave);
}

QuantizedMatrix QuantizeOnGrid(const MatrixView& matrix, std::vector<Fp16> scales,
                               std::vector<int8_t> column_exponents, int bits) {
  if (column_exponents.empty()) return QuantizeRows(matrix, std::move(scales), bits);
  HM_CHECK_EQ(static_cast<int64_t>(column_exponents.size()), matrix.cols);
  std::vector<float> scaled(matrix.values, matrix.values + matrix.rows * matrix.cols);
  ParallelFor(matrix.rows, RowsAChunk(matrix.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < matrix.cols; ++c) {
        scaled[r * matrix.cols + c] /= ColumnScale(column_exponents[c]);
      }
    }
  });
  QuantizedMatrix quantized =
      QuantizeRows({scaled.data(), matrix.rows, matrix.cols}, std::move(scales), bits);
  quantized.column_exponents = std::move(column_exponents);
  return quantized;
}

std::array<int64_t, 128> MagnitudeCounts(const QuantizedMatrix& matrix) {
  // Four tables, so that equal neighbours do not wait for each other.
  std::array<std::array<int64_t, 256>, 4> counts = {};
  const size_t size = matrix.codes.size();
  for (size_t i = 0; i + 4 <= size; i += 4) {
    for (size_t t = 0; t < 4; ++t) ++counts[t][static_cast<uint8_t>(matrix.codes[i + t])];
  }
  for (size_t i = size / 4 * 4; i < size; ++i) ++counts[0][static_cast<uint8_t>(matrix.codes[i])];
  std::array<int64_t, 128> magnitudes = {};
  for (int code = -127; code <= 127; ++code) {
    for (const auto& table : counts) magnitudes[std::abs(code)] += table[static_cast<uint8_t>(code)];
  }
  return magnitudes;
}

int BitsWithoutClipping(const std::array<int64_t, 128>& magnitudes, int least, int most) {
  int64_t count = 0;
  for (int64_t n : magnitudes) count += n;
  const double allowed = 0.01 * static_cast<double>(count) / 12;
  for (int bits = least; bits < most; ++bits) {
    double error = 0;
    for (int m = LargestCode(bits) + 1; m < 128; ++m) {
      const double excess = m - LargestCode(bits);
      error += static_cast<double>(magnitudes[m]) * excess * excess;
    }
    if (error <= allowed) return bits;
  }
  return std::max(least, most);
}

void NarrowCodes(QuantizedMatrix* matrix, int bits) {
  HM_CHECK(bits >= 2 && bits <= matrix->bits);
  const int8_t largest = static_cast<int8_t>(LargestCode(bits));
  matrix->bits = bits;
  for (int8_t& code : matrix->codes) code = std::clamp<int8_t>(code, -largest, largest);
}

double EntropyBits(const std::array<int64_t, 128>& magnitudes) {
  double count = 0;
  for (int64_t n : magnitudes) count += static_cast<double>(n);
  double bits = count - static_cast<double>(magnitudes[0]);  // signs
  for (int64_t n : magnitudes) {
    if (n > 0) bits += static_cast<double>(n) * std::log2(count / static_cast<double>(n));
  }
  return bits;
}

QuantizedMatrix QuantizePublished6(const MatrixView& matrix) {
  constexpr int kBits = 6;
  constexpr float kLargest = 31;
  std::array<std::vector<Fp16>, kPercentiles6.size()> scales;
  for (auto& candidate : scales) candidate.resize(matrix.rows);
  ParallelFor(matrix.rows, RowsAChunk(matrix.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const std::vector<float> largest =
          LargestMagnitudes(matrix.values + r * matrix.cols, matrix.cols, kPercentiles6[0]);
      for (size_t p = 0; p < kPercentiles6.size(); ++p) {
        const float clip = InterpolatedQuantile(largest, matrix.cols, kPercentiles6[p]);
        scales[p][r] = Fp16(std::max(clip / kLargest, 1.0f / kLargest));
      }
    }
  });
  QuantizedMatrix best;
  double best_error = 0;
  for (auto& candidate : scales) {
    QuantizedMatrix quantized = QuantizeRows(matrix, std::move(candidate), kBits);
    const double error = SquaredError(matrix, quantized);
    if (best.codes.empty() || error < best_error) {
      best = std::move(quantized);
      best_error = error;
    }
  }
  return best;
}

QuantizedMatrix QuantizePublished8(const MatrixView& matrix) {
  constexpr int kLargest = 127;
  QuantizedMatrix quantized{.rows = matrix.rows, .cols = matrix.cols, .bits = 8};
  quantized.codes.resize(matrix.rows * matrix.cols);
  quantized.scales.resize(matrix.rows);
  ParallelFor(matrix.rows, RowsAChunk(matrix.cols), [&](int64_t begin, int64_t end) {
    std::vector<float> clipped(matrix.cols);
    for (int64_t r = begin; r < end; ++r) {
      const float* row = matrix.values + r * matrix.cols;
      const float clip =
          InterpolatedQuantile(LargestMagnitudes(row, matrix.cols, kPercentile8), matrix.cols, kPercentile8);
      // The reference divides by the float32 step and only stores it as float16.
      const float step = std::max(clip / kLargest, 1.0f / kLargest);
      for (int64_t c = 0; c < matrix.cols; ++c) clipped[c] = std::clamp(row[c], -clip, clip);
      RoundRow(clipped.data(), matrix.cols, step, kLargest, quantized.codes.data() + r * matrix.cols);
      quantized.scales[r] = Fp16(step);
    }
  });
  return quantized;
}

std::vector<float> Dequantize(const QuantizedMatrix& matrix) {
  std::vector<float> values(matrix.codes.size());
  std::vector<float> columns(static_cast<size_t>(matrix.cols), 1.0f);
  for (size_t c = 0; c < matrix.column_exponents.size(); ++c) {
    columns[c] = ColumnScale(matrix.column_exponents[c]);
  }
  ParallelFor(matrix.rows, RowsAChunk(matrix.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float scale = static_cast<float>(matrix.scales[r]);
      for (int64_t c = 0; c < matrix.cols; ++c) {
        const int64_t i = r * matrix.cols + c;
        values[i] = static_cast<float>(matrix.codes[i]) * scale * columns[c];
      }
    }
  });
  return values;
}

}  // namespace hm11
