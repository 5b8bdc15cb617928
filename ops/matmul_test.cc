// Matrix products against plain sums, on every device.
#include "ops/matmul.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <thread>

#include "absl/strings/str_cat.h"
#include "testing/devices.h"
#include "testing/generators.h"
#include "testing/gradient_check.h"
#include "testing/matchers.h"
#include "testing/op_run.h"

namespace hm11 {
namespace {

using testing::Not;

// x lies in columns [2, 2 + in) of a matrix that is `spare` + 2 columns wider; y, dy and dx likewise.
struct Sizes {
  int64_t rows, in, out, spare;
};

struct Case {
  Sizes sizes;
  HostTensor<double> x, weight, dy, old_dx, old_dweight;

  explicit Case(Sizes s, uint64_t seed)
      : sizes(s),
        x(RandomHostTensor<double>({s.rows, s.in + s.spare}, seed)),
        weight(RandomHostTensor<double>({s.out, s.in}, seed + 1)),
        dy(RandomHostTensor<double>({s.rows, s.out + s.spare}, seed + 2)),
        old_dx(RandomHostTensor<double>({s.rows, s.in + s.spare}, seed + 3)),
        old_dweight(RandomHostTensor<double>({s.out, s.in}, seed + 4)) {}
};

struct Results {
  HostTensor<double> y, dx, dweight;
};

// Which results add to what is there.
struct Adds {
  bool dx = false, dweight = true;
};

// The columns of interest of a matrix with spare ones on the right.
template <typename T>
Columns<T> Left(const Tensor<T>& wide, int64_t cols) {
  return Columns<T>(wide).Range(0, cols);
}

template <typename T>
Results RunOn(const Device& device, const Case& c, Adds adds = {}) {
  Arena arena = TestArena(device);
  const Sizes s = c.sizes;
  const Tensor<T> x = UploadAs<T>(arena, c.x), weight = UploadAs<T>(arena, c.weight);
  const Tensor<T> dy = UploadAs<T>(arena, c.dy), dx = UploadAs<T>(arena, c.old_dx);
  const Tensor<T> y = UploadAs<T>(arena, c.dy);
  const Tensor<Accum<T>> dweight = UploadAs<Accum<T>>(arena, c.old_dweight);
  MatmulForward<T>(arena, {.x = Left(x, s.in), .weight = weight, .y = Left(y, s.out)});
  MatmulBackward<T>(arena, {.dy = Left(dy, s.out),
                            .x = Left(x, s.in),
                            .weight = weight,
                            .dx = Left(dx, s.in),
                            .add_to_dx = adds.dx,
                            .dweight = dweight,
                            .add_to_dweight = adds.dweight});
  return {DownloadAs<double>(arena, y), DownloadAs<double>(arena, dx), DownloadAs<double>(arena, dweight)};
}

// The definition, summed in double; spare columns keep what they held.
Results Expected(const Case& c, Adds adds = {}) {
  const auto [rows, in, out, spare] = c.sizes;
  Results r = {c.dy, c.old_dx, c.old_dweight};
  if (!adds.dweight) std::fill(r.dweight.values.begin(), r.dweight.values.end(), 0);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t o = 0; o < out; ++o) {
      r.y[row * (out + spare) + o] = 0;
      for (int64_t i = 0; i < in; ++i) {
        r.y[row * (out + spare) + o] += c.x[row * (in + spare) + i] * c.weight[o * in + i];
        r.dweight[o * in + i] += c.dy[row * (out + spare) + o] * c.x[row * (in + spare) + i];
      }
    }
    for (int64_t i = 0; i < in; ++i) {
      if (!adds.dx) r.dx[row * (in + spare) + i] = 0;
      for (int64_t o = 0; o < out; ++o) {
        r.dx[row * (in + spare) + i] += c.dy[row * (out + spare) + o] * c.weight[o * in + i];
      }
    }
  }
  return r;
}

