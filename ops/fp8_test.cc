// Products of 8-bit numbers: conversions against the formats' definition, kernels against those of 16 bits on
// operands that 8 bits hold exactly, so that only the order of sums differs.
#include "ops/fp8.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "ops/attention_heads.h"
#include "ops/heads_product.h"
#include "ops/matmul.h"
#include "ops/mlp.h"
#include "ops/mlp_cuda.h"
#include "ops/residual_norm.h"
#include "ops/residual_product.h"
#include "testing/generators.h"
#include "testing/op_run.h"

namespace hm11 {
namespace {

// Sign, exponent, mantissa; without infinities as nothing here makes any.
struct Format {
  int mantissa_bits, bias;
  double most;
};
constexpr Format FormatOf(E4m3) { return {.mantissa_bits = 3, .bias = 7, .most = 448}; }
constexpr Format FormatOf(E5m2) { return {.mantissa_bits = 2, .bias = 15, .most = 57344}; }

template <typename N>
double Decode(N number) {
  const Format f = FormatOf(N());
  const int exponent = (number.bits & 0x7f) >> f.mantissa_bits;
  const int mantissa = number.bits & ((1 << f.mantissa_bits) - 1);
  const double size =
      exponent == 0 ? std::ldexp(mantissa, 1 - f.bias - f.mantissa_bits)
                    : std::ldexp(mantissa + (1 << f.mantissa_bits), exponent - f.bias - f.mantissa_bits);
  return number.bits & 0x80 ? -size : size;
}

// To the nearest number of the format, halves to even ones, at most the largest.
template <typename N>
double Rounded(double value) {
  const Format f = FormatOf(N());
  if (value == 0) return 0;
  const int exponent = std::max(std::ilogb(value), 1 - f.bias);
  const double unit = std::ldexp(1, exponent - f.mantissa_bits);
  return std::clamp(std::nearbyint(value / unit) * unit, -f.most, f.most);
}

TEST(Fp8Test, PaperExample) {
  EXPECT_EQ(Decode(E4m3{0x7e}), 448);
  EXPECT_EQ(Decode(E4m3{0x01}), std::ldexp(1, -9));
  EXPECT_EQ(Decode(E5m2{0xfb}), -57344);
  EXPECT_EQ(Rounded<E4m3>(1000), 448);
  EXPECT_EQ(Rounded<E4m3>(17), 16);
  EXPECT_EQ(Rounded<E5m2>(-7), -7);
  EXPECT_EQ(Rounded<E5m2>(9), 8);
}

// That `place` only changes the order of numbers first to first + count - 1.
template <typename F>
void ExpectReordered(int64_t first, int64_t count, F&& place) {
  std::set<int64_t> places;
  for (int64_t k = first; k < first + count; ++k) places.insert(place(k));
  EXPECT_EQ(places.size(), static_cast<size_t>(count));
  EXPECT_EQ(*places.begin(), first);
  EXPECT_EQ(*places.rbegin(), first + count - 1);
}
TEST(Fp8Test, TermsOfABlockStayInIt) { ExpectReordered(64, 64, PlaceOfTerm); }
TEST(Fp8Test, RowsOfSixteenStayInThem) { ExpectReordered(32, 16, PlaceOfRow); }

TEST(Fp8Test, TheFactorOfGradientsIsAPowerOfTwo) {
  EXPECT_EQ(GradientFactor(1), 256);
  EXPECT_EQ(GradientFactor(65536), 256 * 65536);
  EXPECT_EQ(GradientFactor(65535), 256 * 32768);
}

#if HM11_HAVE_CUDA

// The numbers of a [rows, cols] matrix as what they stand for; place(row, col) is where one is stored.
template <typename N, typename F>
HostTensor<double> DecodedValues(const Arena& arena, Tensor<N> numbers, int64_t rows, int64_t cols,
                                 double factor, F&& place) {
  const Tensor<uint8_t> bytes(reinterpret_cast<uint8_t*>(numbers.data()), numbers.shape());
  const HostTensor<uint8_t> stored = Download(arena, bytes);
  HostTensor<double> values = {{rows, cols}, std::vector<double>(stored.values.size())};
  for (int64_t i = 0; i < stored.size(); ++i) {
    values[i] = Decode(N{stored.values[static_cast<size_t>(place(i / cols, i % cols))]}) / factor;
  }
  return values;
}

// Of [rows, cols] as they lie, terms in the order of PlaceOfTerm.
template <typename N>
HostTensor<double> Values(const Arena& arena, Tensor<N> numbers, double factor) {
  const int64_t rows = numbers.dim(0), cols = numbers.dim(1);
  return DecodedValues(arena, numbers, rows, cols, factor,
                       [=](int64_t row, int64_t col) { return row * cols + PlaceOfTerm(col); });
}

// Of [cols, rows], transposed, rows in the order of PlaceOfRow.
template <typename N>
HostTensor<double> TransposedValues(const Arena& arena, Tensor<N> numbers, double factor) {
  const int64_t rows = numbers.dim(1), cols = numbers.dim(0);
  return DecodedValues(arena, numbers, rows, cols, factor,
                       [=](int64_t row, int64_t col) { return col * rows + PlaceOfRow(row); });
}

// Multiples k * unit of whole k up to `most`.
HostTensor<double> Multiples(Shape shape, uint64_t seed, double unit, int most) {
  HostTensor<double> result = RandomHostTensor<double>(shape, seed);
  for (double& value : result.values) value = unit * std::clamp<double>(std::round(2 * value), -most, most);
  return result;
}
HostTensor<double> Inputs(Shape shape, uint64_t seed) { return Multiples(shape, seed, 0.125, 15); }
HostTensor<double> Weights(Shape shape, uint64_t seed) { return Multiples(shape, seed, 1.0 / 64, 15); }
HostTensor<double> Gradients(Shape shape, uint64_t seed) { return Multiples(shape, seed, 1.0 / 4096, 4); }

// On each GPU that multiplies 8-bit numbers.
template <typename F>
void ForEachGpu(F&& test) {
  if (HopperGpus().empty()) GTEST_SKIP() << "no Hopper GPU";
  for (const Device& gpu : HopperGpus()) {
    Arena arena = TestArena(gpu);
    test(arena);
  }
}

template <typename F>
void ForEachGpuAndRows(const std::vector<int64_t>& all_rows, F&& test) {
  ForEachGpu([&](Arena& arena) {
    for (const int64_t rows : all_rows) {
      const Arena::Scope scope(arena);
      test(arena, rows);
    }
  });
}

template <typename N = E4m3>
Tensor<N> InFp8(Arena& arena, Tensor<const Bf16> matrix, double factor) {
  const Tensor<N> result = arena.New<N>(matrix.shape());
  cuda::ToFp8(arena.device(), matrix, static_cast<float>(factor), result);
  return result;
}
Fp8Weight WeightInFp8(Arena& arena, Tensor<const Bf16> weight) {
  const ScaledWeight one = {.weight = weight};
  return WeightsToFp8(arena, {&one, 1}).front();
}

void ExpectSame(Arena& arena, Tensor<Bf16> got, Tensor<Bf16> expected, const std::string& name) {
  EXPECT_THAT(DownloadAs<double>(arena, got), IsNear(DownloadAs<double>(arena, expected), Tolerance<Bf16>()))
      << name;
}
// Of numbers in 8 bits and, rounded otherwise, in 16: off by half a unit of the last of 8 bits at most.
template <typename N>
void ExpectRounded(Arena& arena, Tensor<N> got, double factor, Tensor<Bf16> expected,
                   const std::string& name) {
  const HostTensor<double> values = Values(arena, got, factor), whole = DownloadAs<double>(arena, expected);
  const Format f = FormatOf(N());
  const double share = std::ldexp(1, -f.mantissa_bits - 1) + 1.0 / 128;
  const double least = std::ldexp(1, 1 - f.bias - f.mantissa_bits) / factor;
  for (int64_t i = 0; i < whole.size(); ++i) {
    ASSERT_NEAR(values[i], whole[i], share * std::abs(whole[i]) + least) << name << " " << i;
  }
}

template <typename N>
void ConversionsRound(uint64_t seed, int64_t rows, int64_t cols, int exponent) {
  for (const Device& gpu : HopperGpus()) {
    Arena arena = TestArena(gpu);
    HostTensor<double> numbers = RandomHostTensor<double>({rows, cols}, seed);
    for (double& value : numbers.values) value = std::ldexp(value, exponent);
    const Tensor<Bf16> matrix = UploadAs<Bf16>(arena, numbers);
    const HostTensor<double> expected = DownloadAs<double>(arena, matrix);
    const HostTensor<double> got = Values(arena, InFp8<N>(arena, matrix, 16), 1);
    for (int64_t i = 0; i < got.size(); ++i) RC_ASSERT(got[i] == Rounded<N>(16 * expected[i]));
  }
}
RC_GTEST_PROP(Fp8Test, ConversionsRoundToTheNearest, ()) {
  const int64_t rows = *SizeAroundTile(20), cols = 64 * *rc::gen::inRange<int64_t>(1, 5);
  const int exponent = *rc::gen::inRange(-14, 9);
  ConversionsRound<E4m3>(*Seed(), rows, cols, exponent);
  ConversionsRound<E5m2>(*Seed(), rows, cols, exponent);
}

// More of them than one launch has, of different shapes, half of them with a scale, some without transposed copies.
TEST(Fp8Test, WeightsAreTheMatricesAndTheirTransposed) {
  ForEachGpu([](Arena& arena) {
    constexpr int kWeights = 70;
    std::vector<ScaledWeight> operands;
    std::vector<HostTensor<double>> weights, scales;
    for (int k = 0; k < kWeights; ++k) {
      const int64_t out = 64 * (1 + k % 3), in = 64 * (1 + k % 5);
      weights.push_back(Weights({out, in}, static_cast<uint64_t>(k)));
      scales.push_back({{out}, std::vector<double>(static_cast<size_t>(out), 1)});
      for (int64_t o = 0; k % 2 == 1 && o < out; ++o)
        scales.back()[o] = std::ldexp(1, static_cast<int>(o % 3) - 1);
      operands.push_back({.weight = UploadAs<Bf16>(arena, weights.back()),
                          .scale = k % 2 == 1 ? UploadAs<float>(arena, scales.back()) : Tensor<float>(),
                          .forward_only = k % 7 == 0});
    }
    const std::vector<Fp8Weight> results = WeightsToFp8(arena, operands);
    for (size_t k = 0; k < kWeights; ++k) {
      const HostTensor<double> plain = Values(arena, results[k].plain, kWeightFactor);
      EXPECT_EQ(plain.values, weights[k].values) << k;
      ASSERT_EQ(results[k].transposed.empty(), operands[k].forward_only);
      if (operands[k].forward_only) continue;
      const HostTensor<double> transposed = Values(arena, results[k].transposed, kWeightFactor);
      const int64_t out = weights[k].shape[0], in = weights[k].shape[1];
      for (int64_t o = 0; o < out; ++o) {
        for (int64_t i = 0; i < in; ++i) {
          ASSERT_EQ(transposed[i * out + o], scales[k][o] * weights[k][o * in + i]) << k;
        }
      }
    }
  });
}

TEST(Fp8Test, ProductsAreTheSums) {
  ForEachGpuAndRows({17, 512, 4100}, [](Arena& arena, int64_t rows) {
    const Tensor<Bf16> x = UploadAs<Bf16>(arena, Inputs({rows, 512}, 1));
    const Tensor<Bf16> weight = UploadAs<Bf16>(arena, Weights({192, 512}, 2));
    const Tensor<Bf16> expected = arena.New<Bf16>({rows, 192}), got = arena.New<Bf16>({rows, 192});
    MatmulForward<Bf16>(arena, {.x = x, .weight = weight, .y = expected});
    MatmulForward<Bf16>(arena, {.x = x,
                                .weight = weight,
                                .y = got,
                                .in8 = {InFp8(arena, x, kNormedFactor), WeightInFp8(arena, weight).plain}});
    ExpectSame(arena, got, expected, "y");
  });
}

TEST(Fp8Test, HeadsAreThoseOfTheProduct) {
  ForEachGpu([](Arena& arena) {
    const int64_t time = 1100, heads = 8, kv_heads = 4, width = (heads + 2 * kv_heads) * 64;
    const Tensor<Bf16> x = UploadAs<Bf16>(arena, Inputs({2 * time, 512}, 1));
    const Tensor<Bf16> weight = UploadAs<Bf16>(arena, Weights({width, 512}, 2));
    const Tensor<float> gain = UploadAs<float>(arena, RandomHostTensor<double>({heads}, 3));
    const Tensor<float> table = arena.New<float>({2, time, 8});
    std::vector<Tensor<Bf16>> results[2];
    for (const bool fp8 : {false, true}) {
      const Tensor<Bf16> qkv = arena.NewZero<Bf16>({2 * time, width});
      const Tensor<Bf16> q = arena.New<Bf16>({2, time, heads, 64}),
                         k = arena.New<Bf16>({2, time, kv_heads, 64}),
                         v = arena.New<Bf16>({2, time, kv_heads, 64});
      MatmulThenAttentionHeadsArgs<Bf16> args = {
          .x = x,
          .weight = weight,
          .qkv = qkv,
          .heads = {.batch = 2, .time = time, .rope_dims = 16, .q_gain = gain, .q = q, .k = k, .v = v}};
      if (fp8) {
        args.in8 = {InFp8(arena, x, kNormedFactor), WeightInFp8(arena, weight).plain};
        EXPECT_TRUE(cuda::TryFp8ThenAttentionHeads(arena.device(), args, table));
      } else {
        EXPECT_TRUE(cuda::TryMatmulThenAttentionHeads(arena.device(), args, table));
      }
      results[fp8] = {qkv, q, k, v};
    }
    for (size_t i = 0; i < 4; ++i) ExpectSame(arena, results[true][i], results[false][i], "qkv, q, k, v");
  });
}

struct StepCase {
  int64_t rows, in;
  bool mix, skip;
};

void StepsAreThoseOfTheProduct(Arena& arena, const StepCase& c) {
  const int64_t dim = 512;
  const Shape matrix = {c.rows, dim};
  const auto random = [&](bool present, Shape shape, uint64_t seed) {
    return present ? UploadAs<float>(arena, RandomHostTensor<double>(shape, seed)) : Tensor<float>();
  };
  const auto operand = [&](bool present, uint64_t seed) {
    return present ? UploadAs<Bf16>(arena, RandomHostTensor<double>(matrix, seed)) : Tensor<Bf16>();
  };
  const Tensor<Bf16> x = UploadAs<Bf16>(arena, Inputs({c.rows, c.in}, 1));
  const Tensor<Bf16> weight = UploadAs<Bf16>(arena, Weights({dim, c.in}, 2));
  MatmulThenResidualNormArgs<Bf16> args = {.x = x,
                                           .weight = weight,
                                           .step = {.x = operand(true, 3),
                                                    .branch_scale = random(true, {dim}, 4),
                                                    .skip = operand(c.skip, 5),
                                                    .skip_weight = random(c.skip, {dim}, 6),
                                                    .x0 = operand(c.mix, 7),
                                                    .mix = random(c.mix, {2, dim}, 8),
                                                    .norm_scale = 0.7f}};
  ResidualNormArgs<Bf16> steps[2];
  for (const bool fp8 : {false, true}) {
    ResidualNormArgs<Bf16>& step = args.step;
    step.y = arena.New<Bf16>(matrix);
    step.u = c.mix ? arena.New<Bf16>(matrix) : Tensor<Bf16>();
    step.normed = arena.New<Bf16>(matrix);
    step.normed8 = arena.New<E4m3>(matrix);
    step.rstd = arena.New<float>({c.rows});
    if (fp8) {
      args.in8 = {InFp8(arena, x, kActivatedFactor), WeightInFp8(arena, weight).plain};
      EXPECT_TRUE(cuda::TryFp8ThenResidualNorm(arena.device(), args));
    } else {
      EXPECT_TRUE(cuda::TryMatmulThenResidualNorm(arena.device(), args));
    }
    ExpectRounded(arena, step.normed8, kNormedFactor, step.normed, "normed8");
    steps[fp8] = step;
  }
  ExpectSame(arena, steps[true].y, steps[false].y, "y");
  if (c.mix) ExpectSame(arena, steps[true].u, steps[false].u, "u");
  ExpectSame(arena, steps[true].normed, steps[false].normed, "normed");
}
TEST(Fp8Test, StepsAreThoseOfTheProduct) {
  ForEachGpu([](Arena& arena) {
    for (const StepCase& c : {StepCase{300, 640, false, false}, StepCase{9000, 1536, true, false},
                              StepCase{130, 768, true, true}}) {
      const Arena::Scope scope(arena);
      StepsAreThoseOfTheProduct(arena, c);
    }
  });
}

TEST(Fp8Test, GradientsIntoStepsAreThoseOfTheProduct) {
  ForEachGpuAndRows({77, 9000}, [](Arena& arena, int64_t rows) {
    const int64_t dim = 512, in = 1536;
    const Tensor<Bf16> dy = UploadAs<Bf16>(arena, Gradients({rows, in}, 1));
    const Tensor<Bf16> weight = UploadAs<Bf16>(arena, Weights({in, dim}, 2));
    const HostTensor<double> du = Gradients({rows, dim}, 4);  // of the size of what joins it
    Tensor<Bf16> dx[2];
    ResidualNormGradArgs<Bf16> step;
    step.forward = {.x = UploadAs<Bf16>(arena, RandomHostTensor<double>({rows, dim}, 3)), .norm_scale = 0.7f};
    step.forward.normed = arena.New<Bf16>({rows, dim});
    HostTensor<double> rstd = RandomHostTensor<double>({rows}, 5);
    for (double& value : rstd.values) value = 1 + 0.1 * value;
    step.forward.rstd = UploadAs<float>(arena, rstd);
    for (const bool fp8 : {false, true}) {
      step.du = step.dx = dx[fp8] = UploadAs<Bf16>(arena, du);
      if (fp8) {
        EXPECT_TRUE(cuda::TryFp8BackwardIntoStep(arena.device(), InFp8<E5m2>(arena, dy, GradientFactor(rows)),
                                                 WeightInFp8(arena, weight).transposed, step));
      } else {
        EXPECT_TRUE(cuda::TryMatmulBackwardIntoStep(arena.device(), {.dy = dy, .weight = weight}, step));
      }
    }
    ExpectSame(arena, dx[true], dx[false], "dx");
  });
}

TEST(Fp8Test, TheMlpIsThatOf16Bits) {
  ForEachGpuAndRows({200, 9000}, [](Arena& arena, int64_t rows) {
    const int64_t dim = 512, width = 1536;
    const Tensor<Bf16> x = UploadAs<Bf16>(arena, Inputs({rows, dim}, 1));
    const Tensor<Bf16> up = UploadAs<Bf16>(arena, Weights({width, dim}, 2));
    const Tensor<Bf16> down = UploadAs<Bf16>(arena, Weights({dim, width}, 3));
    const Tensor<Bf16> dy = UploadAs<Bf16>(arena, Gradients({rows, dim}, 4));
    MlpGradArgs<Bf16> args = {.forward = {.x = x, .up = up, .down = down}, .dy = dy};
    Tensor<Bf16> activated[2], dh[2];
    for (const bool fp8 : {false, true}) {
      MlpArgs<Bf16>& f = args.forward;
      f.activated = activated[fp8] = arena.New<Bf16>({rows, width});
      f.negative = arena.New<uint32_t>({rows, SignWords(width)});
      dh[fp8] = arena.New<Bf16>({rows, width});
      const Tensor<E5m2> dh8 = arena.New<E5m2>({rows, width});
      if (fp8) {
        f.x8 = InFp8(arena, x, kNormedFactor);
        f.activated8 = arena.New<E4m3>({rows, width});
        f.up8 = WeightInFp8(arena, up);
        f.down8 = WeightInFp8(arena, down);
        args.dy8 = InFp8<E5m2>(arena, dy, GradientFactor(rows));
        EXPECT_TRUE(cuda::TryFp8ThenSquare(arena.device(), f));
        EXPECT_TRUE(cuda::TryFp8TimesDerivative(arena.device(), args, dh[fp8], dh8));
        ExpectRounded(arena, f.activated8, kActivatedFactor, f.activated, "activated8");
      } else {
        EXPECT_TRUE(cuda::TryProductThenSquare(arena.device(), f));
        EXPECT_TRUE(cuda::TryProductTimesDerivative(arena.device(), args, down, dh[fp8], dh8));
      }
      ExpectRounded(arena, dh8, GradientFactor(rows), dh[fp8], "dh8");
    }
    ExpectSame(arena, activated[true], activated[false], "activated");
    ExpectSame(arena, dh[true], dh[false], "dh");
  });
}

RC_GTEST_PROP(Fp8Test, TransposedCopiesHaveTheSameNumbers, ()) {
  const int64_t rows = 16 * *rc::gen::inRange<int64_t>(1, 40), cols = 64 * *rc::gen::inRange<int64_t>(1, 9);
  const uint64_t seed = *Seed();
  for (const Device& gpu : HopperGpus()) {
    Arena arena = TestArena(gpu);
    const Tensor<Bf16> matrix = UploadAs<Bf16>(arena, RandomHostTensor<double>({rows, cols}, seed));
    const Tensor<E5m2> plain = InFp8<E5m2>(arena, matrix, 1);
    RC_ASSERT(TransposedValues(arena, TransposedFp8<E5m2>(arena, plain), 1).values ==
              Values(arena, plain, 1).values);
  }
}

// Sums of more terms than the tensor cores' own hold: each with a last bit that only a float has.
TEST(Fp8Test, WeightsGradientsAreTheSums) {
  ForEachGpuAndRows({48, 9008, 32768}, [](Arena& arena, int64_t rows) {
    const int64_t out = 192, in = 512;
    const Tensor<Bf16> dy = UploadAs<Bf16>(arena, Gradients({rows, out}, 1));
    const Tensor<Bf16> x = UploadAs<Bf16>(arena, Inputs({rows, in}, 2));
    const HostTensor<double> before = RandomHostTensor<double>({out, in}, 3);
    for (const bool add : {false, true}) {
      const Arena::Scope scope(arena);
      const Tensor<float> expected = UploadAs<float>(arena, before), got = UploadAs<float>(arena, before);
      MatmulBackward<Bf16>(arena, {.dy = dy, .x = x, .dweight = expected, .add_to_dweight = add});
      const float factor = GradientFactor(rows);
      const Tensor<E5m2> dy8 = InFp8<E5m2>(arena, dy, factor);
      const Tensor<E4m3> x8 = InFp8(arena, x, kNormedFactor);
      MatmulBackward<Bf16>(arena, {.dweight = got,
                                   .add_to_dweight = add,
                                   .in8 = {.dy = TransposedFp8<E5m2>(arena, dy8),
                                           .x = TransposedFp8<E4m3>(arena, x8),
                                           .factor = 1 / (factor * kNormedFactor)}});
      EXPECT_THAT(DownloadAs<double>(arena, got), IsNear(DownloadAs<double>(arena, expected), 1e-3))
          << rows << " rows" << (add ? ", added" : "");
    }
  });
}

// An MLP whose activations are kept in 8 bits alone, against the products of 16 bits of the same numbers.
TEST(Fp8Test, TheMlpIn8BitsAloneIsThatOfItsNumbers) {
  ForEachGpuAndRows({208, 6000}, [](Arena& arena, int64_t rows) {
    const int64_t dim = 512, width = 1536;
    const Device& gpu = arena.device();
    ASSERT_TRUE(Fp8MlpServes(gpu, rows, dim, width));
    const Tensor<Bf16> x = UploadAs<Bf16>(arena, Inputs({rows, dim}, 1));
    const Tensor<Bf16> up = UploadAs<Bf16>(arena, Weights({width, dim}, 2));
    const Tensor<Bf16> down = UploadAs<Bf16>(arena, Weights({dim, width}, 3));
    const Tensor<Bf16> dy = UploadAs<Bf16>(arena, Gradients({rows, dim}, 4));
    MlpArgs<Bf16> f = {.x = x, .up = up, .down = down};
    f.activated = arena.New<Bf16>({rows, width});
    f.negative = arena.New<uint32_t>({rows, SignWords(width)});
    ASSERT_TRUE(cuda::TryProductThenSquare(gpu, f));
    const std::vector<uint32_t> signs = Download(arena, f.negative).values;
    const Tensor<Bf16> activated = f.activated;
    f.activated = {};
    f.negative = arena.New<uint32_t>({rows, SignWords(width)});
    f.x8 = InFp8(arena, x, kNormedFactor);
    f.up8 = WeightInFp8(arena, up);
    f.down8 = WeightInFp8(arena, down);
    f.activated8 = arena.New<E4m3>({rows, width});
    f.activated8t = arena.New<E4m3>({width, rows});
    MlpForward<Bf16>(arena, f);
    ExpectRounded(arena, f.activated8, kActivatedFactor, activated, "activated8");
    EXPECT_EQ(Download(arena, f.negative).values, signs);
    const HostTensor<double> rounded = TransposedValues(arena, f.activated8t, kActivatedFactor);
    EXPECT_EQ(rounded.values, Values(arena, f.activated8, kActivatedFactor).values);

    // The gradient of the hidden sums, from what was kept.
    MlpGradArgs<Bf16> args = {.forward = f, .dy = dy};
    args.dy8 = InFp8<E5m2>(arena, dy, GradientFactor(rows));
    MlpGradArgs<Bf16> of_16_bits = args;
    of_16_bits.forward.activated = UploadAs<Bf16>(arena, rounded);
    of_16_bits.forward.activated8t = {};
    const Tensor<Bf16> dh = arena.New<Bf16>({rows, width});
    ASSERT_TRUE(cuda::TryProductTimesDerivative(gpu, of_16_bits, down, dh, {}));
    const Tensor<E5m2> dh8 = arena.New<E5m2>({rows, width}), dh8t = arena.New<E5m2>({width, rows});
    ASSERT_TRUE(cuda::TryFp8TimesDerivative(gpu, args, dh8t, dh8));
    ExpectRounded(arena, dh8, GradientFactor(rows), dh, "dh8");
    const HostTensor<double> dh_rounded = TransposedValues(arena, dh8t, GradientFactor(rows));
    EXPECT_EQ(dh_rounded.values, Values(arena, dh8, GradientFactor(rows)).values);

    // All gradients, and those of 16 bits from the numbers that 8 bits hold.
    const HostTensor<double> scale = RandomHostTensor<double>({dim}, 5);
    ResidualNormGradArgs<Bf16> step;
    step.forward = {.x = UploadAs<Bf16>(arena, RandomHostTensor<double>({rows, dim}, 6)), .norm_scale = 0.7f};
    step.forward.normed = x;
    step.forward.rstd = UploadAs<float>(arena, HostTensor<double>{{rows}, std::vector<double>(rows, 1.1)});
    const HostTensor<double> du = Gradients({rows, dim}, 7);  // of the size of what joins it
    args.columns.scale = UploadAs<float>(arena, scale);
    std::vector<HostTensor<double>> results[2];
    for (const bool fp8 : {false, true}) {
      step.du = step.dx = UploadAs<Bf16>(arena, du);
      args.dup = arena.NewZero<float>({width, dim});
      args.ddown = arena.NewZero<float>({dim, width});
      args.columns.dscale = arena.NewZero<float>({dim});
      args.input = {.step = &step};
      if (fp8) {
        MlpBackward<Bf16>(arena, args);
      } else {
        ScaledMatmulBackward<Bf16>(arena, {.dy = dy,
                                           .x = of_16_bits.forward.activated,
                                           .weight = down,
                                           .columns = args.columns,
                                           .dweight = args.ddown});
        MatmulBackwardInto<Bf16>(
            arena, {.dy = UploadAs<Bf16>(arena, dh_rounded), .x = x, .weight = up, .dweight = args.dup},
            args.input);
      }
      results[fp8] = {DownloadAs<double>(arena, args.dup), DownloadAs<double>(arena, args.ddown),
                      DownloadAs<double>(arena, args.columns.dscale), DownloadAs<double>(arena, step.dx)};
    }
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_THAT(results[1][i], IsNear(results[0][i], Tolerance<Bf16>())) << "dup, ddown, dscale, dx: " << i;
    }
  });
}

// By teams of warps, and of rows too long for these.
TEST(Fp8Test, NormsLeaveTheirResultsRounded) {
  ForEachGpu([](Arena& arena) {
    for (const int64_t dim : {512, 2112}) {
      const Arena::Scope scope(arena);
      const int64_t rows = 70;
      const Shape matrix = {rows, dim};
      const auto operand = [&](uint64_t seed) {
        return UploadAs<Bf16>(arena, RandomHostTensor<double>(matrix, seed));
      };
      ResidualNormGradArgs<Bf16> args;
      args.forward = {.x = operand(1), .x0 = operand(2), .norm_scale = 0.7f};
      args.forward.mix = UploadAs<float>(arena, RandomHostTensor<double>({2, dim}, 3));
      for (Tensor<Bf16>* tensor : {&args.forward.y, &args.forward.u, &args.forward.normed, &args.dx}) {
        *tensor = arena.New<Bf16>(matrix);
      }
      args.forward.normed8 = arena.New<E4m3>(matrix);
      args.forward.rstd = arena.New<float>({rows});
      ResidualNormForward<Bf16>(arena, args.forward);
      ExpectRounded(arena, args.forward.normed8, kNormedFactor, args.forward.normed, "normed8");
      args.dnormed = UploadAs<Bf16>(arena, Gradients(matrix, 4));
      args.du = UploadAs<Bf16>(arena, Gradients(matrix, 5));
      args.dx8 = arena.New<E5m2>(matrix);
      args.dx0 = arena.NewZero<Bf16>(matrix);
      args.dmix = arena.NewZero<float>({2, dim});
      ResidualNormBackward<Bf16>(arena, args);
      ExpectRounded(arena, args.dx8, GradientFactor(rows), args.dx, "dx8");
    }
  });
}

#endif  // HM11_HAVE_CUDA

}  // namespace
}  // namespace hm11
