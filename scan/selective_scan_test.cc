// Selective scan: the numbered properties of its header, every length, golden values.
#include "scan/selective_scan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "scan/selective_scan_cpu.h"
#include "testing/generators.h"
#include "testing/golden.h"
#include "testing/gradient_check.h"
#include "testing/matchers.h"
#include "testing/op_run.h"
#include "testing/safetensors_reader.h"

namespace hm11 {
namespace {

using Host = HostTensor<double>;

struct Case {
  int64_t batch = 1, time = 1, inner = 1, state = 1;
  Host x, delta, z, dy;              // [batch, time, inner]
  Host b, c;                         // [batch, time, state]
  Host delta_bias, d;                // [inner]
  Host a_log;                        // [inner, state]
  Host initial_state, dfinal_state;  // [batch, inner, state]
  HostTensor<uint8_t> reset;         // [batch, time]
  bool softplus = true;

  Shape rows() const { return {batch, time, inner}; }
  Shape states() const { return {batch, inner, state}; }
};

// Which optional operands a case has.
struct With {
  bool delta_bias = true, d = true, z = true, reset = false, states = true, softplus = true;
};

With RandomWith() {
  const auto flip = [] { return *rc::gen::arbitrary<bool>(); };
  return {flip(), flip(), flip(), flip(), flip(), flip()};
}

// Numbers that Bf16 holds where an operand is stored in T.
Case MakeCase(int64_t batch, int64_t time, int64_t inner, int64_t state, uint64_t seed, With with = {}) {
  Case c{.batch = batch, .time = time, .inner = inner, .state = state};
  const auto vector = [&](bool present, uint64_t stream, double deviation, double mean) {
    return present ? RoundedTo<float>(RandomHostTensor<double>({inner}, seed + stream, deviation, mean))
                   : Host();
  };
  const auto states = [&](uint64_t stream) {
    return with.states ? RoundedTo<float>(RandomHostTensor<double>(c.states(), seed + stream)) : Host();
  };
  c.softplus = with.softplus;
  c.x = RandomOperand(c.rows(), seed + 1);
  c.delta = RandomOperand(c.rows(), seed + 2, 1, -1);
  // Without softplus the step is taken as it is, and a step is positive.
  if (!with.softplus) {
    for (double& value : c.delta.values) value = std::fabs(value);
  }
  c.b = RandomOperand({batch, time, state}, seed + 3);
  c.c = RandomOperand({batch, time, state}, seed + 4);
  c.dy = RandomOperand(c.rows(), seed + 5);
  if (with.z) c.z = RandomOperand(c.rows(), seed + 6);
  c.delta_bias = vector(with.delta_bias, 7, 0.1, 0.1);
  if (!with.softplus && with.delta_bias) {
    for (double& value : c.delta_bias.values) value = std::fabs(value);
  }
  c.d = vector(with.d, 8, 1, 1);
  c.a_log = RoundedTo<float>(RandomHostTensor<double>({inner, state}, seed + 9, 0.7, -0.3));
  c.initial_state = states(10);
  c.dfinal_state = states(11);
  if (with.reset) {
    c.reset = ZeroHostTensor<uint8_t>({batch, time});
    for (int64_t i = 0; i < batch * time; ++i) {
      c.reset[i] = RandomIndex(seed, 12, static_cast<uint64_t>(i), 7) == 0;
    }
  }
  return c;
}

double Softplus(double v) { return std::fmax(v, 0.0) + std::log1p(std::exp(-std::fabs(v))); }
double Sigmoid(double v) { return 1 / (1 + std::exp(-v)); }

// The oracle: the formulas of the header, one loop after the other, in double, with everything materialized.
// With `sizes` every term counts by its absolute value: what the terms of a result add up to.
class Oracle {
 public:
  explicit Oracle(const Case& c, bool sizes = false) : c_(c), sizes_(sizes) {
    const auto zeros = [](Shape shape) { return ZeroHostTensor<double>(shape); };
    for (const char* name : {"y", "dx", "ddelta"}) results_[name] = zeros(c.rows());
    for (const char* name : {"db", "dc"}) results_[name] = zeros({c.batch, c.time, c.state});
    if (!c.z.empty()) results_["dz"] = zeros(c.rows());
    results_["da_log"] = zeros({c.inner, c.state});
    if (!c.d.empty()) results_["dd"] = zeros({c.inner});
    if (!c.delta_bias.empty()) results_["ddelta_bias"] = zeros({c.inner});
    results_["final_state"] = results_["dinitial_state"] = zeros(c.states());
    for (int64_t b = 0; b < c.batch; ++b) {
      for (int64_t e = 0; e < c.inner; ++e) Channel(b, e);
    }
  }
  const Results& results() const { return results_; }

 private:
  double Term(double term) const { return sizes_ ? std::fabs(term) : term; }
  static double Get(const Host& tensor, int64_t index, double absent) {
    return tensor.empty() ? absent : tensor[index];
  }

