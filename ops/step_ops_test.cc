// What models that read a token at a time are made of: products with one vector, and attention of one query
// against what attention gives of the whole sequence.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <vector>

#include "ops/attention.h"
#include "ops/attention_step.h"
#include "ops/matvec.h"
#include "testing/devices.h"
#include "testing/op_run.h"

namespace hm11 {
namespace {

// Largest |y - exact| in units of what the absolute values of a row's terms add up to.
template <typename T, typename W>
double MatvecError(const Device& device, int64_t out, int64_t in, uint64_t seed) {
  const HostTensor<W> weight = RandomHostTensor<W>({out, in}, seed);
  const HostTensor<T> x = RandomHostTensor<T>({in}, seed + 1);
  Arena arena = TestArena(device);
  const Tensor<T> y = arena.New<T>({out});
  MatvecForward<T, W>(arena, {.x = Upload(arena, x), .weight = Upload(arena, weight), .y = y});
  const HostTensor<T> result = Download(arena, y);
  double worst = 0;
  for (int64_t o = 0; o < out; ++o) {
    double exact = 0, size = 0;
    for (int64_t i = 0; i < in; ++i) {
      const double term =
          static_cast<double>(ToAccum<W>(weight[o * in + i])) * static_cast<double>(ToAccum<T>(x[i]));
      exact += term;
      size += std::abs(term);
    }
    worst = std::max(worst, std::abs(static_cast<double>(ToAccum<T>(result[o])) - exact) / size);
  }
  return worst;
}

RC_GTEST_PROP(StepOpsTest, AMatrixTimesAVectorIsTheSumOfItsProducts, ()) {
  const int64_t out = *rc::gen::inRange<int64_t>(1, 200), in = *rc::gen::inRange<int64_t>(1, 400);
  const uint64_t seed = *rc::gen::inRange<uint64_t>(0, 1 << 30);
  RC_ASSERT((MatvecError<double, double>(Device::Cpu(), out, in, seed)) < 1e-14);
  RC_ASSERT((MatvecError<float, float>(Device::Cpu(), out, in, seed)) < 3e-6);
  RC_ASSERT((MatvecError<float, Fp16>(Device::Cpu(), out, in, seed)) < 3e-6);
  for (const Device& gpu : TestGpus()) {
    RC_ASSERT((MatvecError<float, float>(gpu, out, in, seed)) < 3e-6);
    RC_ASSERT((MatvecError<Bf16, Bf16>(gpu, out, in, seed)) < 4e-3);
  }
}

// Of one sequence, as AttentionForward gives it: [time, heads, head_dim].
template <typename T>
std::vector<T> AttentionAtOnce(Arena& arena, Tensor<T> q, Tensor<T> k, Tensor<T> v) {
  const int64_t time = q.dim(0), heads = q.dim(1), head_dim = q.dim(2), kv_heads = k.dim(1);
  const Tensor<T> y = arena.New<T>({1, time, heads, head_dim});
  AttentionForward<T>(arena, {.q = q.Reshaped({1, time, heads, head_dim}),
                              .k = k.Reshaped({1, time, kv_heads, head_dim}),
                              .v = v.Reshaped({1, time, kv_heads, head_dim}),
                              .y = y,
                              .log_sum_exp = arena.New<Accum<T>>({1, heads, time})});
  return Download(arena, y).values;
}

// Steps before `first_checked` are made, not judged.
template <typename T>
void CheckSteps(const Device& device, int64_t time, int64_t window, int64_t kv_heads, int64_t group,
                int64_t head_dim, uint64_t seed, int64_t first_checked = 0) {
  Arena arena = TestArena(device);
  const int64_t heads = kv_heads * group;
  const Tensor<T> q = Upload(arena, RandomHostTensor<T>({time, heads, head_dim}, seed));
  const Tensor<T> k = Upload(arena, RandomHostTensor<T>({time, kv_heads, head_dim}, seed + 1));
  const HostTensor<T> host_v = RandomHostTensor<T>({time, kv_heads, head_dim}, seed + 2);
  const Tensor<T> v = Upload(arena, host_v);
  HostTensor<double> sizes_of_v = ConvertTo<double>(host_v);
  for (double& value : sizes_of_v.values) value = std::abs(value);
  const Tensor<T> absolute_v = UploadAs<T>(arena, sizes_of_v);
  AttentionStepArgs<T> step;
  step.keys = arena.New<T>({window, kv_heads, head_dim});
  step.values = arena.New<T>({window, kv_heads, head_dim});
  step.y = arena.New<T>({heads, head_dim});
  const Tensor<int32_t> place = arena.NewZero<int32_t>({1});
  step.place = place;
  for (int64_t t = 0; t < time; ++t) {
    step.q = q.Slice(t, 1).Reshaped({heads, head_dim});
    step.k = k.Slice(t, 1).Reshaped({kv_heads, head_dim});
    step.v = v.Slice(t, 1).Reshaped({kv_heads, head_dim});
    AttentionStepForward<T>(arena, step);
    AdvancePlace(arena, place);
    if (t < first_checked) continue;
    const Arena::Scope scope(arena);
    const int64_t seen = std::min(t + 1, window), first = t + 1 - seen;
    // The last token's y, and what its terms add up to without their signs.
    const auto last = [&](const Tensor<T>& values) {
      const std::vector<T> all =
          AttentionAtOnce<T>(arena, q.Slice(first, seen), k.Slice(first, seen), values.Slice(first, seen));
      return ConvertTo<double>(HostTensor<T>{{heads, head_dim}, {all.end() - heads * head_dim, all.end()}});
    };
    const HostTensor<double> expected = last(v), sizes = last(absolute_v);
    const HostTensor<double> y = DownloadAs<double>(arena, step.y);
    const double size = std::sqrt(SquaredDistance(sizes, ZeroHostTensor<double>(sizes.shape)));
    RC_ASSERT(std::sqrt(SquaredDistance(y, expected)) <= Tolerance<T>() * size);
  }
}

RC_GTEST_PROP(StepOpsTest, StepsOfAttentionAreAttentionToTheLastTokens, ()) {
  const int64_t window = *rc::gen::inRange<int64_t>(1, 9), time = *rc::gen::inRange<int64_t>(1, 20);
  const int64_t kv_heads = *rc::gen::inRange<int64_t>(1, 4), group = *rc::gen::inRange<int64_t>(1, 4);
  const int64_t head_dim = *rc::gen::element<int64_t>(1, 3, 8, 64, 128);
  const uint64_t seed = *rc::gen::inRange<uint64_t>(0, 1 << 30);
  CheckSteps<double>(Device::Cpu(), time, window, kv_heads, group, head_dim, seed);
  CheckSteps<float>(Device::Cpu(), time, window, kv_heads, group, head_dim, seed);
  for (const Device& gpu : TestGpus()) {
    CheckSteps<float>(gpu, time, window, kv_heads, group, head_dim, seed);
    CheckSteps<Bf16>(gpu, time, window, kv_heads, group, head_dim, seed);
  }
}

// Before, at and after the borders of the runs of slots that a GPU works on at once, and round the ring.
RC_GTEST_PROP(StepOpsTest, StepsOfAttentionCrossTheBordersOfSplits, ()) {
  const int64_t splits = *rc::gen::inRange<int64_t>(1, 5);
  const int64_t window = splits * kSplitKeys + *rc::gen::inRange<int64_t>(-1, 3);
  const int64_t border = *rc::gen::inRange<int64_t>(1, 2 * splits + 1) * kSplitKeys;
  const int64_t kv_heads = *rc::gen::inRange<int64_t>(1, 3), group = *rc::gen::inRange<int64_t>(1, 3);
  const int64_t head_dim = *rc::gen::element<int64_t>(3, 64, 128);
  const uint64_t seed = *rc::gen::inRange<uint64_t>(0, 1 << 30);
  const int64_t time = border + 3, first_checked = border - 2;
  CheckSteps<float>(Device::Cpu(), time, window, kv_heads, group, head_dim, seed, first_checked);
  for (const Device& gpu : TestGpus()) {
    CheckSteps<float>(gpu, time, window, kv_heads, group, head_dim, seed, first_checked);
    CheckSteps<Bf16>(gpu, time, window, kv_heads, group, head_dim, seed, first_checked);
  }
}

}  // namespace
}  // namespace hm11
