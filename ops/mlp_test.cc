// The MLP against its definition: devices agree, backward is the gradient, signs survive.
#include "ops/mlp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "testing/generators.h"
#include "testing/gradient_check.h"
#include "testing/op_run.h"

namespace hm11 {
namespace {

struct Case {
  HostTensor<double> x, up, down, scale, dy, old_dx, old_dup, old_ddown, old_dscale;
  bool add_to_dx = false;
};

Case RandomCase(int64_t rows, int64_t dim, int64_t width, int64_t out, uint64_t seed) {
  const double dim_scale = 1 / std::sqrt(static_cast<double>(dim));
  const double width_scale = 1 / std::sqrt(static_cast<double>(width));
  return {.x = RandomOperand({rows, dim}, seed),
          .up = RandomOperand({width, dim}, seed + 1, dim_scale),
          .down = RandomOperand({out, width}, seed + 2, width_scale),
          .scale = RandomOperand({out}, seed + 7),
          .dy = RandomOperand({rows, out}, seed + 3),
          .old_dx = RandomOperand({rows, dim}, seed + 4),
          .old_dup = RandomOperand({width, dim}, seed + 5),
          .old_ddown = RandomOperand({out, width}, seed + 6),
          .old_dscale = RandomOperand({out}, seed + 8),
          .add_to_dx = seed % 2 == 1};
}

template <typename T>
Results RunMlp(const Device& device, const Case& c, T) {
  OpRun<T> run(device);
  const int64_t rows = c.x.shape[0], width = c.up.shape[0];
  const MlpArgs<T> args = {.x = run.In(c.x),
                           .up = run.In(c.up),
                           .down = run.In(c.down),
                           .activated = run.Out("activated", {rows, width}),
                           .negative = run.arena().template New<uint32_t>({rows, SignWords(width)}),
                           .y = run.Out("y", {rows, c.down.shape[0]})};
  MlpForward<T>(run.arena(), args);
  MlpBackward<T>(run.arena(),
                 {.forward = args,
                  .columns = {run.InAccum(c.scale), run.InOutAccum("dscale", c.old_dscale)},
                  .dy = run.In(c.dy),
                  .input = {.dx = c.add_to_dx ? run.InOut("dx", c.old_dx) : run.Out("dx", c.old_dx.shape),
                            .add = c.add_to_dx},
                  .dup = run.InOutAccum("dup", c.old_dup),
                  .ddown = run.InOutAccum("ddown", c.old_ddown)});
  return run.Finish();
}

auto On(const Case& c) {
  return [&c](const Device& device, auto number) { return RunMlp(device, c, number); };
}

TEST(MlpTest, PaperExample) {
  // h = (3, -4, 0, -0.5): one input of 1, four hidden numbers, one output.
  const Case c = {.x = {{1, 1}, {1}},
                  .up = {{4, 1}, {3, -4, 0, -0.5}},
                  .down = {{1, 4}, {1, 1, 1, 2}},
                  .scale = {{1}, {1}},
                  .dy = {{1, 1}, {1}},
                  .old_dx = {{1, 1}, {0}},
                  .old_dup = {{4, 1}, {0, 0, 0, 1}},
                  .old_ddown = {{1, 4}, {0, 0, 0, 0}},
                  .old_dscale = {{1}, {2}}};
  for (const Device& device : TestDevices()) {
    const Results r = RunMlp(device, c, float());
    EXPECT_THAT(r.at("activated"), IsNear((HostTensor<double>{{1, 4}, {9, 4, 0, 0.0625}}), 1e-6));
    EXPECT_THAT(r.at("y"), IsNear((HostTensor<double>{{1, 1}, {13.125}}), 1e-6));
    EXPECT_THAT(r.at("dup"), IsNear((HostTensor<double>{{4, 1}, {6, -2, 0, 0.5}}), 1e-6));
    EXPECT_THAT(r.at("ddown"), IsNear((HostTensor<double>{{1, 4}, {9, 4, 0, 0.0625}}), 1e-6));
    EXPECT_THAT(r.at("dscale"), IsNear((HostTensor<double>{{1}, {15.125}}), 1e-6));
    EXPECT_THAT(r.at("dx"), IsNear((HostTensor<double>{{1, 1}, {18 + 8 + 0.25}}), 1e-6));
  }
}

RC_GTEST_PROP(MlpTest, BackwardIsTheGradientOfForward, ()) {
  Case c = RandomCase(*SmallSize(), *SmallSize(), *SizeAroundTile(9), *SmallSize(), *Seed());
  for (HostTensor<double>* old : {&c.old_dx, &c.old_dup, &c.old_ddown, &c.old_dscale}) {
    std::fill(old->values.begin(), old->values.end(), 0);
  }
  const Results r = RunMlp(Device::Cpu(), c, double());
  // The second derivative jumps where a hidden number changes its sign.
  RC_PRE(*std::min_element(r.at("activated").values.begin(), r.at("activated").values.end()) > 1e-4);
  const auto scaled_output = [&] {
    HostTensor<double> y = RunMlp(Device::Cpu(), c, double()).at("y");
    for (int64_t i = 0; i < y.shape.size(); ++i) y[i] *= c.scale[i % c.scale.shape[0]];
    return Dot(c.dy, y);
  };
  const testing::AssertionResult match = GradientsMatch({{"x", &c.x, r.at("dx")},
                                                         {"up", &c.up, r.at("dup")},
                                                         {"down", &c.down, r.at("ddown")},
                                                         {"scale", &c.scale, r.at("dscale")}},
                                                        scaled_output);
  if (!match) std::cerr << match.message();
  RC_ASSERT(match);
}

RC_GTEST_PROP(MlpTest, DevicesAgree, ()) {
  ExpectDevicesAgree(On(RandomCase(*SizeAroundTile(64), *SizeAroundTile(64), *SizeAroundTile(128),
                                   *SizeAroundTile(64), *Seed())));
}

// The shapes that compute capability 9.0 has products of its own for, and their neighbours.
RC_GTEST_PROP(MlpTest, DevicesAgreeOnWholeTiles, ()) {
  const int64_t rows = *rc::gen::oneOf(SizeAroundTile(64), SizeAroundTile(300));
  const auto inner = rc::gen::element<int64_t>(128, 256, 512, 640);
  const int64_t width = *rc::gen::element<int64_t>(256, 384, 512);
  ExpectDevicesAgree(On(RandomCase(rows, *inner, width, *inner, *Seed())));
}

TEST(MlpTest, ManyTilesOfRowsForEachMultiprocessor) {
  for (const Device& gpu : TestGpus()) {
    const Case c = RandomCase(6000, 512, 2048, 512, 11);
    const Results expected = RunMlp(gpu, c, float()), got = RunMlp(gpu, c, Bf16());
    ExpectNear(got, expected, Tolerance<Bf16>(), "Bf16 on " + gpu.name());
    const Results again = RunMlp(gpu, c, Bf16());
    for (const auto& [name, value] : got) EXPECT_EQ(value.values, again.at(name).values) << name;
  }
}

RC_GTEST_PROP(MlpTest, SameBits, ()) {
  ExpectSameBits(
      On(RandomCase(*SizeAroundTile(300), 256, *rc::gen::element<int64_t>(200, 512), 128, *Seed())));
}

RC_GTEST_PROP(MlpTest, MinusTwiceXGivesTheSame, ()) {
  // Activations never fall below zero, and h = -2 g has those of g: with only positive factors of all kinds,
  // the output stays.
  Case c = RandomCase(*SmallSize(), *SizeAroundTile(8), *SizeAroundTile(20), *SmallSize(), *Seed());
  for (HostTensor<double>* t : {&c.x, &c.up}) {
    for (double& value : t->values) value = std::abs(value);
  }
  const Results r = RunMlp(Device::Cpu(), c, float());
  RC_ASSERT(*std::min_element(r.at("activated").values.begin(), r.at("activated").values.end()) >= 0);
  for (double& value : c.x.values) value *= -2;
  EXPECT_THAT(RunMlp(Device::Cpu(), c, float()).at("y"), IsNear(r.at("y"), 0));
}

}  // namespace
}  // namespace hm11