  void Channel(int64_t b, int64_t e) {
    const int64_t time = c_.time;
    step_.assign(static_cast<size_t>(time), 0);
    summed_ = dsum_ = dstep_ = dinput_ = step_;
    for (int64_t t = 0; t < time; ++t) {
      const int64_t at = (b * time + t) * c_.inner + e;
      const double raw = c_.delta[at] + Get(c_.delta_bias, e, 0);
      step_[static_cast<size_t>(t)] = c_.softplus ? Softplus(raw) : raw;
      const double z = Get(c_.z, at, 0), gate = c_.z.empty() ? 1 : z * Sigmoid(z);
      summed_[static_cast<size_t>(t)] = Term(Get(c_.d, e, 0) * c_.x[at]);
      dsum_[static_cast<size_t>(t)] = Term(c_.dy[at] * gate);
    }
    for (int64_t n = 0; n < c_.state; ++n) State(b, e, n);
    Host &y = results_["y"], &dx = results_["dx"], &ddelta = results_["ddelta"];
    for (int64_t t = 0; t < time; ++t) {
      const size_t i = static_cast<size_t>(t);
      const int64_t at = (b * time + t) * c_.inner + e;
      const double raw = c_.delta[at] + Get(c_.delta_bias, e, 0), z = Get(c_.z, at, 0);
      y[at] = Term(summed_[i] * (c_.z.empty() ? 1 : z * Sigmoid(z)));
      dx[at] = Term(dinput_[i] * step_[i]) + Term(dsum_[i] * Get(c_.d, e, 0));
      ddelta[at] = (dstep_[i] + Term(dinput_[i] * c_.x[at])) * (c_.softplus ? Sigmoid(raw) : 1);
      if (!c_.delta_bias.empty()) results_["ddelta_bias"][e] += ddelta[at];
      if (!c_.d.empty()) results_["dd"][e] += Term(dsum_[i] * c_.x[at]);
      if (!c_.z.empty()) {
        const double slope = Term(Sigmoid(z)) + Term(z * Sigmoid(z) * (1 - Sigmoid(z)));
        results_["dz"][at] = Term(c_.dy[at] * summed_[i] * slope);
      }
    }
  }

  void State(int64_t b, int64_t e, int64_t n) {
    const int64_t time = c_.time, index = (b * c_.inner + e) * c_.state + n;
    const double a = -std::exp(c_.a_log[e * c_.state + n]);
    Host &db = results_["db"], &dc = results_["dc"], &da_log = results_["da_log"];
    std::vector<double> h(static_cast<size_t>(time) + 1), decay(static_cast<size_t>(time));
    h[0] = Term(Get(c_.initial_state, index, 0));
    for (int64_t t = 0; t < time; ++t) {
      const size_t i = static_cast<size_t>(t);
      const int64_t row = b * time + t;
      const double b_value = c_.b[row * c_.state + n], x = c_.x[row * c_.inner + e];
      decay[i] = !c_.reset.empty() && c_.reset[row] ? 0 : std::exp(step_[i] * a);
      h[i + 1] = decay[i] * h[i] + Term(step_[i] * b_value * x);
      summed_[i] += Term(c_.c[row * c_.state + n] * h[i + 1]);
    }
    results_["final_state"][index] = h[static_cast<size_t>(time)];
    double carry = Term(Get(c_.dfinal_state, index, 0));
    for (int64_t t = time - 1; t >= 0; --t) {
      const size_t i = static_cast<size_t>(t);
      const int64_t row = b * time + t;
      const double b_value = c_.b[row * c_.state + n], x = c_.x[row * c_.inner + e];
      const double dh = carry + Term(dsum_[i] * c_.c[row * c_.state + n]);
      dc[row * c_.state + n] += Term(dsum_[i] * h[i + 1]);
      db[row * c_.state + n] += Term(dh * step_[i] * x);
      dinput_[i] += Term(dh * b_value);
      carry = dh * decay[i];
      dstep_[i] += Term(carry * h[i] * a);
      da_log[e * c_.state + n] += Term(carry * h[i] * step_[i] * a);
    }
    results_["dinitial_state"][index] = carry;
  }

  const Case& c_;
  const bool sizes_;
  std::vector<double> step_, summed_, dsum_, dstep_, dinput_;
  Results results_;
};

// Side by side in one matrix, [rows, columns of all]: as a projection leaves them.
template <typename T>
Tensor<T> Joined(Arena& arena, int64_t rows, const std::vector<const Host*>& parts) {
  int64_t columns = 0;
  for (const Host* part : parts) columns += part->size() / rows;
  Host joined = ZeroHostTensor<double>({rows, columns});
  int64_t first = 0;
  for (const Host* part : parts) {
    const int64_t width = part->size() / rows;
    for (int64_t i = 0; i < part->size(); ++i) joined[i / width * columns + first + i % width] = (*part)[i];
    first += width;
  }
  return UploadAs<T>(arena, joined);
}

// Columns [first, first + width) of a matrix on the device.
template <typename T>
Host PartOf(const Arena& arena, const Tensor<T>& joined, int64_t first, Shape shape) {
  const Host all = DownloadAs<double>(arena, joined);
  const int64_t columns = joined.dim(1), width = shape[shape.rank() - 1];
  Host part{shape, {}};
  for (int64_t i = 0; i < shape.size(); ++i)
    part.values.push_back(all[i / width * columns + first + i % width]);
  return part;
}

// Operands in the arena. b and c are columns of one matrix, behind two that are not theirs; z is the right
// half of another. Outputs likewise.
template <typename T>
class Operands {
 public:
  Operands(Arena& arena, const Case& c) : arena_(arena), c_(c) {
    const int64_t rows = c.batch * c.time;
    const Host two = ZeroHostTensor<double>({rows, 2});
    args_.x = UploadAs<T>(arena, c.x);
    args_.delta = UploadAs<T>(arena, c.delta);
    args_.delta_bias = UploadAs<Accum<T>>(arena, c.delta_bias);
    args_.a_log = UploadAs<Accum<T>>(arena, c.a_log);
    const Tensor<T> bc = Joined<T>(arena, rows, {&two, &c.b, &c.c});
    args_.b = Columns<T>(bc).Range(2, c.state);
    args_.c = Columns<T>(bc).Range(2 + c.state, c.state);
    args_.d = UploadAs<Accum<T>>(arena, c.d);
    if (!c.z.empty()) args_.z = Columns<T>(Joined<T>(arena, rows, {&c.x, &c.z})).Range(c.inner, c.inner);
    args_.reset = Upload(arena, c.reset);
    args_.initial_state = UploadAs<Accum<T>>(arena, c.initial_state);
    args_.softplus = c.softplus;
    args_.y = arena.New<T>(c.rows());
    args_.final_state = arena.New<Accum<T>>(c.states());
    args_.saved = NewSelectiveScanSaved<T>(arena, args_);
  }

