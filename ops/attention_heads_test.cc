// What stands around attention: the split into heads before it, exclusive attention after it.
#include "ops/attention_heads.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <iostream>

#include "ops/exclusive_attention.h"
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

struct Heads {
  int64_t batch, time, kv_heads, group, head_dim;
  int64_t heads() const { return kv_heads * group; }
  int64_t rows() const { return batch * time; }
  int64_t width() const { return (heads() + 2 * kv_heads) * head_dim; }
  Shape query() const { return {batch, time, heads(), head_dim}; }
  Shape key() const { return {batch, time, kv_heads, head_dim}; }
};

rc::Gen<Heads> AnyHeads() {
  const std::vector<int64_t> head_dims = {6, 8, 20, 32, 64, 128};
  return rc::gen::build<Heads>(
      rc::gen::set(&Heads::batch, SmallSize(2)), rc::gen::set(&Heads::time, SizeAroundTile(16)),
      rc::gen::set(&Heads::kv_heads, SmallSize(4)), rc::gen::set(&Heads::group, SmallSize(3)),
      rc::gen::set(&Heads::head_dim, rc::gen::elementOf(head_dims)));
}

// ---- Attention heads.

struct HeadsCase {
  Heads size = {};
  int64_t rope_dims = 0;
  double rope_base = 10000;
  HostTensor<double> qkv, q_gain, value_embedding, ve_layer_scale, ve_scale, first_v, residual;
  HostTensor<double> dq, dk, dv;
  HostTensor<double> dq_gain, dve_layer_scale, dve_scale, dfirst_v, dresidual;  // what is there before
};

HeadsCase MakeHeads(Heads size, int64_t rope_dims, bool value_embedding, bool first_v, uint64_t seed) {
  HeadsCase c;
  c.size = size;
  c.rope_dims = rope_dims;
  c.qkv = RandomOperand({size.rows(), size.width()}, seed);
  c.q_gain = RandomOperand({size.heads()}, seed + 1, 0.3, 1.5);
  // Sums over rows of numbers of either sign start from afar, so that none ends up near zero.
  c.dq_gain = RandomOperand({size.heads()}, seed + 2, 1, 300);
  if (value_embedding) {
    c.value_embedding = RandomOperand({size.rows(), size.kv_heads * size.head_dim}, seed + 3);
    c.ve_layer_scale = RandomOperand({1}, seed + 4, 0.2, 0.8);
    c.ve_scale = RandomOperand({1}, seed + 5, 0.2, 0.5);
    c.dve_layer_scale = RandomOperand({1}, seed + 6, 1, 300);
    c.dve_scale = RandomOperand({1}, seed + 7, 1, 300);
  }
  if (first_v) {
    c.first_v = RandomOperand(size.key(), seed + 8);
    c.residual = RandomOperand({2}, seed + 9, 0.2, 0.5);
    c.dfirst_v = RandomOperand(size.key(), seed + 10);
    c.dresidual = RandomOperand({2}, seed + 11, 1, 300);
  }
  c.dq = RandomOperand(size.query(), seed + 12);
  c.dk = RandomOperand(size.key(), seed + 13);
  c.dv = RandomOperand(size.key(), seed + 14);
  return c;
}

// Any of the ways to turn, as packs of neighbouring numbers or not, and any of the extras.
HeadsCase AnyHeadsCase() {
  const Heads size = *AnyHeads();
  const int64_t pairs = *rc::gen::inRange<int64_t>(0, size.head_dim / 2 + 1);
  const int64_t rope_dims = *rc::gen::elementOf(std::vector<int64_t>{0, 2 * pairs, size.head_dim, 16});
  return MakeHeads(size, std::min(rope_dims, size.head_dim), *rc::gen::arbitrary<bool>(),
                   *rc::gen::arbitrary<bool>(), *Seed());
}

