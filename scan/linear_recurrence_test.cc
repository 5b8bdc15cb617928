// Linear recurrence: the numbered properties of its header, every length, golden values.
#include "scan/linear_recurrence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "testing/generators.h"
#include "testing/golden.h"
#include "testing/gradient_check.h"
#include "testing/matchers.h"
#include "testing/op_run.h"
#include "testing/safetensors_reader.h"

namespace hm11 {
namespace {

using Host = HostTensor<double>;

// Operands in the order [batch, length, channels], whatever the layout they are run in.
struct Case {
  int64_t batch = 1, length = 1, channels = 1;
  Host gates, values, dstates;       // [batch, length, channels]
  Host initial_state, dfinal_state;  // [batch, channels]; absent ones stay absent

  Shape shape() const { return {batch, length, channels}; }
  Shape state_shape() const { return {batch, channels}; }
};

template <typename F>
Host Filled(Shape shape, F&& value) {
  Host tensor = ZeroHostTensor<double>(shape);
  for (int64_t i = 0; i < tensor.size(); ++i) tensor[i] = value(static_cast<uint64_t>(i));
  return tensor;
}

// Gates uniform in (0, 1), the rest normal.
Case MakeCase(int64_t batch, int64_t length, int64_t channels, uint64_t seed) {
  Case c{.batch = batch, .length = length, .channels = channels};
  c.gates = RoundedTo<float>(Filled(c.shape(), [&](uint64_t i) { return RandomUniform(seed, 9, i); }));
  c.values = RoundedTo<float>(RandomHostTensor<double>(c.shape(), seed + 1));
  c.dstates = RoundedTo<float>(RandomHostTensor<double>(c.shape(), seed + 2));
  c.initial_state = RoundedTo<float>(RandomHostTensor<double>(c.state_shape(), seed + 3));
  c.dfinal_state = RoundedTo<float>(RandomHostTensor<double>(c.state_shape(), seed + 4));
  return c;
}

// [batch, length, channels] as [batch, channels, length], or that as this.
template <typename T>
HostTensor<T> ToLayout(const HostTensor<T>& tensor, ScanLayout layout) {
  if (layout == ScanLayout::kTimeMajor) return tensor;
  const int64_t batch = tensor.shape[0], rows = tensor.shape[1], cols = tensor.shape[2];
  HostTensor<T> moved{{batch, cols, rows}, std::vector<T>(tensor.values.size())};
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) moved[(b * cols + c) * rows + r] = tensor[(b * rows + r) * cols + c];
    }
  }
  return moved;
}

// Forward and then backward in T; results in double and in the order of Case.
template <typename T>
Results RunScan(Arena& arena, const ScanOptions& options, const Case& c) {
  Arena::Scope scope(arena);
  const auto in = [&](const Host& host) { return UploadAs<T>(arena, ToLayout(host, options.layout)); };
  const auto state_in = [&](const Host& host) { return UploadAs<Accum<T>>(arena, host); };
  const Tensor<T> gates = in(c.gates);
  const Tensor<T> states = arena.New<T>(gates.shape());
  const Tensor<T> dgates = arena.New<T>(gates.shape());
  const Tensor<T> dvalues = arena.New<T>(gates.shape());
  const Tensor<Accum<T>> final_state = arena.New<Accum<T>>(c.state_shape());
  const Tensor<Accum<T>> dinitial_state = arena.New<Accum<T>>(c.state_shape());
  const Tensor<Accum<T>> initial_state = state_in(c.initial_state);
  LinearRecurrenceForward<T>(arena, options,
                             {.gates = gates,
                              .values = in(c.values),
                              .initial_state = initial_state,
                              .states = states,
                              .final_state = final_state});
  LinearRecurrenceBackward<T>(arena, options,
                              {.gates = gates,
                               .states = states,
                               .initial_state = initial_state,
                               .dstates = in(c.dstates),
                               .dfinal_state = state_in(c.dfinal_state),
                               .dgates = dgates,
                               .dvalues = dvalues,
                               .dinitial_state = dinitial_state});
  const auto out = [&](const Tensor<T>& tensor) {
    return ToLayout(DownloadAs<double>(arena, tensor), options.layout);
  };
  return {{"states", out(states)},
          {"final_state", DownloadAs<double>(arena, final_state)},
          {"dgates", out(dgates)},
          {"dvalues", out(dvalues)},
          {"dinitial_state", DownloadAs<double>(arena, dinitial_state)}};
}

template <typename T>
Results RunScan(const Device& device, const ScanOptions& options, const Case& c) {
  Arena arena = TestArena(device);
  return RunScan<T>(arena, options, c);
}

// The oracle: the loop, in double, on the CPU.
Results Oracle(const Case& c, bool reversed = false) {
  return RunScan<double>(Device::Cpu(), {.algorithm = ScanAlgorithm::kSequential, .reversed = reversed}, c);
}