  SelectiveScanArgs<T>& args() { return args_; }

  // Backward's operands, sums starting from zero.
  SelectiveScanGradArgs<T> GradArgs() {
    const int64_t rows = c_.batch * c_.time;
    dbc_ = arena_.NewZero<T>({rows, 2 + 2 * c_.state});
    SelectiveScanGradArgs<T> grad;
    grad.forward = args_;
    grad.dy = UploadAs<T>(arena_, c_.dy);
    grad.dfinal_state = UploadAs<Accum<T>>(arena_, c_.dfinal_state);
    grad.dx = arena_.New<T>(c_.rows());
    grad.ddelta = arena_.New<T>(c_.rows());
    grad.db = Columns<T>(dbc_).Range(2, c_.state);
    grad.dc = Columns<T>(dbc_).Range(2 + c_.state, c_.state);
    if (!c_.z.empty()) {
      dxz_ = arena_.NewZero<T>({rows, 2 * c_.inner});
      grad.dz = Columns<T>(dxz_).Range(c_.inner, c_.inner);
    }
    grad.da_log = arena_.NewZero<Accum<T>>({c_.inner, c_.state});
    if (!c_.d.empty()) grad.dd = arena_.NewZero<Accum<T>>({c_.inner});
    if (!c_.delta_bias.empty()) grad.ddelta_bias = arena_.NewZero<Accum<T>>({c_.inner});
    grad.dinitial_state = arena_.New<Accum<T>>(c_.states());
    return grad;
  }

  Results Collect(const SelectiveScanGradArgs<T>& grad) const {
    Results results;
    const auto get = [&](const auto& tensor) { return DownloadAs<double>(arena_, tensor); };
    const Shape bc = {c_.batch, c_.time, c_.state};
    results["y"] = get(args_.y);
    results["final_state"] = get(args_.final_state);
    results["dx"] = get(grad.dx);
    results["ddelta"] = get(grad.ddelta);
    results["db"] = PartOf(arena_, dbc_, 2, bc);
    results["dc"] = PartOf(arena_, dbc_, 2 + c_.state, bc);
    if (!c_.z.empty()) results["dz"] = PartOf(arena_, dxz_, c_.inner, c_.rows());
    results["da_log"] = get(grad.da_log);
    if (!c_.d.empty()) results["dd"] = get(grad.dd);
    if (!c_.delta_bias.empty()) results["ddelta_bias"] = get(grad.ddelta_bias);
    results["dinitial_state"] = get(grad.dinitial_state);
    // What lies beside db, dc and dz is not theirs to write.
    for (double value : PartOf(arena_, dbc_, 0, {c_.batch * c_.time, 2}).values) EXPECT_EQ(value, 0);
    if (!c_.z.empty()) {
      for (double value : PartOf(arena_, dxz_, 0, c_.rows()).values) EXPECT_EQ(value, 0);
    }
    return results;
  }