template <typename T>
Results CallHeads(const Device& device, const HeadsCase& c) {
  OpRun<T> run(device);
  const auto shape_of = [](const HostTensor<double>& tensor) { return tensor.shape; };
  const AttentionHeadsArgs<T> args = {.batch = c.size.batch,
                                      .time = c.size.time,
                                      .rope_dims = c.rope_dims,
                                      .rope_base = c.rope_base,
                                      .qkv = run.In(c.qkv),
                                      .q_gain = run.InAccum(c.q_gain),
                                      .value_embedding = run.In(c.value_embedding),
                                      .ve_layer_scale = run.InAccum(c.ve_layer_scale),
                                      .ve_scale = run.InAccum(c.ve_scale),
                                      .first_v = run.In(c.first_v),
                                      .residual = run.InAccum(c.residual),
                                      .q = run.Out("q", c.size.query()),
                                      .k = run.Out("k", c.size.key()),
                                      .v = run.Out("v", c.size.key())};
  AttentionHeadsForward<T>(run.arena(), args);
  AttentionHeadsBackward<T>(run.arena(),
                            {.forward = args,
                             .dq = run.In(c.dq),
                             .dk = run.In(c.dk),
                             .dv = run.In(c.dv),
                             .dqkv = run.Out("dqkv", shape_of(c.qkv)),
                             .dq_gain = run.InOutAccum("dq_gain", c.dq_gain),
                             .dvalue_embedding = run.Out("dvalue_embedding", shape_of(c.value_embedding)),
                             .dve_layer_scale = run.InOutAccum("dve_layer_scale", c.dve_layer_scale),
                             .dve_scale = run.InOutAccum("dve_scale", c.dve_scale),
                             .dfirst_v = run.InOut("dfirst_v", c.dfirst_v),
                             .dresidual = run.InOutAccum("dresidual", c.dresidual)});
  return run.Finish();
}

constexpr auto kHeads = [](const HeadsCase& c) {
  return [&c](const Device& device, auto number) { return CallHeads<decltype(number)>(device, c); };
};

TEST(AttentionHeadsTest, PaperExample) {
  // One head of two channels, the second of two positions: norm (3, 4) / sqrt(12.5), turned by one radian.
  HeadsCase c = MakeHeads({1, 2, 1, 1, 2}, /*rope_dims=*/2, false, false, 1);
  c.qkv.values = {0, 1, 0, 1, 7, 8, 3, 4, 4, 3, 5, 6};
  c.q_gain.values = {2};
  const double a = 1 / std::sqrt(12.5), cosine = std::cos(1.0), sine = std::sin(1.0), r = std::sqrt(2.0);
  for (const Device& device : TestDevices()) {
    const Results results = CallHeads<float>(device, c);
    EXPECT_THAT(results.at("q"), IsNear((HostTensor<double>{{1, 2, 1, 2},
                                                            {0, 2 * r, 2 * a * (3 * cosine + 4 * sine),
                                                             2 * a * (4 * cosine - 3 * sine)}}),
                                        2e-6));
    EXPECT_THAT(results.at("k"),
                IsNear((HostTensor<double>{{1, 2, 1, 2},
                                           {0, r, a * (4 * cosine + 3 * sine), a * (3 * cosine - 4 * sine)}}),
                       2e-6));
    EXPECT_EQ(results.at("v").values, (std::vector<double>{7, 8, 5, 6}));
  }
}

RC_GTEST_PROP(AttentionHeadsTest, BackwardIsTheGradientOfForward, ()) {
  HeadsCase c = AnyHeadsCase();
  for (HostTensor<double>* t : {&c.dq_gain, &c.dve_layer_scale, &c.dve_scale, &c.dfirst_v, &c.dresidual}) {
    std::fill(t->values.begin(), t->values.end(), 0);
  }
  const Results g = CallHeads<double>(Device::Cpu(), c);
  std::vector<DifferentiableInput> inputs = {{"qkv", &c.qkv, g.at("dqkv")},
                                             {"q_gain", &c.q_gain, g.at("dq_gain")}};
  if (!c.value_embedding.empty()) {
    inputs.push_back({"value_embedding", &c.value_embedding, g.at("dvalue_embedding")});
    inputs.push_back({"ve_layer_scale", &c.ve_layer_scale, g.at("dve_layer_scale")});
    inputs.push_back({"ve_scale", &c.ve_scale, g.at("dve_scale")});
  }
  if (!c.first_v.empty()) {
    inputs.push_back({"first_v", &c.first_v, g.at("dfirst_v")});
    inputs.push_back({"residual", &c.residual, g.at("dresidual")});
  }
  AssertMatch(GradientsMatch(inputs, [&] {
    const Results r = CallHeads<double>(Device::Cpu(), c);
    return Dot(c.dq, r.at("q")) + Dot(c.dk, r.at("k")) + Dot(c.dv, r.at("v"));
  }));
}

RC_GTEST_PROP(AttentionHeadsTest, DevicesAgree, ()) { ExpectDevicesAgree(kHeads(AnyHeadsCase())); }

