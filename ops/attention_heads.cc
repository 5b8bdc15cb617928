// Attention heads: the choice of a device and the CPU path.
#include "ops/attention_heads.h"

#include <cmath>

#include "core/dispatch.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

struct Sizes {
  int64_t rows, time, heads, kv_heads, head_dim, half;  // half: pairs that RoPE turns
  int64_t width() const { return (heads + 2 * kv_heads) * head_dim; }
  int64_t sums() const { return heads + 3; }  // dq_gain, then the three of SumOf
};

enum SumOf { kValueEmbedding, kFirstV, kRawV };  // of dv with each

template <typename T>
Sizes SizesOf(const AttentionHeadsArgs<T>& args, const Shape& q, const Shape& k) {
  return {.rows = args.batch * args.time,
          .time = args.time,
          .heads = q[2],
          .kv_heads = k[2],
          .head_dim = q[3],
          .half = args.rope_dims / 2};
}

// q, k and v, or their gradients.
template <typename T>
void CheckHeads(const AttentionHeadsArgs<T>& args, const Shape& q, const Shape& k, const Shape& v) {
  HM_CHECK_EQ(q.rank(), 4);
  HM_CHECK_EQ(k.rank(), 4);
  HM_CHECK_EQ(q, (Shape{args.batch, args.time, q[2], q[3]}));
  HM_CHECK_EQ(k, (Shape{args.batch, args.time, k[2], q[3]}));
  HM_CHECK_EQ(v, k);
  HM_CHECK_EQ(args.q_gain.shape(), (Shape{q[2]}));
  HM_CHECK_EQ(args.qkv.shape(), (Shape{args.batch * args.time, (q[2] + 2 * k[2]) * q[3]}));
  HM_CHECK_EQ(args.rope_dims % 2, int64_t{0});
  HM_CHECK_LE(args.rope_dims, q[3]);
  if (!args.value_embedding.empty()) {
    HM_CHECK_EQ(args.value_embedding.shape(), (Shape{args.batch * args.time, k[2] * q[3]}));
    HM_CHECK_EQ(args.ve_layer_scale.size(), int64_t{1});
    HM_CHECK_EQ(args.ve_scale.size(), int64_t{1});
  }
  if (!args.first_v.empty()) {
    HM_CHECK_EQ(args.first_v.shape(), k);
    HM_CHECK_EQ(args.residual.shape(), (Shape{2}));
  }
}

// ---- The CPU path.

// Cosines of every position's angles, then their sines.
template <typename T>
void FillTable(const AttentionHeadsArgs<T>& args, Tensor<T> table) {
  const int64_t half = args.rope_dims / 2, first = args.place.empty() ? 0 : args.place[0];
  T* cosines = table.data();
  T* sines = cosines + args.time * half;
  ParallelFor(args.time, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < half; ++i) {
      const double frequency =
          std::pow(args.rope_base, -static_cast<double>(2 * i) / static_cast<double>(args.rope_dims));
      for (int64_t t = begin; t < end; ++t) {
        const double angle = static_cast<double>(first + t) * frequency;
        cosines[t * half + i] = static_cast<T>(std::cos(angle));
        sines[t * half + i] = static_cast<T>(std::sin(angle));
      }
    }
  });
}

// One position's cosines and sines, and the turn by its angles, or back.
template <typename T>
struct Rotation {
  const T* cosines;
  const T* sines;
  int64_t half;

  Rotation(Tensor<T> table, int64_t t)
      : cosines(table.data() + t * table.dim(2)),
        sines(cosines + table.dim(1) * table.dim(2)),
        half(table.dim(2)) {}

  void Turn(T* x) const { TurnBy(x, T(1)); }
  void TurnBack(T* x) const { TurnBy(x, T(-1)); }

 private:
  void TurnBy(T* x, T sign) const {
    for (int64_t i = 0; i < half; ++i) {
      const T x1 = x[i], x2 = x[i + half], sine = sign * sines[i];
      x[i] = x1 * cosines[i] + x2 * sine;
      x[i + half] = x2 * cosines[i] - x1 * sine;
    }
  }
};

template <typename T>
T InverseRms(const T* x, int64_t head_dim) {
  const T squares = LaneSum<T>(head_dim, [x](int64_t d) { return x[d] * x[d]; });
  return 1 / std::sqrt(squares / static_cast<T>(head_dim) + static_cast<T>(1e-6));
}

template <typename T>
void NormAndTurn(const T* x, T gain, const Rotation<T>& rotation, int64_t head_dim, T* y) {
  const T factor = gain * InverseRms(x, head_dim);
  for (int64_t d = 0; d < head_dim; ++d) y[d] = factor * x[d];
  rotation.Turn(y);
}

