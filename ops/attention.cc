// Attention: contract, and the CPU path: tiles of scores between products of OpenBLAS, heads and tiles spread
// over threads.
#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/check.h"
#include "core/dispatch.h"
#include "core/fast_math.h"
#include "ops/attention_cuda.h"
#include "ops/product.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

template <typename T>
void CheckShapes(const AttentionArgs<T>& args) {
  HM_CHECK_EQ(args.q.rank(), 4);
  HM_CHECK_EQ(args.k.rank(), 4);
  const int64_t batch = args.q.dim(0), time = args.q.dim(1), heads = args.q.dim(2);
  HM_CHECK_EQ(args.k.shape(), (Shape{batch, time, args.k.dim(2), args.q.dim(3)}));
  HM_CHECK_EQ(args.v.shape(), args.k.shape());
  HM_CHECK_EQ(args.y.shape(), args.q.shape());
  HM_CHECK_EQ(args.log_sum_exp.shape(), (Shape{batch, heads, time}));
  HM_CHECK_GE(args.k.dim(2), int64_t{1});
  HM_CHECK_EQ(heads % args.k.dim(2), int64_t{0});
}

// ---- The CPU path.

constexpr int64_t kQueries = 64;  // rows of a tile of scores
constexpr int64_t kKeys = 256;    // its columns

// One head of one batch row: [time, head_dim].
template <typename T>
Columns<T> HeadOf(const Tensor<T>& tensor, int64_t b, int64_t h) {
  const int64_t time = tensor.dim(1), heads = tensor.dim(2), head_dim = tensor.dim(3);
  return Columns<T>(tensor.data() + (b * time * heads + h) * head_dim, time, head_dim, heads * head_dim);
}

template <typename T>
T MaximumOf(const T* row, int64_t count) {
  constexpr int kLanes = 16;
  T lanes[kLanes];
  std::fill(lanes, lanes + kLanes, -std::numeric_limits<T>::infinity());
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane)
      lanes[lane] = row[i + lane] > lanes[lane] ? row[i + lane] : lanes[lane];
  }
  for (; i < count; ++i) lanes[0] = row[i] > lanes[0] ? row[i] : lanes[0];
  return *std::max_element(lanes, lanes + kLanes);
}

// How many of the keys [key, key + keys) position t may look at.
inline int64_t Visible(int64_t t, int64_t key, int64_t keys) {
  return std::clamp<int64_t>(t + 1 - key, 0, keys);
}

// scores[queries, keys] = scale q k^T of rows [query, ...) and [key, ...).
template <typename T>
void Scores(Columns<const T> q, int64_t query, int64_t queries, Columns<const T> k, int64_t key, int64_t keys,
            double scale, T* scores) {
  Multiply<T>({.rows = queries,
               .cols = keys,
               .inner = q.cols(),
               .a = q.row(query),
               .a_stride = q.stride(),
               .b = k.row(key),
               .b_stride = k.stride(),
               .transpose_b = true,
               .c = scores,
               .c_stride = keys,
               .alpha = static_cast<T>(scale)});
}

// to (+)= tile [queries, keys] times rows [key, key + keys) of x.
template <typename T>
void TileTimes(const T* tile, int64_t queries, int64_t keys, Columns<const T> x, int64_t key, bool add, T* to,
               int64_t to_stride) {
  Multiply<T>({.rows = queries,
               .cols = x.cols(),
               .inner = keys,
               .a = tile,
               .a_stride = keys,
               .b = x.row(key),
               .b_stride = x.stride(),
               .c = to,
               .c_stride = to_stride,
               .beta = static_cast<T>(add ? 1 : 0)});
}

// Rows [key, key + keys) of `to` += the tile's transpose times rows [query, query + queries) of x.
template <typename T>
void AddTransposedTileTimes(const T* tile, int64_t queries, int64_t keys, Columns<const T> x, int64_t query,
                            Columns<T> to, int64_t key) {
  Multiply<T>({.rows = keys,
               .cols = x.cols(),
               .inner = queries,
               .a = tile,
               .a_stride = keys,
               .transpose_a = true,
               .b = x.row(query),
               .b_stride = x.stride(),
               .c = to.row(key),
               .c_stride = to.stride(),
               .beta = 1});
}

template <typename T>
struct ForwardHead {
  Columns<const T> q, k, v;
  Columns<T> y;
  T* log_sum_exp;  // [time]
  double scale;
};

