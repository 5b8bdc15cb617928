// From one projection to heads: the door and the CPU path.
#include "ops/attention_heads.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/door.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

constexpr double kEpsilon = 1e-6;

// Extents of one call.
struct Sizes {
  template <typename T>
  explicit Sizes(const AttentionHeadsArgs<T>& a)
      : rows(a.batch * a.time),
        heads(a.q_gain.dim(0)),
        width(a.qkv.dim(1) / (heads + 2 * KvHeads(a))),
        kv_heads(KvHeads(a)),
        stride(a.qkv.dim(1)) {}
  // k's shape tells how many heads keys have; backward may be without it.
  template <typename T>
  static int64_t KvHeads(const AttentionHeadsArgs<T>& a) {
    return a.k.dim(2);
  }
  int64_t rows, heads, width, kv_heads, stride;
};

// Cosines and sines [time, rope_dims / 2, 2]. Frequencies and angles are rounded to float as the reference's
// are.
template <typename A>
void FillAngles(int64_t time, int64_t rope_dims, double base, A* angles) {
  const int64_t pairs = rope_dims / 2;
  for (int64_t i = 0; i < pairs; ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(rope_dims);
    const A frequency = static_cast<A>(1.0 / std::pow(base, exponent));
    for (int64_t t = 0; t < time; ++t) {
      const A angle = static_cast<A>(t) * frequency;
      angles[(t * pairs + i) * 2] = std::cos(angle);
      angles[(t * pairs + i) * 2 + 1] = std::sin(angle);
    }
  }
}

template <typename T>
T InverseRms(const T* x, int64_t width) {
  const T mean = LaneSum<T>(width, [&](int64_t d) { return x[d] * x[d]; }) / static_cast<T>(width);
  return 1 / std::sqrt(mean + static_cast<T>(kEpsilon));
}

// y = gain * rope(inverse * x).
template <typename T>
void NormAndRotate(const T* x, const T* angles, int64_t pairs, int64_t width, T inverse, T gain, T* y) {
  const T scale = inverse * gain;
  for (int64_t i = 0; i < pairs; ++i) {
    const T c = angles[2 * i], s = angles[2 * i + 1], x1 = scale * x[i], x2 = scale * x[i + pairs];
    y[i] = x1 * c + x2 * s;
    y[i + pairs] = x2 * c - x1 * s;
  }
  for (int64_t d = 2 * pairs; d < width; ++d) y[d] = scale * x[d];
}

// dx of gain * rope(rms(x)); returns the gain's gradient. `rotated_back` is [width] scratch.
template <typename T>
T NormAndRotateBackward(const T* x, const T* dy, const T* angles, int64_t pairs, int64_t width, T gain,
                        T* rotated_back, T* dx) {
  for (int64_t i = 0; i < pairs; ++i) {
    const T c = angles[2 * i], s = angles[2 * i + 1];
    rotated_back[i] = dy[i] * c - dy[i + pairs] * s;
    rotated_back[i + pairs] = dy[i] * s + dy[i + pairs] * c;
  }
  std::copy(dy + 2 * pairs, dy + width, rotated_back + 2 * pairs);
  const T inverse = InverseRms(x, width);
  // Rotations keep dot products: dy . rope(n) is rotated_back . n.
  const T dot = inverse * LaneSum<T>(width, [&](int64_t d) { return rotated_back[d] * x[d]; });
  const T mean = dot * inverse / static_cast<T>(width);
  for (int64_t d = 0; d < width; ++d) dx[d] = gain * inverse * (rotated_back[d] - mean * x[d]);
  return dot;
}

template <typename T>
void CpuForward(const AttentionHeadsArgs<T>& a, Tensor<T> angles) {
  const Sizes n(a);
  const int64_t pairs = a.rope_dims / 2, kv_dim = n.kv_heads * n.width;
  FillAngles<T>(a.time, a.rope_dims, a.rope_base, angles.data());
  const T ve_scale = a.value_embedding.empty() ? T{0} : a.ve_layer_scale[0] * a.ve_scale[0];
  ParallelFor(n.rows, MinRows(n.stride), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* row = a.qkv.data() + r * n.stride;
      const T* angle = angles.data() + r % a.time * pairs * 2;
      for (int64_t h = 0; h < n.heads; ++h) {
        const T* x = row + h * n.width;
        NormAndRotate<T>(x, angle, pairs, n.width, InverseRms(x, n.width), a.q_gain[h],
                         a.q.data() + (r * n.heads + h) * n.width);
      }
      for (int64_t h = 0; h < n.kv_heads; ++h) {
        const T* x = row + (n.heads + h) * n.width;
        NormAndRotate<T>(x, angle, pairs, n.width, InverseRms(x, n.width), T{1},
                         a.k.data() + (r * n.kv_heads + h) * n.width);
      }
      const T* raw = row + (n.heads + n.kv_heads) * n.width;
      T* v = a.v.data() + r * kv_dim;
      for (int64_t d = 0; d < kv_dim; ++d) v[d] = raw[d];
      if (!a.value_embedding.empty()) {
        for (int64_t d = 0; d < kv_dim; ++d) v[d] += ve_scale * a.value_embedding[r * kv_dim + d];
      }
      if (!a.first_v.empty()) {
        for (int64_t d = 0; d < kv_dim; ++d)
          v[d] = a.residual[0] * a.first_v[r * kv_dim + d] + a.residual[1] * v[d];
      }
    }
  });
}