TEST(AttentionHeadsTest, GradientsOfGainsScalesAndFirstVAdd) {
  const HeadsCase from_something = MakeHeads({2, 9, 2, 2, 8}, 4, true, true, 8);
  HeadsCase from_zero = from_something;
  for (HostTensor<double>* t : {&from_zero.dq_gain, &from_zero.dve_layer_scale, &from_zero.dve_scale,
                                &from_zero.dfirst_v, &from_zero.dresidual}) {
    std::fill(t->values.begin(), t->values.end(), 0);
  }
  const Results added = CallHeads<double>(Device::Cpu(), from_something);
  Results expected = CallHeads<double>(Device::Cpu(), from_zero);
  const auto add = [&](const std::string& name, const HostTensor<double>& start) {
    for (int64_t i = 0; i < start.size(); ++i) expected[name][i] += start[i];
  };
  add("dq_gain", from_something.dq_gain);
  add("dve_layer_scale", from_something.dve_layer_scale);
  add("dve_scale", from_something.dve_scale);
  add("dfirst_v", from_something.dfirst_v);
  add("dresidual", from_something.dresidual);
  ExpectNear(added, expected, Tolerance<double>(), "double on the CPU");
}

TEST(AttentionHeadsTest, DevicesAgreeOnManyRows) {
  ExpectDevicesAgree(kHeads(MakeHeads({2, 700, 4, 2, 64}, 16, true, true, 3)));
}

TEST(AttentionHeadsTest, RepeatsToTheBit) {
  ExpectSameBits(kHeads(MakeHeads({2, 150, 4, 2, 64}, 16, true, true, 4)));
}

RC_GTEST_PROP(AttentionHeadsTest, EachKeyHasRootMeanSquareOne, ()) {
  const HeadsCase c = AnyHeadsCase();
  for (const Device& device : TestDevices()) {
    const HostTensor<double> k = CallHeads<float>(device, c).at("k");
    for (int64_t head = 0; head < c.size.rows() * c.size.kv_heads; ++head) {
      double squares = 0;
      for (int64_t d = 0; d < c.size.head_dim; ++d) squares += std::pow(k[head * c.size.head_dim + d], 2);
      RC_ASSERT(std::abs(squares / static_cast<double>(c.size.head_dim) - 1) < 1e-3);
    }
  }
}

TEST(AttentionHeadsTest, ProductsDependOnTheDistanceOnly) {
  // The same q and the same k at every position, far out: what is left is the distance.
  HeadsCase c = MakeHeads({1, 66000, 1, 1, 4}, 4, false, false, 5);
  for (int64_t i = 0; i < c.qkv.size(); ++i) c.qkv[i] = c.qkv[i % 12];
  for (const Device& device : TestDevices()) {
    const Results r = CallHeads<float>(device, c);
    const auto product = [&](int64_t t, int64_t j) {
      double sum = 0;
      for (int64_t d = 0; d < 4; ++d) sum += r.at("q")[t * 4 + d] * r.at("k")[j * 4 + d];
      return sum;
    };
    for (const int64_t distance : {0, 1, 7, 400}) {
      EXPECT_NEAR(product(65536, 65536 - distance), product(distance, 0), 1e-5) << distance;
      EXPECT_GT(std::abs(product(distance + 1, 0) - product(distance, 0)), 1e-4) << distance;
    }
  }
}

TEST(AttentionHeadsTest, RopeLeavesPositionZeroAndTheOtherChannels) {
  HeadsCase c = MakeHeads({2, 9, 2, 2, 16}, 8, false, false, 6);
  HeadsCase without = c;
  without.rope_dims = 0;
  for (const Device& device : TestDevices()) {
    const HostTensor<double> turned = CallHeads<float>(device, c).at("q");
    const HostTensor<double> plain = CallHeads<float>(device, without).at("q");
    for (int64_t i = 0; i < turned.size(); ++i) {
      const bool same = i % 16 >= 8 || i / (4 * 16) % 9 == 0;
      if (same) {
        ASSERT_NEAR(turned[i], plain[i], 1e-6) << i;
      } else {
        ASSERT_NE(turned[i], plain[i]) << i;
      }
    }
  }
}

TEST(AttentionHeadsTest, WithoutExtrasValuesAreCopied) {
  const HeadsCase c = MakeHeads({2, 5, 2, 1, 8}, 4, false, false, 7);
  for (const Device& device : TestDevices()) {
    const HostTensor<double> v = CallHeads<float>(device, c).at("v");
    for (int64_t i = 0; i < v.size(); ++i) ASSERT_EQ(v[i], c.qkv[i / 16 * 48 + 32 + i % 16]);
  }
}

TEST(AttentionHeadsTest, TheBaseGrowsBeyond1024Positions) {
  EXPECT_EQ(EffectiveRopeBase(10000, 16, 1024, 1024), 10000);
  EXPECT_NEAR(EffectiveRopeBase(10000, 16, 1024, 2048), 10000 * std::pow(2, 16.0 / 14), 1e-6);
  EXPECT_EQ(EffectiveRopeBase(10000, 16, 4096, 2048), 10000);
  EXPECT_EQ(EffectiveRopeBase(10000, 2, 1024, 4096), 10000);
}