template <typename T>
void ExpectDefinition(const Device& device, const Case& exact, Adds adds) {
  Case c = exact;  // What T can hold, so that only the products' own rounding is left.
  for (HostTensor<double>* t : {&c.x, &c.weight, &c.dy, &c.old_dx}) *t = RoundedTo<T>(*t);
  const Results got = RunOn<T>(device, c, adds);
  const Results expected = Expected(c, adds);
  Case squared = c;
  for (HostTensor<double>* t :
       {&squared.x, &squared.weight, &squared.dy, &squared.old_dx, &squared.old_dweight}) {
    for (double& v : t->values) v *= v;
  }
  const Results squares = Expected(squared, adds);
  ExpectSumsNear(got.y, expected.y, squares.y, Tolerance<T>(), "y");
  ExpectSumsNear(got.dx, expected.dx, squares.dx, Tolerance<T>(), "dx");
  ExpectSumsNear(got.dweight, expected.dweight, squares.dweight, Tolerance<Accum<T>>(), "dweight");
}

rc::Gen<Sizes> AnySizes() {
  return rc::gen::build<Sizes>(rc::gen::set(&Sizes::rows, SizeAroundTile(64)),
                               rc::gen::set(&Sizes::in, SizeAroundTile(64)),
                               rc::gen::set(&Sizes::out, SizeAroundTile(64)),
                               rc::gen::set(&Sizes::spare, rc::gen::inRange<int64_t>(0, 9)));
}

TEST(MatmulTest, PaperExample) {
  for (const Device& device : TestDevices()) {
    Arena arena = TestArena(device);
    const Tensor<float> x = Upload<float>(arena, {{2, 2}, {1, 2, 3, 4}});
    const Tensor<float> weight = Upload<float>(arena, {{3, 2}, {1, 0, 0, 1, 1, -1}});
    const Tensor<float> y = arena.New<float>({2, 3});
    MatmulForward<float>(arena, {.x = x, .weight = weight, .y = y});
    EXPECT_EQ(Download(arena, y).values, (std::vector<float>{1, 2, -1, 3, 4, -1}));
  }
}

RC_GTEST_PROP(MatmulTest, EveryDeviceGivesTheSumsAndKeepsSpareColumns, ()) {
  const Case c(*AnySizes(), *Seed());
  const Adds adds = {.dx = *rc::gen::arbitrary<bool>(), .dweight = *rc::gen::arbitrary<bool>()};
  ExpectDefinition<double>(Device::Cpu(), c, adds);
  for (const Device& device : TestDevices()) ExpectDefinition<float>(device, c, adds);
  for (const Device& gpu : TestGpus()) ExpectDefinition<Bf16>(gpu, c, adds);
}

RC_GTEST_PROP(MatmulTest, BackwardIsTheGradientOfForward, ()) {
  Case c(*AnySizes(), *Seed());
  c.sizes.spare = 0;
  c = Case(c.sizes, *Seed());
  std::fill(c.old_dweight.values.begin(), c.old_dweight.values.end(), 0);
  const Results r = RunOn<double>(Device::Cpu(), c);
  RC_ASSERT(GradientsMatch({{"x", &c.x, r.dx}, {"weight", &c.weight, r.dweight}},
                           [&] { return Dot(c.dy, RunOn<double>(Device::Cpu(), c).y); }));
}

TEST(MatmulTest, WritesEveryOutputAndNothingElse) {
  for (const Device& device : TestDevices()) {
    Arena arena = TestArena(device);
    const Case c({33, 40, 24, 0}, 5);
    const Tensor<float> x = UploadAs<float>(arena, c.x), weight = UploadAs<float>(arena, c.weight);
    const Tensor<float> dy = UploadAs<float>(arena, c.dy);
    const GuardedTensor<float> y(arena, {33, 24}), dx(arena, {33, 40});
    MatmulForward<float>(arena, {.x = x, .weight = weight, .y = y.tensor()});
    MatmulBackward<float>(arena, {.dy = dy, .x = x, .weight = weight, .dx = dx.tensor()});
    for (const GuardedTensor<float>* output : {&y, &dx}) {
      EXPECT_TRUE(output->AllWritten(arena));
      EXPECT_TRUE(output->BandsIntact(arena));
    }
    EXPECT_THAT(DownloadAs<double>(arena, y.tensor()), IsNear(Expected(c).y, Tolerance<float>()));
  }
}

