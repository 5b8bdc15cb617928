// OpRun: one call of an op on one device in one type, its operands from the host in double and its results
// back there.
//
//   template <typename T>
//   Results Call(const Device& device, const Case& c) {
//     OpRun<T> run(device);
//     NegateForward<T>(run.arena(), {.x = run.In(c.x), .y = run.Out("y", c.x.shape)});
//     return run.Finish();
//   }
//
// Every output is guarded: Finish fails the test when an element was not written or something beside it was, when
// an input was, and, on the CPU, when something was behind the memory that the op took.
// With ExpectDevicesAgree, ExpectSameBits and GradientsMatch that makes the standard properties of an op.
#ifndef HM11_TESTING_OP_RUN_H_
#define HM11_TESTING_OP_RUN_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/arena.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/random.h"
#include "core/tensor.h"
#include "testing/devices.h"
#include "testing/matchers.h"

namespace hm11 {

// Outputs by name, in double.
using Results = std::map<std::string, HostTensor<double>>;

// As long as this lives, OpRun takes operands that are off at random by up to `relative` of themselves.
class ShakenOperands {
 public:
  ShakenOperands(double relative, uint64_t seed) : relative_(relative), seed_(seed) { living_ = this; }
  ~ShakenOperands() { living_ = nullptr; }
  ShakenOperands(const ShakenOperands&) = delete;
  ShakenOperands& operator=(const ShakenOperands&) = delete;

  // The operand as it is where none lives.
  static HostTensor<double> Of(HostTensor<double> operand) {
    if (living_ == nullptr) return operand;
    const uint64_t stream = ++living_->operands_;
    for (int64_t i = 0; i < operand.size(); ++i) {
      const double place = RandomUniform(living_->seed_, stream, static_cast<uint64_t>(i));
      operand[i] *= 1 + living_->relative_ * (2 * place - 1);
    }
    return operand;
  }

 private:
  inline static ShakenOperands* living_ = nullptr;
  double relative_;
  uint64_t seed_, operands_ = 0;
};

template <typename T>
class OpRun {
 public:
  explicit OpRun(const Device& device) : arena_(TestArena(device)) {}

  Arena& arena() { return arena_; }
  bool on_gpu() const { return arena_.device().is_cuda(); }

  // Inputs; without a shape: absent operands.
  Tensor<const T> In(const HostTensor<double>& host) {
    return Kept(UploadAs<T>(arena_, ShakenOperands::Of(host)));
  }
  Tensor<const Accum<T>> InAccum(const HostTensor<double>& host) {
    return Kept(UploadAs<Accum<T>>(arena_, host));
  }
  Tensor<const int32_t> InIds(const HostTensor<int32_t>& host) { return Kept(Upload(arena_, host)); }

  // Outputs; rank 0: absent ones.
  Tensor<T> Out(const std::string& name, Shape shape) { return Guarded<T>(name, shape); }
  Tensor<Accum<T>> OutAccum(const std::string& name, Shape shape) { return Guarded<Accum<T>>(name, shape); }
  // Outputs that are added to, or inputs that are overwritten, starting as `host`.
  Tensor<T> InOut(const std::string& name, const HostTensor<double>& host) {
    return Started<T>(name, ShakenOperands::Of(host));
  }
  Tensor<Accum<T>> InOutAccum(const std::string& name, const HostTensor<double>& host) {
    return Started<Accum<T>>(name, host);
  }

  Results Finish() {
    arena_.device().Synchronize();
    for (const auto& input_is_kept : kept_) EXPECT_TRUE(input_is_kept()) << "an input was written to";
    EXPECT_TRUE(CountersAreZero(arena_.device())) << "a kernel left them counted up";
    if (arena_.device().is_cpu()) ExpectNothingBehind();
    Results results;
    for (const auto& [name, finish] : finish_) results[name] = finish();
    return results;
  }

 private:
  template <typename N>
  Tensor<const N> Kept(Tensor<N> input) {
    if (input.empty()) return input;
    kept_.push_back([this, input, before = Download(arena_, input)] {
      const HostTensor<N> after = Download(arena_, input);
      return std::memcmp(after.values.data(), before.values.data(),
                         static_cast<size_t>(input.size_bytes())) == 0;
    });
    return input;
  }
  // The arena is new: what nobody took is zeros.
  void ExpectNothingBehind() {
    constexpr int64_t kLookedAt = 1 << 16;
    const char* const next = arena_.New<char>({0}).data();  // takes nothing
    const char* const end = next - arena_.used_bytes() + arena_.high_water_bytes();
    EXPECT_EQ(std::count(end, end + kLookedAt, 0), kLookedAt)
        << "the op wrote behind the memory that it took";
  }

