// Products with a residual step: what the two ops give one after the other, on every device.
#include "ops/residual_product.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <iostream>
#include <type_traits>
#include <vector>

#include "core/dtype.h"
#include "ops/matmul.h"
#include "testing/generators.h"
#include "testing/gradient_check.h"
#include "testing/op_run.h"

namespace hm11 {
namespace {

struct Terms {
  bool skip = true;
  bool mix = true;
  bool norm = true;
};

struct Case {
  HostTensor<double> x, weight, residual, branch_scale, skip, skip_weight, x0, mix;
  bool norm = true;
};

Case RandomCase(int64_t rows, int64_t dim, int64_t in, uint64_t seed, Terms terms) {
  const double deviation = 1 / std::sqrt(static_cast<double>(in));
  const auto random = [&](bool present, Shape shape, uint64_t stream, double mean = 0) {
    return present ? RandomOperand(shape, seed + stream, 1, mean) : HostTensor<double>();
  };
  return {.x = RandomOperand({rows, in}, seed),
          .weight = RandomOperand({dim, in}, seed + 1, deviation),
          .residual = RandomOperand({rows, dim}, seed + 2),
          .branch_scale = random(true, {dim}, 3, 1),
          .skip = random(terms.skip, {rows, dim}, 4),
          .skip_weight = random(terms.skip, {dim}, 5),
          .x0 = random(terms.mix, {rows, dim}, 6),
          .mix = random(terms.mix, {2, dim}, 7, 0.5),
          .norm = terms.norm};
}

template <typename T>
void Multiply(OpRun<T>& run, const MatmulThenResidualNormArgs<T>& args, bool by_kernel) {
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16>) {
    if (by_kernel) {
      EXPECT_TRUE(cuda::TryMatmulThenResidualNorm(run.arena().device(), args));
      return;
    }
  }
  MatmulThenResidualNorm<T>(run.arena(), args);
}

// by_kernel: by that for compute capability 9.0, however few the rows (Bf16 only).
template <typename T>
Results RunForward(const Device& device, const Case& c, T, bool by_kernel = false) {
  OpRun<T> run(device);
  const Shape matrix = c.residual.shape;
  ResidualNormArgs<T> step = {.x = run.In(c.residual),
                              .branch_scale = run.InAccum(c.branch_scale),
                              .skip = run.In(c.skip),
                              .skip_weight = run.InAccum(c.skip_weight),
                              .x0 = run.In(c.x0),
                              .mix = run.InAccum(c.mix),
                              .norm_scale = static_cast<Accum<T>>(0.7)};
  step.y = run.Out("y", matrix);
  if (!c.x0.empty()) step.u = run.Out("u", matrix);
  if (c.norm) step.normed = run.Out("normed", matrix);
  if (c.norm) step.rstd = run.OutAccum("rstd", {matrix[0]});
  Multiply<T>(run, {.x = run.In(c.x), .weight = run.In(c.weight), .step = step}, by_kernel);
  return run.Finish();
}

auto On(const Case& c) {
  return [&c](const Device& device, auto number) { return RunForward(device, c, number); };
}

TEST(ResidualProductTest, PaperExample) {
  // A branch of 2 * 3 = 6, of which a half is added to 1: 4 is normed to 1.
  const Case c = {
      .x = {{1, 1}, {2}}, .weight = {{1, 1}, {3}}, .residual = {{1, 1}, {1}}, .branch_scale = {{1}, {0.5}}};
  for (const Device& device : TestDevices()) {
    const Results r = RunForward(device, c, float());
    EXPECT_THAT(r.at("y"), IsNear((HostTensor<double>{{1, 1}, {4}}), 1e-6));
    EXPECT_THAT(r.at("rstd"), IsNear((HostTensor<double>{{1}, {0.25}}), 1e-6));
    EXPECT_THAT(r.at("normed"), IsNear((HostTensor<double>{{1, 1}, {0.7}}), 1e-6));
  }
}

Terms AnyTerms() {
  return {.skip = *rc::gen::arbitrary<bool>(),
          .mix = *rc::gen::arbitrary<bool>(),
          .norm = *rc::gen::arbitrary<bool>()};
}

// Of rows long enough: 1 / rms of a few numbers near zero tells nothing of the precision of its terms.
RC_GTEST_PROP(ResidualProductTest, DevicesAgree, ()) {
  const int64_t dim = 15 + *SizeAroundTile(64);
  ExpectDevicesAgree(On(RandomCase(*SizeAroundTile(64), dim, *SizeAroundTile(64), *Seed(), AnyTerms())));
}

struct Sizes {
  int64_t rows, dim, in;
};

Sizes SizesOfTheKernels() {
  return {.rows = *rc::gen::oneOf(SizeAroundTile(64), SizeAroundTile(300)),
          .dim = *rc::gen::element<int64_t>(512, 768, 1024),
          .in = *rc::gen::element<int64_t>(320, 384, 512)};
}

auto ByKernel(const Case& c) {
  return [&c](const Device& device, auto number, bool by_kernel) {
    return RunForward(device, c, number, by_kernel);
  };
}

RC_GTEST_PROP(ResidualProductTest, TheKernelAgrees, ()) {
  if (HopperGpus().empty()) return;
  const Sizes sizes = SizesOfTheKernels();
  const bool mix = *rc::gen::arbitrary<bool>();
  const Terms terms = {
      .skip = mix && *rc::gen::arbitrary<bool>(), .mix = mix, .norm = mix || *rc::gen::arbitrary<bool>()};
  ExpectKernelAgrees(ByKernel(RandomCase(sizes.rows, sizes.dim, sizes.in, *Seed(), terms)));
}

// Several tiles of rows for each multiprocessor, as a step of training has them.
TEST(ResidualProductTest, TheKernelAgreesOnManyRows) {
  if (HopperGpus().empty()) GTEST_SKIP() << "no Hopper GPU";
  ExpectKernelAgrees(ByKernel(RandomCase(9000, 512, 512, 1, {.skip = true, .mix = true})));
}

// ---- Backward.

struct GradCase {
  HostTensor<double> input, dy, weight, u, rstd, du, step_dy, added, x0, mix, skip, skip_weight;
  HostTensor<double> old_dweight, old_dx0, old_dmix, old_dskip_weight;
};

struct GradTerms {
  bool adds = false;
  bool mix = false;
  bool skip = false;
  bool dy = false;
};

GradCase RandomGradCase(int64_t rows, int64_t dim, int64_t in, uint64_t seed, GradTerms terms) {
  const auto random = [&](bool present, Shape shape, double mean = 0) {
    return present ? RandomOperand(shape, ++seed, 1, mean) : HostTensor<double>();
  };
  const Shape matrix = {rows, dim};
  GradCase c;
  c.input = random(true, matrix);
  c.dy = random(true, {rows, in});
  c.weight = RandomOperand({in, dim}, ++seed, 1 / std::sqrt(static_cast<double>(in)));
  c.u = random(true, matrix);
  c.rstd = RandomOperand({rows}, ++seed, 0.1, 1);
  c.du = random(true, matrix);
  c.step_dy = random(terms.dy, matrix);
  c.added = random(terms.adds, matrix);
  c.x0 = random(terms.mix, matrix);
  c.mix = random(terms.mix, {2, dim}, 0.5);
  c.skip = random(terms.skip, matrix);
  c.skip_weight = random(terms.skip, {dim});
  c.old_dweight = random(true, {in, dim});
  c.old_dx0 = random(terms.mix, matrix);
  c.old_dmix = random(terms.mix, {2, dim});
  c.old_dskip_weight = random(terms.skip, {dim});
  return c;
}

template <typename T>
void Multiply(OpRun<T>& run, const MatmulGradArgs<T>& product, const InputGradient<T>& input,
              bool by_kernel) {
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16>) {
    if (by_kernel) {
      EXPECT_TRUE(cuda::TryMatmulBackwardIntoStep(run.arena().device(), product, *input.step));
      return MatmulBackward<T>(run.arena(), {.dy = product.dy, .x = product.x, .dweight = product.dweight});
    }
  }
  MatmulBackwardInto<T>(run.arena(), product, input);
}

