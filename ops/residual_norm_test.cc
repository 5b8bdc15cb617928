// Residual norm: the numbered properties of its header.
#include "ops/residual_norm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "testing/generators.h"
#include "testing/gradient_check.h"
#include "testing/op_run.h"

namespace hm11 {
namespace {

struct Case {
  int64_t rows = 0;
  int64_t dim = 0;
  HostTensor<double> x, branch, branch_scale, skip, skip_weight, x0, mix;
  HostTensor<double> dnormed, du, dy;             // absent ones stay absent
  HostTensor<double> dx0, dscale, dweight, dmix;  // what is there before backward adds
  bool keep_y = true;
  bool norm = true;
  double norm_scale = 0.7;
};

struct Terms {
  bool branch = true;
  bool scalar_scale = false;
  bool skip = true;
  bool x0 = true;
  bool norm = true;
  bool du = true;
  bool dy = true;
};

Case MakeCase(int64_t rows, int64_t dim, uint64_t seed, Terms terms = {}) {
  Case c{.rows = rows, .dim = dim};
  const auto random = [&](bool present, Shape shape, uint64_t stream, double mean = 0) {
    return present ? RandomOperand(shape, seed + stream, 1, mean) : HostTensor<double>();
  };
  const Shape matrix = {rows, dim};
  const Shape scale = {terms.scalar_scale ? 1 : dim};
  c.x = random(true, matrix, 1);
  c.branch = random(terms.branch, matrix, 2);
  c.branch_scale = random(terms.branch, scale, 3, 1);
  c.skip = random(terms.skip, matrix, 4);
  c.skip_weight = random(terms.skip, {dim}, 5, 1);
  c.x0 = random(terms.x0, matrix, 6);
  c.mix = random(terms.x0, {2, dim}, 7, 0.5);
  c.norm = terms.norm;
  c.dnormed = random(terms.norm, matrix, 8);
  c.du = random(terms.du, matrix, 9);
  c.dy = random(terms.dy, matrix, 10);
  c.dx0 = random(terms.x0, matrix, 11);
  c.dscale = random(terms.branch, scale, 12);
  c.dweight = random(terms.skip, {dim}, 13);
  c.dmix = random(terms.x0, {2, dim}, 14);
  return c;
}

template <typename T>
ResidualNormArgs<T> Inputs(OpRun<T>& run, const Case& c) {
  return {.x = run.In(c.x),
          .branch = run.In(c.branch),
          .branch_scale = run.InAccum(c.branch_scale),
          .skip = run.In(c.skip),
          .skip_weight = run.InAccum(c.skip_weight),
          .x0 = run.In(c.x0),
          .mix = run.InAccum(c.mix),
          .norm_scale = static_cast<Accum<T>>(c.norm_scale)};
}

template <typename T>
ResidualNormArgs<T> Forward(OpRun<T>& run, const Case& c) {
  const Shape matrix = {c.rows, c.dim};
  ResidualNormArgs<T> args = Inputs(run, c);
  if (c.keep_y) args.y = run.Out("y", matrix);
  args.u = run.Out("u", matrix);
  if (c.norm) args.normed = run.Out("normed", matrix);
  if (c.norm) args.rstd = run.OutAccum("rstd", {c.rows});
  ResidualNormForward<T>(run.arena(), args);
  return args;
}

// Forward and backward; gradients that add start from what the case has, or from zero. `between` changes what
// forward kept, where it is asked to.
template <typename T>
Results Call(const Device& device, const Case& c, const std::function<void(Tensor<T>)>& between = {}) {
  OpRun<T> run(device);
  const ResidualNormArgs<T> args = Forward(run, c);
  if (between) {
    for (const Tensor<T>& kept : {args.y, args.u, args.normed}) between(kept);
  }
  ResidualNormBackward<T>(run.arena(), {.forward = args,
                                        .dnormed = run.In(c.dnormed),
                                        .du = run.In(c.du),
                                        .dy = run.In(c.dy),
                                        .dx = run.Out("dx", c.x.shape),
                                        .dbranch = run.Out("dbranch", c.branch.shape),
                                        .dskip = run.Out("dskip", c.skip.shape),
                                        .dx0 = run.InOut("dx0", c.dx0),
                                        .dbranch_scale = run.InOutAccum("dbranch_scale", c.dscale),
                                        .dskip_weight = run.InOutAccum("dskip_weight", c.dweight),
                                        .dmix = run.InOutAccum("dmix", c.dmix)});
  return run.Finish();
}

// What backward is the gradient of.
double Loss(const Case& c) {
  OpRun<double> run(Device::Cpu());
  Forward(run, c);
  const Results results = run.Finish();
  double loss = c.norm ? Dot(c.dnormed, results.at("normed")) : 0;
  if (!c.du.empty()) loss += Dot(c.du, results.at("u"));
  if (!c.dy.empty()) loss += Dot(c.dy, results.at("y"));
  return loss;
}

// A number and how far a computation with rounding may be from it.
struct Bounded {
  double value = 0;
  double error = 0;
};

// Relative errors: of a number that is stored between forward and backward or as a result, and of float sums.
struct Rounding {
  double stored;
  double sums = std::ldexp(1.0, -22);
};

double At(const HostTensor<double>& tensor, int64_t index, double absent = 0) {
  return tensor.empty() ? absent : tensor[index];
}

double BranchScale(const Case& c, int64_t d) {
  return c.branch_scale.size() == 1 ? c.branch_scale[0] : At(c.branch_scale, d);
}

// What the terms of y's number i add up to without their signs.
double YTerms(const Case& c, int64_t i) {
  const int64_t d = i % c.dim;
  return std::abs(c.x[i]) + std::abs(BranchScale(c, d) * At(c.branch, i)) +
         std::abs(At(c.skip_weight, d) * At(c.skip, i));
}

// What reaches u of a row through norm and du: scale (g - shrink u) + du, where u comes from the rounded y.
// What of g lies along u cancels, so the error is not small beside the result but beside its terms.
std::vector<Bounded> ReachesU(const Case& c, const Results& exact, int64_t row, Rounding rounding) {
  const int64_t dim = c.dim, at = row * dim;
  const double rstd = c.norm ? exact.at("rstd")[row] : 0;
  std::vector<Bounded> u(static_cast<size_t>(dim));
  Bounded dot, squares;
  for (int64_t d = 0; d < dim; ++d) {
    const double x0 = At(c.x0, at + d), mix0 = At(c.mix, d, 1), mix1 = c.mix.empty() ? 0 : c.mix[dim + d];
    const double y = exact.at("y")[at + d];
    const double by_float = rounding.sums * (std::abs(mix0) * YTerms(c, at + d) + std::abs(mix1 * x0));
    u[static_cast<size_t>(d)] = {mix0 * y + mix1 * x0, rounding.stored * std::abs(mix0 * y) + by_float};
    const Bounded& here = u[static_cast<size_t>(d)];
    const double g = At(c.dnormed, at + d);
    dot.value += g * here.value;
    dot.error += std::abs(g) * here.error + rounding.sums * std::abs(g * here.value);
    squares.error +=
        2 * std::abs(here.value) * by_float + by_float * by_float;  // rstd is of the u before rounding
  }
  const double rstd_error =
      rstd * (0.5 * rstd * rstd * squares.error / static_cast<double>(dim) + rounding.sums);
  const Bounded shrink = {dot.value * rstd * rstd / static_cast<double>(dim),
                          dot.error * rstd * rstd / static_cast<double>(dim) +
                              3 * std::abs(dot.value) * rstd * rstd_error / static_cast<double>(dim)};
  std::vector<Bounded> reaches(static_cast<size_t>(dim));
  for (int64_t d = 0; d < dim; ++d) {
    const Bounded& here = u[static_cast<size_t>(d)];
    const double g = At(c.dnormed, at + d), scale = c.norm_scale * rstd, du = At(c.du, at + d);
    const double along = std::abs(here.value) + here.error;
    const double error =
        scale * (along * shrink.error + std::abs(shrink.value) * here.error) +
        c.norm_scale * rstd_error * (std::abs(g) + std::abs(shrink.value) * along) +
        rounding.sums * (std::abs(du) + scale * (std::abs(g) + std::abs(shrink.value) * along));
    reaches[static_cast<size_t>(d)] = {du + scale * (g - shrink.value * here.value), error};
  }
  return reaches;
}

// For each result how far from `exact` its elements may be: sums of absolute terms, each times how it was
// rounded.
Results Bars(const Case& c, const Results& exact, Rounding rounding) {
  Results bars;
  for (const auto& [name, value] : exact) bars[name] = ZeroHostTensor<double>(value.shape);
  const int64_t dim = c.dim;
  const auto add = [&](const char* name, int64_t index, double error) {
    if (const auto found = bars.find(name); found != bars.end() && !found->second.empty())
      found->second[index] += error;
  };
  // Sums begin with what is there.
  for (const auto& [name, start] : {std::pair("dbranch_scale", &c.dscale),
                                    std::pair("dskip_weight", &c.dweight), std::pair("dmix", &c.dmix)}) {
    for (int64_t i = 0; i < start->size(); ++i) add(name, i, rounding.sums * std::abs((*start)[i]));
  }
  for (int64_t row = 0; row < c.rows; ++row) {
    const std::vector<Bounded> reaches = ReachesU(c, exact, row, rounding);
    for (int64_t d = 0; d < dim; ++d) {
      const int64_t i = row * dim + d;
      const Bounded du = reaches[static_cast<size_t>(d)];
      const double mix0 = At(c.mix, d, 1), mix1 = c.mix.empty() ? 0 : c.mix[dim + d];
      const double y = exact.at("y")[i], dy = At(c.dy, i) + mix0 * du.value;
      const double dy_error = std::abs(mix0) * du.error +
                              rounding.sums * (std::abs(At(c.dy, i)) + std::abs(mix0 * du.value)) +
                              rounding.stored * std::abs(dy);
      const int64_t s = c.branch_scale.size() == 1 ? 0 : d;
      const double branch = At(c.branch, i), scale = At(c.branch_scale, s), weight = At(c.skip_weight, d);
      add("dx", i, dy_error);
      add("dbranch", i, std::abs(scale) * dy_error + rounding.stored * std::abs(scale * dy));
      add("dskip", i, std::abs(weight) * dy_error + rounding.stored * std::abs(weight * dy));
      add("dx0", i,
          std::abs(mix1) * du.error + rounding.sums * (std::abs(At(c.dx0, i)) + std::abs(mix1 * du.value)) +
              rounding.stored * std::abs(exact.count("dx0") && !c.dx0.empty() ? exact.at("dx0")[i] : 0));
      const auto sum = [&](double factor, double value, double error) {
        return std::abs(factor) * error + rounding.sums * std::abs(factor * value);
      };
      add("dbranch_scale", s, sum(branch, dy, dy_error));
      add("dskip_weight", d, sum(At(c.skip, i), dy, dy_error));
      if (c.mix.empty()) continue;
      add("dmix", d,
          sum(y, du.value, du.error) +
              std::abs(du.value) * (rounding.stored * std::abs(y) + rounding.sums * YTerms(c, i)));
      add("dmix", dim + d, sum(c.x0[i], du.value, du.error));
    }
  }
  return bars;
}

// Forward's results but for what they are summed from lie close; backward's within their bars.
void ExpectWithinBars(const Case& c, const Results& got, const Results& exact, Rounding rounding,
                      double forward_tolerance, const std::string& where) {
  const Results bars = Bars(c, exact, rounding);
  ASSERT_EQ(got.size(), exact.size());
  for (const auto& [name, expected] : exact) {
    if (name[0] != 'd') {
      EXPECT_THAT(got.at(name), IsNear(expected, forward_tolerance)) << name << ", " << where;
      continue;
    }
    for (int64_t i = 0; i < expected.size(); ++i) {
      const double bar = 1.5 * bars.at(name)[i] + 1e-30;
      ASSERT_LE(std::abs(got.at(name)[i] - expected[i]), bar) << name << "[" << i << "], " << where;
    }
  }
}

constexpr Rounding kFloat = {.stored = 0x1p-24}, kBf16 = {.stored = 0x1p-8};

rc::Gen<Terms> AnyTerms() {
  return rc::gen::apply(
      [](bool branch, bool scalar_scale, bool skip, bool x0, int reached) {
        return Terms{branch, scalar_scale, skip, x0, reached != 1, reached != 2, reached % 2 == 0};
      },
      rc::gen::arbitrary<bool>(), rc::gen::arbitrary<bool>(), rc::gen::arbitrary<bool>(),
      rc::gen::arbitrary<bool>(), rc::gen::inRange(0, 4));
}

TEST(ResidualNormTest, PaperExample) {
  // y = 1 + 2 * 1 = 3 and 2 + 2 * 0.5 = 3; u = 3 - 2 = 1 and 2 * 3 + 1 = 7; mean of squares 25; normed = u
  // / 5.
  Case c{.rows = 1, .dim = 2, .norm_scale = 1};
  c.x = {{1, 2}, {1, 2}};
  c.branch = {{1, 2}, {1, 0.5}};
  c.branch_scale = {{1}, {2}};
  c.x0 = {{1, 2}, {2, 1}};
  c.mix = {{2, 2}, {1, 2, -1, 1}};
  for (const Device& device : TestDevices()) {
    OpRun<float> run(device);
    Forward(run, c);
    const Results results = run.Finish();
    EXPECT_THAT(results.at("y"), IsNear((HostTensor<double>{{1, 2}, {3, 3}}), 1e-6));
    EXPECT_THAT(results.at("u"), IsNear((HostTensor<double>{{1, 2}, {1, 7}}), 1e-6));
    EXPECT_THAT(results.at("normed"), IsNear((HostTensor<double>{{1, 2}, {0.2, 1.4}}), 1e-6));
    EXPECT_THAT(results.at("rstd"), IsNear((HostTensor<double>{{1}, {0.2}}), 1e-6));
  }
}

RC_GTEST_PROP(ResidualNormTest, BackwardIsTheGradientOfForward, ()) {
  const Terms terms = *AnyTerms();
  Case c = MakeCase(*SmallSize(), *SizeAroundTile(16), *Seed(), terms);
  for (HostTensor<double>* sum : {&c.dx0, &c.dscale, &c.dweight, &c.dmix}) {
    if (!sum->empty()) *sum = ZeroHostTensor<double>(sum->shape);
  }
  // The norm alone of one number has no gradient to speak of, and dy reaches neither x0 nor mix.
  if (c.dim == 1 && !terms.du) return;
  const Results g = Call<double>(Device::Cpu(), c);
  std::vector<DifferentiableInput> inputs = {{"x", &c.x, g.at("dx")}};
  if (terms.branch) inputs.push_back({"branch", &c.branch, g.at("dbranch")});
  if (terms.branch) inputs.push_back({"branch_scale", &c.branch_scale, g.at("dbranch_scale")});
  if (terms.skip) inputs.push_back({"skip", &c.skip, g.at("dskip")});
  if (terms.skip) inputs.push_back({"skip_weight", &c.skip_weight, g.at("dskip_weight")});
  if (terms.x0) inputs.push_back({"x0", &c.x0, g.at("dx0")});
  if (terms.x0) inputs.push_back({"mix", &c.mix, g.at("dmix")});
  // The norm bends sharply for short rows near zero, the more so the shorter they are, hence a small step.
  double steepest = 1;
  if (c.norm) {
    for (const double rstd : g.at("rstd").values) steepest = std::max(steepest, rstd);
  }
  const testing::AssertionResult match =
      GradientsMatch(inputs, [&] { return Loss(c); }, {.step = 1e-5 / steepest, .tolerance = 1e-6});
  RC_ASSERT(match || (std::cerr << match.message(), false));
}

RC_GTEST_PROP(ResidualNormTest, DevicesAgree, ()) {
  const int64_t tile = *rc::gen::element<int64_t>(8, 32, 128, 512, 1024, 2048);
  const Case c = MakeCase(*SizeAroundTile(9), *SizeAroundTile(tile), *Seed(), *AnyTerms());
  const Results exact = Call<double>(Device::Cpu(), c);
  ExpectWithinBars(c, Call<float>(Device::Cpu(), c), exact, kFloat, 2e-5, "float on the CPU");
  for (const Device& gpu : TestGpus()) {
    ExpectWithinBars(c, Call<float>(gpu, c), exact, kFloat, 2e-5, "float on " + gpu.name());
    ExpectWithinBars(c, Call<Bf16>(gpu, c), exact, kBf16, 2e-2, "Bf16 on " + gpu.name());
  }
}

// Backward where one gradient is asked for in place of two: dx is dx0, or dskip.
enum class Shared { kX0, kSkip };

template <typename T>
Results CallShared(const Device& device, const Case& c, Shared which, bool begins_dx0) {
  OpRun<T> run(device);
  ResidualNormGradArgs<T> grad = {.forward = Forward(run, c),
                                  .dnormed = run.In(c.dnormed),
                                  .du = run.In(c.du),
                                  .dy = run.In(c.dy),
                                  .dbranch = run.Out("dbranch", c.branch.shape),
                                  .begins_dx0 = begins_dx0,
                                  .dbranch_scale = run.InOutAccum("dbranch_scale", c.dscale),
                                  .dskip_weight = run.InOutAccum("dskip_weight", c.dweight),
                                  .dmix = run.InOutAccum("dmix", c.dmix)};
  grad.dx0 = begins_dx0 ? run.Out("dx0", c.x0.shape) : run.InOut("dx0", c.dx0);
  if (which == Shared::kX0) {
    grad.dx = grad.dx0;
    grad.dskip = run.Out("dskip", c.skip.shape);
  } else {
    grad.dx = grad.dskip = run.Out("dx", c.x.shape);
  }
  ResidualNormBackward<T>(run.arena(), grad);
  return run.Finish();
}

template <typename T>
void ExpectSharedGradientIsTheSum(const Device& device, int64_t dim) {
  const Case c = MakeCase(9, dim, 31);
  Results apart = Call<T>(device, c);
  for (const bool begins_dx0 : {false, true}) {
    Results expected = apart;
    HostTensor<double>&dx0 = expected.at("dx0"), &dx = expected.at("dx");
    for (int64_t i = 0; begins_dx0 && i < dx0.size(); ++i) dx0[i] -= c.dx0[i];
    for (const Shared which : {Shared::kX0, Shared::kSkip}) {
      for (const auto& [name, value] : CallShared<T>(device, c, which, begins_dx0)) {
        HostTensor<double> sum = expected.at(name);
        for (int64_t i = 0; which == Shared::kX0 && name == "dx0" && i < sum.size(); ++i) sum[i] += dx[i];
        for (int64_t i = 0; which == Shared::kSkip && name == "dx" && i < sum.size(); ++i) {
          sum[i] += expected.at("dskip")[i];
        }
        EXPECT_THAT(value, IsNear(sum, Tolerance<T>())) << name << ", dim " << dim << " on " << device.name();
      }
    }
  }
}

TEST(ResidualNormTest, OperandsThatAreOneTensorMayHaveOneGradient) {
  for (const Device& device : TestDevices()) {
    for (const int64_t dim : {7, 64, 512, 2048}) {  // A GPU has other kernels for the first.
      ExpectSharedGradientIsTheSum<float>(device, dim);
      if (device.is_cuda()) ExpectSharedGradientIsTheSum<Bf16>(device, dim);
    }
  }
}

// The bar itself, where there is no GPU: what is stored is rounded as Bf16, all else is exact.
RC_GTEST_PROP(ResidualNormTest, RoundingWhatIsStoredKeepsTheBar, ()) {
  const int64_t tile = *rc::gen::element<int64_t>(8, 32, 128);
  const Case c = MakeCase(*SizeAroundTile(9), *SizeAroundTile(tile), *Seed(), *AnyTerms());
  ExpectWithinBars(c,
                   Call<double>(Device::Cpu(), c,
                                [](Tensor<double> stored) {
                                  for (double& value : stored)
                                    value = static_cast<float>(Bf16(static_cast<float>(value)));
                                }),
                   Call<double>(Device::Cpu(), c), kBf16, 2e-2, "rounded");
}

TEST(ResidualNormTest, DevicesAgreeOnManyRows) {
  for (const int64_t dim : {64, 512}) {
    const Case c = MakeCase(3000, dim, 5);
    ExpectDevicesAgree([&](const Device& device, auto number) { return Call<decltype(number)>(device, c); },
                       2e-5);
  }
}

TEST(ResidualNormTest, WhatGradientsAreAddedToIsRoundedOnce) {
  // Rows in many chunks, whose sums are far less than half of 2^20's last bit; all together they are not.
  Case c = MakeCase(4096, 64, 9, {.norm = false, .dy = false});
  for (double& value : c.du.values) value = 0x1p-13;
  for (double& value : c.skip.values) value = 1;
  for (double& value : c.dweight.values) value = 0x1p20;
  for (int64_t d = 0; d < c.dim; ++d) c.mix[d] = 1;
  for (const Device& device : TestDevices()) {
    const Results results = Call<float>(device, c);
    for (const double weight : results.at("dskip_weight").values) {
      EXPECT_EQ(weight, 0x1p20 + 0.5) << device.name();
    }
  }
}

TEST(ResidualNormTest, RepeatsToTheBit) {
  const Case c = MakeCase(1000, 96, 7);
  ExpectSameBits([&](const Device& device, auto number) { return Call<decltype(number)>(device, c); });
}

RC_GTEST_PROP(ResidualNormTest, ARowDependsOnThatRowAlone, ()) {
  Case c = MakeCase(5, *SizeAroundTile(32), *Seed());
  const Results before = Call<float>(Device::Cpu(), c);
  const int64_t changed = *rc::gen::inRange<int64_t>(0, 5);
  for (int64_t d = 0; d < c.dim; ++d) c.x[changed * c.dim + d] += 1;
  const Results after = Call<float>(Device::Cpu(), c);
  for (const char* name : {"y", "u", "normed", "dx", "dbranch"}) {
    for (int64_t i = 0; i < 5 * c.dim; ++i) {
      if (i / c.dim != changed) RC_ASSERT(before.at(name)[i] == after.at(name)[i]);
    }
  }
}

RC_GTEST_PROP(ResidualNormTest, RowsHaveRootMeanSquareNormScale, ()) {
  const Case c = MakeCase(3, *SizeAroundTile(32), *Seed());
  for (const Device& device : TestDevices()) {
    const Results results = Call<float>(device, c);
    for (int64_t r = 0; r < 3; ++r) {
      double u_squares = 0;
      double squares = 0;
      for (int64_t d = 0; d < c.dim; ++d) {
        u_squares += std::pow(results.at("u")[r * c.dim + d], 2);
        squares += std::pow(results.at("normed")[r * c.dim + d], 2);
      }
      const double dim = static_cast<double>(c.dim);
      const double expected = 0.7 * std::sqrt(u_squares / (u_squares + dim * kNormEpsilon));
      RC_ASSERT(std::abs(std::sqrt(squares / dim) - expected) < 1e-5);
    }
  }
}

RC_GTEST_PROP(ResidualNormTest, ScalingUChangesNothing, ()) {
  Case c = MakeCase(3, *SizeAroundTile(32), *Seed(), {.branch = false, .skip = false, .x0 = false});
  // Far from 0, where the norm's epsilon counts.
  for (double& value : c.x.values) value = 1e3 * (value + std::copysign(1.0, value));
  const Results before = Call<double>(Device::Cpu(), c);
  for (double& value : c.x.values) value *= 8;
  EXPECT_THAT(Call<double>(Device::Cpu(), c).at("normed"), IsNear(before.at("normed"), 1e-6));
}

RC_GTEST_PROP(ResidualNormTest, AbsentTermsAreZeroOnes, ()) {
  const int64_t dim = *SizeAroundTile(32);
  const Case without = MakeCase(4, dim, *Seed(), {.branch = false, .skip = false, .x0 = false, .du = false});
  Case with = without;
  with.branch = with.skip = with.x0 = with.du = ZeroHostTensor<double>({4, dim});
  with.branch_scale = with.skip_weight = RandomOperand({dim}, 3);
  with.mix = ZeroHostTensor<double>({2, dim});
  for (int64_t d = 0; d < dim; ++d) with.mix[d] = 1;
  with.dx0 = with.branch;
  with.dscale = with.dweight = with.branch_scale;
  with.dmix = with.mix;
  for (const Device& device : TestDevices()) {
    const Results few = Call<float>(device, without);
    const Results all = Call<float>(device, with);
    for (const auto& [name, value] : few) EXPECT_THAT(all.at(name), IsNear(value, 1e-6)) << name;
  }
}

TEST(ResidualNormTest, AWrongShapeNamesItsOperand) {
  Arena arena = TestArena(Device::Cpu());
  const Tensor<float> right = arena.New<float>({2, 3}), wrong = arena.New<float>({2, 4});
  EXPECT_DEATH(ResidualNormForward<float>(arena, {.x = right, .skip = wrong, .y = right}),
               "skip.*\\[2, 4\\].*\\[2, 3\\]");
}

TEST(ResidualNormTest, DxMayBeDuOrDy) {
  const Case c = MakeCase(9, 40, 3);
  const Results apart = Call<float>(Device::Cpu(), c);
  for (const Device& device : TestDevices()) {
    for (const bool over_du : {true, false}) {
      OpRun<float> run(device);
      const ResidualNormArgs<float> args = Forward(run, c);
      const Tensor<float> dx = run.InOut("dx", over_du ? c.du : c.dy);
      ResidualNormBackward<float>(run.arena(), {.forward = args,
                                                .dnormed = run.In(c.dnormed),
                                                .du = over_du ? dx : run.In(c.du),
                                                .dy = over_du ? run.In(c.dy) : dx,
                                                .dx = dx,
                                                .dbranch = run.Out("dbranch", c.branch.shape),
                                                .dskip = run.Out("dskip", c.skip.shape),
                                                .dx0 = run.InOut("dx0", c.dx0),
                                                .dbranch_scale = run.InOutAccum("dbranch_scale", c.dscale),
                                                .dskip_weight = run.InOutAccum("dskip_weight", c.dweight),
                                                .dmix = run.InOutAccum("dmix", c.dmix)});
      EXPECT_THAT(run.Finish().at("dx"), IsNear(apart.at("dx"), 1e-5)) << device.name();
    }
  }
}

TEST(ResidualNormTest, UnalignedOperandsGiveTheSame) {
  // Tensors that begin in the middle of a 16-byte pack.
  const int64_t dim = 64;
  const HostTensor<double> x = RandomOperand({4 * dim + 1}, 1);
  for (const Device& device : TestDevices()) {
    OpRun<float> run(device);
    const Tensor<const float> all = run.In(x);
    const Tensor<const float> part(all.data() + 1, {4, dim});
    ResidualNormForward<float>(
        run.arena(), {.x = part, .normed = run.Out("normed", {4, dim}), .rstd = run.OutAccum("rstd", {4})});
    const Results results = run.Finish();
    HostTensor<double> expected{{4, dim}, std::vector<double>(x.values.begin() + 1, x.values.end())};
    for (int64_t i = 0; i < 4 * dim; ++i) expected[i] *= results.at("rstd")[i / dim];
    EXPECT_THAT(results.at("normed"), IsNear(expected, 1e-6));
  }
}

TEST(ResidualNormTest, BackwardReadsXWhereNothingElseHoldsU) {
  const Case c = MakeCase(6, 33, 4, {.branch = false, .skip = false, .x0 = false, .du = false, .dy = false});
  const Results kept = Call<float>(Device::Cpu(), c);
  for (const Device& device : TestDevices()) {
    OpRun<float> run(device);
    ResidualNormArgs<float> args = Inputs(run, c);
    args.normed = run.Out("normed", c.x.shape);
    args.rstd = run.OutAccum("rstd", {c.rows});
    ResidualNormForward<float>(run.arena(), args);
    ResidualNormBackward<float>(
        run.arena(), {.forward = args, .dnormed = run.In(c.dnormed), .dx = run.Out("dx", c.x.shape)});
    EXPECT_THAT(run.Finish().at("dx"), IsNear(kept.at("dx"), 1e-5));
  }
}

}  // namespace
}  // namespace hm11
