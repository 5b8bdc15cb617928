// Row quantizers against the reference's codes; rounding with a Hessian against plain rounding.
#include "quant/row_quantizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "core/random.h"
#include "model/safetensors.h"
#include "quant/gptq.h"
#include "testing/generators.h"
#include "testing/golden.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

struct Matrix {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> values = {};
  MatrixView view() const { return {values.data(), rows, cols}; }
};

// Rows of different deviations, now and then an outlier.
Matrix RandomMatrix(int64_t rows, int64_t cols, uint64_t seed) {
  Matrix matrix{.rows = rows, .cols = cols};
  for (int64_t i = 0; i < rows * cols; ++i) {
    const double deviation = std::exp(2 * RandomNormal(seed, 1, static_cast<uint64_t>(i / cols)));
    const bool outlier = RandomIndex(seed, 2, static_cast<uint64_t>(i), 200) == 0;
    const double normal = RandomNormal(seed, 0, static_cast<uint64_t>(i));
    matrix.values.push_back(static_cast<float>(deviation * (outlier ? 9 * normal : normal)));
  }
  return matrix;
}

std::vector<Fp16> Scales(const Matrix& matrix, double step) {
  return DeviationScales(RowDeviations(matrix.view()), step);
}

TEST(RowQuantizerTest, OneRowByHand) {
  const Matrix matrix{
      .rows = 1, .cols = 4, .values = {3, -3, 1, 3}};  // root mean square sqrt(7), near 2^(11/8)
  EXPECT_FLOAT_EQ(RowDeviations(matrix.view())[0], std::exp2(11.0f / 8));
  const QuantizedMatrix quantized = QuantizeRows(matrix.view(), {Fp16(2.0f)}, 3);
  EXPECT_THAT(quantized.codes, testing::ElementsAre(2, -2, 0, 2));  // halves go to even
  EXPECT_THAT(Dequantize(quantized), testing::ElementsAre(4, -4, 0, 4));
}

// The 8-bit step before it is rounded to float16: the reference divides by that.
double Step8(const Matrix& matrix, int64_t row) {
  std::vector<double> magnitudes;
  for (int64_t c = 0; c < matrix.cols; ++c) {
    magnitudes.push_back(std::fabs(matrix.values[row * matrix.cols + c]));
  }
  std::sort(magnitudes.begin(), magnitudes.end());
  const double rank = 0.9999984 * static_cast<double>(matrix.cols - 1);
  const size_t below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, magnitudes.size() - 1);
  const double clip =
      magnitudes[below] + (rank - static_cast<double>(below)) * (magnitudes[above] - magnitudes[below]);
  return std::max(clip, 1.0) / 127;
}

// Equal but for values within 1e-6 of a border between two codes.
void ExpectGoldenCodes(const Matrix& matrix, const QuantizedMatrix& quantized, const NamedTensor& codes,
                       const NamedTensor& scales) {
  ASSERT_EQ(codes.values.size(), quantized.codes.size());
  int64_t on_a_border = 0;
  for (int64_t r = 0; r < matrix.rows; ++r) {
    ASSERT_EQ(static_cast<float>(quantized.scales[r]), scales.values[r]) << scales.name << " row " << r;
    const double step = quantized.bits == 8 ? Step8(matrix, r) : scales.values[r];
    for (int64_t i = r * matrix.cols; i < (r + 1) * matrix.cols; ++i) {
      if (static_cast<float>(quantized.codes[i]) == codes.values[i]) continue;
      const double steps = std::fabs(matrix.values[i] / step);
      ASSERT_LT(std::fabs(steps - std::floor(steps) - 0.5) * step, 1e-6) << codes.name << " element " << i;
      ++on_a_border;
    }
  }
  EXPECT_LT(on_a_border, 5);
}

TEST(RowQuantizerTest, PublishedCodesEqualTheReferences) {
  const absl::StatusOr<Safetensors> golden = ReadSafetensors(GoldenPath("quant.safetensors"));
  ASSERT_THAT(golden, IsOk());
  std::map<std::string, NamedTensor> tensors;
  for (const NamedTensor& tensor : golden->tensors) tensors[tensor.name] = tensor;
  int matrices = 0;
  for (const auto& [name, tensor] : tensors) {
    if (name.size() < 2 || name.substr(name.size() - 2) != ".w") continue;
    const std::string stem = name.substr(0, name.size() - 1);
    const Matrix matrix{.rows = tensor.shape[0], .cols = tensor.shape[1], .values = tensor.values};
    ExpectGoldenCodes(matrix, QuantizePublished6(matrix.view()), tensors[stem + "int6_q"],
                      tensors[stem + "int6_scale"]);
    ExpectGoldenCodes(matrix, QuantizePublished8(matrix.view()), tensors[stem + "int8_q"],
                      tensors[stem + "int8_scale"]);
    ++matrices;
  }
  EXPECT_GE(matrices, 1);
}