template <typename T>
Results RunBackward(const Device& device, const GradCase& c, T, bool by_kernel = false) {
  OpRun<T> run(device);
  const Shape matrix = c.u.shape;
  ResidualNormGradArgs<T> step;
  step.forward = {.x = run.In(c.u),
                  .skip = run.In(c.skip),
                  .skip_weight = run.InAccum(c.skip_weight),
                  .x0 = run.In(c.x0),
                  .mix = run.InAccum(c.mix),
                  .norm_scale = static_cast<Accum<T>>(0.7)};
  step.forward.y = UploadAs<T>(run.arena(), c.u);
  step.forward.u = c.x0.empty() ? Tensor<T>() : run.arena().template New<T>(matrix);
  step.forward.normed = run.arena().template New<T>(matrix);
  step.forward.rstd = UploadAs<Accum<T>>(run.arena(), c.rstd);
  step.dx = run.InOut("dx", c.du);  // du, in place
  step.du = step.dx;
  step.dy = run.In(c.step_dy);
  step.dskip = run.Out("dskip", c.skip.shape);
  step.dskip_weight = run.InOutAccum("dskip_weight", c.old_dskip_weight);
  step.dx0 = run.InOut("dx0", c.old_dx0);
  step.dmix = run.InOutAccum("dmix", c.old_dmix);
  InputGradient<T> input = {.step = &step};
  if (!c.added.empty()) {
    input.dx = run.InOut("added", c.added);
    input.add = true;
  }
  Multiply<T>(run,
              {.dy = run.In(c.dy),
               .x = run.In(c.input),
               .weight = run.In(c.weight),
               .dweight = run.InOutAccum("dweight", c.old_dweight)},
              input, by_kernel);
  Results results = run.Finish();
  results.erase("added");
  return results;
}

