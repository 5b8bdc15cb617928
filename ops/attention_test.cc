// Attention against its definition, on every device and by every kernel.
#include "ops/attention.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "ops/attention_cuda.h"
#include "testing/devices.h"
#include "testing/generators.h"
#include "testing/gradient_check.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

struct Sizes {
  int64_t batch, time, kv_heads, group, head_dim;
  int64_t heads() const { return kv_heads * group; }
  Shape query() const { return {batch, time, heads(), head_dim}; }
  Shape key() const { return {batch, time, kv_heads, head_dim}; }
};

std::ostream& operator<<(std::ostream& out, const Sizes& s) {
  return out << "batch " << s.batch << " time " << s.time << " kv_heads " << s.kv_heads << " group "
             << s.group << " head_dim " << s.head_dim;
}

struct Case {
  Sizes sizes;
  HostTensor<double> q, k, v, dy;

  Case(Sizes s, uint64_t seed)
      : sizes(s),
        q(RandomHostTensor<double>(s.query(), seed)),
        k(RandomHostTensor<double>(s.key(), seed + 1)),
        v(RandomHostTensor<double>(s.key(), seed + 2)),
        dy(RandomHostTensor<double>(s.query(), seed + 3)) {}
};

struct Results {
  HostTensor<double> y, log_sum_exp, dq, dk, dv;
  double cancellation = 1;  // how many times larger the terms of ds are than ds: many times with few keys
};

// A device with one of its kernels.
struct Runner {
  std::string name;
  Device device;
  cuda::AttentionKernel kernel = cuda::AttentionKernel::kBest;
};

template <typename T>
std::vector<Runner> Runners([[maybe_unused]] int64_t head_dim) {
  std::vector<Runner> runners;
  if constexpr (kOnCpu<T>) runners.push_back({"cpu", Device::Cpu()});
  if constexpr (kOnCuda<T>) {
    for (const Device& gpu : TestGpus()) {
      for (const auto& [name, kernel] : cuda::kAttentionKernels) {
        if (cuda::Supports<T>(gpu, kernel, head_dim)) runners.push_back({name, gpu, kernel});
      }
    }
  }
  return runners;
}

template <typename T>
void Forward([[maybe_unused]] const Runner& runner, Arena& arena, const AttentionArgs<T>& args) {
  if constexpr (kOnCuda<T>) {
    if (runner.device.is_cuda()) {
      return cuda::AttentionForward(runner.device, args, runner.kernel);
    }
  }
  AttentionForward(arena, args);
}

template <typename T>
void Backward([[maybe_unused]] const Runner& runner, Arena& arena, const AttentionGradArgs<T>& args) {
  if constexpr (kOnCuda<T>) {
    if (runner.device.is_cuda()) {
      const Arena::Scope scope(arena);
      return cuda::AttentionBackward(runner.device, args, cuda::NewDelta(arena, args.forward), runner.kernel);
    }
  }
  AttentionBackward(arena, args);
}

// Everything forward and backward give, from poisoned memory; expects all of it, and nothing else, written.
template <typename T>
Results RunOn(const Runner& runner, const Case& c) {
  Arena arena = TestArena(runner.device);
  const Sizes& s = c.sizes;
  const GuardedTensor<T> y(arena, s.query()), dq(arena, s.query()), dk(arena, s.key()), dv(arena, s.key());
  const GuardedTensor<Accum<T>> log_sum_exp(arena, {s.batch, s.heads(), s.time});
  const AttentionArgs<T> forward = {.q = UploadAs<T>(arena, c.q),
                                    .k = UploadAs<T>(arena, c.k),
                                    .v = UploadAs<T>(arena, c.v),
                                    .y = y,
                                    .log_sum_exp = log_sum_exp};
  Forward<T>(runner, arena, forward);
  Backward<T>(runner, arena,
              {.forward = forward, .dy = UploadAs<T>(arena, c.dy), .dq = dq, .dk = dk, .dv = dv});
  EXPECT_TRUE(CountersAreZero(runner.device)) << runner.name << ", " << s;
  for (const GuardedTensor<T>* output : {&y, &dq, &dk, &dv}) {
    EXPECT_TRUE(output->AllWritten(arena)) << runner.name << ", " << s;
    EXPECT_TRUE(output->BandsIntact(arena)) << runner.name << ", " << s;
  }
  EXPECT_TRUE(log_sum_exp.AllWritten(arena)) << runner.name << ", " << s;
  EXPECT_TRUE(log_sum_exp.BandsIntact(arena)) << runner.name << ", " << s;
  return {DownloadAs<double>(arena, y.tensor()),  DownloadAs<double>(arena, log_sum_exp.tensor()),
          DownloadAs<double>(arena, dq.tensor()), DownloadAs<double>(arena, dk.tensor()),
          DownloadAs<double>(arena, dv.tensor()), 1};
}