template <typename T>
void ExpectRepeats(const Device& device) {
  const Case c({4096, 64, 48, 3}, 9);  // Long sums: worth splitting.
  const Results once = RunOn<T>(device, c), again = RunOn<T>(device, c);
  EXPECT_EQ(once.y.values, again.y.values);
  EXPECT_EQ(once.dx.values, again.dx.values);
  EXPECT_EQ(once.dweight.values, again.dweight.values);
}

TEST(MatmulTest, RepeatsToTheBit) {
  for (const Device& device : TestDevices()) ExpectRepeats<float>(device);
  for (const Device& gpu : TestGpus()) ExpectRepeats<Bf16>(gpu);
}

TEST(MatmulTest, NoRowsGiveNoGradient) {
  for (const Device& device : TestDevices()) {
    Arena arena = TestArena(device);
    const HostTensor<float> old = RandomHostTensor<float>({3, 4}, 1);
    const Tensor<float> dweight = Upload(arena, old);
    const Tensor<float> x = arena.New<float>({0, 4}), dy = arena.New<float>({0, 3});
    MatmulBackward<float>(arena, {.dy = dy, .x = x, .dweight = dweight});
    EXPECT_EQ(Download(arena, dweight).values, old.values);
  }
}

template <typename T>
void ExpectBatched(const Device& device, int64_t batch, Sizes s, bool transpose_b, double beta, bool separate,
                   uint64_t seed) {
  const auto a = RoundedTo<T>(RandomHostTensor<double>({batch, s.rows, s.in}, seed));
  const auto b = RoundedTo<T>(RandomHostTensor<double>(
      transpose_b ? Shape{batch, s.out, s.in} : Shape{batch, s.in, s.out}, seed + 1));
  const auto old_c = RoundedTo<T>(RandomHostTensor<double>({batch, s.rows, s.out}, seed + 2));
  HostTensor<double> expected = old_c;
  for (int64_t m = 0; m < batch; ++m) {
    for (int64_t row = 0; row < s.rows; ++row) {
      for (int64_t col = 0; col < s.out; ++col) {
        double sum = 0;
        for (int64_t i = 0; i < s.in; ++i) {
          const int64_t at = transpose_b ? (m * s.out + col) * s.in + i : (m * s.in + i) * s.out + col;
          sum += a[(m * s.rows + row) * s.in + i] * b[at];
        }
        double& value = expected[(m * s.rows + row) * s.out + col];
        value = 0.5 * sum + beta * value;
      }
    }
  }
  Arena arena = TestArena(device);
  const Tensor<T> old = UploadAs<T>(arena, old_c);
  const Tensor<T> c = separate ? GuardedTensor<T>(arena, old.shape()).tensor() : old;
  BatchedMatmul<T>(arena, {.a = UploadAs<T>(arena, a),
                           .b = UploadAs<T>(arena, b),
                           .transpose_b = transpose_b,
                           .c = c,
                           .alpha = 0.5f,
                           .beta = static_cast<float>(beta),
                           .added = separate ? old : Tensor<T>()});
  EXPECT_THAT(DownloadAs<double>(arena, c), IsNear(expected, Tolerance<T>()));
}

RC_GTEST_PROP(MatmulTest, BatchedProductsAreTheSums, ()) {
  const Sizes s = *AnySizes();
  const int64_t batch = *SmallSize();
  const bool transpose_b = *rc::gen::arbitrary<bool>();
  const double beta = *rc::gen::elementOf(std::vector<double>{0, 1, -0.25});
  const bool separate = *rc::gen::arbitrary<bool>();
  const uint64_t seed = *Seed();
  ExpectBatched<double>(Device::Cpu(), batch, s, transpose_b, beta, separate, seed);
  for (const Device& device : TestDevices()) {
    ExpectBatched<float>(device, batch, s, transpose_b, beta, separate, seed);
  }
  for (const Device& gpu : TestGpus()) {
    ExpectBatched<Bf16>(gpu, batch, s, transpose_b, beta, separate, seed);
  }
}