std::vector<ScanOptions> AllOptions() {
  std::vector<ScanOptions> all;
  for (ScanAlgorithm algorithm :
       {ScanAlgorithm::kSequential, ScanAlgorithm::kHillisSteele, ScanAlgorithm::kChunked}) {
    for (ScanLayout layout : {ScanLayout::kTimeMajor, ScanLayout::kChannelMajor}) {
      for (bool reversed : {false, true}) {
        all.push_back({.algorithm = algorithm, .layout = layout, .reversed = reversed});
      }
    }
  }
  return all;
}

std::string NameOf(const ScanOptions& options) {
  const char* const algorithm = options.algorithm == ScanAlgorithm::kSequential     ? "sequential"
                                : options.algorithm == ScanAlgorithm::kHillisSteele ? "Hillis-Steele"
                                                                                    : "chunked";
  return absl::StrCat(algorithm,
                      options.layout == ScanLayout::kTimeMajor ? ", time-major" : ", channel-major",
                      options.reversed ? ", reversed" : "");
}

void ExpectSame(const Results& got, const Results& expected, const std::string& where) {
  for (const auto& [name, value] : expected) {
    EXPECT_TRUE(got.at(name).values == value.values) << name << " differs, " << where;
  }
}

// Elements [begin, begin + count) along the axis.
Host Sliced(const Host& tensor, int axis, int64_t begin, int64_t count) {
  if (tensor.empty()) return {};
  int64_t outer = 1, inner = 1;
  for (int a = 0; a < axis; ++a) outer *= tensor.shape[a];
  for (int a = axis + 1; a < tensor.shape.rank(); ++a) inner *= tensor.shape[a];
  const int64_t extent = tensor.shape[axis];
  Shape shape = axis == 0 ? Shape{count, tensor.shape[1]} : Shape{tensor.shape[0], count};
  if (tensor.shape.rank() == 3) {
    shape = axis == 0   ? Shape{count, tensor.shape[1], tensor.shape[2]}
            : axis == 1 ? Shape{tensor.shape[0], count, tensor.shape[2]}
                        : Shape{tensor.shape[0], tensor.shape[1], count};
  }
  Host slice{shape, {}};
  for (int64_t o = 0; o < outer; ++o) {
    const auto first = tensor.values.begin() + (o * extent + begin) * inner;
    slice.values.insert(slice.values.end(), first, first + count * inner);
  }
  return slice;
}

Case SlicedInTime(const Case& c, int64_t begin, int64_t count) {
  Case part = c;
  part.length = count;
  part.gates = Sliced(c.gates, 1, begin, count);
  part.values = Sliced(c.values, 1, begin, count);
  part.dstates = Sliced(c.dstates, 1, begin, count);
  return part;
}

// The same sequence, last step first.
Host ReversedInTime(const Host& tensor) {
  Host reversed = tensor;
  const int64_t length = tensor.shape[1], channels = tensor.shape[2];
  for (int64_t i = 0; i < tensor.size(); ++i) {
    const int64_t b = i / (length * channels), t = i / channels % length, c = i % channels;
    reversed[(b * length + length - 1 - t) * channels + c] = tensor[i];
  }
  return reversed;
}

Case ReversedInTime(const Case& c) {
  Case reversed = c;
  reversed.gates = ReversedInTime(c.gates);
  reversed.values = ReversedInTime(c.values);
  reversed.dstates = ReversedInTime(c.dstates);
  return reversed;
}

Case Absolute(const Case& c) {
  Case absolute = c;
  for (Host* tensor : {&absolute.gates, &absolute.values, &absolute.dstates, &absolute.initial_state,
                       &absolute.dfinal_state}) {
    for (double& value : tensor->values) value = std::fabs(value);
  }
  return absolute;
}

// The largest |got - expected| / size, `size` being what the absolute values of all terms of a number add up
// to: the s_t of the header. Infinite where a number without terms is not zero, or where one is NaN.
double WorstError(const Host& got, const Host& expected, const Host& size) {
  double worst = 0;
  for (int64_t i = 0; i < got.size(); ++i) {
    const double error = std::fabs(got[i] - expected[i]);
    if (error == 0) continue;
    worst = std::fmax(
        worst, error <= std::numeric_limits<double>::max() && size[i] > 0 ? error / size[i] : INFINITY);
  }
  return worst;
}

