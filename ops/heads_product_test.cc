// The projection and its heads: what the two ops give one after the other, on every device, forward and backward.
#include "ops/heads_product.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "testing/generators.h"
#include "testing/op_run.h"

namespace hm11 {
namespace {

struct Sizes {
  int64_t batch = 1, time = 1, heads = 1, kv_heads = 1, head_dim = 64, in = 64, rope_dims = 16;
  int64_t rows() const { return batch * time; }
  int64_t width() const { return (heads + 2 * kv_heads) * head_dim; }
  Shape query() const { return {batch, time, heads, head_dim}; }
  Shape key() const { return {batch, time, kv_heads, head_dim}; }
};

struct Case {
  Sizes sizes;
  HostTensor<double> x, weight, q_gain, value_embedding, ve_layer_scale, ve_scale, first_v, residual;
  HostTensor<double> dq, dk, dv;
  HostTensor<double> dq_gain, dve_layer_scale, dve_scale, dfirst_v, dresidual;  // what is there before
};

Case RandomCase(const Sizes& s, bool value_embedding, bool first_v, uint64_t seed) {
  const auto random = [&](bool present, Shape shape, double deviation = 1, double mean = 0) {
    return present ? RandomOperand(shape, ++seed, deviation, mean) : HostTensor<double>();
  };
  Case c = {.sizes = s};
  c.x = random(true, {s.rows(), s.in});
  c.weight = random(true, {s.width(), s.in}, 1 / std::sqrt(static_cast<double>(s.in)));
  c.q_gain = random(true, {s.heads}, 0.3, 1.5);
  c.value_embedding = random(value_embedding, {s.rows(), s.kv_heads * s.head_dim});
  c.ve_layer_scale = random(value_embedding, {1}, 0.2, 0.8);
  c.ve_scale = random(value_embedding, {1}, 0.2, 0.5);
  c.first_v = random(first_v, s.key());
  c.residual = random(first_v, {2}, 0.2, 0.5);
  c.dq = random(true, s.query());
  c.dk = random(true, s.key());
  c.dv = random(true, s.key());
  // Sums over rows of numbers of either sign start from afar, so that none ends up near zero.
  c.dq_gain = random(true, {s.heads}, 1, 300);
  c.dve_layer_scale = random(value_embedding, {1}, 1, 300);
  c.dve_scale = random(value_embedding, {1}, 1, 300);
  c.dfirst_v = random(first_v, s.key());
  c.dresidual = random(first_v, {2}, 1, 300);
  return c;
}

template <typename T>
void Multiply(OpRun<T>& run, const MatmulThenAttentionHeadsArgs<T>& args, bool by_kernel) {
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16>) {
    if (by_kernel) {
      const Tensor<float> table =
          run.arena().template New<float>({2, args.heads.time, args.heads.rope_dims / 2});
      EXPECT_TRUE(cuda::TryMatmulThenAttentionHeads(run.arena().device(), args, table));
      return;
    }
  }
  MatmulThenAttentionHeads<T>(run.arena(), args);
}

// With backward of the heads from the qkv that came of it. by_kernel: by that for compute capability 9.0,
// however few the rows (Bf16 only).
template <typename T>
Results Call(const Device& device, const Case& c, T, bool by_kernel = false) {
  OpRun<T> run(device);
  const Sizes& s = c.sizes;
  const Tensor<T> qkv = run.arena().template New<T>({s.rows(), s.width()});
  AttentionHeadsArgs<T> heads = {.batch = s.batch,
                                 .time = s.time,
                                 .rope_dims = s.rope_dims,
                                 .q_gain = run.InAccum(c.q_gain),
                                 .value_embedding = run.In(c.value_embedding),
                                 .ve_layer_scale = run.InAccum(c.ve_layer_scale),
                                 .ve_scale = run.InAccum(c.ve_scale),
                                 .first_v = run.In(c.first_v),
                                 .residual = run.InAccum(c.residual),
                                 .q = run.Out("q", s.query()),
                                 .k = run.Out("k", s.key()),
                                 .v = run.Out("v", s.key())};
  Multiply<T>(run, {.x = run.In(c.x), .weight = run.In(c.weight), .qkv = qkv, .heads = heads}, by_kernel);
  heads.qkv = qkv;
  AttentionHeadsBackward<T>(run.arena(),
                            {.forward = heads,
                             .dq = run.In(c.dq),
                             .dk = run.In(c.dk),
                             .dv = run.In(c.dv),
                             .dqkv = run.Out("dqkv", qkv.shape()),
                             .dq_gain = run.InOutAccum("dq_gain", c.dq_gain),
                             .dvalue_embedding = run.Out("dvalue_embedding", c.value_embedding.shape),
                             .dve_layer_scale = run.InOutAccum("dve_layer_scale", c.dve_layer_scale),
                             .dve_scale = run.InOutAccum("dve_scale", c.dve_scale),
                             .dfirst_v = run.InOut("dfirst_v", c.dfirst_v),
                             .dresidual = run.InOutAccum("dresidual", c.dresidual)});
  return run.Finish();
}

TEST(HeadsProductTest, PaperExample) {
  // Of a row of 2 and one of 1, a head of two channels: (3, 4) / sqrt(12.5) whatever the row's size, the second
  // turned by one radian; v is twice and once (5, 6).
  Case c = RandomCase({.time = 2, .head_dim = 2, .in = 1, .rope_dims = 2}, false, false, 1);
  c.x.values = {2, 1};
  c.weight.values = {3, 4, 4, 3, 5, 6};
  c.q_gain.values = {2};
  const double a = 1 / std::sqrt(12.5), cosine = std::cos(1.0), sine = std::sin(1.0);
  const HostTensor<double> q = {
      {1, 2, 1, 2}, {6 * a, 8 * a, 2 * a * (3 * cosine + 4 * sine), 2 * a * (4 * cosine - 3 * sine)}};
  const HostTensor<double> k = {{1, 2, 1, 2},
                                {4 * a, 3 * a, a * (4 * cosine + 3 * sine), a * (3 * cosine - 4 * sine)}};
  for (const Device& device : TestDevices()) {
    const Results results = Call(device, c, float());
    EXPECT_THAT(results.at("q"), IsNear(q, 2e-6));
    EXPECT_THAT(results.at("k"), IsNear(k, 2e-6));
    EXPECT_EQ(results.at("v").values, (std::vector<double>{10, 12, 5, 6}));
  }
}

RC_GTEST_PROP(HeadsProductTest, DevicesAgree, ()) {
  const int64_t head_dim = *rc::gen::element<int64_t>(6, 20, 64);
  const Sizes sizes = {.batch = *SmallSize(2),
                       .time = *SizeAroundTile(16),
                       .heads = *SmallSize(4),
                       .kv_heads = *SmallSize(3),
                       .head_dim = head_dim,
                       .in = *SizeAroundTile(64),
                       .rope_dims = 2 * *rc::gen::inRange<int64_t>(0, head_dim / 2 + 1)};
  const Case c = RandomCase(sizes, *rc::gen::arbitrary<bool>(), *rc::gen::arbitrary<bool>(), *Seed());
  ExpectDevicesAgree([&c](const Device& device, auto number) { return Call(device, c, number); });
}

// ---- The kernel.

auto ByKernel(const Case& c) {
  return
      [&c](const Device& device, auto number, bool by_kernel) { return Call(device, c, number, by_kernel); };
}

RC_GTEST_PROP(HeadsProductTest, TheKernelAgrees, ()) {
  if (HopperGpus().empty()) return;
  // Blocks have two heads: of a kind, or the last of one and the first of the next.
  const auto [heads, kv_heads] = *rc::gen::elementOf(
      std::vector<std::pair<int64_t, int64_t>>{{8, 4}, {2, 1}, {4, 2}, {6, 3}, {6, 1}, {10, 1}});
  const Sizes sizes = {.batch = *SmallSize(3),
                       .time = *rc::gen::oneOf(SizeAroundTile(64), SizeAroundTile(300)),
                       .heads = heads,
                       .kv_heads = kv_heads,
                       .in = *rc::gen::element<int64_t>(128, 256, 512),
                       .rope_dims = *rc::gen::element<int64_t>(16, 32, 64)};
  ExpectKernelAgrees(
      ByKernel(RandomCase(sizes, *rc::gen::arbitrary<bool>(), *rc::gen::arbitrary<bool>(), *Seed())));
}

// Several tiles of rows for each multiprocessor, as a step of training has them.
TEST(HeadsProductTest, TheKernelAgreesOnManyRows) {
  if (HopperGpus().empty()) GTEST_SKIP() << "no Hopper GPU";
  const Sizes sizes = {.batch = 2, .time = 3000, .heads = 8, .kv_heads = 4, .in = 512};
  ExpectKernelAgrees(ByKernel(RandomCase(sizes, false, false, 1)));
  ExpectKernelAgrees(ByKernel(RandomCase(sizes, true, false, 2)));
  ExpectKernelAgrees(ByKernel(RandomCase(sizes, false, true, 3)));
}

// On other GPUs and for other shapes nothing is done.
TEST(HeadsProductTest, TheKernelRefusesWhatItHasNot) {
  if constexpr (kHaveCuda) {
    for (const Device& gpu : TestGpus()) {
      const auto takes = [&](const Sizes& s, bool first_v = false) {
        Arena arena = TestArena(gpu);
        const MatmulThenAttentionHeadsArgs<Bf16> args = {
            .x = arena.NewZero<Bf16>({s.rows(), s.in}),
            .weight = arena.NewZero<Bf16>({s.width(), s.in}),
            .qkv = arena.New<Bf16>({s.rows(), s.width()}),
            .heads = {.batch = s.batch,
                      .time = s.time,
                      .rope_dims = s.rope_dims,
                      .q_gain = arena.NewZero<float>({s.heads}),
                      .first_v = arena.NewZero<Bf16>(first_v ? s.key() : Shape()),
                      .residual = arena.NewZero<float>(first_v ? Shape{2} : Shape()),
                      .q = arena.New<Bf16>(s.query()),
                      .k = arena.New<Bf16>(s.key()),
                      .v = arena.New<Bf16>(s.key())}};
        const Tensor<float> table = arena.New<float>({2, s.time, s.rope_dims / 2});
        const bool taken = cuda::TryMatmulThenAttentionHeads(gpu, args, table);
        gpu.Synchronize();
        return taken;
      };
      const Sizes had = {.time = 8, .heads = 2, .in = 512};
      const auto with = [&](auto&& change) {
        Sizes sizes = had;
        change(sizes);
        return takes(sizes);
      };
      EXPECT_EQ(takes(had), gpu.compute_capability() == 90);
      EXPECT_EQ(takes(had, /*first_v=*/true), gpu.compute_capability() == 90);
      EXPECT_FALSE(with([](Sizes& s) { s.heads = 3; }));
      EXPECT_FALSE(with([](Sizes& s) { s.head_dim = 128; }));
      EXPECT_FALSE(with([](Sizes& s) { s.in = 520; }));
      EXPECT_FALSE(with([](Sizes& s) { s.in = 640; }));
      EXPECT_FALSE(with([](Sizes& s) { s.rope_dims = 48; }));
      EXPECT_FALSE(with([](Sizes& s) { s.rope_dims = 0; }));
    }
  }
}

}  // namespace
}  // namespace hm11