// The gradient of NormAndTurn; returns the gain's.
template <typename T>
T NormAndTurnBackward(const T* x, T gain, const Rotation<T>& rotation, int64_t head_dim, const T* dy, T* dx) {
  std::copy(dy, dy + head_dim, dx);
  rotation.TurnBack(dx);
  const T inverse_rms = InverseRms(x, head_dim);
  const T dgain = inverse_rms * LaneSum<T>(head_dim, [=](int64_t d) { return dx[d] * x[d]; });
  const T along = inverse_rms * inverse_rms * gain * dgain / static_cast<T>(head_dim);
  for (int64_t d = 0; d < head_dim; ++d) dx[d] = inverse_rms * gain * dx[d] - along * x[d];
  return dgain;
}

template <typename T>
T ValueEmbeddingScale(const AttentionHeadsArgs<T>& args) {
  return args.value_embedding.empty() ? T(0) : args.ve_layer_scale[0] * args.ve_scale[0];
}

template <typename T>
void CpuForward(Arena& arena, const AttentionHeadsArgs<T>& args) {
  const Sizes s = SizesOf(args, args.q.shape(), args.k.shape());
  const Tensor<T> table = arena.New<T>({2, s.time, s.half});
  if (arena.device().is_plan()) return;
  FillTable(args, table);
  const T ve_scale = ValueEmbeddingScale(args);
  ParallelFor(s.rows, MinRows(s.width()), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const Rotation<T> rotation(table, row % s.time);
      const T* x = args.qkv.data() + row * s.width();
      for (int64_t h = 0; h < s.heads; ++h, x += s.head_dim) {
        NormAndTurn(x, args.q_gain[h], rotation, s.head_dim,
                    args.q.data() + (row * s.heads + h) * s.head_dim);
      }
      for (int64_t h = 0; h < s.kv_heads; ++h, x += s.head_dim) {
        NormAndTurn(x, T(1), rotation, s.head_dim, args.k.data() + (row * s.kv_heads + h) * s.head_dim);
      }
      const int64_t values = s.kv_heads * s.head_dim;
      T* v = args.v.data() + row * values;
      std::copy(x, x + values, v);
      if (!args.value_embedding.empty()) {
        const T* embedding = args.value_embedding.data() + row * values;
        for (int64_t i = 0; i < values; ++i) v[i] += ve_scale * embedding[i];
      }
      if (!args.first_v.empty()) {
        const T* first = args.first_v.data() + row * values;
        const T of_first = args.residual[0], of_own = args.residual[1];
        for (int64_t i = 0; i < values; ++i) v[i] = of_first * first[i] + of_own * v[i];
      }
    }
  });
}

// One row of v's part; adds to sums[SumOf].
template <typename T>
void ValuesBackward(const AttentionHeadsGradArgs<T>& grad, int64_t row, const Sizes& s, T ve_scale, T* sums) {
  const AttentionHeadsArgs<T>& args = grad.forward;
  const int64_t values = s.kv_heads * s.head_dim;
  const T* x = args.qkv.data() + (row + 1) * s.width() - values;
  const T* dv = grad.dv.data() + row * values;
  T* dx = grad.dqkv.data() + (row + 1) * s.width() - values;
  std::copy(dv, dv + values, dx);
  const T* embedding = args.value_embedding.empty() ? nullptr : args.value_embedding.data() + row * values;
  if (!args.first_v.empty()) {
    const T* first = args.first_v.data() + row * values;
    T* dfirst = grad.dfirst_v.data() + row * values;
    const T of_first = args.residual[0], of_own = args.residual[1];
    sums[kFirstV] += LaneSum<T>(values, [=](int64_t i) { return dv[i] * first[i]; });
    sums[kRawV] += LaneSum<T>(values, [=](int64_t i) { return dv[i] * x[i]; });
    if (embedding != nullptr) {
      sums[kRawV] += ve_scale * LaneSum<T>(values, [=](int64_t i) { return dv[i] * embedding[i]; });
    }
    for (int64_t i = 0; i < values; ++i) {
      dfirst[i] += of_first * dv[i];
      dx[i] *= of_own;
    }
  }
  if (embedding != nullptr) {
    T* dembedding = grad.dvalue_embedding.data() + row * values;
    sums[kValueEmbedding] += LaneSum<T>(values, [=](int64_t i) { return dx[i] * embedding[i]; });
    for (int64_t i = 0; i < values; ++i) dembedding[i] = ve_scale * dx[i];
  }
}

