// Entropy coding: everything comes back, costs what it should, and damage is noticed or harmless.
#include "quant/code_models.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/random.h"
#include "quant/range_coder.h"
#include "testing/generators.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

struct OwnedCodes {
  int64_t rows = 0;
  int64_t cols = 0;
  int bits = 6;
  std::vector<int8_t> codes = {};
};

// Normal numbers of deviation `sigma`, in columns that differ by exp(`spread` * normal).
OwnedCodes NormalCodes(int64_t rows, int64_t cols, int bits, double sigma, double spread, uint64_t seed) {
  OwnedCodes matrix{.rows = rows, .cols = cols, .bits = bits};
  const double largest = LargestCode(bits);
  for (int64_t i = 0; i < rows * cols; ++i) {
    const double column = std::exp(spread * RandomNormal(seed, 1, static_cast<uint64_t>(i % cols)));
    const double value = sigma * column * RandomNormal(seed, 0, static_cast<uint64_t>(i));
    matrix.codes.push_back(static_cast<int8_t>(std::clamp(std::nearbyint(value), -largest, largest)));
  }
  return matrix;
}

std::string Encode(const std::vector<OwnedCodes>& matrices) {
  std::vector<ConstCodeMatrix> views;
  for (const OwnedCodes& m : matrices) views.push_back({m.codes.data(), m.rows, m.cols, m.bits});
  return EncodeCodes(views);
}

// Into matrices of the same shapes.
absl::Status Decode(absl::string_view bytes, std::vector<OwnedCodes>* matrices) {
  std::vector<CodeMatrix> views;
  for (OwnedCodes& m : *matrices) {
    std::fill(m.codes.begin(), m.codes.end(), int8_t{1});
    views.push_back({m.codes.data(), m.rows, m.cols, m.bits});
  }
  return DecodeCodes(bytes, views);
}

double EntropyBits(const OwnedCodes& matrix) {
  std::map<int, double> counts;
  for (const int8_t code : matrix.codes) ++counts[code];
  double bits = 0;
  for (const auto& [code, count] : counts) {
    bits += count * std::log2(static_cast<double>(matrix.codes.size()) / count);
  }
  return bits;
}

TEST(RangeCoderTest, TheFirstBitMovesTheEstimateTwoThirdsOfTheWay) {
  AdaptiveBit bit;
  EXPECT_EQ(bit.probability(), 32768u);
  bit.Learn(true);
  EXPECT_NEAR(bit.probability(), 65536 * (0.5 + 0.5 * 2 / 3), 2);
  bit.Learn(false);
  EXPECT_NEAR(bit.probability(), 65536 * (5.0 / 6) * (1 - 2.0 / 5), 4);
}

RC_GTEST_PROP(RangeCoderTest, BitsComeBackWhateverTheirProbabilities, ()) {
  const std::vector<bool> bits = *rc::gen::container<std::vector<bool>>(rc::gen::arbitrary<bool>());
  const int stretch = *rc::gen::inRange(1, 400);  // long runs wear the estimates out to their limits
  RangeEncoder encoder;
  std::vector<AdaptiveBit> models(2);
  for (const bool bit : bits) {
    for (int i = 0; i < stretch; ++i) encoder.Encode(bit, models[0]);
    encoder.EncodeEven(bit);
    encoder.Encode(!bit, models[1]);
  }
  const std::string bytes = encoder.Finish();
  RangeDecoder decoder(bytes);
  models.assign(2, AdaptiveBit());
  for (const bool bit : bits) {
    for (int i = 0; i < stretch; ++i) RC_ASSERT(decoder.Decode(models[0]) == bit);
    RC_ASSERT(decoder.DecodeEven() == bit);
    RC_ASSERT(decoder.Decode(models[1]) == !bit);
  }
  RC_ASSERT(decoder.AtEnd());
}