 private:
  Arena& arena_;
  const Case& c_;
  SelectiveScanArgs<T> args_;
  Tensor<T> dbc_, dxz_;
};

// Forward and then backward.
template <typename T>
Results RunScan(Arena& arena, const Case& c) {
  Arena::Scope scope(arena);
  Operands<T> operands(arena, c);
  SelectiveScanForward<T>(arena, operands.args());
  const SelectiveScanGradArgs<T> grad = operands.GradArgs();
  SelectiveScanBackward<T>(arena, grad);
  EXPECT_TRUE(CountersAreZero(arena.device()));
  return operands.Collect(grad);
}

template <typename T>
Results RunScan(const Device& device, const Case& c) {
  Arena arena = TestArena(device, int64_t{1} << 29);
  return RunScan<T>(arena, c);
}

void ExpectSame(const Results& got, const Results& expected, const std::string& where) {
  for (const auto& [name, value] : expected) {
    EXPECT_TRUE(got.at(name).values == value.values) << name << " differs, " << where;
  }
}

// The largest |got - expected| / size; infinite where one is NaN, or not zero where it has no terms. Errors
// up to `underflow` do not count.
double WorstError(const Host& got, const Host& expected, const Host& size, double underflow = 0) {
  double worst = 0;
  for (int64_t i = 0; i < got.size(); ++i) {
    const double error = std::fabs(got[i] - expected[i]);
    if (error <= underflow) continue;
    const bool finite = error <= std::numeric_limits<double>::max() && size[i] > 0;
    worst = std::fmax(worst, finite ? error / size[i] : INFINITY);
  }
  return worst;
}

// Every result is within `bound` of the expected one, relative to what the absolute values of its terms add
// up to.
void ExpectWithin(const Results& got, const Results& expected, const Results& sizes, double bound,
                  const std::string& where, double underflow = 0) {
  for (const auto& [name, value] : expected) {
    EXPECT_LT(WorstError(got.at(name), value, sizes.at(name), underflow), bound) << name << ", " << where;
  }
}

// In every type on every device, within the bounds of property 8 of the header.
void ExpectAgreesWithTheOracle(const Case& c, double underflow = 0) {
  const Results expected = Oracle(c).results(), sizes = Oracle(c, /*sizes=*/true).results();
  ExpectWithin(RunScan<double>(Device::Cpu(), c), expected, sizes, 1e-12, "double on the CPU", underflow);
  for (const Device& device : TestDevices()) {
    ExpectWithin(RunScan<float>(device, c), expected, sizes, 2e-5, "float on " + device.name(), underflow);
  }
  for (const Device& gpu : TestGpus()) {
    ExpectWithin(RunScan<Bf16>(gpu, c), expected, sizes, 0x1p-7, "Bf16 on " + gpu.name(), underflow);
  }
}

// The results of two parts of a sequence as those of the whole.
Results JoinedInTime(const Results& before, const Results& after) {
  Results joined = before;
  joined["final_state"] = after.at("final_state");
  for (auto& [name, value] : joined) {
    if (name == "final_state" || name == "dinitial_state") continue;
    const Host& more = after.at(name);
    if (value.shape.rank() < 3) {  // A sum over time.
      for (int64_t i = 0; i < value.size(); ++i) value[i] += more[i];
      continue;
    }
    const Host first = value;
    const int64_t batch = first.shape[0], columns = first.shape[2];
    value = {{batch, first.shape[1] + more.shape[1], columns}, {}};
    for (int64_t b = 0; b < batch; ++b) {
      for (const Host* part : {&first, &more}) {
        const int64_t size = part->shape[1] * columns;
        const auto begin = part->values.begin() + b * size;
        value.values.insert(value.values.end(), begin, begin + size);
      }
    }
  }
  return joined;
}

// Elements [begin, begin + count) along axis 1 of [batch, time] or [batch, time, columns].
template <typename N>
HostTensor<N> SlicedInTime(const HostTensor<N>& tensor, int64_t begin, int64_t count) {
  if (tensor.empty()) return {};
  const int64_t batch = tensor.shape[0], time = tensor.shape[1];
  const int64_t columns = tensor.shape.rank() == 3 ? tensor.shape[2] : 1;
  HostTensor<N> slice{tensor.shape.rank() == 3 ? Shape{batch, count, columns} : Shape{batch, count}, {}};
  for (int64_t b = 0; b < batch; ++b) {
    const auto first = tensor.values.begin() + (b * time + begin) * columns;
    slice.values.insert(slice.values.end(), first, first + count * columns);
  }
  return slice;
}

Case SlicedInTime(const Case& c, int64_t begin, int64_t count) {
  Case part = c;
  part.time = count;
  for (Host Case::*member : {&Case::x, &Case::delta, &Case::z, &Case::dy, &Case::b, &Case::c}) {
    part.*member = SlicedInTime(c.*member, begin, count);
  }
  part.reset = SlicedInTime(c.reset, begin, count);
  return part;
}

TEST(SelectiveScanTest, TheExampleOnPaper) {
  // A = -1 and a step of log 2 halve the state: with s = log 2, h = 2 s, then h = s + 4 s.
  const double s = std::log(2.0);
  Case c{.batch = 1, .time = 2, .inner = 1, .state = 1};
  c.x = {c.rows(), {2, 4}};
  c.delta = {c.rows(), {s, s}};
  c.a_log = {{1, 1}, {0}};
  c.b = {{1, 2, 1}, {1, 1}};
  c.c = {{1, 2, 1}, {1, 2}};
  c.d = {{1}, {3}};
  c.dy = {c.rows(), {0, 1}};
  c.softplus = false;
  for (const Device& device : TestDevices()) {
    const Results results = RunScan<float>(device, c);
    EXPECT_THAT(results.at("y"), IsNear(Host{c.rows(), {2 * s + 6, 10 * s + 12}}, 1e-6));
    EXPECT_THAT(results.at("final_state"), IsNear(Host{c.states(), {5 * s}}, 1e-6));
    // G = 2 at the second step and 1 at the first; x's gradient is step * b * G, and d * dy besides.
    EXPECT_THAT(results.at("dx"), IsNear(Host{c.rows(), {s, 2 * s + 3}}, 1e-6));
    EXPECT_THAT(results.at("db"), IsNear(Host{{1, 2, 1}, {2 * s, 8 * s}}, 1e-6));
    EXPECT_THAT(results.at("dc"), IsNear(Host{{1, 2, 1}, {0, 5 * s}}, 1e-6));
    EXPECT_THAT(results.at("dd"), IsNear(Host{{1}, {4}}, 1e-6));
    // By the decay: G h_before decay A = 2 * 2 s * 0.5 * -1, times step for a_log.
    EXPECT_THAT(results.at("ddelta"), IsNear(Host{c.rows(), {2, 8 - 2 * s}}, 1e-6));
    EXPECT_THAT(results.at("da_log"), IsNear(Host{{1, 1}, {-2 * s * s}}, 1e-6));
    EXPECT_THAT(results.at("dinitial_state"), IsNear(Host{c.states(), {0.5}}, 1e-6));
  }
}

RC_GTEST_PROP(SelectiveScanTest, AgreesWithTheFormulaWhateverIsPresent, ()) {
  const Case c = MakeCase(*SmallSize(3), *SizeAroundTile(64), *SizeAroundTile(*rc::gen::element(8, 16, 64)),
                          *SizeAroundTile(*rc::gen::element(4, 16)), *Seed(), RandomWith());
  ExpectAgreesWithTheOracle(c);
  RC_ASSERT(!testing::Test::HasFailure());
}

TEST(SelectiveScanTest, EveryLengthTo2048AgreesWithTheLoopInDouble) {
  for (const Device& device : TestDevices()) {
    Arena arena = TestArena(device);
    double worst_y = 0, worst_gradient = 0;
    for (int64_t time = 1; time <= 2048; ++time) {
      With with;
      with.reset = time % 2 == 1;
      const Case c = MakeCase(1, time, 2, 3, static_cast<uint64_t>(time), with);
      const Results expected = Oracle(c).results(), size = Oracle(c, /*sizes=*/true).results();
      for (const auto& [name, value] : RunScan<float>(arena, c)) {
        const double error = WorstError(value, expected.at(name), size.at(name));
        const bool is_forward = name == "y" || name == "final_state";
        ASSERT_LT(error, is_forward ? 1e-6 : 2e-6) << name << ", length " << time << " on " << device.name();
        (is_forward ? worst_y : worst_gradient) = std::fmax(is_forward ? worst_y : worst_gradient, error);
      }
    }
    RecordProperty(absl::StrCat("worst_y_", device.name()), absl::StrCat(worst_y));
    RecordProperty(absl::StrCat("worst_gradient_", device.name()), absl::StrCat(worst_gradient));
  }
}

RC_GTEST_PROP(SelectiveScanTest, CuttingAnywhereAndCarryingTheStateChangesNothing, ()) {
  With with = RandomWith();
  with.states = true;
  const Case c = MakeCase(*SmallSize(2), 1 + *SizeAroundTile(64), *SizeAroundTile(16), *SizeAroundTile(4),
                          *Seed(), with);
  const int64_t cut = *rc::gen::inRange<int64_t>(1, c.time);
  const Results sizes = Oracle(c, /*sizes=*/true).results();
  for (const Device& device : TestDevices()) {
    Case first = SlicedInTime(c, 0, cut), second = SlicedInTime(c, cut, c.time - cut);
    second.initial_state = RunScan<float>(device, first).at("final_state");
    const Results after = RunScan<float>(device, second);
    first.dfinal_state = after.at("dinitial_state");
    const Results before = RunScan<float>(device, first);
    ExpectWithin(JoinedInTime(before, after), RunScan<float>(device, c), sizes, 2e-6,
                 absl::StrCat("cut at ", cut, " of ", c.time, " on ", device.name()));
  }
  RC_ASSERT(!testing::Test::HasFailure());
}

RC_GTEST_PROP(SelectiveScanTest, AResetIsTheBeginningOfASequence, ()) {
  Case c = MakeCase(*SmallSize(2), 1 + *SizeAroundTile(64), *SizeAroundTile(16), *SizeAroundTile(4), *Seed());
  const int64_t cut = *rc::gen::inRange<int64_t>(1, c.time);
  c.reset = ZeroHostTensor<uint8_t>({c.batch, c.time});
  for (int64_t b = 0; b < c.batch; ++b) c.reset[b * c.time + cut] = 1;
  Case first = SlicedInTime(c, 0, cut), second = SlicedInTime(c, cut, c.time - cut);
  first.reset = second.reset = {};
  second.initial_state = first.dfinal_state = {};
  const Results sizes = Oracle(c, /*sizes=*/true).results();
  for (const Device& device : TestDevices()) {
    const Results parts = JoinedInTime(RunScan<float>(device, first), RunScan<float>(device, second));
    ExpectWithin(parts, RunScan<float>(device, c), sizes, 2e-6,
                 absl::StrCat("reset at ", cut, " of ", c.time, " on ", device.name()));
  }
  RC_ASSERT(!testing::Test::HasFailure());
}

// What comes later is NaN: what was before keeps its bits.
RC_GTEST_PROP(SelectiveScanTest, TheFutureNeverReachesThePast, ()) {
  const Case c =
      MakeCase(*SmallSize(2), 1 + *SizeAroundTile(64), *SizeAroundTile(16), *SizeAroundTile(4), *Seed());
  const int64_t cut = *rc::gen::inRange<int64_t>(1, c.time);
  Case other = c;
  for (Host* tensor : {&other.x, &other.delta, &other.z, &other.b, &other.c}) {
    const int64_t columns = tensor->shape[2];
    for (int64_t i = 0; i < tensor->size(); ++i) {
      if (i / columns % c.time >= cut) (*tensor)[i] = NAN;
    }
  }
  for (const Device& device : TestDevices()) {
    const Host mine = RunScan<float>(device, c).at("y"), theirs = RunScan<float>(device, other).at("y");
    EXPECT_TRUE(SlicedInTime(mine, 0, cut).values == SlicedInTime(theirs, 0, cut).values)
        << "cut at " << cut << " of " << c.time << " on " << device.name();
  }
  RC_ASSERT(!testing::Test::HasFailure());
}

// Every other batch row is NaN: one keeps its bits, gradients included.
RC_GTEST_PROP(SelectiveScanTest, BatchRowsAreIndependent, ()) {
  const Case c =
      MakeCase(1 + *SmallSize(3), *SizeAroundTile(64), *SizeAroundTile(16), *SizeAroundTile(4), *Seed());
  const int64_t row = *rc::gen::inRange<int64_t>(0, c.batch);
  Case other = c;
  for (Host* tensor : {&other.x, &other.delta, &other.z, &other.dy, &other.b, &other.c, &other.initial_state,
                       &other.dfinal_state}) {
    const int64_t row_size = tensor->size() / c.batch;
    for (int64_t i = 0; i < tensor->size(); ++i) {
      if (i / row_size != row) (*tensor)[i] = NAN;
    }
  }
  for (const Device& device : TestDevices()) {
    const Results mine = RunScan<float>(device, c), theirs = RunScan<float>(device, other);
    for (const char* name : {"y", "final_state", "dx", "ddelta", "db", "dc", "dz", "dinitial_state"}) {
      const int64_t row_size = mine.at(name).size() / c.batch;
      for (int64_t i = row * row_size; i < (row + 1) * row_size; ++i) {
        ASSERT_EQ(mine.at(name)[i], theirs.at(name)[i]) << name << " on " << device.name();
      }
    }
  }
  RC_ASSERT(!testing::Test::HasFailure());
}

// Every other channel is NaN: one keeps its bits, but for db and dc, which are sums over channels.
RC_GTEST_PROP(SelectiveScanTest, ChannelsAreIndependent, ()) {
  const Case c = MakeCase(*SmallSize(2), *SizeAroundTile(64), *SizeAroundTile(*rc::gen::element(16, 64)),
                          *SizeAroundTile(4), *Seed());
  const int64_t channel = *rc::gen::inRange<int64_t>(0, c.inner);
  Case other = c;
  for (Host* tensor : {&other.x, &other.delta, &other.z, &other.dy, &other.delta_bias, &other.d}) {
    for (int64_t i = 0; i < tensor->size(); ++i) {
      if (i % c.inner != channel) (*tensor)[i] = NAN;
    }
  }
  for (Host* tensor : {&other.a_log, &other.initial_state, &other.dfinal_state}) {
    for (int64_t i = 0; i < tensor->size(); ++i) {
      if (i / c.state % c.inner != channel) (*tensor)[i] = NAN;
    }
  }
  for (const Device& device : TestDevices()) {
    const Results mine = RunScan<float>(device, c), theirs = RunScan<float>(device, other);
    for (const auto& [name, value] : mine) {
      if (name == "db" || name == "dc") continue;
      const bool by_state = name == "da_log" || name == "final_state" || name == "dinitial_state";
      for (int64_t i = 0; i < value.size(); ++i) {
        if ((by_state ? i / c.state : i) % c.inner == channel) {
          ASSERT_EQ(value[i], theirs.at(name)[i]) << name;
        }
      }
    }
  }
  RC_ASSERT(!testing::Test::HasFailure());
}

RC_GTEST_PROP(SelectiveScanTest, BackwardIsTheGradientOfForward, ()) {
  With with = RandomWith();
  with.delta_bias = with.d = with.z = with.states = true;
  // Around one chunk and two. Few steps could all be resets, and then no gradient is left of the decays.
  const int64_t time = *rc::gen::element<int64_t>(2, 3, 63, 64, 65, 130);
  with.reset = with.reset && time > 60;
  Case c = MakeCase(*SmallSize(2), time, *SmallSize(6), *SmallSize(6), *Seed(), with);
  const Results gradients = RunScan<double>(Device::Cpu(), c);
  const auto loss = [&] {
    const Results results = RunScan<double>(Device::Cpu(), c);
    return Dot(c.dy, results.at("y")) + Dot(c.dfinal_state, results.at("final_state"));
  };
  std::vector<DifferentiableInput> inputs = {{"x", &c.x, gradients.at("dx")},
                                             {"delta", &c.delta, gradients.at("ddelta")},
                                             {"delta_bias", &c.delta_bias, gradients.at("ddelta_bias")},
                                             {"a_log", &c.a_log, gradients.at("da_log")},
                                             {"b", &c.b, gradients.at("db")},
                                             {"c", &c.c, gradients.at("dc")},
                                             {"d", &c.d, gradients.at("dd")},
                                             {"z", &c.z, gradients.at("dz")}};
  // A reset at the first token hides the initial state, rightly.
  if (c.reset.empty()) inputs.push_back({"initial_state", &c.initial_state, gradients.at("dinitial_state")});
  EXPECT_TRUE(GradientsMatch(inputs, loss, {.step = 3e-4}));
  RC_ASSERT(!testing::Test::HasFailure());
}

TEST(SelectiveScanTest, RepeatsToTheBitOnAnyNumberOfThreads) {
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{1, 200, 300, 17}, {5, 70, 33, 4}}) {
    const Case c = MakeCase(shape[0], shape[1], shape[2], shape[3], 3);
    for (const Device& device : TestDevices()) {
      const Results first = RunScan<float>(device, c);
      ExpectSame(RunScan<float>(device, c), first, device.name());
      // Within a ParallelFor the scan's own groups of channels run one after the other on this thread.
      Results nested;
      ParallelFor(2, 1, [&](int64_t begin, int64_t) {
        if (begin == 0) nested = RunScan<float>(device, c);
      });
      ExpectSame(nested, first, "on one thread");
    }
  }
}