// Replaces a row of scores by exp(score - maximum), zero where the key is not visible, and carries the row's
// maximum, sum and output from the keys before.
template <typename T>
void SoftmaxRow(T* row, int64_t keys, int64_t visible, T& maximum, T& sum, T* y, int64_t head_dim) {
  const T old = maximum;
  if (visible > 0) maximum = std::max(maximum, MaximumOf(row, visible));
  const T shift = maximum;
  for (int64_t j = 0; j < visible; ++j) row[j] = FastExp(row[j] - shift);
  std::fill(row + visible, row + keys, T(0));
  const T here = LaneSum<T>(visible, [row](int64_t j) { return row[j]; });
  if (old == -std::numeric_limits<T>::infinity()) {
    sum = here;
    return;
  }
  const T correction = std::exp(old - shift);
  sum = sum * correction + here;
  for (int64_t d = 0; d < head_dim; ++d) y[d] *= correction;
}

template <typename T>
void ForwardTile(const ForwardHead<T>& head, int64_t query, T* tile) {
  const int64_t queries = std::min(kQueries, head.q.rows() - query), head_dim = head.q.cols();
  T maximum[kQueries], sum[kQueries] = {};
  std::fill(maximum, maximum + kQueries, -std::numeric_limits<T>::infinity());
  for (int64_t key = 0; key < query + queries; key += kKeys) {
    const int64_t keys = std::min(kKeys, query + queries - key);
    Scores(head.q, query, queries, head.k, key, keys, head.scale, tile);
    for (int64_t r = 0; r < queries; ++r) {
      SoftmaxRow(tile + r * keys, keys, Visible(query + r, key, keys), maximum[r], sum[r],
                 head.y.row(query + r), head_dim);
    }
    TileTimes(tile, queries, keys, head.v, key, /*add=*/key > 0, head.y.row(query), head.y.stride());
  }
  for (int64_t r = 0; r < queries; ++r) {
    const T inverse = 1 / sum[r];
    T* y = head.y.row(query + r);
    for (int64_t d = 0; d < head_dim; ++d) y[d] *= inverse;
    head.log_sum_exp[query + r] = maximum[r] + std::log(sum[r]);
  }
}

template <typename T>
void CpuForward(Arena& arena, const AttentionArgs<T>& args) {
  const int64_t batch = args.q.dim(0), time = args.q.dim(1), heads = args.q.dim(2), head_dim = args.q.dim(3);
  const int64_t group = heads / args.k.dim(2);
  const int64_t tiles = (time + kQueries - 1) / kQueries;
  const int64_t units = batch * heads * tiles;
  const Tensor<T> scratch = arena.New<T>({ChunkCount(units, 1), kQueries * kKeys});
  if (arena.device().is_plan()) return;
  const OneThreadPerProduct one_thread;
  ForChunks(units, 1, [&](int64_t chunk, int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t b = unit / (heads * tiles), h = unit / tiles % heads;
      const ForwardHead<T> head = {.q = HeadOf(args.q, b, h),
                                   .k = HeadOf(args.k, b, h / group),
                                   .v = HeadOf(args.v, b, h / group),
                                   .y = HeadOf(args.y, b, h),
                                   .log_sum_exp = args.log_sum_exp.data() + (b * heads + h) * time,
                                   .scale = 1 / std::sqrt(static_cast<double>(head_dim))};
      ForwardTile(head, unit % tiles * kQueries, scratch.data() + chunk * kQueries * kKeys);
    }
  });
}

template <typename T>
struct BackwardHead {
  Columns<const T> q, k, v, y, dy;
  Columns<T> dq, dk, dv;
  const T* log_sum_exp;
  double scale;
};

template <typename T>
void BackwardTile(const BackwardHead<T>& head, int64_t query, T* p, T* ds) {
  const int64_t queries = std::min(kQueries, head.q.rows() - query), head_dim = head.q.cols();
  T delta[kQueries];
  for (int64_t r = 0; r < queries; ++r) {
    const T* dy = head.dy.row(query + r);
    const T* y = head.y.row(query + r);
    delta[r] = LaneSum<T>(head_dim, [&](int64_t d) { return dy[d] * y[d]; });
  }
  const T scale = static_cast<T>(head.scale);
  for (int64_t key = 0; key < query + queries; key += kKeys) {
    const int64_t keys = std::min(kKeys, query + queries - key);
    Scores(head.q, query, queries, head.k, key, keys, head.scale, p);
    Scores(head.dy, query, queries, head.v, key, keys, 1.0, ds);
    for (int64_t r = 0; r < queries; ++r) {
      const int64_t visible = Visible(query + r, key, keys);
      const T log_sum_exp = head.log_sum_exp[query + r], delta_r = delta[r];
      T* p_row = p + r * keys;
      T* ds_row = ds + r * keys;
      for (int64_t j = 0; j < visible; ++j) {
        p_row[j] = FastExp(p_row[j] - log_sum_exp);
        ds_row[j] = p_row[j] * (ds_row[j] - delta_r) * scale;
      }
      std::fill(p_row + visible, p_row + keys, T(0));
      std::fill(ds_row + visible, ds_row + keys, T(0));
    }
    AddTransposedTileTimes(p, queries, keys, head.dy, query, head.dv, key);
    AddTransposedTileTimes(ds, queries, keys, head.q, query, head.dk, key);
    TileTimes(ds, queries, keys, head.k, key, /*add=*/key > 0, head.dq.row(query), head.dq.stride());
  }
}