RC_GTEST_PROP(CodeModelsTest, CodesComeBack, ()) {
  std::vector<OwnedCodes> matrices;
  const int64_t count = *SmallSize(4);
  for (int64_t i = 0; i < count; ++i) {
    const int bits = *rc::gen::inRange(2, 9);
    const double sigma = *rc::gen::elementOf(std::vector<double>{0, 0.2, 2.5, 40, 1000});
    matrices.push_back(NormalCodes(*SizeAroundTile(64), *SizeAroundTile(64), bits, sigma, 0.5, *Seed()));
  }
  const std::string bytes = Encode(matrices);
  std::vector<OwnedCodes> decoded = matrices;
  RC_ASSERT(Decode(bytes, &decoded).ok());
  for (size_t i = 0; i < matrices.size(); ++i) RC_ASSERT(decoded[i].codes == matrices[i].codes);
}

TEST(CodeModelsTest, IndependentCodesCostTheirEntropy) {
  for (const double sigma : {0.5, 2.4, 3.7}) {
    const OwnedCodes matrix = NormalCodes(1024, 1024, 6, sigma, 0, 11);
    const double entropy = EntropyBits(matrix);
    const double bits = 8.0 * static_cast<double>(Encode({matrix}).size());
    EXPECT_LT(bits, 1.003 * entropy) << sigma;
    EXPECT_GT(bits, 0.999 * entropy) << sigma;
  }
}

TEST(CodeModelsTest, ColumnsThatDifferCostLessThanTheEntropyOfTheWhole) {
  const OwnedCodes matrix = NormalCodes(1024, 512, 6, 3, 0.3, 12);
  EXPECT_LT(8.0 * static_cast<double>(Encode({matrix}).size()), 0.985 * EntropyBits(matrix));
}

TEST(CodeModelsTest, RowsThatDifferCostTheirOwnEntropies) {
  // Rows of four deviations, 0.6 to 4.8 steps.
  OwnedCodes matrix{.rows = 1024, .cols = 512, .bits = 8};
  double entropy = 0;
  for (int kind = 0; kind < 4; ++kind) {
    const OwnedCodes rows = NormalCodes(256, 512, 8, 0.6 * (1 << kind), 0, 20 + static_cast<uint64_t>(kind));
    entropy += EntropyBits(rows);
    matrix.codes.insert(matrix.codes.end(), rows.codes.begin(), rows.codes.end());
  }
  for (int64_t r = 0; r < 512; ++r) {  // mixed
    const int64_t other = RandomIndex(3, 4, static_cast<uint64_t>(r), 1024);
    std::swap_ranges(&matrix.codes[r * 512], &matrix.codes[r * 512] + 512, &matrix.codes[other * 512]);
  }
  EXPECT_LT(8.0 * static_cast<double>(Encode({matrix}).size()), 1.01 * entropy);
  EXPECT_LT(1.1 * entropy, EntropyBits(matrix));
}

RC_GTEST_PROP(CodeModelsTest, ExponentsComeBack, ()) {
  std::vector<std::vector<int8_t>> rows(static_cast<size_t>(*SmallSize(5)));
  for (auto& row : rows) {
    row = *rc::gen::container<std::vector<int8_t>>(rc::gen::arbitrary<int8_t>());
    row.resize(*rc::gen::element<size_t>(0, 3, 40));
  }
  const std::vector<std::span<const int8_t>> views(rows.begin(), rows.end());
  const std::string bytes = EncodeExponents(views);
  std::vector<std::vector<int8_t>> decoded;
  for (const auto& row : rows) decoded.emplace_back(row.size());
  const std::vector<std::span<int8_t>> targets(decoded.begin(), decoded.end());
  RC_ASSERT(DecodeExponents(bytes, targets).ok());
  RC_ASSERT(decoded == rows);
}

TEST(CodeModelsTest, ExponentsOfTheSameColumnsCostNextToNothing) {
  std::vector<int8_t> row;
  for (uint64_t c = 0; c < 2048; ++c)
    row.push_back(static_cast<int8_t>(std::nearbyint(4 * RandomNormal(1, 2, c))));
  const std::vector<std::span<const int8_t>> once = {row}, thrice = {row, row, row};
  EXPECT_LT(EncodeExponents(once).size(), 2048u * 9 / 16);
  EXPECT_LT(EncodeExponents(thrice).size(), EncodeExponents(once).size() + 300);
}