// What a row's value path adds to its sums: of ve_scale, and of the two residual weights.
template <typename T>
void ValueBackward(const AttentionHeadsGradArgs<T>& a, const Sizes& n, int64_t r, T ve_scale, T* sums) {
  const AttentionHeadsArgs<T>& f = a.forward;
  const int64_t kv_dim = n.kv_heads * n.width;
  const T* raw = f.qkv.data() + r * n.stride + (n.heads + n.kv_heads) * n.width;
  const T* dv = a.dv.data() + r * kv_dim;
  T* draw = a.dqkv.data() + r * n.stride + (n.heads + n.kv_heads) * n.width;
  const T* ve = f.value_embedding.empty() ? nullptr : f.value_embedding.data() + r * kv_dim;
  std::copy(dv, dv + kv_dim, draw);
  if (!f.first_v.empty()) {
    const T* first = f.first_v.data() + r * kv_dim;
    T* dfirst = a.dfirst_v.data() + r * kv_dim;
    for (int64_t d = 0; d < kv_dim; ++d) {
      const T own = ve == nullptr ? raw[d] : raw[d] + ve_scale * ve[d];
      sums[1] += dv[d] * first[d];
      sums[2] += dv[d] * own;
      dfirst[d] += f.residual[0] * dv[d];
      draw[d] = f.residual[1] * dv[d];
    }
  }
  if (ve == nullptr) return;
  T* dve = a.dvalue_embedding.data() + r * kv_dim;
  for (int64_t d = 0; d < kv_dim; ++d) {
    sums[0] += draw[d] * ve[d];
    dve[d] = ve_scale * draw[d];
  }
}

// partials: [pieces, heads + 3]: of the gains, and of ValueBackward.
template <typename T>
void CpuBackward(const AttentionHeadsGradArgs<T>& a, Tensor<T> angles, Tensor<T> partials) {
  const AttentionHeadsArgs<T>& f = a.forward;
  const Sizes n(f);
  const int64_t pairs = f.rope_dims / 2, columns = n.heads + 3;
  FillAngles<T>(f.time, f.rope_dims, f.rope_base, angles.data());
  const T ve_scale = f.value_embedding.empty() ? T{0} : f.ve_layer_scale[0] * f.ve_scale[0];
  ForPieces(n.rows, MinRows(n.stride), [&](int64_t piece, int64_t begin, int64_t end) {
    T* const sums = partials.data() + piece * columns;
    std::fill(sums, sums + columns, T{0});
    std::vector<T> scratch(static_cast<size_t>(n.width));
    for (int64_t r = begin; r < end; ++r) {
      const T* row = f.qkv.data() + r * n.stride;
      T* drow = a.dqkv.data() + r * n.stride;
      const T* angle = angles.data() + r % f.time * pairs * 2;
      for (int64_t h = 0; h < n.heads; ++h) {
        sums[h] +=
            NormAndRotateBackward<T>(row + h * n.width, a.dq.data() + (r * n.heads + h) * n.width, angle,
                                     pairs, n.width, f.q_gain[h], scratch.data(), drow + h * n.width);
      }
      for (int64_t h = 0; h < n.kv_heads; ++h) {
        const int64_t at = (n.heads + h) * n.width;
        NormAndRotateBackward<T>(row + at, a.dk.data() + (r * n.kv_heads + h) * n.width, angle, pairs,
                                 n.width, T{1}, scratch.data(), drow + at);
      }
      ValueBackward(a, n, r, ve_scale, sums + n.heads);
    }
  });
  std::vector<T> totals(static_cast<size_t>(columns));
  AddPartials(partials.data(), PieceCount(n.rows, MinRows(n.stride)), columns, columns, totals.data());
  for (int64_t h = 0; h < n.heads; ++h) a.dq_gain[h] += totals[static_cast<size_t>(h)];
  const T* value_sums = totals.data() + n.heads;
  if (!f.value_embedding.empty()) {
    a.dve_layer_scale[0] += value_sums[0] * f.ve_scale[0];
    a.dve_scale[0] += value_sums[0] * f.ve_layer_scale[0];
  }
  if (!f.first_v.empty()) {
    a.dresidual[0] += value_sums[1];
    a.dresidual[1] += value_sums[2];
  }
}