auto BackwardOn(const GradCase& c) {
  return [&c](const Device& device, auto number) { return RunBackward(device, c, number); };
}

RC_GTEST_PROP(ResidualProductTest, BackwardAgreesOnDevices, ()) {
  const GradTerms terms = {.adds = *rc::gen::arbitrary<bool>(),
                           .mix = *rc::gen::arbitrary<bool>(),
                           .skip = *rc::gen::arbitrary<bool>(),
                           .dy = *rc::gen::arbitrary<bool>()};
  ExpectDevicesAgree(BackwardOn(
      RandomGradCase(*SizeAroundTile(64), *SizeAroundTile(64), *SizeAroundTile(64), *Seed(), terms)));
}

auto BackwardByKernel(const GradCase& c) {
  return [&c](const Device& device, auto number, bool by_kernel) {
    return RunBackward(device, c, number, by_kernel);
  };
}

RC_GTEST_PROP(ResidualProductTest, TheKernelAgreesBackward, ()) {
  if (HopperGpus().empty()) return;
  const Sizes sizes = SizesOfTheKernels();
  ExpectKernelAgrees(BackwardByKernel(RandomGradCase(sizes.rows, sizes.dim, sizes.in, *Seed(), {})));
}

TEST(ResidualProductTest, TheKernelAgreesBackwardOnManyRows) {
  if (HopperGpus().empty()) GTEST_SKIP() << "no Hopper GPU";
  ExpectKernelAgrees(BackwardByKernel(RandomGradCase(9000, 512, 512, 2, {})));
}

// Where steps have more to them, or GPUs or shapes others, nothing is done.
TEST(ResidualProductTest, TheKernelRefusesWhatItHasNot) {
  if constexpr (kHaveCuda) {
    for (const Device& gpu : TestGpus()) {
      OpRun<Bf16> run(gpu);
      const auto none = [&](int64_t dim, int64_t in) {
        MatmulThenResidualNormArgs<Bf16> args = {.x = run.arena().New<Bf16>({8, in}),
                                                 .weight = run.arena().New<Bf16>({dim, in})};
        args.step.x = args.step.y = args.step.normed = run.arena().New<Bf16>({8, dim});
        args.step.branch_scale = args.step.rstd = run.arena().New<float>({std::max<int64_t>(8, dim)});
        return cuda::TryMatmulThenResidualNorm(gpu, args);
      };
      EXPECT_FALSE(none(520, 512));
      EXPECT_FALSE(none(256, 512));
      EXPECT_FALSE(none(1280, 512));
      EXPECT_FALSE(none(512, 256));
      EXPECT_FALSE(none(512, 520));
    }
  }
}

// Of a norm and the product after it.
RC_GTEST_PROP(ResidualProductTest, BackwardIsTheGradientOfNormThenProduct, ()) {
  GradCase c = RandomGradCase(*SmallSize(), *SmallSize(), *SmallSize(), *Seed(), {});
  const auto forward = [&] {
    OpRun<double> run(Device::Cpu());
    const Shape matrix = c.u.shape;
    ResidualNormForward<double>(run.arena(), {.x = run.In(c.u),
                                              .norm_scale = 0.7,
                                              .normed = run.Out("normed", matrix),
                                              .rstd = run.OutAccum("rstd", {matrix[0]})});
    return run.Finish();
  };
  const auto loss = [&] {
    const HostTensor<double> normed = forward().at("normed");
    double sum = Dot(c.du, c.u);
    const int64_t in = c.weight.shape[0], dim = c.weight.shape[1];
    for (int64_t row = 0; row < c.dy.shape[0]; ++row) {
      for (int64_t i = 0; i < in; ++i) {
        for (int64_t d = 0; d < dim; ++d)
          sum += c.dy[row * in + i] * c.weight[i * dim + d] * normed[row * dim + d];
      }
    }
    return sum;
  };
  c.rstd = forward().at("rstd");
  const Results r = RunBackward(Device::Cpu(), c, double());
  // The norm bends sharply for short rows near zero, the more so the shorter they are, hence a small step.
  const double steepest = std::max(1.0, *std::max_element(c.rstd.values.begin(), c.rstd.values.end()));
  const testing::AssertionResult match =
      GradientsMatch({{"u", &c.u, r.at("dx")}}, loss, {.step = 1e-5 / steepest, .tolerance = 1e-6});
  if (!match) std::cerr << match.message();
  RC_ASSERT(match);
}

}  // namespace
}  // namespace hm11