TEST(SelectiveScanTest, DevicesAgree) { ExpectAgreesWithTheOracle(MakeCase(2, 333, 130, 32, 4)); }

// So many rows that a GPU is full without cutting time for more parallel work: then segments hand their state
// on to each other.
TEST(SelectiveScanTest, ManyLongRowsAgree) {
  With with;
  with.reset = true;
  ExpectAgreesWithTheOracle(MakeCase(400, 300, 3, 3, 11, with));
  ExpectAgreesWithTheOracle(MakeCase(400, 1100, 1, 2, 12));
}

// Every operand there and nothing to pad, as in training: these have kernels of their own in Bf16. Some steps
// are too long for the exponentials of the usual ones.
TEST(SelectiveScanTest, ShapesOfTrainingAgree) {
  const std::vector<Device> gpus = TestGpus();
  for (int64_t states : {8, 16, 32, 64}) {
    // With the second size segments are cut in parallel, with the third they are handed on.
    std::vector<std::pair<int64_t, int64_t>> sizes = {{3, 61}, {2, 500}};
    if (!gpus.empty() && states == 8) sizes.push_back({397, 256});
    for (const auto& [batch, time] : sizes) {
      Case c = MakeCase(batch, time, 64, states, static_cast<uint64_t>(states));
      for (int64_t i = 0; i < c.delta.size(); i += 10007) c.delta[i] = 900;
      ExpectAgreesWithTheOracle(c, /*underflow=*/1e-25);
    }
  }
}