// The definition, position by position. Backward is given `y` as forward left it: where one key has nearly
// all the weight, its rounding is most of ds.
Results Expected(const Case& c, const HostTensor<double>& y) {
  const Sizes& s = c.sizes;
  const double scale = 1 / std::sqrt(static_cast<double>(s.head_dim));
  Results r = {ZeroHostTensor<double>(s.query()), ZeroHostTensor<double>({s.batch, s.heads(), s.time}),
               ZeroHostTensor<double>(s.query()), ZeroHostTensor<double>(s.key()),
               ZeroHostTensor<double>(s.key()),   1};
  double terms = 0, differences = 0;
  const auto dot = [&](const HostTensor<double>& a, int64_t i, const HostTensor<double>& b, int64_t j) {
    double sum = 0;
    for (int64_t d = 0; d < s.head_dim; ++d) sum += a[i + d] * b[j + d];
    return sum;
  };
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t h = 0; h < s.heads(); ++h) {
      for (int64_t t = 0; t < s.time; ++t) {
        const auto key_at = [&](int64_t j) {
          return ((b * s.time + j) * s.kv_heads + h / s.group) * s.head_dim;
        };
        const int64_t at = ((b * s.time + t) * s.heads() + h) * s.head_dim;
        std::vector<double> p(static_cast<size_t>(t + 1));
        double maximum = -INFINITY, sum = 0;
        for (int64_t j = 0; j <= t; ++j) {
          p[static_cast<size_t>(j)] = scale * dot(c.q, at, c.k, key_at(j));
          maximum = std::max(maximum, p[static_cast<size_t>(j)]);
        }
        for (double& value : p) sum += std::exp(value - maximum);
        const double log_sum_exp = maximum + std::log(sum);
        r.log_sum_exp[(b * s.heads() + h) * s.time + t] = log_sum_exp;
        for (int64_t j = 0; j <= t; ++j) {
          double& value = p[static_cast<size_t>(j)];
          value = std::exp(value - log_sum_exp);
          for (int64_t d = 0; d < s.head_dim; ++d) r.y[at + d] += value * c.v[key_at(j) + d];
        }
        double delta = 0;
        for (int64_t d = 0; d < s.head_dim; ++d) delta += c.dy[at + d] * y[at + d];
        for (int64_t j = 0; j <= t; ++j) {
          const double p_j = p[static_cast<size_t>(j)];
          const double dp = dot(c.dy, at, c.v, key_at(j)), ds = scale * p_j * (dp - delta);
          terms += std::pow(scale * p_j, 2) * (dp * dp + delta * delta);
          differences += ds * ds;
          for (int64_t d = 0; d < s.head_dim; ++d) {
            r.dq[at + d] += ds * c.k[key_at(j) + d];
            r.dk[key_at(j) + d] += ds * c.q[at + d];
            r.dv[key_at(j) + d] += p_j * c.dy[at + d];
          }
        }
      }
    }
  }
  r.cancellation = std::max(1.0, std::sqrt(terms / differences));
  return r;
}