TEST(LinearRecurrenceTest, TheExampleOnPaper) {
  // h: 0.5 * 4 + 1 = 3, 2 * 3 + 1 = 7, 0 * 7 + 3 = 3.
  // G: 1 + 2 * 0 = 1, 0 + 0 * 11 = 0, 1 + 10 = 11; da = G * (4, 3, 7); dinitial = 0.5 * 1.
  Case c{.batch = 1, .length = 3, .channels = 1};
  c.gates = {c.shape(), {0.5, 2, 0}};
  c.values = {c.shape(), {1, 1, 3}};
  c.dstates = {c.shape(), {1, 0, 1}};
  c.initial_state = {c.state_shape(), {4}};
  c.dfinal_state = {c.state_shape(), {10}};
  for (const Device& device : TestDevices()) {
    for (ScanOptions options : AllOptions()) {
      const Case& given = options.reversed ? ReversedInTime(c) : c;
      Results results = RunScan<float>(device, options, given);
      if (options.reversed) {
        for (const char* name : {"states", "dgates", "dvalues"})
          results[name] = ReversedInTime(results[name]);
      }
      EXPECT_EQ(results["states"].values, (std::vector<double>{3, 7, 3})) << NameOf(options);
      EXPECT_EQ(results["final_state"].values, (std::vector<double>{3})) << NameOf(options);
      EXPECT_EQ(results["dvalues"].values, (std::vector<double>{1, 0, 11})) << NameOf(options);
      EXPECT_EQ(results["dgates"].values, (std::vector<double>{4, 0, 77})) << NameOf(options);
      EXPECT_EQ(results["dinitial_state"].values, (std::vector<double>{0.5})) << NameOf(options);
    }
  }
}

// Property 1.
RC_GTEST_PROP(LinearRecurrenceTest, TheOperatorIsAssociative, ()) {
  const uint64_t seed = *Seed();
  const auto step = [&](uint64_t i) {
    return LinearStep<double>{RandomNormal(seed, 1, i), RandomNormal(seed, 2, i)};
  };
  const LinearStep<double> left = Compose(Compose(step(0), step(1)), step(2));
  const LinearStep<double> right = Compose(step(0), Compose(step(1), step(2)));
  RC_ASSERT(std::fabs(left.gate - right.gate) <= 1e-14 * (1 + std::fabs(left.gate)));
  RC_ASSERT(std::fabs(left.value - right.value) <= 1e-13 * (1 + std::fabs(left.value)));
  const LinearStep<double> same = Compose(Compose({}, step(0)), {});
  RC_ASSERT(same.gate == step(0).gate && same.value == step(0).value);
}

// Every result that `expected` holds is within `bound` of it, relative to `size`.
void ExpectWithin(const Results& got, const Results& expected, const Results& size, double bound,
                  const std::string& where) {
  for (const auto& [name, value] : expected) {
    EXPECT_LT(WorstError(got.at(name), value, size.at(name)), bound) << name << ", " << where;
  }
}

// Property 2: the part that comes first in the scan's order hands its state on, and backward its gradient
// back.
void ExpectCuttingChangesNothing(const Device& device, const ScanOptions& options, const Case& c,
                                 int64_t cut) {
  Case first = SlicedInTime(c, 0, cut), second = SlicedInTime(c, cut, c.length - cut);
  if (options.reversed) std::swap(first, second);
  second.initial_state = RunScan<float>(device, options, first)["final_state"];
  Results after = RunScan<float>(device, options, second);
  first.dfinal_state = after["dinitial_state"];
  Results before = RunScan<float>(device, options, first);

  Results whole = RunScan<float>(device, options, c);
  const Results size = Oracle(Absolute(c), options.reversed);
  const std::string where = absl::StrCat(NameOf(options), " cut at ", cut, " of ", c.length);
  const auto ends = [](const Results& last, const Results& first) {
    return Results{{"final_state", last.at("final_state")}, {"dinitial_state", first.at("dinitial_state")}};
  };
  ExpectWithin(ends(after, before), ends(whole, whole), size, 1e-6, where);
  if (options.reversed) std::swap(before, after);
  const auto part = [&](const Results& results, int64_t begin, int64_t count) {
    Results sliced;
    for (const char* name : {"states", "dvalues", "dgates"}) {
      sliced[name] = Sliced(results.at(name), 1, begin, count);
    }
    return sliced;
  };
  ExpectWithin(before, part(whole, 0, cut), part(size, 0, cut), 1e-6, where);
  ExpectWithin(after, part(whole, cut, c.length - cut), part(size, cut, c.length - cut), 1e-6, where);
}

RC_GTEST_PROP(LinearRecurrenceTest, CuttingAnywhereAndCarryingTheStateChangesNothing, ()) {
  const Case c = MakeCase(*SmallSize(3), 1 + *SizeAroundTile(64), *SizeAroundTile(16), *Seed());
  const int64_t cut = *rc::gen::inRange<int64_t>(1, c.length);
  for (const Device& device : TestDevices()) {
    for (const ScanOptions& options : AllOptions()) ExpectCuttingChangesNothing(device, options, c, cut);
  }
  RC_ASSERT(!testing::Test::HasFailure());
}