// ---- Exclusive attention.

struct ExclusiveCase {
  HostTensor<double> x, v, dy;
  bool in_place = false;
};

ExclusiveCase MakeExclusive(Heads size, uint64_t seed) {
  return {.x = RandomOperand(size.query(), seed),
          .v = RandomOperand(size.key(), seed + 1),
          .dy = RandomOperand(size.query(), seed + 2)};
}

template <typename T>
Results CallExclusive(const Device& device, const ExclusiveCase& c) {
  OpRun<T> run(device);
  const Tensor<const T> x = run.In(c.x), v = run.In(c.v);
  ExclusiveAttentionForward<T>(run.arena(), {.x = x, .v = v, .y = run.Out("y", c.x.shape)});
  const Tensor<T> dx = c.in_place ? run.InOut("dx", c.dy) : run.Out("dx", c.x.shape);
  const Tensor<const T> dy = c.in_place ? Tensor<const T>(dx) : run.In(c.dy);
  ExclusiveAttentionBackward<T>(run.arena(),
                                {.x = x, .v = v, .dy = dy, .dx = dx, .dv = run.Out("dv", c.v.shape)});
  return run.Finish();
}

constexpr auto kExclusive = [](const ExclusiveCase& c) {
  return [&c](const Device& device, auto number) { return CallExclusive<decltype(number)>(device, c); };
};

TEST(ExclusiveAttentionTest, PaperExample) {
  // (3, 4) without its part along (1, 1) is (-1/2, 1/2); v = 0 takes nothing away.
  const ExclusiveCase c = {.x = {{1, 2, 1, 2}, {3, 4, 5, 6}},
                           .v = {{1, 2, 1, 2}, {1, 1, 0, 0}},
                           .dy = {{1, 2, 1, 2}, {1, 0, 0, 1}}};
  for (const Device& device : TestDevices()) {
    const Results r = CallExclusive<float>(device, c);
    EXPECT_THAT(r.at("y"), IsNear((HostTensor<double>{{1, 2, 1, 2}, {-0.5, 0.5, 5, 6}}), 1e-6));
    EXPECT_THAT(r.at("dx"), IsNear((HostTensor<double>{{1, 2, 1, 2}, {0.5, -0.5, 0, 1}}), 1e-6));
  }
}

RC_GTEST_PROP(ExclusiveAttentionTest, BackwardIsTheGradientOfForward, ()) {
  const Heads size = *AnyHeads();
  ExclusiveCase c = MakeExclusive(size, *Seed());
  const Results g = CallExclusive<double>(Device::Cpu(), c);
  AssertMatch(GradientsMatch({{"x", &c.x, g.at("dx")}, {"v", &c.v, g.at("dv")}},
                             [&] { return Dot(c.dy, CallExclusive<double>(Device::Cpu(), c).at("y")); }));
}

RC_GTEST_PROP(ExclusiveAttentionTest, DevicesAgree, ()) {
  const Heads size = *AnyHeads();
  ExclusiveCase c = MakeExclusive(size, *Seed());
  c.in_place = *rc::gen::arbitrary<bool>();
  ExpectDevicesAgree(kExclusive(c));
}

TEST(ExclusiveAttentionTest, RepeatsToTheBit) {
  ExpectSameBits(kExclusive(MakeExclusive({2, 150, 4, 2, 64}, 3)));
}

TEST(ExclusiveAttentionTest, WhatIsLeftIsOrthogonalToTheValueAndStays) {
  ExclusiveCase c = MakeExclusive({2, 40, 2, 2, 64}, 4);
  for (const Device& device : TestDevices()) {
    const Results r = CallExclusive<float>(device, c);
    for (int64_t head = 0; head < 2 * 40 * 4; ++head) {
      double y_v = 0, dv_v = 0;
      for (int64_t d = 0; d < 64; ++d) {
        y_v += r.at("y")[head * 64 + d] * c.v[head / 2 * 64 + d];
        dv_v += r.at("dv")[head / 2 * 64 + d] * c.v[head / 2 * 64 + d];
      }
      ASSERT_NEAR(y_v, 0, 1e-4);
      ASSERT_NEAR(dv_v, 0, 1e-3);
    }
    ExclusiveCase again = c;
    again.x = r.at("y");
    EXPECT_THAT(CallExclusive<float>(device, again).at("y"), IsNear(r.at("y"), 1e-6));
  }
}

}  // namespace
}  // namespace hm11