  template <typename N>
  Tensor<N> Guarded(const std::string& name, Shape shape) {
    if (shape.rank() == 0) return {};
    const GuardedTensor<N> guarded(arena_, shape);
    finish_.emplace_back(name, [this, name, guarded] {
      EXPECT_TRUE(guarded.AllWritten(arena_)) << name << " on " << arena_.device().name();
      EXPECT_TRUE(guarded.BandsIntact(arena_)) << "beside " << name << " on " << arena_.device().name();
      return DownloadAs<double>(arena_, guarded.tensor());
    });
    return guarded.tensor();
  }
  template <typename N>
  Tensor<N> Started(const std::string& name, const HostTensor<double>& host) {
    const Tensor<N> tensor = Guarded<N>(name, host.shape);
    const HostTensor<N> start = ConvertTo<N>(host);
    arena_.device().CopyFromHost(tensor.data(), start.values.data(), tensor.size_bytes());
    arena_.device().Synchronize();
    return tensor;
  }

  Arena arena_;
  std::vector<std::function<bool()>> kept_;
  std::vector<std::pair<std::string, std::function<HostTensor<double>()>>> finish_;
};

// Appends the numbers of result `from` to those of `into` and drops it: few sums may nearly cancel, and then
// tell nothing of the precision of their terms.
inline void JoinResults(const std::string& from, const std::string& into, Results* results) {
  HostTensor<double>& joined = results->at(into);
  const HostTensor<double>& numbers = results->at(from);
  joined.values.insert(joined.values.end(), numbers.values.begin(), numbers.values.end());
  joined.shape = {joined.size()};
  results->erase(from);
}

inline void ExpectNear(const Results& got, const Results& expected, double tolerance,
                       const std::string& where) {
  ASSERT_EQ(got.size(), expected.size());
  for (const auto& [name, value] : expected) {
    ASSERT_TRUE(got.count(name)) << name;
    EXPECT_THAT(got.at(name), IsNear(value, tolerance)) << name << ", " << where;
  }
}

inline double SquaredDistance(const HostTensor<double>& a, const HostTensor<double>& b) {
  double sum = 0;
  for (int64_t i = 0; i < b.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

// The L2 distances between `exact`, what run() gives, and what it gives for operands that are off by up to `relative`:
// the root mean squares of eight tries.
template <typename F>
std::map<std::string, double> Sensitivities(F&& run, const Results& exact, double relative) {
  constexpr uint64_t kTries = 8;
  std::map<std::string, double> squares;
  for (uint64_t seed = 1; seed <= kTries; ++seed) {
    const ShakenOperands shaken(relative, seed);
    for (const auto& [name, value] : run()) {
      squares[name] += SquaredDistance(value, exact.at(name)) / kTries;
    }
  }
  for (auto& [name, square] : squares) square = std::sqrt(square);
  return squares;
}

// That what an op gives in T is what run() gives in a wider type, but for T's rounding. Where results nearly cancel,
// and are small beside the rounding of what they are made of, they may be off as they would be were the operands
// rounded once more: four times as far, since results on the way are rounded too.
template <typename T, typename F>
void ExpectNearButForRounding(const Results& got, F&& run, const Results& expected, double tolerance,
                              const std::string& where) {
  ASSERT_EQ(got.size(), expected.size());
  const double unit = sizeof(T) == 2 ? std::exp2(-8) : std::exp2(-23);
  std::map<std::string, double> sensitivities;
  for (const auto& [name, value] : expected) {
    ASSERT_TRUE(got.count(name)) << name;
    ASSERT_EQ(got.at(name).shape, value.shape) << name;
    if (RelativeL2(got.at(name), value) <= tolerance) continue;
    if (sensitivities.empty()) sensitivities = Sensitivities(run, expected, unit);
    const double size = std::sqrt(SquaredDistance(value, ZeroHostTensor<double>(value.shape)));
    const double bar = tolerance * (size > 0 ? size : 1) + 4 * sensitivities[name];
    EXPECT_LE(std::sqrt(SquaredDistance(got.at(name), value)), bar)
        << name << ", " << where << "; its size is " << size;
  }
}

// Calls run(device, T()) for float on the CPU and for float and Bf16 on the GPU, where there is one, and
// compares each with double on the CPU. Operands should be numbers that Bf16 holds (RandomOperand), so that
// all start from the same.
template <typename F>
void ExpectDevicesAgree(F&& run, double float_tolerance = Tolerance<float>(),
                        double bf16_tolerance = Tolerance<Bf16>()) {
  const auto exact = [&] { return run(Device::Cpu(), double()); };
  const Results expected = exact();
  ExpectNearButForRounding<float>(run(Device::Cpu(), float()), exact, expected, float_tolerance,
                                  "float on the CPU");
  for (const Device& gpu : TestGpus()) {
    ExpectNearButForRounding<float>(run(gpu, float()), exact, expected, float_tolerance,
                                    "float on " + gpu.name());
    ExpectNearButForRounding<Bf16>(run(gpu, Bf16()), exact, expected, bf16_tolerance,
                                   "Bf16 on " + gpu.name());
  }
}

// That sums of products are `sums` but for rounding. `squares`: the sums of the squares of the same products; their
// root is the size that such sums have by chance. Few sums may nearly cancel, and are then small beside the rounding
// of their terms.
inline void ExpectSumsNear(const HostTensor<double>& got, const HostTensor<double>& sums,
                           const HostTensor<double>& squares, double tolerance, const std::string& where) {
  ASSERT_EQ(got.shape, sums.shape) << where;
  double size = 0;
  for (int64_t i = 0; i < sums.size(); ++i) size += squares[i];
  EXPECT_LE(std::sqrt(SquaredDistance(got, sums)), tolerance * std::sqrt(size)) << where;  // false for NaN
}

// As ExpectDevicesAgree, for an op whose results are such sums. `squares`: what run gives for squared operands.
template <typename F>
void ExpectSumsAgree(F&& run, const Results& squares) {
  const Results expected = run(Device::Cpu(), double());
  const auto expect_near = [&](const Results& got, double tolerance, const std::string& where) {
    ASSERT_EQ(got.size(), expected.size());
    for (const auto& [name, sums] : expected) {
      ExpectSumsNear(got.at(name), sums, squares.at(name), tolerance, name + ", " + where);
    }
  };
  expect_near(run(Device::Cpu(), float()), Tolerance<float>(), "float on the CPU");
  for (const Device& gpu : TestGpus()) {
    expect_near(run(gpu, float()), Tolerance<float>(), "float on " + gpu.name());
    expect_near(run(gpu, Bf16()), Tolerance<Bf16>(), "Bf16 on " + gpu.name());
  }
}

// The GPU where it is of compute capability 9.0, for whose tensor cores ops have kernels of their own.
inline std::vector<Device> HopperGpus() {
  std::vector<Device> gpus = TestGpus();
  std::erase_if(gpus, [](const Device& gpu) { return gpu.compute_capability() != 90; });
  return gpus;
}

// A kernel for them, called by run(gpu, Bf16(), true): its results are those of run(gpu, float(), false) on the same
// GPU but for rounding, and the same bits twice.
template <typename F>
void ExpectKernelAgrees(F&& run) {
  for (const Device& gpu : HopperGpus()) {
    const Results got = run(gpu, Bf16(), true);
    const auto apart = [&] { return run(gpu, float(), false); };
    ExpectNearButForRounding<Bf16>(got, apart, apart(), Tolerance<Bf16>(), "Bf16 on " + gpu.name());
    const Results again = run(gpu, Bf16(), true);
    for (const auto& [name, value] : got) EXPECT_EQ(value.values, again.at(name).values) << name;
  }
}

// The same call twice gives the same bits, on every device in every type.
template <typename F>
void ExpectSameBits(F&& run) {
  const auto twice = [&](const Device& device, auto number) {
    const Results first = run(device, number);
    const Results second = run(device, number);
    for (const auto& [name, value] : first) EXPECT_EQ(value.values, second.at(name).values) << name;
  };
  twice(Device::Cpu(), float());
  for (const Device& gpu : TestGpus()) {
    twice(gpu, float());
    twice(gpu, Bf16());
  }
}

// Random numbers that Bf16 holds exactly.
inline HostTensor<double> RandomOperand(Shape shape, uint64_t seed, double deviation = 1, double mean = 0) {
  return RoundedTo<Bf16>(RandomHostTensor<double>(shape, seed, deviation, mean));
}

}  // namespace hm11

#endif  // HM11_TESTING_OP_RUN_H_
