// Backward of attention and its heads: what the ops apart give one after the other, on every device.
#include "ops/attention_of_heads.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <array>
#include <type_traits>

#include "core/dtype.h"
#include "ops/elementwise.h"
#include "testing/generators.h"
#include "testing/op_run.h"

namespace hm11 {
namespace {

struct Sizes {
  int64_t batch = 1, time = 2, heads = 1, kv_heads = 1, head_dim = 64, rope_dims = 16;
  int64_t rows() const { return batch * time; }
  int64_t width() const { return (heads + 2 * kv_heads) * head_dim; }
  Shape query() const { return {batch, time, heads, head_dim}; }
  Shape key() const { return {batch, time, kv_heads, head_dim}; }
};

// Which of the operands are there that need not be.
struct Extras {
  bool value_embedding = false, first_v = false, dv_exclusive = false, dv_from_later = false;
};

rc::Gen<Extras> AnyExtras() {
  return rc::gen::build<Extras>(rc::gen::set(&Extras::value_embedding), rc::gen::set(&Extras::first_v),
                                rc::gen::set(&Extras::dv_exclusive), rc::gen::set(&Extras::dv_from_later));
}

struct Case {
  Sizes sizes;
  HostTensor<double> qkv, q_gain, value_embedding, ve_layer_scale, ve_scale, first_v, residual;
  HostTensor<double> q, k, v, y, log_sum_exp;  // of forward, rounded as Bf16 keeps them
  HostTensor<double> dy;
  std::array<HostTensor<double>, 2> dv_from_outside;
  HostTensor<double> dq_gain, dve_layer_scale, dve_scale, dfirst_v, dresidual;  // what is there before
};

template <typename T>
AttentionHeadsArgs<T> Heads(OpRun<T>& run, const Case& c) {
  return {.batch = c.sizes.batch,
          .time = c.sizes.time,
          .rope_dims = c.sizes.rope_dims,
          .qkv = run.In(c.qkv),
          .q_gain = run.InAccum(c.q_gain),
          .value_embedding = run.In(c.value_embedding),
          .ve_layer_scale = run.InAccum(c.ve_layer_scale),
          .ve_scale = run.InAccum(c.ve_scale),
          .first_v = run.In(c.first_v),
          .residual = run.InAccum(c.residual)};
}

// Fills q, k, v, y and log_sum_exp.
template <typename T>
void RunForward(const Device& device, T, Case* c) {
  OpRun<T> run(device);
  AttentionHeadsArgs<T> heads = Heads<T>(run, *c);
  heads.q = run.Out("q", c->sizes.query());
  heads.k = run.Out("k", c->sizes.key());
  heads.v = run.Out("v", c->sizes.key());
  AttentionHeadsForward<T>(run.arena(), heads);
  Results results = run.Finish();
  c->q = RoundedTo<Bf16>(results.at("q"));
  c->k = RoundedTo<Bf16>(results.at("k"));
  c->v = RoundedTo<Bf16>(results.at("v"));
  OpRun<T> attention(device);
  AttentionForward<T>(
      attention.arena(),
      {.q = attention.In(c->q),
       .k = attention.In(c->k),
       .v = attention.In(c->v),
       .y = attention.Out("y", c->sizes.query()),
       .log_sum_exp = attention.OutAccum("log_sum_exp", {c->sizes.batch, c->sizes.heads, c->sizes.time})});
  results = attention.Finish();
  c->y = RoundedTo<Bf16>(results.at("y"));
  c->log_sum_exp = results.at("log_sum_exp");
}

// a + factor b, which may have other shapes.
HostTensor<double> Sum(HostTensor<double> a, double factor, const HostTensor<double>& b) {
  for (int64_t i = 0; i < a.size(); ++i) a[i] += factor * b[i];
  return RoundedTo<Bf16>(a);
}

// Gradients of gains and scales are sums over all rows. That these do not cancel, and a part that is missing shows,
// dy is much like y (sharper attention makes y larger), and all that v is made of is much alike (dv . v is dy . y).
// `device`: for forward.
Case RandomCase(const Sizes& s, const Extras& extras, bool zero_gain, uint64_t seed,
                const Device& device = Device::Cpu()) {
  const auto random = [&](bool present, Shape shape, double deviation = 1, double mean = 0) {
    return present ? RandomOperand(shape, ++seed, deviation, mean) : HostTensor<double>();
  };
  const HostTensor<double> values = random(true, s.key());
  const auto like_values = [&](bool present, Shape shape) {
    return Sum(random(present, shape, 0.5), 1, values);
  };
  Case c = {.sizes = s};
  c.qkv = random(true, {s.rows(), s.width()}, 2);
  const HostTensor<double> v = like_values(true, s.key());
  for (int64_t row = 0, i = 0; row < s.rows(); ++row) {
    for (int64_t col = s.width() - s.kv_heads * s.head_dim; col < s.width(); ++col) {
      c.qkv[row * s.width() + col] = v[i++];
    }
  }
  c.q_gain = random(true, {s.heads}, 0.3, 1.5);
  if (zero_gain && s.heads > 1) c.q_gain[0] = 0;  // Its gradient may be of either sign.
  c.value_embedding = like_values(extras.value_embedding, {s.rows(), s.kv_heads * s.head_dim});
  c.ve_layer_scale = random(extras.value_embedding, {1}, 0.2, 0.8);
  c.ve_scale = random(extras.value_embedding, {1}, 0.2, 0.8);
  c.first_v = like_values(extras.first_v, s.key());
  c.residual = random(extras.first_v, {2}, 0.2, 0.8);
  if (device.is_cuda()) {
    RunForward(device, float(), &c);
  } else {
    RunForward(device, double(), &c);
  }
  c.dy = Sum(random(true, s.query(), 0.5), 4, c.y);
  c.dv_from_outside = {random(extras.dv_exclusive, s.key()), random(extras.dv_from_later, s.key())};
  c.dq_gain = random(true, {s.heads}, 1, 5);
  c.dve_layer_scale = random(extras.value_embedding, {1}, 1, 5);
  c.dve_scale = random(extras.value_embedding, {1}, 1, 5);
  c.dfirst_v = random(extras.first_v, s.key());
  c.dresidual = random(extras.first_v, {2}, 1, 5);
  return c;
}

enum class How { kOp, kKernel, kApart };

template <typename T>
void Backward(OpRun<T>& run, const AttentionOfHeadsGradArgs<T>& args, How how) {
  Arena& arena = run.arena();
  if (how == How::kOp) return AttentionOfHeadsBackward<T>(arena, args);
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16>) {
    if (how == How::kKernel) {
      const cuda::AttentionOfHeadsScratch scratch = cuda::NewAttentionOfHeadsScratch(arena, args);
      EXPECT_TRUE(cuda::TryAttentionOfHeadsBackward(arena.device(), args, scratch));
      return;
    }
  }
  const Shape& query = args.dy.shape();
  const Shape& key = args.attention.v.shape();
  const Tensor<T> dq = arena.template New<T>(query), dk = arena.template New<T>(key),
                  dv = arena.template New<T>(key);
  AttentionBackward<T>(arena, {.forward = args.attention, .dy = args.dy, .dq = dq, .dk = dk, .dv = dv});
  for (const Tensor<const T>& more : args.dv_from_outside) {
    if (!more.empty()) AddTo<T>(arena, more, 1, dv);
  }
  AttentionHeadsGradArgs<T> heads = args.heads;
  heads.dq = dq;
  heads.dk = dk;
  heads.dv = dv;
  AttentionHeadsBackward<T>(arena, heads);
}

// dqkv's columns of q, of k and of v one by one: dv is larger than the others.
void SplitColumns(const Sizes& s, Results* results) {
  const HostTensor<double> dqkv = results->at("dqkv");
  results->erase("dqkv");
  HostTensor<double>&q = (*results)["dqkv of q"], &k = (*results)["dqkv of k"], &v = (*results)["dqkv of v"];
  for (int64_t i = 0; i < dqkv.size(); ++i) {
    const int64_t head = i % s.width() / s.head_dim;
    (head < s.heads ? q : head < s.heads + s.kv_heads ? k : v).values.push_back(dqkv[i]);
  }
  q.shape = s.query();
  k.shape = v.shape = s.key();
}

template <typename T>
Results Call(const Device& device, const Case& c, T, How how = How::kOp) {
  OpRun<T> run(device);
  const Sizes& s = c.sizes;
  Backward<T>(run,
              {.attention = {.q = run.In(c.q),
                             .k = run.In(c.k),
                             .v = run.In(c.v),
                             .y = run.InOut("y", c.y),
                             .log_sum_exp = run.InOutAccum("log_sum_exp", c.log_sum_exp)},
               .dy = run.In(c.dy),
               .dv_from_outside = {run.In(c.dv_from_outside[0]), run.In(c.dv_from_outside[1])},
               .heads = {.forward = Heads<T>(run, c),
                         .dqkv = run.Out("dqkv", c.qkv.shape),
                         .dq_gain = run.InOutAccum("dq_gain", c.dq_gain),
                         .dvalue_embedding = run.Out("dvalue_embedding", c.value_embedding.shape),
                         .dve_layer_scale = run.InOutAccum("dve_layer_scale", c.dve_layer_scale),
                         .dve_scale = run.InOutAccum("dve_scale", c.dve_scale),
                         .dfirst_v = run.InOut("dfirst_v", c.dfirst_v),
                         .dresidual = run.InOutAccum("dresidual", c.dresidual)}},
              how);
  Results results = run.Finish();
  SplitColumns(s, &results);
  return results;
}

RC_GTEST_PROP(AttentionOfHeadsTest, EveryDeviceGivesTheOpsApart, ()) {
  const int64_t head_dim = *rc::gen::element<int64_t>(6, 20, 64);
  const int64_t kv_heads = *SmallSize(2);
  const Sizes sizes = {.batch = *SmallSize(2),
                       .time = 1 + *SizeAroundTile(64),
                       .heads = kv_heads * *SmallSize(3),
                       .kv_heads = kv_heads,
                       .head_dim = head_dim,
                       .rope_dims = 2 * *rc::gen::inRange<int64_t>(0, head_dim / 2 + 1)};
  const Case c = RandomCase(sizes, *AnyExtras(), *rc::gen::arbitrary<bool>(), *Seed());
  const auto run = [&c](const Device& device, auto number) {
    return Call(device, c, number, std::is_same_v<decltype(number), double> ? How::kApart : How::kOp);
  };
  // The gradient of a score is a difference, of nearly equal numbers where one key has nearly all the weight.
  ExpectDevicesAgree(run, 10 * Tolerance<float>());
}

// ---- The kernel.

auto ByKernel(const Case& c) {
  return [&c](const Device& device, auto number, bool by_kernel) {
    return Call(device, c, number, by_kernel ? How::kKernel : How::kApart);
  };
}

RC_GTEST_PROP(AttentionOfHeadsTest, TheKernelAgrees, ()) {
  if (HopperGpus().empty()) return;
  const int64_t kv_heads = *SmallSize(3);
  const Sizes sizes = {.batch = *SmallSize(3),
                       .time = 1 + *rc::gen::oneOf(SizeAroundTile(64), SizeAroundTile(300)),
                       .heads = kv_heads * *SmallSize(3),
                       .kv_heads = kv_heads,
                       .rope_dims = *rc::gen::element<int64_t>(16, 32, 64)};
  ExpectKernelAgrees(
      ByKernel(RandomCase(sizes, *AnyExtras(), *rc::gen::arbitrary<bool>(), *Seed(), HopperGpus()[0])));
}

// Several tasks for each multiprocessor, as a step of training has them.
TEST(AttentionOfHeadsTest, TheKernelAgreesOnManyRows) {
  if (HopperGpus().empty()) GTEST_SKIP() << "no Hopper GPU";
  const Sizes sizes = {.batch = 4, .time = 1900, .heads = 8, .kv_heads = 4};
  const auto expect = [&](const Extras& extras, uint64_t seed) {
    ExpectKernelAgrees(ByKernel(RandomCase(sizes, extras, false, seed, HopperGpus()[0])));
  };
  expect({}, 1);
  expect({.value_embedding = true, .dv_exclusive = true}, 2);
  expect({.first_v = true}, 3);
}

// On other GPUs and for other shapes nothing is done.
TEST(AttentionOfHeadsTest, TheKernelRefusesWhatItHasNot) {
  if constexpr (kHaveCuda) {
    for (const Device& gpu : TestGpus()) {
      const auto takes = [&](const Sizes& s) {
        Arena arena = TestArena(gpu);
        const Tensor<Bf16> query = arena.NewZero<Bf16>(s.query()), key = arena.NewZero<Bf16>(s.key());
        const Tensor<float> log_sum_exp = arena.NewZero<float>({s.batch, s.heads, s.time});
        const AttentionOfHeadsGradArgs<Bf16> args = {
            .attention = {.q = query, .k = key, .v = key, .y = query, .log_sum_exp = log_sum_exp},
            .dy = query,
            .heads = {.forward = {.batch = s.batch,
                                  .time = s.time,
                                  .rope_dims = s.rope_dims,
                                  .qkv = arena.NewZero<Bf16>({s.rows(), s.width()}),
                                  .q_gain = arena.NewZero<float>({s.heads})},
                      .dqkv = arena.New<Bf16>({s.rows(), s.width()}),
                      .dq_gain = arena.NewZero<float>({s.heads})}};
        const bool taken =
            cuda::TryAttentionOfHeadsBackward(gpu, args, cuda::NewAttentionOfHeadsScratch(arena, args));
        gpu.Synchronize();
        return taken;
      };
      EXPECT_EQ(takes({.time = 8, .heads = 2}), gpu.compute_capability() == 90);
      EXPECT_FALSE(takes({.time = 8, .heads = 2, .head_dim = 128}));
      EXPECT_FALSE(takes({.time = 8, .heads = 2, .head_dim = 32}));
      EXPECT_FALSE(takes({.time = 8, .heads = 2, .rope_dims = 48}));
      EXPECT_FALSE(takes({.time = 8, .heads = 2, .rope_dims = 0}));
    }
  }
}

}  // namespace
}  // namespace hm11