// Property 3.
RC_GTEST_PROP(LinearRecurrenceTest, AZeroGateIsAReset, ()) {
  Case c = MakeCase(*SmallSize(3), 1 + *SizeAroundTile(64), *SizeAroundTile(16), *Seed());
  const int64_t cut = *rc::gen::inRange<int64_t>(1, c.length);
  for (int64_t b = 0; b < c.batch; ++b) {
    for (int64_t i = 0; i < c.channels; ++i) c.gates[(b * c.length + cut) * c.channels + i] = 0;
  }
  Case rest = SlicedInTime(c, cut, c.length - cut);
  rest.initial_state = {};
  const Results size = Oracle(Absolute(c));
  for (const Device& device : TestDevices()) {
    for (const ScanOptions& options : AllOptions()) {
      if (options.reversed) continue;
      const Results whole = RunScan<float>(device, options, c), alone = RunScan<float>(device, options, rest);
      for (const char* name : {"states", "dvalues"}) {
        const auto sliced = [&](const Results& results) {
          return Sliced(results.at(name), 1, cut, c.length - cut);
        };
        EXPECT_LT(WorstError(sliced(whole), alone.at(name), sliced(size)), 1e-6) << name << NameOf(options);
      }
    }
  }
  RC_ASSERT(!testing::Test::HasFailure());
}

// Property 4.
RC_GTEST_PROP(LinearRecurrenceTest, TheFutureNeverReachesThePast, ()) {
  const uint64_t seed = *Seed();
  const Case c = MakeCase(*SmallSize(3), 1 + *SizeAroundTile(64), *SizeAroundTile(16), seed);
  const int64_t cut = *rc::gen::inRange<int64_t>(1, c.length);
  Case other = c;
  for (int64_t i = 0; i < c.gates.size(); ++i) {
    if (i / c.channels % c.length < cut) continue;
    other.gates[i] = NAN;
    other.values[i] = NAN;
  }
  for (const Device& device : TestDevices()) {
    for (ScanOptions options : AllOptions()) {
      const auto states = [&](const Case& given) {
        if (!options.reversed) return RunScan<float>(device, options, given).at("states");
        return ReversedInTime(RunScan<float>(device, options, ReversedInTime(given)).at("states"));
      };
      EXPECT_TRUE(Sliced(states(c), 1, 0, cut).values == Sliced(states(other), 1, 0, cut).values)
          << NameOf(options) << ", cut at " << cut << " of " << c.length;
    }
  }
  RC_ASSERT(!testing::Test::HasFailure());
}

// Property 5: when every other row and channel is NaN, one keeps its bits.
RC_GTEST_PROP(LinearRecurrenceTest, BatchRowsAndChannelsAreIndependent, ()) {
  const Case c =
      MakeCase(*SmallSize(3), *SizeAroundTile(32), *SizeAroundTile(*rc::gen::element(16, 256)), *Seed());
  const int64_t row = *rc::gen::inRange<int64_t>(0, c.batch);
  const int64_t channel = *rc::gen::inRange<int64_t>(0, c.channels);
  Case other = c;
  for (Host* tensor : {&other.gates, &other.values, &other.dstates}) {
    for (int64_t i = 0; i < tensor->size(); ++i) {
      if (i / (c.length * c.channels) != row || i % c.channels != channel) (*tensor)[i] = NAN;
    }
  }
  for (Host* tensor : {&other.initial_state, &other.dfinal_state}) {
    for (int64_t i = 0; i < tensor->size(); ++i) {
      if (i != row * c.channels + channel) (*tensor)[i] = NAN;
    }
  }
  for (const Device& device : TestDevices()) {
    for (const ScanOptions& options : AllOptions()) {
      const Results mine = RunScan<float>(device, options, c),
                    theirs = RunScan<float>(device, options, other);
      for (const auto& [name, value] : mine) {
        const int axis = value.shape.rank() - 1;
        const auto one = [&](const Host& all) {
          return Sliced(Sliced(all, 0, row, 1), axis, channel, 1).values;
        };
        EXPECT_TRUE(one(value) == one(theirs.at(name))) << name << ", " << NameOf(options);
      }
    }
  }
  RC_ASSERT(!testing::Test::HasFailure());
}

// Property 6.
RC_GTEST_PROP(LinearRecurrenceTest, BackwardIsTheGradientOfForward, ()) {
  Case c = MakeCase(*SmallSize(2), 1 + *SizeAroundTile(32), *SizeAroundTile(4), *Seed());
  for (const ScanOptions& options : AllOptions()) {
    const Results gradients = RunScan<double>(Device::Cpu(), options, c);
    const auto loss = [&] {
      const Results results = RunScan<double>(Device::Cpu(), options, c);
      return Dot(c.dstates, results.at("states")) + Dot(c.dfinal_state, results.at("final_state"));
    };
    EXPECT_TRUE(GradientsMatch({{"gates", &c.gates, gradients.at("dgates")},
                                {"values", &c.values, gradients.at("dvalues")},
                                {"initial_state", &c.initial_state, gradients.at("dinitial_state")}},
                               loss))
        << NameOf(options);
  }
  RC_ASSERT(!testing::Test::HasFailure());
}

