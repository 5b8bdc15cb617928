// Gradients of thin products: what plain products give, on every device.
#include "ops/thin_product.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "ops/matmul.h"
#include "testing/devices.h"
#include "testing/generators.h"
#include "testing/op_run.h"

namespace hm11 {
namespace {

// Operands lie behind `spare` columns of wider matrices.
struct Sizes {
  int64_t rows, out, in;
  int64_t spare = 0;
};

struct Case {
  Sizes sizes;
  bool add;
  HostTensor<double> dy, x, weight, old_dx, old_dweight;

  Case(Sizes s, bool add, uint64_t seed)
      : sizes(s),
        add(add),
        dy(RandomOperand({s.rows, s.spare + s.out}, seed)),
        x(RandomOperand({s.rows, s.spare + s.in}, seed + 1)),
        weight(RandomOperand({s.out, s.in}, seed + 2)),
        old_dx(RandomOperand({s.rows, s.spare + s.in}, seed + 3)),
        old_dweight(RandomOperand({s.out, s.in}, seed + 4)) {}
};

enum class By { kOp, kProducts, kKernel };

template <typename T>
void Multiply(OpRun<T>& run, const MatmulGradArgs<T>& args, By by) {
  if (by == By::kProducts) return MatmulBackward<T>(run.arena(), args);
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16>) {
    if (by == By::kKernel) {
      const int64_t out = args.dy.cols(), in = args.x.cols();
      const Tensor<float> partials = run.arena().template New<float>({cuda::ThinPartials(out, in), out * in});
      EXPECT_TRUE(cuda::TryThinMatmulBackward(run.arena().device(), args, partials));
      return;
    }
  }
  ThinMatmulBackward<T>(run.arena(), args);
}

template <typename T>
Results RunOn(const Device& device, const Case& c, T, By by = By::kOp) {
  OpRun<T> run(device);
  const auto [rows, out, in, spare] = c.sizes;
  const Tensor<T> dx = run.InOut("dx", c.old_dx);
  Multiply<T>(run,
              {.dy = Columns<const T>(run.In(c.dy)).Range(spare, out),
               .x = Columns<const T>(run.In(c.x)).Range(spare, in),
               .weight = run.In(c.weight),
               .dx = Columns<T>(dx).Range(spare, in),
               .add_to_dx = c.add,
               .dweight = run.InOutAccum("dweight", c.old_dweight)},
              by);
  return run.Finish();
}

// What the products give for squared operands.
Results Squares(Case c) {
  for (HostTensor<double>* t : {&c.dy, &c.x, &c.weight, &c.old_dx, &c.old_dweight}) {
    for (double& v : t->values) v *= v;
  }
  return RunOn(Device::Cpu(), c, double(), By::kProducts);
}

TEST(ThinProductTest, PaperExample) {
  Case c({.rows = 2, .out = 1, .in = 2}, /*add=*/true, 1);
  c.dy.values = {1, 2};
  c.x.values = {3, 4, 5, 6};
  c.weight.values = {7, 8};
  c.old_dx.values = {100, 200, 300, 400};
  c.old_dweight.values = {1000, 2000};
  for (const Device& device : TestDevices()) {
    const Results r = RunOn(device, c, float());
    EXPECT_EQ(r.at("dx").values, (std::vector<double>{107, 208, 314, 416}));
    EXPECT_EQ(r.at("dweight").values, (std::vector<double>{1013, 2016}));
  }
}

RC_GTEST_PROP(ThinProductTest, DevicesAgree, ()) {
  const Sizes sizes = {.rows = *SizeAroundTile(64),
                       .out = *SizeAroundTile(64),
                       .in = *SizeAroundTile(64),
                       .spare = *rc::gen::inRange<int64_t>(0, 9)};
  const Case c(sizes, *rc::gen::arbitrary<bool>(), *Seed());
  // The op in every type against the products in double.
  const auto run = [&](const Device& device, auto number) {
    return RunOn(device, c, number, std::is_same_v<decltype(number), double> ? By::kProducts : By::kOp);
  };
  ExpectSumsAgree(run, Squares(c));
}

// ---- The kernels.

Sizes SizesOfTheKernels() {
  const bool to_wide = *rc::gen::arbitrary<bool>();
  const int64_t thin = 8 * *rc::gen::inRange<int64_t>(1, to_wide ? 13 : 5);
  const int64_t wide = 8 * *rc::gen::oneOf(SizeAroundTile(32), rc::gen::inRange<int64_t>(13, 129));
  return {.rows = *rc::gen::oneOf(SizeAroundTile(64), SizeAroundTile(300)),
          .out = to_wide ? thin : wide,
          .in = to_wide ? std::max(thin, wide) : thin,
          .spare = 8 * *rc::gen::inRange<int64_t>(0, 3)};
}

// The kernel's results are those of products in double, however few the rows, and the same bits twice.
void ExpectKernelSumsAgree(const Case& c) {
  const Results expected = RunOn(Device::Cpu(), c, double(), By::kProducts), squares = Squares(c);
  for (const Device& gpu : HopperGpus()) {
    const Results got = RunOn(gpu, c, Bf16(), By::kKernel);
    ExpectSumsNear(got.at("dx"), expected.at("dx"), squares.at("dx"), Tolerance<Bf16>(), "dx");
    ExpectSumsNear(got.at("dweight"), expected.at("dweight"), squares.at("dweight"), Tolerance<float>(),
                   "dweight");
    const Results again = RunOn(gpu, c, Bf16(), By::kKernel);
    for (const auto& [name, value] : got) EXPECT_EQ(value.values, again.at(name).values) << name;
  }
}

RC_GTEST_PROP(ThinProductTest, TheKernelAgrees, ()) {
  if (HopperGpus().empty()) return;
  const Sizes sizes = SizesOfTheKernels();
  RC_LOG() << sizes.rows << " rows, " << sizes.out << " out, " << sizes.in << " in, " << sizes.spare
           << " spare\n";
  ExpectKernelSumsAgree(Case(sizes, *rc::gen::arbitrary<bool>(), *Seed()));
}

// The products of a Mamba mixer, with several tiles of rows for each multiprocessor.
TEST(ThinProductTest, TheKernelAgreesOnManyRows) {
  if (HopperGpus().empty()) GTEST_SKIP() << "no Hopper GPU";
  ExpectKernelSumsAgree(Case({.rows = 20000, .out = 96, .in = 1024}, /*add=*/true, 1));
  ExpectKernelSumsAgree(Case({.rows = 20000, .out = 1024, .in = 32}, /*add=*/false, 2));
}

// The op of that many rows gives the kernel's bits, so it is the kernel that runs.
TEST(ThinProductTest, ManyRowsTakeTheKernel) {
  if (HopperGpus().empty()) GTEST_SKIP() << "no Hopper GPU";
  const Case c({.rows = 20000, .out = 256, .in = 24}, /*add=*/false, 3);
  for (const Device& gpu : HopperGpus()) {
    const Results by_op = RunOn(gpu, c, Bf16()), by_kernel = RunOn(gpu, c, Bf16(), By::kKernel);
    EXPECT_EQ(by_op.at("dweight").values, by_kernel.at("dweight").values);
  }
}

TEST(ThinProductTest, TheKernelRefusesWhatItHasNot) {
  if constexpr (kHaveCuda) {
    for (const auto& [out, in] : std::vector<std::pair<int64_t, int64_t>>{
             {104, 1024}, {1024, 40}, {1032, 32}, {96, 1020}, {95, 1024}, {1024, 31}, {0, 32}}) {
      EXPECT_EQ(cuda::ThinPartials(out, in), 0) << out << " x " << in;
    }
    for (const Device& gpu : TestGpus()) {
      const auto takes = [&](int64_t spare, bool with_dx, bool with_dweight) {
        OpRun<Bf16> run(gpu);
        const auto columns = [&](int64_t count) {
          return Columns<Bf16>(run.arena().New<Bf16>({64, spare + count})).Range(spare, count);
        };
        const MatmulGradArgs<Bf16> args = {
            .dy = columns(96),
            .x = columns(1024),
            .weight = run.arena().New<Bf16>({96, 1024}),
            .dx = with_dx ? columns(1024) : Columns<Bf16>(),
            .dweight = with_dweight ? run.arena().New<float>({96, 1024}) : Tensor<float>()};
        return cuda::TryThinMatmulBackward(gpu, args, run.arena().New<float>({40, 96 * 1024}));
      };
      EXPECT_EQ(takes(8, true, true), gpu.compute_capability() == 90);
      EXPECT_FALSE(takes(4, true, true));
      EXPECT_FALSE(takes(8, false, true));
      EXPECT_FALSE(takes(8, true, false));
    }
  }
}

}  // namespace
}  // namespace hm11
