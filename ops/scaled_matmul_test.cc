// Products with a factor a column: backward is the gradient of scale * (x w^T), and adds.
#include "ops/scaled_matmul.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <iostream>

#include "ops/matmul.h"
#include "testing/generators.h"
#include "testing/gradient_check.h"
#include "testing/op_run.h"

namespace hm11 {
namespace {

struct Case {
  HostTensor<double> x, weight, scale, dy, old_dweight, old_dscale;
};

Case RandomCase(int64_t rows, int64_t in, int64_t out, uint64_t seed) {
  return {.x = RandomOperand({rows, in}, seed),
          .weight = RandomOperand({out, in}, seed + 1),
          .scale = RandomOperand({out}, seed + 2),
          .dy = RandomOperand({rows, out}, seed + 3),
          .old_dweight = RandomOperand({out, in}, seed + 4),
          .old_dscale = RandomOperand({out}, seed + 5)};
}

template <typename T>
Results Backward(const Device& device, const Case& c, T) {
  OpRun<T> run(device);
  ScaledMatmulBackward<T>(run.arena(),
                          {.dy = run.In(c.dy),
                           .x = run.In(c.x),
                           .weight = run.In(c.weight),
                           .columns = {run.InAccum(c.scale), run.InOutAccum("dscale", c.old_dscale)},
                           .dx = run.Out("dx", c.x.shape),
                           .dweight = run.InOutAccum("dweight", c.old_dweight)});
  return run.Finish();
}

auto On(const Case& c) {
  return [&c](const Device& device, auto number) { return Backward(device, c, number); };
}

// dy . (scale * (x w^T)), by its definition.
double Forward(const Case& c) {
  const int64_t rows = c.x.shape[0], in = c.x.shape[1], out = c.weight.shape[0];
  double total = 0;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t o = 0; o < out; ++o) {
      double sum = 0;
      for (int64_t i = 0; i < in; ++i) sum += c.x[row * in + i] * c.weight[o * in + i];
      total += c.dy[row * out + o] * c.scale[o] * sum;
    }
  }
  return total;
}

TEST(ScaledMatmulTest, PaperExample) {
  const Case c = {.x = {{1, 2}, {1, 2}},
                  .weight = {{2, 2}, {3, 4, 5, 6}},
                  .scale = {{2}, {10, 0}},
                  .dy = {{1, 2}, {1, -1}},
                  .old_dweight = {{2, 2}, {0, 0, 0, 1}},
                  .old_dscale = {{2}, {0, 1}}};
  for (const Device& device : TestDevices()) {
    const Results r = Backward(device, c, float());
    EXPECT_THAT(r.at("dx"), IsNear((HostTensor<double>{{1, 2}, {30, 40}}), 1e-6));
    EXPECT_THAT(r.at("dweight"), IsNear((HostTensor<double>{{2, 2}, {10, 20, 0, 1}}), 1e-6));
    EXPECT_THAT(r.at("dscale"), IsNear((HostTensor<double>{{2}, {11, -16}}), 1e-6));
  }
}

RC_GTEST_PROP(ScaledMatmulTest, BackwardIsTheGradientOfForward, ()) {
  Case c = RandomCase(*SmallSize(), *SizeAroundTile(5), *SmallSize(), *Seed());
  for (HostTensor<double>* old : {&c.old_dweight, &c.old_dscale}) {
    std::fill(old->values.begin(), old->values.end(), 0);
  }
  const Results r = Backward(Device::Cpu(), c, double());
  const testing::AssertionResult match = GradientsMatch(
      {{"x", &c.x, r.at("dx")}, {"weight", &c.weight, r.at("dweight")}, {"scale", &c.scale, r.at("dscale")}},
      [&] { return Forward(c); });
  if (!match) std::cerr << match.message();
  RC_ASSERT(match);
}

RC_GTEST_PROP(ScaledMatmulTest, DevicesAgree, ()) {
  const Case c = RandomCase(*SizeAroundTile(64), *SizeAroundTile(64), *SizeAroundTile(64), *Seed());
  Case squared = c;
  for (HostTensor<double>* operand : {&squared.x, &squared.weight, &squared.scale, &squared.dy,
                                      &squared.old_dweight, &squared.old_dscale}) {
    for (double& number : operand->values) number *= number;
  }
  ExpectSumsAgree(On(c), Backward(Device::Cpu(), squared, double()));
}

RC_GTEST_PROP(ScaledMatmulTest, SameBits, ()) {
  ExpectSameBits(On(RandomCase(*SizeAroundTile(64), *SizeAroundTile(512), *SizeAroundTile(64), *Seed())));
}

}  // namespace
}  // namespace hm11