// The kernels for this CPU and those for any CPU.
TEST(SelectiveScanTest, AllKernelsOfTheCpuAgree) {
  if (!__builtin_cpu_supports("avx512f")) GTEST_SKIP() << "no AVX-512";
  const Case c = MakeCase(1, 150, 37, 9, 5);
  Arena arena = Arena::Cpu();
  const auto run = [&](const cpu::SelectiveScanKernels<float>& kernels) {
    Operands<float> operands(arena, c);
    const cpu::ChannelGroup group = {0, 0, 0, c.inner};
    const int64_t bytes = kernels.backward_scratch_bytes(c.inner, c.state);
    uint8_t* const scratch = arena.New<uint8_t>({bytes}).data();
    EXPECT_LE(kernels.forward_scratch_bytes(c.inner, c.state), bytes);
    kernels.forward(operands.args(), group, scratch);
    const SelectiveScanGradArgs<float> grad = operands.GradArgs();
    cpu::SelectiveScanPartials<float> partials;
    partials.db = arena.New<float>({1, 1, c.time, c.state});
    partials.dc = arena.New<float>({1, 1, c.time, c.state});
    partials.da_log = arena.New<float>({1, c.inner, c.state});
    partials.dd = arena.New<float>({1, c.inner});
    partials.ddelta_bias = arena.New<float>({1, c.inner});
    kernels.backward(grad, group, partials, scratch);
    const auto get = [&](const auto& tensor) { return DownloadAs<double>(arena, tensor); };
    return Results{{"y", get(operands.args().y)},
                   {"dx", get(grad.dx)},
                   {"ddelta", get(grad.ddelta)},
                   {"db", get(partials.db)},
                   {"dc", get(partials.dc)},
                   {"da_log", get(partials.da_log)},
                   {"dd", get(partials.dd)},
                   {"ddelta_bias", get(partials.ddelta_bias)},
                   {"final", get(operands.args().final_state)}};
  };
  ExpectNear(run(cpu::Avx512Kernels()), run(cpu::BaselineKernels<float>()), 1e-6, "AVX-512");
}