template <typename T>
void CpuBackward(Arena& arena, const AttentionHeadsGradArgs<T>& grad) {
  const AttentionHeadsArgs<T>& args = grad.forward;
  const Sizes s = SizesOf(args, grad.dq.shape(), grad.dk.shape());
  const int64_t min_rows = MinRows(s.width()), chunks = ChunkCount(s.rows, min_rows);
  const Tensor<T> table = arena.New<T>({2, s.time, s.half});
  const Tensor<T> partials = arena.NewZero<T>({chunks, s.sums()});
  const Tensor<T> totals = arena.NewZero<T>({s.sums()});
  if (arena.device().is_plan()) return;
  FillTable(args, table);
  const T ve_scale = ValueEmbeddingScale(args);
  ForChunks(s.rows, min_rows, [&](int64_t chunk, int64_t begin, int64_t end) {
    T* sums = partials.data() + chunk * s.sums();
    for (int64_t row = begin; row < end; ++row) {
      const Rotation<T> rotation(table, row % s.time);
      const T* x = args.qkv.data() + row * s.width();
      T* dx = grad.dqkv.data() + row * s.width();
      for (int64_t h = 0; h < s.heads; ++h, x += s.head_dim, dx += s.head_dim) {
        sums[h] += NormAndTurnBackward(x, args.q_gain[h], rotation, s.head_dim,
                                       grad.dq.data() + (row * s.heads + h) * s.head_dim, dx);
      }
      for (int64_t h = 0; h < s.kv_heads; ++h, x += s.head_dim, dx += s.head_dim) {
        NormAndTurnBackward(x, T(1), rotation, s.head_dim,
                            grad.dk.data() + (row * s.kv_heads + h) * s.head_dim, dx);
      }
      ValuesBackward(grad, row, s, ve_scale, sums + s.heads);
    }
  });
  AddPartials(partials.data(), chunks, s.sums(), s.sums(), totals.data());
  for (int64_t h = 0; h < s.heads; ++h) grad.dq_gain[h] += totals[h];
  const T* sums = totals.data() + s.heads;
  if (!args.value_embedding.empty()) {
    grad.dve_layer_scale[0] += sums[kValueEmbedding] * args.ve_scale[0];
    grad.dve_scale[0] += sums[kValueEmbedding] * args.ve_layer_scale[0];
  }
  if (!args.first_v.empty()) {
    grad.dresidual[0] += sums[kFirstV];
    grad.dresidual[1] += sums[kRawV];
  }
}

}  // namespace

double EffectiveRopeBase(double base, int64_t rope_dims, int64_t length, int64_t time) {
  if (time <= length || rope_dims <= 2) return base;  // One pair turns by t whatever the base.
  const double dims = static_cast<double>(rope_dims);
  return base * std::pow(static_cast<double>(time) / static_cast<double>(length), dims / (dims - 2));
}

template <typename T>
void AttentionHeadsForward(Arena& arena, const AttentionHeadsArgs<T>& args) {
  const OpScope op("AttentionHeadsForward", args.qkv, args.q_gain, args.value_embedding, args.ve_layer_scale,
                   args.first_v, args.residual, args.q, args.k, args.v);
  CheckHeads(args, args.q.shape(), args.k.shape(), args.v.shape());
  const Device& device = arena.device();
  if (args.qkv.empty()) return;
  const Arena::Scope scope(arena);
  DispatchWithPlan<T>(
      "AttentionHeadsForward", device, [&]<typename U>() { CpuForward<U>(arena, args); },
      [&]<typename U>() {
        const Tensor<float> table = arena.New<float>({2, args.time, args.rope_dims / 2});
        if (!device.is_plan()) cuda::AttentionHeadsForward<U>(device, args, table);
      });
}

template <typename T>
void AttentionHeadsBackward(Arena& arena, const AttentionHeadsGradArgs<T>& args) {
  const OpScope op("AttentionHeadsBackward", args.forward.qkv, args.forward.q_gain,
                   args.forward.value_embedding, args.forward.ve_layer_scale, args.forward.first_v,
                   args.forward.residual, args.dq, args.dk, args.dv, args.dqkv, args.dvalue_embedding,
                   args.dfirst_v, args.dfirst_v);
  const AttentionHeadsArgs<T>& forward = args.forward;
  CheckHeads(forward, args.dq.shape(), args.dk.shape(), args.dv.shape());
  HM_CHECK_EQ(args.dqkv.shape(), forward.qkv.shape());
  HM_CHECK_EQ(args.dq_gain.shape(), forward.q_gain.shape());
  HM_CHECK_EQ(args.dvalue_embedding.shape(), forward.value_embedding.shape());
  HM_CHECK_EQ(args.dfirst_v.shape(), forward.first_v.shape());
  const Device& device = arena.device();
  if (forward.qkv.empty()) return;
  const Arena::Scope scope(arena);
  DispatchWithPlan<T>(
      "AttentionHeadsBackward", device, [&]<typename U>() { CpuBackward<U>(arena, args); },
      [&]<typename U>() {
        const Tensor<float> table = arena.New<float>({2, forward.time, forward.rope_dims / 2});
        const auto partials = NewPartials<float>(arena, forward.batch * forward.time, args.dq.dim(2) + 3);
        if (!device.is_plan()) cuda::AttentionHeadsBackward<U>(device, args, table, partials);
      });
}

#define HM11_INSTANTIATE(T)                                                     \
  template void AttentionHeadsForward<T>(Arena&, const AttentionHeadsArgs<T>&); \
  template void AttentionHeadsBackward<T>(Arena&, const AttentionHeadsGradArgs<T>&)
HM11_INSTANTIATE(double);
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
#undef HM11_INSTANTIATE

}  // namespace hm11