// Property 7.
RC_GTEST_PROP(LinearRecurrenceTest, TheReversedScanOfAReversedSequenceIsTheScan, ()) {
  const Case c = MakeCase(*SmallSize(3), *SizeAroundTile(64), *SizeAroundTile(16), *Seed());
  for (const Device& device : TestDevices()) {
    for (ScanOptions options : AllOptions()) {
      if (options.reversed) continue;
      const Results straight = RunScan<float>(device, options, c);
      options.reversed = true;
      Results reversed = RunScan<float>(device, options, ReversedInTime(c));
      for (const char* name : {"states", "dgates", "dvalues"})
        reversed[name] = ReversedInTime(reversed[name]);
      if (device.is_cuda() && options.algorithm == ScanAlgorithm::kChunked &&
          options.layout == ScanLayout::kChannelMajor) {
        ExpectWithin(reversed, straight, Oracle(Absolute(c)), 1e-6, NameOf(options));
      } else {
        ExpectSame(reversed, straight, NameOf(options));
      }
    }
  }
  RC_ASSERT(!testing::Test::HasFailure());
}

// Property 8, its sharper half: gates in (0, 1), float against the loop in double, relative to s_t. Every
// length with a few channels; a length in two reversed.
TEST(LinearRecurrenceTest, EveryLengthTo2048AgreesWithTheLoopInDouble) {
  for (const Device& device : TestDevices()) {
    Arena arena = TestArena(device);
    double worst_state = 0, worst_gradient = 0;
    for (int64_t length = 1; length <= 2048; ++length) {
      const Case c = MakeCase(1, length, 3, static_cast<uint64_t>(length));
      const bool reversed = length % 2 == 1;
      const Results expected = Oracle(c, reversed), size = Oracle(Absolute(c), reversed);
      for (const ScanOptions& options : AllOptions()) {
        if (options.reversed != reversed || options.algorithm == ScanAlgorithm::kSequential) continue;
        const Results results = RunScan<float>(arena, options, c);
        for (const auto& [name, value] : results) {
          const double error = WorstError(value, expected.at(name), size.at(name));
          const bool is_state = name == "states" || name == "final_state";
          ASSERT_LT(error, is_state ? 1e-6 : 2.3e-5)
              << name << ", length " << length << ", " << NameOf(options) << " on " << device.name();
          (is_state ? worst_state : worst_gradient) =
              std::fmax(is_state ? worst_state : worst_gradient, error);
        }
      }
    }
    RecordProperty(absl::StrCat("worst_state_", device.name()), absl::StrCat(worst_state));
    RecordProperty(absl::StrCat("worst_gradient_", device.name()), absl::StrCat(worst_gradient));
  }
}

// Property 8 for any gates: the bound itself, at shapes around the edges of blocks, tiles and cuts in time.
TEST(LinearRecurrenceTest, AlgorithmsAgreeWithinTheBoundAtTheEdgesOfBlocks) {
  const std::vector<std::vector<int64_t>> shapes = {
      {2, 17, 255},   {1, 9, 256},    {3, 5, 257},    {1, 33, 513},  {2, 1, 300}, {1, 1023, 2},
      {1, 1024, 2},   {2, 1025, 3},   {1, 2049, 1},   {1, 4097, 5},  {5, 300, 7}, {1, 65536, 9},
      {1, 524288, 1}, {1, 524349, 1}, {1, 174800, 3}, {1, 1100, 256}};
  for (const Device& device : TestDevices()) {
    Arena arena = TestArena(device);
    for (const std::vector<int64_t>& shape : shapes) {
      Case c = MakeCase(shape[0], shape[1], shape[2], static_cast<uint64_t>(shape[1]));
      for (double& gate : c.gates.values) gate = std::copysign(1 - gate * gate * gate, gate - 0.1);
      // One channel remembers everything: what a cut in time hands on is not forgotten before the next.
      for (int64_t i = 0; i < c.gates.size(); i += c.channels) {
        c.gates[i] = std::copysign(1 - 1e-5 * std::fabs(c.gates[i]), c.gates[i]);
      }
      c.gates = RoundedTo<float>(c.gates);
      for (bool reversed : {false, true}) {
        const Results expected = Oracle(c, reversed), size = Oracle(Absolute(c), reversed);
        for (const ScanOptions& options : AllOptions()) {
          if (options.reversed != reversed) continue;
          const double bound = 4 * static_cast<double>(c.length + 1) * 0x1p-24;
          for (const auto& [name, value] : RunScan<float>(arena, options, c)) {
            // The terms themselves are far better than the worst case: long sequences stay under 1e-4 too.
            EXPECT_LT(WorstError(value, expected.at(name), size.at(name)), std::fmin(bound, 1e-4))
                << name << ", " << c.shape() << ", " << NameOf(options) << " on " << device.name();
          }
        }
      }
    }
  }
}