// Step sizes from 1e-6 to 1e3, A from -1e-4 to -1e3, inputs up to 1e3.
Case ExtremeCase(int64_t time, uint64_t seed) {
  With with;
  with.softplus = with.states = with.delta_bias = false;
  Case c = MakeCase(1, time, 6, 4, seed, with);
  for (int64_t i = 0; i < c.x.size(); ++i) {
    const uint64_t index = static_cast<uint64_t>(i);
    c.x[i] = 1e3 * (2 * RandomUniform(seed, 21, index) - 1);
    const double step = std::pow(10, -6 + 9 * RandomUniform(seed, 22, index));
    c.delta[i] = i % 6 == 0 ? 1e-6 : i % 6 == 1 ? 1e3 : step;
    c.z[i] = 1e3 * (2 * RandomUniform(seed, 23, index) - 1);
  }
  for (int64_t i = 0; i < c.a_log.size(); ++i) {
    const double a = std::pow(10, -4 + 7 * RandomUniform(seed, 24, static_cast<uint64_t>(i)));
    c.a_log[i] = std::log(i % 4 == 0 ? 1e-4 : i % 4 == 1 ? 1e3 : a);
  }
  for (Host* tensor : {&c.x, &c.delta, &c.z}) *tensor = RoundedTo<Bf16>(*tensor);
  c.a_log = RoundedTo<float>(c.a_log);
  return c;
}

TEST(SelectiveScanTest, StaysFiniteAndWithinTheBoundAtAnyStepSize) {
  // What is under 1e-25 comes from gates that underflow in float.
  for (int64_t time : {1, 65, 4000, 65536})
    ExpectAgreesWithTheOracle(ExtremeCase(time, 7), /*underflow=*/1e-25);
}

TEST(SelectiveScanTest, NegativeStepsGrowTheStateWithoutSoftplus) {
  With with;
  with.softplus = false;
  Case c = MakeCase(1, 70, 3, 5, 9, with);
  for (double& value : c.delta.values) value *= -0.05;
  c.delta = RoundedTo<Bf16>(c.delta);  // what every dtype can hold
  ExpectAgreesWithTheOracle(c);
}

TEST(SelectiveScanTest, GradientsOfWeightsAddAndThoseOfActivationsOverwrite) {
  const Case c = MakeCase(2, 90, 20, 6, 11);
  for (const Device& device : TestDevices()) {
    OpRun<float> run(device);
    Operands<float> operands(run.arena(), c);
    SelectiveScanForward<float>(run.arena(), operands.args());
    SelectiveScanGradArgs<float> grad = operands.GradArgs();
    const Host ones = ZeroHostTensor<double>({c.inner, c.state});
    const auto started = [&](const char* name, Shape shape) {
      Host start = ZeroHostTensor<double>(shape);
      std::fill(start.values.begin(), start.values.end(), 100);
      return run.InOutAccum(name, start);
    };
    grad.dx = run.Out("dx", c.rows());
    grad.ddelta = run.Out("ddelta", c.rows());
    grad.db = Columns<float>(run.Out("db", {c.batch * c.time, c.state}));
    grad.dc = Columns<float>(run.Out("dc", {c.batch * c.time, c.state}));
    grad.dz = Columns<float>(run.Out("dz", {c.batch * c.time, c.inner}));
    grad.dinitial_state = run.OutAccum("dinitial_state", c.states());
    grad.da_log = started("da_log", {c.inner, c.state});
    grad.dd = started("dd", {c.inner});
    grad.ddelta_bias = started("ddelta_bias", {c.inner});
    SelectiveScanBackward<float>(run.arena(), grad);
    Results results = run.Finish();
    for (auto& [name, value] : RunScan<float>(device, c)) {
      if (results.count(name) == 0) continue;
      Host expected = value;
      const bool adds = name == "da_log" || name == "dd" || name == "ddelta_bias";
      for (double& number : expected.values) number += adds ? 100 : 0;
      if (!adds) expected.shape = results.at(name).shape;
      EXPECT_THAT(results.at(name), IsNear(expected, 1e-6)) << name << " on " << device.name();
    }
  }
}