template <typename T>
void ExpectDefinition(const Case& exact) {
  Case c = exact;  // What T can hold, so that only the op's own rounding is left.
  for (HostTensor<double>* t : {&c.q, &c.k, &c.v, &c.dy}) *t = RoundedTo<T>(*t);
  for (const Runner& runner : Runners<T>(c.sizes.head_dim)) {
    const Results got = RunOn<T>(runner, c);
    const Results expected = Expected(c, got.y);
    const std::string what = runner.name + " in " + DtypeName<T>();
    EXPECT_THAT(got.y, IsNear(expected.y, Tolerance<T>())) << what << ", " << c.sizes;
    for (int64_t i = 0; i < expected.log_sum_exp.size(); ++i) {
      ASSERT_NEAR(got.log_sum_exp[i], expected.log_sum_exp[i], 5 * Tolerance<Accum<T>>())
          << what << ", " << c.sizes;
    }
    EXPECT_THAT(got.dv, IsNear(expected.dv, Tolerance<T>())) << what << ", " << c.sizes;
    if (c.sizes.time == 1) continue;  // One key: no choice, dq = dk = 0.
    const double tolerance = expected.cancellation * Tolerance<T>();
    EXPECT_THAT(got.dq, IsNear(expected.dq, tolerance)) << what << ", " << c.sizes;
    EXPECT_THAT(got.dk, IsNear(expected.dk, tolerance)) << what << ", " << c.sizes;
  }
}

rc::Gen<Sizes> AnySizes() {
  return rc::gen::build<Sizes>(
      rc::gen::set(&Sizes::batch, SmallSize(2)), rc::gen::set(&Sizes::time, SizeAroundTile(64)),
      rc::gen::set(&Sizes::kv_heads, SmallSize(2)), rc::gen::set(&Sizes::group, SmallSize(3)),
      rc::gen::set(&Sizes::head_dim, rc::gen::elementOf(std::vector<int64_t>{4, 7, 16, 32, 64, 80, 128})));
}

TEST(AttentionTest, PaperExample) {
  // Equal scores: every position takes the mean of the values up to itself.
  Case c({1, 3, 1, 2, 2}, 1);
  std::fill(c.q.values.begin(), c.q.values.end(), 0);
  c.v.values = {1, 2, 3, 6, 5, 1};
  for (const Runner& runner : Runners<float>(2)) {
    const Results r = RunOn<float>(runner, c);
    EXPECT_THAT(r.y, IsNear(HostTensor<double>{{1, 3, 2, 2}, {1, 2, 1, 2, 2, 4, 2, 4, 3, 3, 3, 3}}, 1e-6));
    const double log2 = std::log(2), log3 = std::log(3);
    EXPECT_THAT(r.log_sum_exp, IsNear(HostTensor<double>{{1, 2, 3}, {0, log2, log3, 0, log2, log3}}, 1e-6));
  }
}

RC_GTEST_PROP(AttentionTest, EveryKernelGivesTheDefinition, ()) {
  const Case c(*AnySizes(), *Seed());
  ExpectDefinition<double>(c);
  ExpectDefinition<float>(c);
  ExpectDefinition<Bf16>(c);
}

TEST(AttentionTest, EveryKernelGivesTheDefinitionAtTileEdges) {
  for (const int64_t time : {1, 2, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257, 300, 700}) {
    const Case c({1, time, 1, 2, 64}, 11);
    ExpectDefinition<float>(c);
    ExpectDefinition<Bf16>(c);
  }
  ExpectDefinition<Bf16>(Case({3, 200, 2, 2, 32}, 12));
  ExpectDefinition<Bf16>(Case({1, 500, 2, 1, 128}, 13));
}

TEST(AttentionTest, KernelsAgreeOnManyTiles) {
  const std::vector<Runner> runners = Runners<Bf16>(64);  // None without a GPU.
  const Case c({3, 2048, 4, 2, 64}, 14);
  Results simple;
  for (const Runner& runner : runners) {
    const Results r = RunOn<Bf16>(runner, c);
    if (simple.y.empty()) simple = r;
    EXPECT_THAT(r.y, IsNear(simple.y, Tolerance<Bf16>())) << runner.name;
    EXPECT_THAT(r.log_sum_exp, IsNear(simple.log_sum_exp, Tolerance<float>())) << runner.name;
    EXPECT_THAT(r.dq, IsNear(simple.dq, Tolerance<Bf16>())) << runner.name;
    EXPECT_THAT(r.dk, IsNear(simple.dk, Tolerance<Bf16>())) << runner.name;
    EXPECT_THAT(r.dv, IsNear(simple.dv, Tolerance<Bf16>())) << runner.name;
  }
}