// Property 9. Step sizes from 1e-6 to 1e3, A from -1e-4 to -1e3 and inputs up to 1e3, with the extremes as
// channels of their own, stored in T.
template <typename T>
Case ExtremeCase(int64_t length, uint64_t seed) {
  const int64_t channels = 9;  // enough to be cut in time when long
  Case c = MakeCase(1, length, channels, seed);
  const double largest = std::is_same_v<T, Fp16> ? 65504 : 3.38e38;
  for (int64_t i = 0; i < c.gates.size(); ++i) {
    const uint64_t index = static_cast<uint64_t>(i);
    double step = std::pow(10, -6 + 9 * RandomUniform(seed, 11, index));
    double a = -std::pow(10, -4 + 7 * RandomUniform(seed, 12, index));
    if (i % channels < 4) step = i % channels % 2 ? 1e3 : 1e-6;
    if (i % channels < 4) a = i % channels / 2 ? -1e3 : -1e-4;
    const double x = 1e3 * (2 * RandomUniform(seed, 13, index) - 1) + (i % channels == 5 ? 1e3 : 0);
    c.gates[i] = std::exp(step * a);
    c.values[i] = std::clamp(step * std::fmin(x, 1e3), -largest, largest);
    c.dstates[i] = 1e3 * (2 * RandomUniform(seed, 14, index) - 1);
  }
  c.gates = RoundedTo<T>(c.gates);
  c.values = RoundedTo<T>(c.values);
  c.dstates = RoundedTo<T>(c.dstates);
  return c;
}

template <typename T>
Host ClampedTo(Host tensor) {
  const double largest = std::is_same_v<T, Fp16> ? 65504 : 0x1.fep127;
  for (double& value : tensor.values) value = std::clamp(value, -largest, largest);
  return tensor;
}