RC_GTEST_PROP(RowQuantizerTest, ErrorsAreAtMostHalfAStepUnlessClipped, ()) {
  const Matrix matrix = RandomMatrix(*SizeAroundTile(8), *SizeAroundTile(64), *Seed());
  const int bits = *rc::gen::inRange(2, 9);
  const QuantizedMatrix quantized = QuantizeRows(
      matrix.view(), Scales(matrix, *rc::gen::elementOf(std::vector<double>{0.1, 0.4, 2})), bits);
  const std::vector<float> back = Dequantize(quantized);
  for (int64_t i = 0; i < matrix.rows * matrix.cols; ++i) {
    const float step = static_cast<float>(quantized.scales[i / matrix.cols]);
    const int code = quantized.codes[i];
    RC_ASSERT(std::abs(code) <= LargestCode(bits));
    if (std::abs(code) < LargestCode(bits)) {
      RC_ASSERT(std::fabs(back[i] - matrix.values[i]) <= 0.5001f * step);
    } else {
      RC_ASSERT(std::fabs(matrix.values[i]) >= (LargestCode(bits) - 0.5001f) * step);
    }
  }
}

RC_GTEST_PROP(RowQuantizerTest, TwiceAMatrixHasTheSameCodesAndTwiceTheScales, ()) {
  const Matrix matrix = RandomMatrix(*SizeAroundTile(8), *SizeAroundTile(64), *Seed());
  Matrix twice = matrix;
  for (float& value : twice.values) value *= 2;
  const QuantizedMatrix a = QuantizeRows(matrix.view(), Scales(matrix, 0.4), 6);
  const QuantizedMatrix b = QuantizeRows(twice.view(), Scales(twice, 0.4), 6);
  for (int64_t r = 0; r < matrix.rows; ++r) {
    if (static_cast<float>(a.scales[r]) < 0x1p-14f) continue;  // subnormal: rounded more coarsely
    RC_ASSERT(static_cast<float>(b.scales[r]) == 2 * static_cast<float>(a.scales[r]));
    RC_ASSERT(std::equal(&a.codes[r * matrix.cols], &a.codes[r * matrix.cols] + matrix.cols,
                         &b.codes[r * matrix.cols]));
  }
}

RC_GTEST_PROP(RowQuantizerTest, ColumnDeviationsDoNotSeeRowsOfScaleZero, ()) {
  const int64_t rows = *rc::gen::inRange<int64_t>(1, 9), cols = *rc::gen::inRange<int64_t>(1, 9);
  const uint64_t seed = *Seed();
  const Matrix all = RandomMatrix(rows, cols, seed);
  Matrix kept{.rows = 0, .cols = cols};
  std::vector<float> scales, kept_scales;
  for (int64_t r = 0; r < rows; ++r) {
    scales.push_back(RandomIndex(seed, 3, static_cast<uint64_t>(r), 3) == 0 ? 0.0f
                                                                            : static_cast<float>(r + 1));
    if (scales.back() == 0) continue;
    ++kept.rows;
    kept_scales.push_back(scales.back());
    kept.values.insert(kept.values.end(), all.values.begin() + r * cols, all.values.begin() + (r + 1) * cols);
  }
  const std::vector<double> deviations = ColumnDeviations(all.view(), scales);
  RC_ASSERT(deviations == ColumnDeviations(kept.view(), kept_scales));
  for (int64_t c = 0; c < cols && kept.rows > 0; ++c) {
    double squares = 0;
    for (int64_t r = 0; r < kept.rows; ++r) {
      const double value = static_cast<double>(kept.values[static_cast<size_t>(r * cols + c)]) /
                           kept_scales[static_cast<size_t>(r)];
      squares += value * value / static_cast<double>(kept.rows);
    }
    RC_ASSERT(std::abs(deviations[static_cast<size_t>(c)] - std::sqrt(squares)) <= 1e-6 * std::sqrt(squares));
  }
}

TEST(RowQuantizerTest, ARowOfZerosHasScaleZeroAndStaysZero) {
  const Matrix matrix{.rows = 2, .cols = 2, .values = {0, 0, 1, -1}};
  const QuantizedMatrix quantized = QuantizeRows(matrix.view(), Scales(matrix, 0.25), 6);
  EXPECT_EQ(static_cast<float>(quantized.scales[0]), 0);
  EXPECT_THAT(Dequantize(quantized), testing::ElementsAre(0, 0, 1, -1));
}

TEST(RowQuantizerTest, BitsGrowUntilOutliersAreNotClipped) {
  std::array<int64_t, 128> counts = {};
  counts[0] = 100000;
  EXPECT_EQ(BitsWithoutClipping(counts, 6, 8), 6);
  counts[31] = 1000;
  EXPECT_EQ(BitsWithoutClipping(counts, 6, 8), 6);
  counts[33] = 10;  // 2 beyond, ten times: 40 of 101010 * 0.01 / 12 = 84 allowed
  EXPECT_EQ(BitsWithoutClipping(counts, 6, 8), 6);
  counts[50] = 1;  // 361 more
  EXPECT_EQ(BitsWithoutClipping(counts, 6, 8), 7);
  EXPECT_EQ(BitsWithoutClipping(counts, 6, 6), 6);
  counts[100] = 1;
  EXPECT_EQ(BitsWithoutClipping(counts, 2, 8), 8);
}