TEST(AttentionTest, BackwardIsTheGradientOfForward) {
  for (const Sizes& s : {Sizes{2, 5, 2, 2, 3}, Sizes{1, 70, 1, 1, 8}, Sizes{1, 300, 1, 2, 4}}) {
    Case c(s, 21);
    const Runner cpu = {"cpu", Device::Cpu()};
    const Results r = RunOn<double>(cpu, c);
    EXPECT_TRUE(GradientsMatch({{"q", &c.q, r.dq}, {"k", &c.k, r.dk}, {"v", &c.v, r.dv}}, [&] {
      return Dot(c.dy, RunOn<double>(cpu, c).y);
    })) << s;
  }
}

template <typename T>
void ExpectCausalAndSeparate(int64_t head_dim) {
  const Sizes s = {2, 150, 2, 2, head_dim};
  const Case c(s, 31);
  for (const Runner& runner : Runners<T>(head_dim)) {
    const Results before = RunOn<T>(runner, c);
    // What is from position 100 on, in batch row 1, kv head 1, changes.
    Case changed = c;
    for (int64_t t = 100; t < s.time; ++t) {
      for (int64_t d = 0; d < head_dim; ++d) {
        const int64_t at = ((s.time + t) * s.kv_heads + 1) * head_dim + d;
        changed.k[at] += 1;
        changed.v[at] -= 1;
      }
    }
    const Results after = RunOn<T>(runner, changed);
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t t = 0; t < s.time; ++t) {
        for (int64_t h = 0; h < s.heads(); ++h) {
          const bool reached = b == 1 && t >= 100 && h / s.group == 1;
          bool same = true;
          for (int64_t d = 0; d < head_dim; ++d) {
            const int64_t at = ((b * s.time + t) * s.heads() + h) * head_dim + d;
            same = same && before.y[at] == after.y[at];
          }
          ASSERT_EQ(same, !reached) << runner.name << " b " << b << " t " << t << " h " << h;
        }
      }
    }
  }
}

TEST(AttentionTest, TheFutureOtherHeadsAndOtherRowsDoNotReachAPosition) {
  ExpectCausalAndSeparate<float>(8);
  ExpectCausalAndSeparate<Bf16>(64);
}

template <typename T>
void ExpectFiniteAndEqual(int64_t head_dim) {
  Case c({1, 130, 1, 2, head_dim}, 41);
  for (double& value : c.q.values) value *= 1000;  // Scores in the thousands.
  for (double& value : c.v.values) value = 3;      // Any mean of these is 3.
  for (const Runner& runner : Runners<T>(head_dim)) {
    const Results r = RunOn<T>(runner, c);
    for (const double value : r.y.values) ASSERT_NEAR(value, 3, 3 * Tolerance<T>()) << runner.name;
    for (const HostTensor<double>* t : {&r.log_sum_exp, &r.dq, &r.dk, &r.dv}) {
      for (const double value : t->values) ASSERT_TRUE(std::isfinite(value)) << runner.name;
    }
  }
}

TEST(AttentionTest, HugeScoresGiveFiniteResultsAndEqualValuesGiveThatValue) {
  ExpectFiniteAndEqual<float>(16);
  ExpectFiniteAndEqual<Bf16>(64);
}

template <typename T>
void ExpectRepeats(int64_t head_dim) {
  const Case c({2, 200, 2, 2, head_dim}, 51);
  for (const Runner& runner : Runners<T>(head_dim)) {
    const Results once = RunOn<T>(runner, c), again = RunOn<T>(runner, c);
    EXPECT_EQ(once.y.values, again.y.values) << runner.name;
    EXPECT_EQ(once.dq.values, again.dq.values) << runner.name;
    EXPECT_EQ(once.dk.values, again.dk.values) << runner.name;
    EXPECT_EQ(once.dv.values, again.dv.values) << runner.name;
  }
}

TEST(AttentionTest, RepeatsToTheBit) {
  ExpectRepeats<float>(24);
  ExpectRepeats<Bf16>(64);
}

}  // namespace
}  // namespace hm11