template <typename T>
void CheckOperands(const AttentionHeadsArgs<T>& a) {
  HM_CHECK_EQ(a.qkv.rank(), 2);
  HM_CHECK_EQ(a.k.rank(), 4);
  HM_CHECK_EQ(a.qkv.dim(0), a.batch * a.time);
  const Sizes n(a);
  HM_CHECK_EQ(a.qkv.dim(1), (n.heads + 2 * n.kv_heads) * n.width);
  HM_CHECK_EQ(a.k.shape(), (Shape{a.batch, a.time, n.kv_heads, n.width}));
  HM_CHECK_EQ(a.rope_dims % 2, 0);
  HM_CHECK_LE(a.rope_dims, n.width);
  HM_CHECK_LE(n.width, 128);
  if (!a.value_embedding.empty()) {
    HM_CHECK_EQ(a.value_embedding.size(), a.k.size());
    HM_CHECK_EQ(a.ve_layer_scale.size(), 1);
    HM_CHECK_EQ(a.ve_scale.size(), 1);
  }
  if (!a.first_v.empty()) {
    HM_CHECK_EQ(a.first_v.size(), a.k.size());
    HM_CHECK_EQ(a.residual.size(), 2);
  }
}

}  // namespace

double EffectiveRopeBase(double base, int64_t rope_dims, int64_t time) {
  if (time <= 1024 || rope_dims <= 2) return base;
  const double dims = static_cast<double>(rope_dims);
  return base * std::pow(static_cast<double>(time) / 1024.0, dims / (dims - 2.0));
}

template <typename T>
void AttentionHeadsForward(Arena& arena, const AttentionHeadsArgs<T>& args) {
  CheckOperands(args);
  HM_CHECK_EQ(args.v.shape(), args.k.shape());
  HM_CHECK_EQ(args.q.size(), args.qkv.dim(0) * args.q_gain.dim(0) * args.k.dim(3));
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<Accum<T>> angles = arena.New<Accum<T>>({args.time, args.rope_dims / 2, 2});
  if (device.is_plan() || args.qkv.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::AttentionHeadsForward(device, args, angles);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuForward(args, angles);
  }
  FailNoHalf<T>("AttentionHeadsForward", device);
}

template <typename T>
void AttentionHeadsBackward(Arena& arena, const AttentionHeadsGradArgs<T>& args) {
  const AttentionHeadsArgs<T>& f = args.forward;
  CheckOperands(f);
  HM_CHECK_EQ(args.dqkv.shape(), f.qkv.shape());
  HM_CHECK_EQ(args.dk.shape(), f.k.shape());
  HM_CHECK_EQ(args.dv.shape(), f.k.shape());
  HM_CHECK_EQ(args.dq_gain.shape(), f.q_gain.shape());
  if (!f.value_embedding.empty()) HM_CHECK_EQ(args.dvalue_embedding.size(), f.value_embedding.size());
  if (!f.first_v.empty()) HM_CHECK_EQ(args.dfirst_v.size(), f.first_v.size());
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<Accum<T>> angles = arena.New<Accum<T>>({f.time, f.rope_dims / 2, 2});
  const Tensor<Accum<T>> partials =
      NewPartials<Accum<T>>(arena, std::max<int64_t>(1, f.qkv.dim(0)), f.q_gain.dim(0) + 3 * f.k.dim(2));
  if (device.is_plan() || f.qkv.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::AttentionHeadsBackward(device, args, angles, partials);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuBackward(args, angles, partials);
  }
  FailNoHalf<T>("AttentionHeadsBackward", device);
}

template void AttentionHeadsForward<double>(Arena&, const AttentionHeadsArgs<double>&);
template void AttentionHeadsForward<float>(Arena&, const AttentionHeadsArgs<float>&);
template void AttentionHeadsForward<Bf16>(Arena&, const AttentionHeadsArgs<Bf16>&);
template void AttentionHeadsBackward<double>(Arena&, const AttentionHeadsGradArgs<double>&);
template void AttentionHeadsBackward<float>(Arena&, const AttentionHeadsGradArgs<float>&);
template void AttentionHeadsBackward<Bf16>(Arena&, const AttentionHeadsGradArgs<Bf16>&);

}  // namespace hm11