TEST(CodeModelsTest, ZerosCostNextToNothing) {
  EXPECT_LT(Encode({NormalCodes(1024, 1024, 6, 0, 0, 1)}).size(), 200u);
}

// Artifacts must decode on every machine: the bytes of a fixed matrix are fixed.
TEST(CodeModelsTest, TheBytesOfAKnownMatrixAreKnown) {
  OwnedCodes matrix{.rows = 4, .cols = 8, .bits = 4};
  for (int i = 0; i < 32; ++i) matrix.codes.push_back(static_cast<int8_t>(i * i % 15 - 7));
  std::string hex;
  for (const char byte : Encode({matrix})) absl::StrAppend(&hex, absl::Hex(byte & 0xff, absl::kZeroPad2));
  EXPECT_EQ(hex, "0000021492523acd08e8a47fe124ece59102041776fd6d");
}

RC_GTEST_PROP(CodeModelsTest, CutOrAlteredBytesAreAnErrorOrOtherCodesOfTheSameWidth, ()) {
  std::vector<OwnedCodes> matrices = {NormalCodes(9, 17, 5, 3, 0, *Seed())};
  std::string bytes = Encode(matrices);
  const size_t at = *rc::gen::inRange<size_t>(0, bytes.size());
  if (*rc::gen::arbitrary<bool>()) {
    bytes.resize(at);
    RC_ASSERT(!Decode(bytes, &matrices).ok());
    return;
  }
  bytes[at] = static_cast<char>(bytes[at] ^ (1 << *rc::gen::inRange(0, 8)));
  (void)Decode(bytes, &matrices);
  for (const int8_t code : matrices[0].codes) RC_ASSERT(std::abs(int{code}) <= LargestCode(5));
}

std::vector<Fp16> Fp16s(int64_t size, int64_t kinds, uint64_t seed) {
  std::vector<Fp16> values;
  for (int64_t i = 0; i < size; ++i) {
    const int64_t kind = RandomIndex(seed, 1, static_cast<uint64_t>(i), kinds);
    values.push_back(Fp16(static_cast<float>(RandomNormal(seed, 2, static_cast<uint64_t>(kind)))));
  }
  return values;
}

RC_GTEST_PROP(CodeModelsTest, Fp16sComeBack, ()) {
  const int64_t size = *rc::gen::inRange<int64_t>(0, 700);
  const int64_t cols = *rc::gen::inRange<int64_t>(1, 40);
  const bool lower_given_upper = *rc::gen::arbitrary<bool>();
  std::vector<Fp16> values = Fp16s(size, *rc::gen::inRange<int64_t>(1, 1000), *Seed());
  const std::vector<ConstFp16Matrix> views = {{values.data(), size, cols}, {values.data(), size / 2, 1}};
  const std::string bytes = EncodeFp16s(views, lower_given_upper);
  std::vector<Fp16> first(values.size());
  std::vector<Fp16> second(values.size() / 2);
  const std::vector<Fp16Matrix> targets = {{first.data(), size, cols}, {second.data(), size / 2, 1}};
  RC_ASSERT(DecodeFp16s(bytes, targets, lower_given_upper).ok());
  for (int64_t i = 0; i < size; ++i) RC_ASSERT(first[i].bits == values[i].bits);
  for (int64_t i = 0; i < size / 2; ++i) RC_ASSERT(second[i].bits == values[i].bits);
}

TEST(CodeModelsTest, FewDifferentFp16sCostTheirEntropy) {
  const std::vector<Fp16> values = Fp16s(40000, 16, 5);
  const std::vector<ConstFp16Matrix> views = {{values.data(), 40000, 1}};
  EXPECT_LT(EncodeFp16s(views, true).size() * 8.0 / 40000, 4.4);
}

}  // namespace
}  // namespace hm11
