// Smear gate and causal convolution: the ops that look at neighbouring time steps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <iostream>

#include "ops/causal_conv.h"
#include "ops/smear.h"
#include "testing/generators.h"
#include "testing/gradient_check.h"
#include "testing/op_run.h"

namespace hm11 {
namespace {

// Fails with the gradient check's own words.
void AssertMatch(const testing::AssertionResult& match) {
  if (!match) std::cerr << match.message();
  RC_ASSERT(match);
}

// Steps [begin, begin + count) of a [batch, time, channels] tensor.
HostTensor<double> Steps(const HostTensor<double>& all, int64_t begin, int64_t count) {
  const int64_t batch = all.shape[0];
  const int64_t channels = all.shape[2];
  HostTensor<double> part{{batch, count, channels}, {}};
  for (int64_t b = 0; b < batch; ++b) {
    const auto first = all.values.begin() + (b * all.shape[1] + begin) * channels;
    part.values.insert(part.values.end(), first, first + count * channels);
  }
  return part;
}

struct SmearCase {
  HostTensor<double> x, gate, previous, dy, dgate;
};

SmearCase MakeSmear(int64_t batch, int64_t time, int64_t dim, uint64_t seed) {
  const Shape shape = {batch, time, dim};
  return {.x = RandomOperand(shape, seed),
          .gate = RandomOperand({dim}, seed + 1),
          .previous = {},
          .dy = RandomOperand(shape, seed + 2),
          .dgate = RandomOperand({dim}, seed + 3)};
}

template <typename T>
Results CallSmear(const Device& device, const SmearCase& c) {
  OpRun<T> run(device);
  SmearForward<T>(run.arena(), {.x = run.In(c.x),
                                .gate = run.InAccum(c.gate),
                                .previous = run.In(c.previous),
                                .y = run.Out("y", c.x.shape)});
  if (c.previous.empty()) {
    SmearBackward<T>(run.arena(), {.x = run.In(c.x),
                                   .gate = run.InAccum(c.gate),
                                   .dy = run.In(c.dy),
                                   .dx = run.Out("dx", c.x.shape),
                                   .dgate = run.InOutAccum("dgate", c.dgate)});
  }
  return run.Finish();
}

constexpr auto kSmear = [](const SmearCase& c) {
  return [&c](const Device& device, auto number) { return CallSmear<decltype(number)>(device, c); };
};

TEST(SmearTest, PaperExample) {
  // A gate of 0 is a half: y = (x_t + x_{t-1}) / 2.
  const SmearCase c = {.x = {{1, 3, 1}, {2, 4, 8}}, .gate = {{1}, {0}}, .previous = {{1, 1}, {6}}};
  for (const Device& device : TestDevices()) {
    EXPECT_THAT(CallSmear<float>(device, c).at("y"),
                IsNear((HostTensor<double>{{1, 3, 1}, {4, 3, 6}}), 1e-6));
  }
}

RC_GTEST_PROP(SmearTest, BackwardIsTheGradientOfForward, ()) {
  SmearCase c = MakeSmear(*SmallSize(3), *SmallSize(6), *SizeAroundTile(8), *Seed());
  c.dgate = ZeroHostTensor<double>(c.gate.shape);
  const Results g = CallSmear<double>(Device::Cpu(), c);
  AssertMatch(GradientsMatch({{"x", &c.x, g.at("dx")}, {"gate", &c.gate, g.at("dgate")}},
                             [&] { return Dot(c.dy, CallSmear<double>(Device::Cpu(), c).at("y")); }));
}

RC_GTEST_PROP(SmearTest, DevicesAgree, ()) {
  SmearCase c = MakeSmear(*SmallSize(3), *SizeAroundTile(64), *SizeAroundTile(64), *Seed());
  ExpectDevicesAgree(kSmear(c));
  c.previous = RandomOperand({c.x.shape[0], c.x.shape[2]}, 9);
  ExpectDevicesAgree(kSmear(c));
}

TEST(SmearTest, DevicesAgreeOnManyRows) { ExpectDevicesAgree(kSmear(MakeSmear(3, 1100, 512, 5))); }

TEST(SmearTest, RepeatsToTheBit) { ExpectSameBits(kSmear(MakeSmear(4, 300, 40, 5))); }

RC_GTEST_PROP(SmearTest, CuttingTheSequenceChangesNothing, ()) {
  const int64_t time = *rc::gen::inRange<int64_t>(2, 150);
  const int64_t cut = *rc::gen::inRange<int64_t>(1, time);
  SmearCase c = MakeSmear(2, time, *SizeAroundTile(16), *Seed());
  for (const Device& device : TestDevices()) {
    const HostTensor<double> whole = CallSmear<float>(device, c).at("y");
    SmearCase second = c;
    second.x = Steps(c.x, cut, time - cut);
    second.previous = Steps(c.x, cut - 1, 1);
    second.previous.shape = {2, c.x.shape[2]};
    EXPECT_THAT(CallSmear<float>(device, second).at("y"), IsNear(Steps(whole, cut, time - cut), 0));
  }
}

TEST(SmearTest, GatesFarFromZeroPassOrDelay) {
  SmearCase c = MakeSmear(2, 70, 8, 3);
  for (const Device& device : TestDevices()) {
    c.gate = {{8}, std::vector<double>(8, -60)};
    EXPECT_THAT(CallSmear<float>(device, c).at("y"), IsNear(c.x, 1e-6));
    c.gate = {{8}, std::vector<double>(8, 60)};
    EXPECT_THAT(Steps(CallSmear<float>(device, c).at("y"), 1, 69), IsNear(Steps(c.x, 0, 69), 1e-6));
  }
}

struct ConvCase {
  int64_t batch = 0;
  int64_t time = 0;
  int64_t stride = 0;  // of the matrices that x and dx are columns of
  int64_t skip = 0;    // columns before them
  HostTensor<double> x, weight, bias, tail, dy, dweight, dbias;
};

ConvCase MakeConv(int64_t batch, int64_t time, int64_t channels, int64_t width, uint64_t seed) {
  ConvCase c{.batch = batch, .time = time, .stride = channels};
  c.x = RandomOperand({batch * time, channels}, seed);
  c.weight = RandomOperand({channels, width}, seed + 1, 0.5);
  c.bias = RandomOperand({channels}, seed + 2, 0.5);
  c.dy = RandomOperand({batch, time, channels}, seed + 3);
  c.dweight = RandomOperand({channels, width}, seed + 4);
  c.dbias = RandomOperand({channels}, seed + 5);
  return c;
}

// `narrow` in its columns of a wider matrix that is otherwise `fill`.
HostTensor<double> Widen(const ConvCase& c, const HostTensor<double>& narrow, double fill) {
  const int64_t rows = narrow.shape[0];
  const int64_t channels = narrow.shape[1];
  HostTensor<double> wide{{rows, c.stride}, std::vector<double>(static_cast<size_t>(rows * c.stride), fill)};
  for (int64_t i = 0; i < narrow.size(); ++i)
    wide[i / channels * c.stride + c.skip + i % channels] = narrow[i];
  return wide;
}

HostTensor<double> Narrow(const ConvCase& c, const HostTensor<double>& wide) {
  const int64_t channels = c.x.shape[1];
  HostTensor<double> narrow = c.x;
  for (int64_t i = 0; i < narrow.size(); ++i)
    narrow[i] = wide[i / channels * c.stride + c.skip + i % channels];
  return narrow;
}

template <typename T>
Results CallConv(const Device& device, const ConvCase& c, bool backward = true) {
  OpRun<T> run(device);
  const int64_t rows = c.batch * c.time;
  const int64_t channels = c.x.shape[1];
  const int64_t width = c.weight.shape[1];
  const Shape tail = width > 1 ? Shape{c.batch, width - 1, channels} : Shape();
  const Tensor<const T> x = run.In(Widen(c, c.x, 100));
  const CausalConvArgs<T> args = {.batch = c.batch,
                                  .time = c.time,
                                  .x = Columns<const T>(x.data() + c.skip, rows, channels, c.stride),
                                  .weight = run.InAccum(c.weight),
                                  .bias = run.InAccum(c.bias),
                                  .tail = run.In(c.tail),
                                  .y = run.Out("y", {c.batch, c.time, channels}),
                                  .final_tail = run.Out("final_tail", tail)};
  CausalConvForward<T>(run.arena(), args);
  if (!backward) return run.Finish();
  const Tensor<T> dx = run.InOut("dx", Widen(c, c.x, 3));
  CausalConvBackward<T>(run.arena(), {.forward = args,
                                      .dy = run.In(c.dy),
                                      .dx = Columns<T>(dx.data() + c.skip, rows, channels, c.stride),
                                      .dweight = run.InOutAccum("dweight", c.dweight),
                                      .dbias = run.InOutAccum("dbias", c.dbias)});
  return run.Finish();
}

constexpr auto kConv = [](const ConvCase& c) {
  return [&c](const Device& device, auto number) { return CallConv<decltype(number)>(device, c); };
};

double Silu(double x) { return x / (1 + std::exp(-x)); }

TEST(CausalConvTest, PaperExample) {
  // Sums 1 + 2 * 3 = 7, 1 + 10 * 3 + 2 * 4 = 39 and, with 5 before time 0, 57 for the first.
  ConvCase c{.batch = 1, .time = 2, .stride = 1};
  c.x = {{2, 1}, {3, 4}};
  c.weight = {{1, 2}, {10, 2}};
  c.bias = {{1}, {1}};
  for (const Device& device : TestDevices()) {
    c.tail = {};
    const Results plain = CallConv<float>(device, c, false);
    EXPECT_THAT(plain.at("y"), IsNear((HostTensor<double>{{1, 2, 1}, {Silu(7), Silu(39)}}), 1e-6));
    EXPECT_THAT(plain.at("final_tail"), IsNear((HostTensor<double>{{1, 1, 1}, {4}}), 0));
    c.tail = {{1, 1, 1}, {5}};
    const Results tailed = CallConv<float>(device, c, false);
    EXPECT_THAT(tailed.at("y"), IsNear((HostTensor<double>{{1, 2, 1}, {Silu(57), Silu(39)}}), 1e-6));
  }
}

RC_GTEST_PROP(CausalConvTest, BackwardIsTheGradientOfForward, ()) {
  ConvCase c = MakeConv(*SmallSize(3), *SmallSize(9), *SizeAroundTile(8), *SmallSize(4), *Seed());
  c.dweight = ZeroHostTensor<double>(c.weight.shape);
  c.dbias = ZeroHostTensor<double>(c.bias.shape);
  const Results g = CallConv<double>(Device::Cpu(), c);
  AssertMatch(GradientsMatch({{"x", &c.x, Narrow(c, g.at("dx"))},
                              {"weight", &c.weight, g.at("dweight")},
                              {"bias", &c.bias, g.at("dbias")}},
                             [&] { return Dot(c.dy, CallConv<double>(Device::Cpu(), c, false).at("y")); }));
}

RC_GTEST_PROP(CausalConvTest, DevicesAgreeAndTouchTheirColumnsOnly, ()) {
  const int64_t channels = *SizeAroundTile(64);
  ConvCase c = MakeConv(*SmallSize(3), *SizeAroundTile(64), channels, *SmallSize(4), *Seed());
  c.skip = *rc::gen::element<int64_t>(0, 1, 8);
  c.stride = channels + c.skip + *rc::gen::element<int64_t>(0, 3, 8);
  ExpectDevicesAgree(kConv(c), 2e-5);
  const HostTensor<double> dx = CallConv<float>(Device::Cpu(), c).at("dx");
  const HostTensor<double> untouched = Widen(c, Narrow(c, dx), 3);
  EXPECT_THAT(dx, IsNear(untouched, 0));
}

TEST(CausalConvTest, DevicesAgreeOnManyRows) {
  ConvCase c = MakeConv(3, 1100, 256, 4, 5);
  c.stride = 512;
  c.skip = 256;
  ExpectDevicesAgree(kConv(c), 2e-5);
}

TEST(CausalConvTest, RepeatsToTheBit) { ExpectSameBits(kConv(MakeConv(3, 300, 40, 4, 6))); }

RC_GTEST_PROP(CausalConvTest, CuttingTheSequenceChangesNothing, ()) {
  const int64_t time = *rc::gen::inRange<int64_t>(2, 150);
  const int64_t cut = *rc::gen::element<int64_t>(1, 2, 3, *rc::gen::inRange<int64_t>(1, time));
  RC_PRE(cut < time);
  const int64_t channels = *SizeAroundTile(16);
  const int64_t width = *rc::gen::inRange<int64_t>(2, 5);
  ConvCase c = MakeConv(2, time, channels, width, *Seed());
  c.tail = RandomOperand({2, width - 1, channels}, 7);
  const auto part = [&](int64_t begin, int64_t count) {
    ConvCase some = c;
    HostTensor<double> x = c.x;
    x.shape = {2, time, channels};
    some.x = Steps(x, begin, count);
    some.x.shape = {2 * count, channels};
    some.time = count;
    return some;
  };
  for (const Device& device : TestDevices()) {
    const Results whole = CallConv<float>(device, c, false);
    const Results first = CallConv<float>(device, part(0, cut), false);
    ConvCase rest = part(cut, time - cut);
    rest.tail = first.at("final_tail");
    const Results second = CallConv<float>(device, rest, false);
    EXPECT_THAT(first.at("y"), IsNear(Steps(whole.at("y"), 0, cut), 0));
    EXPECT_THAT(second.at("y"), IsNear(Steps(whole.at("y"), cut, time - cut), 0));
    EXPECT_THAT(second.at("final_tail"), IsNear(whole.at("final_tail"), 0));
  }
}

RC_GTEST_PROP(CausalConvTest, TheFutureDoesNotReachThePast, ()) {
  ConvCase c = MakeConv(2, 20, 5, 4, *Seed());
  const HostTensor<double> before = CallConv<float>(Device::Cpu(), c, false).at("y");
  const int64_t changed = *rc::gen::inRange<int64_t>(0, 20);
  for (int64_t i = 0; i < 5; ++i) c.x[changed * 5 + i] += 1;  // in the first sequence
  const HostTensor<double> after = CallConv<float>(Device::Cpu(), c, false).at("y");
  for (int64_t i = 0; i < before.size(); ++i) {
    const bool may_change = i / 5 >= changed && i / 5 < std::min<int64_t>(changed + 4, 20);
    RC_ASSERT(may_change == (before[i] != after[i]));
  }
}

}  // namespace
}  // namespace hm11