TEST(MatmulTest, TuningChangesNoResultAndSurvivesText) {
  for (const Device& gpu : TestGpus()) {
    const Case c({777, 128, 96, 8}, 3);
    const std::string before = MatmulTuning(gpu);
    TuneMatmuls(gpu, true);
    ExpectDefinition<Bf16>(gpu, c, {.dx = true});
    TuneMatmuls(gpu, false);
    const std::string measured = MatmulTuning(gpu);
    EXPECT_NE(measured, before);
    const Results tuned = RunOn<Bf16>(gpu, c);
    ASSERT_THAT(SetMatmulTuning(gpu, before), IsOk());
    EXPECT_EQ(MatmulTuning(gpu), before);
    ASSERT_THAT(SetMatmulTuning(gpu, measured), IsOk());
    EXPECT_EQ(MatmulTuning(gpu), measured);
    EXPECT_EQ(RunOn<Bf16>(gpu, c).dweight.values, tuned.dweight.values);
  }
}

TEST(MatmulTest, ChoicesAreOfADeviceAndItsCopies) {
  for (const Device& gpu : TestGpus()) {
    const Case c({777, 128, 96, 8}, 3);
    const Device device = *Device::FromName(gpu.name()), copy = device;
    const Device other = *Device::FromName(gpu.name());
    const std::string nothing = MatmulTuning(other);
    TuneMatmuls(copy, true);
    const Results tuned = RunOn<Bf16>(device, c);
    RunOn<Bf16>(other, c);
    const std::string measured = MatmulTuning(copy);
    EXPECT_NE(measured, nothing);
    EXPECT_EQ(MatmulTuning(device), measured);
    EXPECT_EQ(MatmulTuning(other), nothing);
    ASSERT_THAT(SetMatmulTuning(other, measured), IsOk());
    EXPECT_EQ(RunOn<Bf16>(other, c).dweight.values, tuned.dweight.values);
    EXPECT_EQ(MatmulTuning(other), measured);
  }
}

// As when a run begun on a CPU goes on on a GPU.
TEST(MatmulTest, AGpuTakesTheTextOfACpu) {
  for (const Device& gpu : TestGpus()) {
    const Device device = *Device::FromName(gpu.name());
    const std::string nothing = MatmulTuning(device);
    TuneMatmuls(device, true);
    RunOn<Bf16>(device, Case({777, 128, 96, 8}, 3));
    EXPECT_THAT(SetMatmulTuning(device, MatmulTuning(Device::Cpu())), IsOk());
    EXPECT_EQ(MatmulTuning(device), nothing);
  }
}

TEST(MatmulTest, ACpuHasNothingToTune) {
  const Device cpu = Device::Cpu();
  TuneMatmuls(cpu, true);
  RunOn<float>(cpu, Case({7, 5, 3, 0}, 1));
  EXPECT_EQ(MatmulTuning(cpu), "");
  EXPECT_THAT(SetMatmulTuning(cpu, ""), IsOk());
}

TEST(MatmulTest, TheKernelsOfTheCpuAreThoseItCanRun) {
  __builtin_cpu_init();
  if (!__builtin_cpu_is("intel") || !__builtin_cpu_supports("avx512vl") ||
      getenv("OPENBLAS_CORETYPE") == nullptr) {
    GTEST_SKIP() << "no CPU that OpenBLAS was told of";
  }
  EXPECT_EQ(CpuMatmulKernels(), absl::StrCat("OpenBLAS ", getenv("OPENBLAS_CORETYPE")));
}

TEST(MatmulTest, OpenBlasThreadsLeaveTheCoresToWhatFollows) {
  RunOn<float>(Device::Cpu(), Case({512, 512, 512, 0}, 1));  // by all of its threads
  const std::clock_t before = std::clock();                  // of all threads
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_LT(static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC, 0.01);
}

TEST(MatmulTest, TuningTextThatIsNotOneIsRefused) {
  for (const Device& gpu : TestGpus()) {
    const std::string text = MatmulTuning(gpu);
    EXPECT_THAT(SetMatmulTuning(gpu, "cublaslt 7\n"),
                StatusIs(absl::StatusCode::kFailedPrecondition, "cublaslt 7"));
    EXPECT_THAT(SetMatmulTuning(gpu, text + "gpu X\n1 2 many\n"),
                StatusIs(absl::StatusCode::kInvalidArgument, "1 2 many"));
    EXPECT_THAT(SetMatmulTuning(gpu, "\n"), Not(IsOk()));
    EXPECT_EQ(MatmulTuning(gpu), text);
  }
}

}  // namespace
}  // namespace hm11