// A kv head with all the query heads that read it is one thread's: dk and dv then have one writer.
template <typename T>
void CpuBackward(Arena& arena, const AttentionGradArgs<T>& args) {
  const AttentionArgs<T>& forward = args.forward;
  const int64_t batch = args.dq.dim(0), time = args.dq.dim(1), heads = args.dq.dim(2);
  const int64_t kv_heads = args.dk.dim(2), group = heads / kv_heads;
  const int64_t units = batch * kv_heads;
  const Tensor<T> scratch = arena.New<T>({ChunkCount(units, 1), 2, kQueries * kKeys});
  if (arena.device().is_plan()) return;
  std::fill(args.dk.begin(), args.dk.end(), T(0));
  std::fill(args.dv.begin(), args.dv.end(), T(0));
  const OneThreadPerProduct one_thread;
  ForChunks(units, 1, [&](int64_t chunk, int64_t begin, int64_t end) {
    T* p = scratch.data() + chunk * 2 * kQueries * kKeys;
    for (int64_t item = begin * group; item < end * group; ++item) {
      const int64_t b = item / heads, h = item % heads;
      const Tensor<const T> y = forward.y;
      const BackwardHead<T> head = {.q = HeadOf(forward.q, b, h),
                                    .k = HeadOf(forward.k, b, h / group),
                                    .v = HeadOf(forward.v, b, h / group),
                                    .y = HeadOf(y, b, h),
                                    .dy = HeadOf(args.dy, b, h),
                                    .dq = HeadOf(args.dq, b, h),
                                    .dk = HeadOf(args.dk, b, h / group),
                                    .dv = HeadOf(args.dv, b, h / group),
                                    .log_sum_exp = forward.log_sum_exp.data() + (b * heads + h) * time,
                                    .scale = 1 / std::sqrt(static_cast<double>(args.dq.dim(3)))};
      for (int64_t query = 0; query < time; query += kQueries)
        BackwardTile(head, query, p, p + kQueries * kKeys);
    }
  });
}

// Of forward's two products: half of those of the full square, which is what causal attention needs.
template <typename T>
double CausalOperations(const Tensor<const T>& q) {
  return 2.0 * static_cast<double>(q.size() * q.dim(1));
}

}  // namespace

template <typename T>
void AttentionForward(Arena& arena, const AttentionArgs<T>& args) {
  CheckShapes(args);
  const OpScope op({"AttentionForward", OpKind::kAttention, CausalOperations(args.q)}, args.q, args.k, args.v,
                   args.y, args.log_sum_exp);
  const Device& device = arena.device();
  if (args.q.empty()) return;
  const Arena::Scope scope(arena);
  DispatchWithPlan<T>(
      "AttentionForward", device, [&]<typename U>() { CpuForward<U>(arena, args); },
      [&]<typename U>() {
        if (!device.is_plan()) cuda::AttentionForward<U>(device, args);
      });
}

template <typename T>
void AttentionBackward(Arena& arena, const AttentionGradArgs<T>& args) {
  const AttentionArgs<T>& forward = args.forward;
  CheckShapes(forward);
  HM_CHECK_EQ(args.dy.shape(), forward.q.shape());
  HM_CHECK_EQ(args.dq.shape(), forward.q.shape());
  HM_CHECK_EQ(args.dk.shape(), forward.k.shape());
  HM_CHECK_EQ(args.dv.shape(), forward.k.shape());
  const OpScope op({"AttentionBackward", OpKind::kAttention, 2.5 * CausalOperations(forward.q)}, forward.q,
                   forward.k, forward.v, forward.y, forward.log_sum_exp, args.dy, args.dq, args.dk, args.dv);
  const Device& device = arena.device();
  if (args.dq.empty()) return;
  const Arena::Scope scope(arena);
  DispatchWithPlan<T>(
      "AttentionBackward", device, [&]<typename U>() { CpuBackward<U>(arena, args); },
      [&]<typename U>() {
        const Tensor<float> delta = cuda::NewDelta<U>(arena, forward);
        if (!device.is_plan()) cuda::AttentionBackward<U>(device, args, delta);
      });
}

#define HM11_INSTANTIATE(T)                                           \
  template void AttentionForward<T>(Arena&, const AttentionArgs<T>&); \
  template void AttentionBackward<T>(Arena&, const AttentionGradArgs<T>&)
HM11_INSTANTIATE(double);
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
#undef HM11_INSTANTIATE

}  // namespace hm11
