// Add, cast, sums, head gate and token gate: ops that look at one row at a time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <iostream>

#include "ops/elementwise.h"
#include "ops/head_gate.h"
#include "ops/token_gate.h"
#include "testing/generators.h"
#include "testing/gradient_check.h"
#include "testing/op_run.h"

namespace hm11 {
namespace {

void AssertMatch(const testing::AssertionResult& match) {
  if (!match) std::cerr << match.message();
  RC_ASSERT(match);
}

// `call` with the numbers of dbias as more elements of `gradient`.
template <typename Call>
auto WithBiasIn(const char* gradient, Call call) {
  return [gradient, call](const Device& device, const auto& c, auto number) {
    Results results = call(device, c, number);
    JoinResults("dbias", gradient, &results);
    return results;
  };
}

template <typename Case, typename Call>
auto On(const Case& c, Call call) {
  return [&c, call](const Device& device, auto number) { return call(device, c, number); };
}

struct FlatCase {
  HostTensor<double> x, y;
  double scale = 1;
};

constexpr auto kFlat = [](const Device& device, const FlatCase& c, auto number) {
  using T = decltype(number);
  OpRun<T> run(device);
  AddTo<T>(run.arena(), run.In(c.x), static_cast<Accum<T>>(c.scale), run.InOut("added", c.y));
  const Tensor<const Accum<T>> x = run.InAccum(c.x);
  Sum<Accum<T>>(run.arena(), x, static_cast<Accum<T>>(c.scale), run.OutAccum("sum", {1}));
  SumOfSquares<Accum<T>>(run.arena(), x, run.OutAccum("squares", {1}));
  Cast<Accum<T>, T>(run.arena(), x, run.Out("narrow", c.x.shape));
  Cast<T, Accum<T>>(run.arena(), run.In(c.x), run.OutAccum("wide", c.x.shape));
  return run.Finish();
};

FlatCase MakeFlat(int64_t size, uint64_t seed) {
  // A mean away from zero, so that the sum is no small difference of large numbers.
  return {.x = RandomOperand({size}, seed, 1, 1), .y = RandomOperand({size}, seed + 1), .scale = 0.5};
}

TEST(ElementwiseTest, PaperExample) {
  const FlatCase c = {.x = {{3}, {1, 2, -4}}, .y = {{3}, {1, 1, 1}}, .scale = 2};
  for (const Device& device : TestDevices()) {
    const Results results = kFlat(device, c, float());
    EXPECT_THAT(results.at("added").values, testing::ElementsAre(3, 5, -7));
    EXPECT_THAT(results.at("sum").values, testing::ElementsAre(-2));
    EXPECT_THAT(results.at("squares").values, testing::ElementsAre(21));
  }
}

RC_GTEST_PROP(ElementwiseTest, DevicesAgree, ()) {
  const FlatCase c = MakeFlat(*SizeAroundTile(*rc::gen::element<int64_t>(8, 2048, 8192, 20000)), *Seed());
  ExpectDevicesAgree(On(c, kFlat));
}

TEST(ElementwiseTest, DevicesAgreeOnAMillion) {
  const FlatCase c = MakeFlat(1000003, 3);
  ExpectDevicesAgree(On(c, kFlat));
  ExpectSameBits(On(c, kFlat));
}

TEST(ElementwiseTest, SumsOfNothingAreZero) {
  for (const Device& device : TestDevices()) {
    OpRun<float> run(device);
    Sum<float>(run.arena(), Tensor<const float>(), 1, run.OutAccum("sum", {1}));
    SumOfSquares<float>(run.arena(), Tensor<const float>(), run.OutAccum("squares", {1}));
    for (const auto& [name, value] : run.Finish()) EXPECT_THAT(value.values, testing::ElementsAre(0)) << name;
  }
}

RC_GTEST_PROP(ElementwiseTest, CastsRoundAndReturn, ()) {
  const HostTensor<float> x = RandomHostTensor<float>({*SizeAroundTile(64)}, *Seed());
  for (const Device& device : TestDevices()) {
    Arena arena = TestArena(device);
    const Tensor<Bf16> narrow = arena.New<Bf16>(x.shape);
    Cast<float, Bf16>(arena, Upload(arena, x), narrow);
    EXPECT_THAT(DownloadAs<float>(arena, narrow), IsNear(RoundedTo<Bf16>(x), 0)) << device.name();
    const Tensor<float> wide = arena.New<float>(x.shape);
    Cast<Bf16, float>(arena, narrow, wide);
    EXPECT_THAT(Download(arena, wide), IsNear(RoundedTo<Bf16>(x), 0)) << device.name();
  }
}

TEST(ElementwiseTest, ArraysThatBeginInsideAPackGiveTheSame) {
  const HostTensor<float> x = RandomHostTensor<float>({5000}, 5, 1, 1);
  for (const Device& device : TestDevices()) {
    Arena arena = TestArena(device);
    const Tensor<float> all = Upload(arena, x);
    const Tensor<float> result = arena.New<float>({2});
    Sum<float>(arena, Tensor<const float>(all.data(), {5000}), 1, result.Slice(0, 1));
    Sum<float>(arena, Tensor<const float>(all.data() + 1, {4999}), 1, result.Slice(1, 1));
    const HostTensor<float> sums = Download(arena, result);
    EXPECT_NEAR(sums[0] - x[0], sums[1], 1e-5 * sums[0]) << device.name();
    AddTo<float>(arena, Tensor<const float>(all.data() + 2, {4998}), 0,
                 Tensor<float>(all.data() + 1, {4998}));
    EXPECT_THAT(Download(arena, all), IsNear(x, 0)) << device.name();
  }
}

// Many chunks of threads, whose borders are nobody's twice.
TEST(ElementwiseTest, AddToOfManyNumbersIsThatOfEach) {
  const HostTensor<double> x = RandomOperand({100003}, 6), y = RandomOperand({100003}, 7);
  HostTensor<double> sum = y;
  for (int64_t i = 0; i < y.size(); ++i) sum.values[static_cast<size_t>(i)] += 0.5 * x[i];
  const auto run = [&]<typename T>(const Device& device, T) {
    OpRun<T> run(device);
    AddTo<T>(run.arena(), run.In(x), static_cast<Accum<T>>(0.5), run.InOut("sum", y));
    return run.Finish();
  };
  ExpectNear(run(Device::Cpu(), double()), {{"sum", sum}}, 0, "double on the CPU");
  ExpectDevicesAgree(run);
}

struct GateCase {
  HostTensor<double> x, gate, bias, dy, dbias;
};

GateCase MakeGate(int64_t rows, int64_t heads, int64_t head_dim, uint64_t seed) {
  const Shape shape = {rows, heads, head_dim};
  return {.x = RandomOperand(shape, seed),
          .gate = RandomOperand({rows, heads}, seed + 1),
          .bias = RandomOperand({heads}, seed + 2),
          .dy = RandomOperand(shape, seed + 3),
          .dbias = RandomOperand({heads}, seed + 4)};
}

constexpr auto kGate = [](const Device& device, const GateCase& c, auto number) {
  using T = decltype(number);
  OpRun<T> run(device);
  const Tensor<const T> x = run.In(c.x), gate = run.In(c.gate);
  const Tensor<const Accum<T>> bias = run.InAccum(c.bias);
  HeadGateForward<T>(run.arena(), {.x = x, .gate = gate, .bias = bias, .y = run.Out("y", c.x.shape)});
  const Tensor<T> dx = run.InOut("dx", c.dy);  // on top of dy
  HeadGateBackward<T>(run.arena(), {.x = x,
                                    .gate = gate,
                                    .bias = bias,
                                    .dy = dx,
                                    .dx = dx,
                                    .dgate = run.Out("dgate", c.gate.shape),
                                    .dbias = run.InOutAccum("dbias", c.dbias)});
  return run.Finish();
};

TEST(HeadGateTest, PaperExample) {
  // sigmoid(ln 3) = 3/4 and sigmoid(0) = 1/2.
  GateCase c = MakeGate(1, 2, 2, 1);
  c.x = {{1, 2, 2}, {4, 8, 2, 6}};
  c.gate = {{1, 2}, {std::log(3.0) - 1, 2}};
  c.bias = {{2}, {1, -2}};
  for (const Device& device : TestDevices()) {
    const HostTensor<double> y = kGate(device, c, float()).at("y");
    EXPECT_THAT(y, IsNear((HostTensor<double>{{1, 2, 2}, {3, 6, 1, 3}}), 1e-6));
  }
}

RC_GTEST_PROP(HeadGateTest, BackwardIsTheGradientOfForward, ()) {
  GateCase c = MakeGate(*SmallSize(), *SmallSize(9), *SizeAroundTile(8), *Seed());
  c.dbias = ZeroHostTensor<double>(c.bias.shape);
  const Results g = kGate(Device::Cpu(), c, double());
  AssertMatch(GradientsMatch(
      {{"x", &c.x, g.at("dx")}, {"gate", &c.gate, g.at("dgate")}, {"bias", &c.bias, g.at("dbias")}},
      [&] { return Dot(c.dy, kGate(Device::Cpu(), c, double()).at("y")); }));
}

RC_GTEST_PROP(HeadGateTest, DevicesAgree, ()) {
  const int64_t head_dim = *rc::gen::element<int64_t>(1, 8, 16, 24, 64, 128, 320, *SizeAroundTile(32));
  const GateCase c = MakeGate(*SizeAroundTile(32), *SmallSize(12), head_dim, *Seed());
  ExpectDevicesAgree(On(c, WithBiasIn("dgate", kGate)), 2e-5);
}

TEST(HeadGateTest, DevicesAgreeOnManyRows) {
  for (const int64_t heads : {8, 3, 200}) {
    const GateCase c = MakeGate(heads == 200 ? 200 : 9000, heads, 16, 5);
    ExpectDevicesAgree(On(c, kGate), 2e-5);
  }
}

TEST(HeadGateTest, RepeatsToTheBit) {
  const GateCase c = MakeGate(700, 8, 64, 3);
  ExpectSameBits(On(c, kGate));
}

struct TokenCase {
  HostTensor<double> u, x, weight, bias, dy, dweight, dbias;
  HostTensor<double> gate_u;  // what the gate sees in the gradient check, where that is held still
};

TokenCase MakeToken(int64_t rows, int64_t dim, uint64_t seed) {
  const Shape shape = {rows, dim};
  return {.u = RandomOperand(shape, seed),
          .x = RandomOperand(shape, seed + 1),
          .weight = RandomOperand({dim}, seed + 2, 1 / std::sqrt(static_cast<double>(dim))),
          .bias = RandomOperand({1}, seed + 3),
          .dy = RandomOperand(shape, seed + 4),
          .dweight = RandomOperand({dim}, seed + 5),
          .dbias = RandomOperand({1}, seed + 6),
          .gate_u = {}};
}

constexpr auto kToken = [](const Device& device, const TokenCase& c, auto number) {
  using T = decltype(number);
  OpRun<T> run(device);
  const Tensor<const T> u = run.In(c.u), x = run.In(c.x);
  const Tensor<const Accum<T>> weight = run.InAccum(c.weight), bias = run.InAccum(c.bias);
  TokenGateForward<T>(run.arena(),
                      {.u = u, .x = x, .weight = weight, .bias = bias, .y = run.Out("y", c.u.shape)});
  const Tensor<T> dx = run.InOut("dx", c.dy);  // on top of dy
  TokenGateBackward<T>(run.arena(), {.u = u,
                                     .x = x,
                                     .weight = weight,
                                     .bias = bias,
                                     .dy = dx,
                                     .du = run.Out("du", c.u.shape),
                                     .dx = dx,
                                     .dweight = run.InOutAccum("dweight", c.dweight),
                                     .dbias = run.InOutAccum("dbias", c.dbias)});
  return run.Finish();
};

// Where the gate is nearly open, du = (1 - g) dy is a small rest of dy and as precise as that: du and dx count
// together.
constexpr auto kTokenTogether = [](const Device& device, const TokenCase& c, auto number) {
  Results results = WithBiasIn("dweight", kToken)(device, c, number);
  JoinResults("du", "dx", &results);
  return results;
};

// <dy, y> with the gate's own input held still, written out from the formula.
double TokenLoss(const TokenCase& c) {
  const int64_t dim = c.u.shape[1];
  double loss = 0;
  for (int64_t r = 0; r < c.u.shape[0]; ++r) {
    double logit = c.bias[0];
    for (int64_t d = 0; d < dim; ++d) logit += c.weight[d] * c.gate_u[r * dim + d];
    const double g = 1 / (1 + std::exp(-logit));
    for (int64_t i = r * dim; i < (r + 1) * dim; ++i) loss += c.dy[i] * (c.u[i] + g * (c.x[i] - c.u[i]));
  }
  return loss;
}

TEST(TokenGateTest, PaperExample) {
  // weight . u + bias = 2 - 2 = 0: y is halfway between u and x.
  TokenCase c = MakeToken(1, 2, 1);
  c.u = {{1, 2}, {1, 3}};
  c.x = {{1, 2}, {5, 1}};
  c.weight = {{2}, {-1, 1}};
  c.bias = {{1}, {-2}};
  for (const Device& device : TestDevices()) {
    EXPECT_THAT(kToken(device, c, float()).at("y"), IsNear((HostTensor<double>{{1, 2}, {3, 2}}), 1e-6));
  }
}

RC_GTEST_PROP(TokenGateTest, BackwardIsTheGradientWithTheGatesInputHeldStill, ()) {
  TokenCase c = MakeToken(*SmallSize(), *SizeAroundTile(16), *Seed());
  RC_PRE(c.u.values != c.x.values);  // two equal numbers leave the gate without a gradient
  c.dweight = ZeroHostTensor<double>(c.weight.shape);
  c.dbias = ZeroHostTensor<double>(c.bias.shape);
  c.gate_u = c.u;
  const Results g = kToken(Device::Cpu(), c, double());
  RC_ASSERT(std::abs(TokenLoss(c) - Dot(c.dy, g.at("y"))) < 1e-9 * (1 + std::abs(TokenLoss(c))));
  AssertMatch(GradientsMatch({{"u", &c.u, g.at("du")},
                              {"x", &c.x, g.at("dx")},
                              {"weight", &c.weight, g.at("dweight")},
                              {"bias", &c.bias, g.at("dbias")}},
                             [&] { return TokenLoss(c); }));
}

RC_GTEST_PROP(TokenGateTest, DevicesAgree, ()) {
  const int64_t tile = *rc::gen::element<int64_t>(8, 32, 512, 1024, 2048);
  const TokenCase c = MakeToken(*SizeAroundTile(9), *SizeAroundTile(tile), *Seed());
  ExpectDevicesAgree(On(c, kTokenTogether), 2e-5);
}

TEST(TokenGateTest, DevicesAgreeOnAGateNearlyOpen) {
  TokenCase c = MakeToken(1, 1, 3);
  c.bias = {{1}, {9}};
  ExpectDevicesAgree(On(c, kTokenTogether), 2e-5);
}

TEST(TokenGateTest, DevicesAgreeOnManyRows) {
  const TokenCase c = MakeToken(4000, 256, 5);
  ExpectDevicesAgree(On(c, kToken), 2e-5);
  ExpectSameBits(On(c, kToken));
}

TEST(TokenGateTest, BiasFarFromZeroChoosesOneSide) {
  TokenCase c = MakeToken(3, 40, 2);
  for (const Device& device : TestDevices()) {
    c.bias = {{1}, {70}};
    EXPECT_THAT(kToken(device, c, float()).at("y"), IsNear(c.x, 1e-6));
    c.bias = {{1}, {-70}};
    EXPECT_THAT(kToken(device, c, float()).at("y"), IsNear(c.u, 1e-6));
  }
}

}  // namespace
}  // namespace hm11