TEST(SelectiveScanTest, ForwardWritesItsOutputsAndNothingElse) {
  const Case c = MakeCase(2, 70, 19, 5, 12);
  for (const Device& device : TestDevices()) {
    for (bool keep_states : {false, true}) {
      OpRun<float> run(device);
      Operands<float> operands(run.arena(), c);
      SelectiveScanArgs<float> args = operands.args();
      args.y = run.Out("y", c.rows());
      args.final_state = run.OutAccum("final_state", keep_states ? c.states() : Shape());
      const int64_t spacing = device.is_cpu() ? kSelectiveScanChunk : kSelectiveScanGpuSpacing;
      const int64_t steps = (c.time + spacing - 1) / spacing;
      args.saved.states =
          run.Out("saved_states", keep_states ? Shape{c.batch, steps, c.inner, c.state} : Shape());
      args.saved.ungated = run.Out("ungated", keep_states && !device.is_cpu() ? c.rows() : Shape());
      SelectiveScanForward<float>(run.arena(), args);
      Results results = run.Finish();
      EXPECT_THAT(results.at("y"), IsNear(Oracle(c).results().at("y"), 3e-6)) << device.name();
      if (keep_states) {
        EXPECT_THAT(results.at("final_state"), IsNear(Oracle(c).results().at("final_state"), 3e-6));
        const Host saved = results.at("saved_states");
        const int64_t size = c.inner * c.state;
        for (int64_t step = 0; step < steps; ++step) {
          const Host expected = step == 0
                                    ? c.initial_state
                                    : Oracle(SlicedInTime(c, 0, step * spacing)).results().at("final_state");
          for (int64_t i = 0; i < c.states().size(); ++i) {
            EXPECT_NEAR(saved[(i / size * steps + step) * size + i % size], expected[i], step == 0 ? 0 : 1e-4)
                << "step " << step << " on " << device.name();
          }
        }
      }
    }
  }
}

TEST(SelectiveScanTest, APlanTakesTheScratchOfARunAndRunsNothing) {
  Arena plan = Arena::Plan();
  SelectiveScanArgs<float> args;
  args.x = args.delta = plan.New<float>({2, 100, 32});
  args.a_log = plan.New<float>({32, 16});
  args.b = args.c = Columns<float>(plan.New<float>({200, 16}));
  args.y = plan.New<float>({2, 100, 32});
  const int64_t used = plan.used_bytes();
  SelectiveScanForward<float>(plan, args);
  EXPECT_EQ(plan.used_bytes(), used);
}

TEST(SelectiveScanTest, GoldenValues) {
  const auto golden = ReadFloatTensors(GoldenPath("selective_scan.safetensors"));
  ASSERT_THAT(golden, IsOk());
  int64_t lengths = 0;
  for (int64_t length : {1, 5, 64, 300}) {
    const auto get = [&](const char* name) {
      return ConvertTo<double>(golden->at(absl::StrCat("L", length, ".", name)));
    };
    Case c;
    c.x = get("u");
    c.delta = get("delta");
    c.a_log = get("A");
    for (double& value : c.a_log.values) value = std::log(-value);
    c.b = get("B");
    c.c = get("C");
    c.dy = get("dy");
    c.softplus = false;
    c.batch = c.x.shape[0];
    c.time = c.x.shape[1];
    c.inner = c.x.shape[2];
    c.state = c.a_log.shape[1];
    ASSERT_EQ(c.time, length);
    // Of the decays nothing is left at length 1: the state before is zero.
    Host da_log = length == 1 ? ZeroHostTensor<double>({c.inner, c.state}) : get("dA");
    for (int64_t i = 0; i < da_log.size(); ++i) da_log[i] *= -std::exp(c.a_log[i]);
    for (const Device& device : TestDevices()) {
      const Results results = RunScan<float>(device, c);
      const std::string where = absl::StrCat("length ", length, " on ", device.name());
      EXPECT_THAT(results.at("y"), IsNear(get("y"), 2e-6)) << where;
      EXPECT_THAT(results.at("dx"), IsNear(get("du"), 2e-6)) << where;
      EXPECT_THAT(results.at("ddelta"), IsNear(get("ddelta"), 2e-6)) << where;
      EXPECT_THAT(results.at("db"), IsNear(get("dB"), 2e-6)) << where;
      EXPECT_THAT(results.at("dc"), IsNear(get("dC"), 2e-6)) << where;
      EXPECT_THAT(results.at("da_log"), IsNear(da_log, 2e-6)) << where;
    }
    ++lengths;
  }
  EXPECT_EQ(lengths, 4);
}

TEST(SelectiveScanDeathTest, AnOperandThatDoesNotFitIsNamed) {
  Arena arena = Arena::Cpu();
  const Case c = MakeCase(1, 4, 3, 2, 1);
  Operands<float> operands(arena, c);
  SelectiveScanArgs<float> args = operands.args();
  args.a_log = arena.New<float>({4, 2});
  EXPECT_DEATH(SelectiveScanForward<float>(arena, args), "a_log.*4, 2.*3, 2");
}

}  // namespace
}  // namespace hm11