RC_GTEST_PROP(RowQuantizerTest, CountsAndNarrowingAgreeWithTheCodes, ()) {
  const Matrix matrix = RandomMatrix(*SizeAroundTile(8), *SizeAroundTile(64), *Seed());
  QuantizedMatrix quantized = QuantizeRows(matrix.view(), Scales(matrix, 0.2), 8);
  const std::array<int64_t, 128> counts = MagnitudeCounts(quantized);
  std::array<int64_t, 128> expected = {};
  for (const int8_t code : quantized.codes) ++expected[std::abs(int{code})];
  RC_ASSERT(counts == expected);
  const QuantizedMatrix direct = QuantizeRows(matrix.view(), Scales(matrix, 0.2), 5);
  NarrowCodes(&quantized, 5);
  RC_ASSERT(quantized.codes == direct.codes);
}

// The second moment of inputs whose channels are correlated and of unequal strength.
std::vector<float> RandomHessian(int64_t cols, int64_t samples, uint64_t seed) {
  std::vector<float> inputs(samples * cols);
  for (int64_t s = 0; s < samples; ++s) {
    const double common = RandomNormal(seed, 5, static_cast<uint64_t>(s));
    for (int64_t c = 0; c < cols; ++c) {
      const double strength = std::exp(RandomNormal(seed, 6, static_cast<uint64_t>(c)));
      const double own = RandomNormal(seed, 7, static_cast<uint64_t>(s * cols + c));
      inputs[s * cols + c] = static_cast<float>(strength * (0.7 * common + own));
    }
  }
  std::vector<float> hessian(cols * cols, 0.0f);
  for (int64_t s = 0; s < samples; ++s) {
    for (int64_t i = 0; i < cols; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        hessian[i * cols + j] += inputs[s * cols + i] * inputs[s * cols + j];
      }
    }
  }
  return hessian;
}

RC_GTEST_PROP(GptqTest, NoRowIsWorseThanPlainlyRounded, ()) {
  const Matrix matrix = RandomMatrix(*SmallSize(12), *SizeAroundTile(130), *Seed());
  const std::vector<float> hessian =
      RandomHessian(matrix.cols, *rc::gen::inRange<int64_t>(1, 2 * matrix.cols + 2), *Seed());
  const int bits = *rc::gen::inRange(3, 9);
  const std::vector<Fp16> scales = Scales(matrix, 0.4);
  const QuantizedMatrix plain = QuantizeRows(matrix.view(), scales, bits);
  const QuantizedMatrix better = QuantizeWithHessian(matrix.view(), hessian, scales, bits);
  const std::vector<double> before = WeightedErrors(matrix.view(), plain, hessian);
  const std::vector<double> after = WeightedErrors(matrix.view(), better, hessian);
  for (int64_t r = 0; r < matrix.rows; ++r) RC_ASSERT(after[r] <= before[r] * (1 + 1e-5) + 1e-30);
  for (const int8_t code : better.codes) RC_ASSERT(std::abs(int{code}) <= LargestCode(bits));
}

TEST(GptqTest, CorrelatedInputsLoseAThirdOfTheError) {
  const Matrix matrix = RandomMatrix(64, 192, 3);
  const std::vector<float> hessian = RandomHessian(192, 800, 4);
  const std::vector<Fp16> scales = Scales(matrix, 0.4);
  double before = 0;
  double after = 0;
  for (const double e : WeightedErrors(matrix.view(), QuantizeRows(matrix.view(), scales, 8), hessian))
    before += e;
  for (const double e :
       WeightedErrors(matrix.view(), QuantizeWithHessian(matrix.view(), hessian, scales, 8), hessian)) {
    after += e;
  }
  EXPECT_LT(after, 0.67 * before);
}

TEST(GptqTest, UncorrelatedEqualInputsGivePlainRounding) {
  const Matrix matrix = RandomMatrix(7, 150, 8);
  std::vector<float> identity(150 * 150, 0.0f);
  for (int64_t i = 0; i < 150; ++i) identity[i * 150 + i] = 3;
  const std::vector<Fp16> scales = Scales(matrix, 0.4);
  EXPECT_EQ(QuantizeWithHessian(matrix.view(), identity, scales, 6).codes,
            QuantizeRows(matrix.view(), scales, 6).codes);
}

TEST(GptqTest, AHessianOfZerosGivesPlainRounding) {
  const Matrix matrix = RandomMatrix(3, 20, 9);
  const std::vector<Fp16> scales = Scales(matrix, 0.4);
  EXPECT_EQ(QuantizeWithHessian(matrix.view(), std::vector<float>(400, 0.0f), scales, 6).codes,
            QuantizeRows(matrix.view(), scales, 6).codes);
}

}  // namespace
}  // namespace hm11
