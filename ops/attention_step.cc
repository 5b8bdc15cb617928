// Attention of one query: contract, and the CPU path.
#include "ops/attention_step.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/dispatch.h"
#include "core/fast_math.h"
#include "core/parallel.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

template <typename T>
void CheckShapes(const AttentionStepArgs<T>& args) {
  HM_CHECK_EQ(args.q.rank(), 2);
  HM_CHECK_EQ(args.k.rank(), 2);
  HM_CHECK_EQ(args.keys.rank(), 3);
  HM_CHECK_EQ(args.k.dim(1), args.q.dim(1));
  HM_CHECK_EQ(args.q.dim(0) % args.k.dim(0), int64_t{0});
  HM_CHECK_EQ(args.v.shape(), args.k.shape());
  HM_CHECK_EQ(args.keys.shape(), (Shape{args.keys.dim(0), args.k.dim(0), args.k.dim(1)}));
  HM_CHECK_EQ(args.values.shape(), args.keys.shape());
  HM_CHECK_EQ(args.y.shape(), args.q.shape());
  HM_CHECK_EQ(args.place.shape(), (Shape{1}));
}

inline double Exp(double x) { return std::exp(x); }
inline float Exp(float x) { return FastExp(x); }

// One head over the first `count` slots; scores: [count], scratch.
template <typename T>
void HeadForward(const AttentionStepArgs<T>& args, int64_t head, int64_t count, T* scores) {
  const int64_t head_dim = args.q.dim(1), kv_heads = args.k.dim(0), stride = kv_heads * head_dim;
  const int64_t from = head / (args.q.dim(0) / kv_heads) * head_dim;
  const T* q = args.q.data() + head * head_dim;
  const T scale = 1 / std::sqrt(static_cast<T>(head_dim));
  for (int64_t j = 0; j < count; ++j) {
    const T* key = args.keys.data() + j * stride + from;
    scores[j] = scale * LaneSum<T>(head_dim, [=](int64_t d) { return q[d] * key[d]; });
  }
  const T largest = *std::max_element(scores, scores + count);
  for (int64_t j = 0; j < count; ++j) scores[j] = Exp(scores[j] - largest);
  const T inverse = 1 / LaneSum<T>(count, [=](int64_t j) { return scores[j]; });
  T* y = args.y.data() + head * head_dim;
  std::fill_n(y, head_dim, T(0));
  for (int64_t j = 0; j < count; ++j) {
    const T* value = args.values.data() + j * stride + from;
    const T weight = scores[j] * inverse;
    for (int64_t d = 0; d < head_dim; ++d) y[d] += weight * value[d];
  }
}

template <typename T>
void CpuForward(Arena& arena, const AttentionStepArgs<T>& args) {
  const int64_t heads = args.q.dim(0), window = args.keys.dim(0);
  const Tensor<T> scores = arena.New<T>({heads, window});
  if (arena.device().is_plan()) return;
  const int64_t place = args.place[0];
  std::copy_n(args.k.data(), args.k.size(), args.keys.Slice(place % window, 1).data());
  std::copy_n(args.v.data(), args.v.size(), args.values.Slice(place % window, 1).data());
  const int64_t count = std::min(place + 1, window);
  ParallelFor(heads, MinRows(count * args.q.dim(1)), [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h) HeadForward(args, h, count, scores.data() + h * window);
  });
}

// Counted on the plan device too.
template <typename T>
cuda::AttentionStepParts NewParts(Arena& arena, const AttentionStepArgs<T>& args) {
  const int64_t heads = args.q.dim(0), splits = (args.keys.dim(0) + kSplitKeys - 1) / kSplitKeys;
  return {.values = arena.New<float>({heads, splits, args.q.dim(1)}),
          .sums = arena.New<float>({heads, splits}),
          .largest = arena.New<float>({heads, splits})};
}

}  // namespace

template <typename T>
void AttentionStepForward(Arena& arena, const AttentionStepArgs<T>& args) {
  const OpScope op("AttentionStepForward", args.q, args.k, args.v, args.keys, args.values, args.y);
  CheckShapes(args);
  const Device& device = arena.device();
  const Arena::Scope scope(arena);
  DispatchWithPlan<T>(
      "AttentionStepForward", device, [&]<typename U>() { CpuForward<U>(arena, args); },
      [&]<typename U>() {
        const cuda::AttentionStepParts parts = NewParts(arena, args);
        if (!device.is_plan()) cuda::AttentionStepForward<U>(device, args, parts);
      });
}

void AdvancePlace(Arena& arena, Tensor<int32_t> place) {
  const Device& device = arena.device();
  const OpScope op("AdvancePlace", place, place);
  Dispatch<float>(
      "AdvancePlace", device, [&]<typename>() { ++place[0]; },
      [&]<typename>() { cuda::AdvancePlace(device, place); });
}

template void AttentionStepForward<double>(Arena&, const AttentionStepArgs<double>&);
template void AttentionStepForward<float>(Arena&, const AttentionStepArgs<float>&);
template void AttentionStepForward<Bf16>(Arena&, const AttentionStepArgs<Bf16>&);

}  // namespace hm11