template <typename T>
void ExpectWithinTheBoundOf16Bits(const Device& device, const ScanOptions& options, const Case& c) {
  const double v = std::is_same_v<T, Fp16> ? 0x1p-11 : 0x1p-8, u = 0x1p-24;
  const Results results = RunScan<T>(device, options, c);
  const Results exact = Oracle(c, options.reversed), size = Oracle(Absolute(c), options.reversed);
  const Host states = ClampedTo<T>(exact.at("states")), dvalues = ClampedTo<T>(exact.at("dvalues"));
  // Backward reads the stored states.
  Host before = c.gates, dgates = c.gates;
  const int64_t channels = c.channels, length = c.length;
  for (int64_t i = 0; i < c.gates.size(); ++i) {
    const int64_t time = i / channels;
    const bool first = time == (options.reversed ? length - 1 : 0);
    before[i] = first ? c.initial_state[i % channels]
                      : results.at("states")[i + (options.reversed ? channels : -channels)];
    dgates[i] = exact.at("dvalues")[i] * before[i];
  }
  dgates = ClampedTo<T>(dgates);
  for (int64_t i = 0; i < c.gates.size(); ++i) {
    const int64_t time = options.reversed ? length - 1 - i / channels : i / channels;
    const double forward = v + 2 * static_cast<double>(time + 1) * u;
    const double backward = v + (2 * static_cast<double>(length - time) + 1) * u;
    const double gradient_size = size.at("dvalues")[i];
    const auto within = [&](const char* name, double expected, double bound) {
      ASSERT_LE(std::fabs(results.at(name)[i] - expected), 1.01 * bound + 0x1p-25)  // false for NaN
          << name << " " << time << ", channel " << i % channels << " of " << DtypeName<T>() << ", "
          << NameOf(options);
    };
    within("states", states[i], forward * size.at("states")[i]);
    within("dvalues", dvalues[i], backward * gradient_size);
    within("dgates", dgates[i], backward * gradient_size * std::fabs(before[i]));
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(LinearRecurrenceTest, SixteenBitsStayFiniteAndWithinTheBoundAtAnyStepSize) {
  for (const Device& device : TestDevices()) {
    for (const ScanOptions& options : AllOptions()) {
      for (int64_t length : {1, 100, 65536}) {
        // Long ones by the parallel algorithms, one direction a layout.
        const bool reversed_layout = options.layout == ScanLayout::kChannelMajor;
        if (length > 1000 && options.algorithm == ScanAlgorithm::kSequential) continue;
        if (length > 1000 && options.reversed != reversed_layout) continue;
        ExpectWithinTheBoundOf16Bits<Bf16>(device, options, ExtremeCase<Bf16>(length, 5));
        ExpectWithinTheBoundOf16Bits<Fp16>(device, options, ExtremeCase<Fp16>(length, 6));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(LinearRecurrenceTest, AStateBeyondTheLargestNumberIsStoredAsThat) {
  Case c = MakeCase(1, 40, 1, 1);
  for (double& gate : c.gates.values) gate = 1;
  for (double& value : c.values.values) value = -30000;
  for (const Device& device : TestDevices()) {
    for (const ScanOptions& options : AllOptions()) {
      const Results results = RunScan<Fp16>(device, options, c);
      const Host& states = results.at("states");
      EXPECT_EQ(states[options.reversed ? 0 : 39], -65504) << NameOf(options);
      // The carried state went on unclamped.
      EXPECT_NEAR(results.at("final_state")[0], 40 * -30000.0, 10) << NameOf(options);
    }
  }
}

TEST(LinearRecurrenceTest, EveryOutputIsWrittenAndNothingElse) {
  for (const Device& device : TestDevices()) {
    for (const ScanOptions& options : AllOptions()) {
      for (const Shape& shape : {Shape{2, 37, 5}, Shape{1, 5, 300}, Shape{3, 1, 1}}) {
        OpRun<float> run(device);
        const bool time_major = options.layout == ScanLayout::kTimeMajor;
        const Shape state = {shape[0], shape[time_major ? 2 : 1]};
        const Host ones = Filled(shape, [](uint64_t) { return 1; });
        const Tensor<float> states = run.Out("states", shape);
        LinearRecurrenceForward<float>(run.arena(), options,
                                       {.gates = run.In(ones),
                                        .values = run.In(ones),
                                        .states = states,
                                        .final_state = run.OutAccum("final_state", state)});
        LinearRecurrenceBackward<float>(run.arena(), options,
                                        {.gates = run.In(ones),
                                         .states = states,
                                         .dstates = run.In(ones),
                                         .dgates = run.Out("dgates", shape),
                                         .dvalues = run.Out("dvalues", shape),
                                         .dinitial_state = run.OutAccum("dinitial_state", state)});
        const int64_t length = shape[time_major ? 1 : 2];
        EXPECT_EQ(run.Finish()["final_state"][0], length);
      }
    }
  }
}

TEST(LinearRecurrenceTest, AbsentOperandsAreZerosAndAbsentOutputsAreLeftOut) {
  Case c = MakeCase(2, 50, 6, 3);
  Case zeros = c;
  c.initial_state = c.dfinal_state = {};
  zeros.initial_state = zeros.dfinal_state = ZeroHostTensor<double>(c.state_shape());
  for (const Device& device : TestDevices()) {
    for (const ScanOptions& options : AllOptions()) {
      ExpectSame(RunScan<float>(device, options, c), RunScan<float>(device, options, zeros), NameOf(options));
      Arena arena = TestArena(device);
      const Tensor<float> gates = UploadAs<float>(arena, c.gates), states = arena.New<float>(gates.shape());
      const Tensor<float> dgates = arena.New<float>(gates.shape()), dvalues = arena.New<float>(gates.shape());
      LinearRecurrenceForward<float>(arena, options, {.gates = gates, .values = gates, .states = states});
      LinearRecurrenceBackward<float>(
          arena, options,
          {.gates = gates, .states = states, .dstates = gates, .dgates = dgates, .dvalues = dvalues});
      arena.device().Synchronize();
    }
  }
}

TEST(LinearRecurrenceTest, RepeatsToTheBitOnAnyNumberOfThreads) {
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{2, 300, 600}, {1, 65536, 9}, {1, 524288, 1}}) {
    const Case c = MakeCase(shape[0], shape[1], shape[2], 8);
    for (const Device& device : TestDevices()) {
      for (const ScanOptions& options : AllOptions()) {
        if (options.algorithm != ScanAlgorithm::kChunked) continue;
        const Results first = RunScan<float>(device, options, c);
        ExpectSame(RunScan<float>(device, options, c), first, NameOf(options));
        // Within a ParallelFor the scan's own chunks run one after the other on this thread.
        Results nested;
        ParallelFor(2, 1, [&](int64_t begin, int64_t) {
          if (begin == 0) nested = RunScan<float>(device, options, c);
        });
        ExpectSame(nested, first, absl::StrCat("on one thread, ", NameOf(options)));
      }
    }
  }
}

// Gates halve at both ends of the sequence and around each of its eighths, where the CPU cuts it, and are 1
// elsewhere: products of powers of two, so that a step left out or counted twice changes a result that is
// else equal to the bit.
TEST(LinearRecurrenceTest, CutsInTimeCountEveryStepOnce) {
  for (const Shape& shape : {Shape{1, 524293, 1}, Shape{1, 524288, 1}, Shape{1, 65541, 9}}) {
    Case c{.batch = shape[0], .length = shape[1], .channels = shape[2]};
    c.gates = Filled(shape, [&](uint64_t i) {
      const int64_t t = static_cast<int64_t>(i) / c.channels, eighth = c.length / 8;
      const int64_t beside = (t + 4) % eighth;
      return beside < 7 || t + 1 == c.length ? 0.5 : 1.0;
    });
    c.values = c.dstates = ZeroHostTensor<double>(shape);
    c.initial_state = c.dfinal_state = Filled(c.state_shape(), [](uint64_t) { return 1; });
    for (ScanOptions options : AllOptions()) {
      if (options.algorithm == ScanAlgorithm::kSequential) continue;
      const Results expected = Oracle(c, options.reversed);
      for (const Device& device : TestDevices()) {
        ExpectSame(RunScan<float>(device, options, c), expected,
                   absl::StrCat(NameOf(options), ", length ", c.length, " on ", device.name()));
      }
    }
  }
}

// From 8 MB on the CPU writes results by non-temporal stores where rows are aligned: a path of its own.
TEST(LinearRecurrenceTest, LargeResultsAreThoseOfTheLoop) {
  const Case all = MakeCase(1, 2049, 1027, 12);
  const auto check = [&](Shape shape, ScanOptions options) {
    Case c = all;
    c.batch = shape[0], c.length = shape[1], c.channels = shape[2];
    for (Host* tensor : {&c.gates, &c.values, &c.dstates}) {
      tensor->shape = shape;
      tensor->values.resize(static_cast<size_t>(shape.size()));
    }
    c.initial_state = c.dfinal_state = {};
    ScanOptions loop = options;
    loop.algorithm = ScanAlgorithm::kSequential;
    const Results expected = RunScan<float>(Device::Cpu(), loop, c);
    for (const Device& device : TestDevices()) {
      ExpectNear(RunScan<float>(device, options, c), expected, 1e-6, NameOf(options));
    }
  };
  check({1, 2048, 1024}, {});
  check({2, 131072, 8}, {.layout = ScanLayout::kChannelMajor, .reversed = true});
  check({1, 2097152, 1}, {});
  // Cuts in time at an eighth that is no multiple of a vector; rows that are none.
  check({1, 2097160, 1}, {});
  check({1, 2049, 1027}, {});
  check({1, 2049, 1027}, {.layout = ScanLayout::kChannelMajor});
}

TEST(LinearRecurrenceTest, DevicesAgree) {
  const Case c = MakeCase(3, 777, 130, 4);
  for (const ScanOptions& options : AllOptions()) {
    const Results expected = RunScan<double>(Device::Cpu(), options, c);
    ExpectNear(expected, Oracle(c, options.reversed), 1e-14, NameOf(options));
    for (const Device& device : TestDevices()) {
      const std::string where = absl::StrCat(NameOf(options), " on ", device.name());
      ExpectNear(RunScan<float>(device, options, c), expected, 1e-6, where);
      ExpectNear(RunScan<Fp16>(device, options, c), expected, 2e-3, where);
      ExpectNear(RunScan<Bf16>(device, options, c), expected, 1e-2, where);
    }
  }
}

TEST(LinearRecurrenceTest, APlanTakesTheScratchOfARunAndRunsNothing) {
  const Shape shape = {2, 64, 8};
  Arena plan = Arena::Plan();
  const ScanOptions options = {.algorithm = ScanAlgorithm::kHillisSteele};
  LinearRecurrenceForward<float>(
      plan, options,
      {.gates = plan.New<float>(shape), .values = plan.New<float>(shape), .states = plan.New<float>(shape)});
  EXPECT_EQ(plan.used_bytes(), 3 * 2 * 64 * 8 * 4);
  EXPECT_GE(plan.high_water_bytes(), plan.used_bytes());
}

TEST(LinearRecurrenceTest, GoldenValues) {
  const auto golden = ReadFloatTensors(GoldenPath("scan.safetensors"));
  ASSERT_THAT(golden, IsOk());
  int64_t lengths = 0;
  for (int64_t length : {1, 2, 3, 7, 64, 257, 1000, 2048}) {
    const auto get = [&](const char* name) {
      return ConvertTo<double>(golden->at(absl::StrCat("L", length, ".", name)));
    };
    Case c;
    c.gates = get("gates");
    c.values = get("values");
    c.dstates = get("dh");
    c.batch = c.gates.shape[0];
    c.length = c.gates.shape[1];
    c.channels = c.gates.shape[2];
    ASSERT_EQ(c.length, length);
    for (const Device& device : TestDevices()) {
      for (const ScanOptions& options : AllOptions()) {
        if (options.reversed) continue;
        const Results results = RunScan<float>(device, options, c);
        const std::string where =
            absl::StrCat("length ", length, ", ", NameOf(options), " on ", device.name());
        EXPECT_THAT(results.at("states"), IsNear(get("h"), 1e-6)) << where;
        EXPECT_THAT(results.at("dgates"), IsNear(get("dgates"), 1e-6)) << where;
        EXPECT_THAT(results.at("dvalues"), IsNear(get("dvalues"), 1e-6)) << where;
      }
    }
    ++lengths;
  }
  EXPECT_EQ(lengths, 8);
}

TEST(LinearRecurrenceDeathTest, AShapeThatDoesNotFitIsNamed) {
  Arena arena = Arena::Cpu();
  const Tensor<float> right = arena.New<float>({2, 3, 4}), wrong = arena.New<float>({2, 3, 5});
  EXPECT_DEATH(LinearRecurrenceForward<float>(arena, {}, {.gates = right, .values = wrong, .states = right}),
               "values.*2, 3, 5.*2, 3, 4");
}

}  // namespace
}  // namespace hm11
