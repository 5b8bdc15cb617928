// Residual norm: the choice of a device and the CPU path.
#include "ops/residual_norm.h"

#include <algorithm>
#include <cmath>

#include "core/dispatch.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

template <typename T>
void Check(const ResidualNormArgs<T>& a) {
  HM_CHECK_EQ(a.x.rank(), 2);
  const Shape& shape = a.x.shape();
  const Shape vector = {shape[1]};
  HM_CHECK_SHAPE_IF_THERE(a.branch, shape);
  HM_CHECK_SHAPE_IF_THERE(a.skip, shape);
  HM_CHECK_SHAPE_IF_THERE(a.x0, shape);
  HM_CHECK_SHAPE_IF_THERE(a.y, shape);
  HM_CHECK_SHAPE_IF_THERE(a.u, shape);
  HM_CHECK_SHAPE_IF_THERE(a.normed, shape);
  HM_CHECK_EQ(a.branch.empty(), a.branch_scale.empty());
  if (!a.branch.empty() && a.branch_scale.size() != 1) HM_CHECK_EQ(a.branch_scale.shape(), vector);
  HM_CHECK_EQ(a.skip.empty(), a.skip_weight.empty());
  if (!a.skip.empty()) HM_CHECK_EQ(a.skip_weight.shape(), vector);
  HM_CHECK_EQ(a.x0.empty(), a.mix.empty());
  if (!a.x0.empty()) HM_CHECK_EQ(a.mix.shape(), (Shape{2, shape[1]}));
  HM_CHECK_EQ(a.normed.empty(), a.rstd.empty());
  if (!a.normed.empty()) HM_CHECK_EQ(a.rstd.shape(), Shape{shape[0]});
}

template <typename T>
void CheckGrad(const ResidualNormGradArgs<T>& g) {
  const ResidualNormArgs<T>& a = g.forward;
  Check(a);
  const Shape& shape = a.x.shape();
  HM_CHECK_EQ(g.dx.shape(), shape);
  HM_CHECK_EQ(g.dnormed.empty(), a.normed.empty());
  if (!a.normed.empty()) HM_CHECK_EQ(g.dnormed.shape(), shape);
  HM_CHECK_SHAPE_IF_THERE(g.du, shape);
  HM_CHECK_SHAPE_IF_THERE(g.dy, shape);
  HM_CHECK_EQ(g.dbranch.shape(), a.branch.shape());
  HM_CHECK_EQ(g.dbranch_scale.shape(), a.branch_scale.shape());
  HM_CHECK_EQ(g.dskip.shape(), a.skip.shape());
  HM_CHECK_EQ(g.dskip_weight.shape(), a.skip_weight.shape());
  HM_CHECK_EQ(g.dx0.shape(), a.x0.shape());
  HM_CHECK(g.dx0.data() == nullptr || g.dx0.data() != g.dskip.data());
  HM_CHECK_EQ(g.dmix.shape(), a.mix.shape());
  if (!a.x0.empty()) HM_CHECK(!a.y.empty());
  const bool u_is_x = a.branch.empty() && a.skip.empty() && a.x0.empty();
  HM_CHECK(!a.y.empty() || !a.u.empty() || u_is_x || a.normed.empty());
}

// Row `index` of a [rows, dim] tensor, null when that is absent.
template <typename T>
T* Row(const Tensor<T>& tensor, int64_t index) {
  return tensor.empty() ? nullptr : tensor.data() + index * tensor.dim(1);
}

template <typename T>
void ForwardRow(const ResidualNormArgs<T>& a, int64_t r, T* y, T* u) {
  const int64_t dim = a.x.dim(1);
  const T* x = Row(a.x, r);
  std::copy(x, x + dim, y);
  if (const T* branch = Row(a.branch, r)) {
    const T* scale = a.branch_scale.data();
    if (a.branch_scale.size() == 1) {
      for (int64_t d = 0; d < dim; ++d) y[d] += scale[0] * branch[d];
    } else {
      for (int64_t d = 0; d < dim; ++d) y[d] += scale[d] * branch[d];
    }
  }
  if (const T* skip = Row(a.skip, r)) {
    const T* weight = a.skip_weight.data();
    for (int64_t d = 0; d < dim; ++d) y[d] += weight[d] * skip[d];
  }
  if (const T* x0 = Row(a.x0, r)) {
    const T* mix0 = a.mix.data();
    const T* mix1 = mix0 + dim;
    for (int64_t d = 0; d < dim; ++d) u[d] = mix0[d] * y[d] + mix1[d] * x0[d];
  } else if (u != y) {
    std::copy(y, y + dim, u);
  }
  if (T* normed = Row(a.normed, r)) {
    const T squares = LaneSum<T>(dim, [&](int64_t d) { return u[d] * u[d]; });
    const T rstd = 1 / std::sqrt(squares / static_cast<T>(dim) + static_cast<T>(kNormEpsilon));
    a.rstd[r] = rstd;
    const T scale = a.norm_scale * rstd;
    for (int64_t d = 0; d < dim; ++d) normed[d] = scale * u[d];
  }
}

// scratch: [kMaxChunks, 2, dim], for rows of y and u that nobody wants.
template <typename T>
void CpuForward(const ResidualNormArgs<T>& a, Tensor<T> scratch) {
  const int64_t dim = a.x.dim(1);
  ForChunks(a.x.dim(0), MinRows(dim), [&](int64_t chunk, int64_t begin, int64_t end) {
    T* const spare = scratch.data() + chunk * 2 * dim;
    for (int64_t r = begin; r < end; ++r) {
      T* u = Row(a.u, r);
      T* y = Row(a.y, r);
      if (y == nullptr) y = a.x0.empty() && u != nullptr ? u : spare;
      if (u == nullptr) u = a.x0.empty() ? y : spare + dim;
      ForwardRow(a, r, y, u);
    }
  });
}

// to[d] += a[d] * b[d]
template <typename T>
void AddProducts(int64_t dim, const T* a, const T* b, T* to) {
  for (int64_t d = 0; d < dim; ++d) to[d] += a[d] * b[d];
}

// du: everything that reaches u, from past the norm and through it.
template <typename T>
void GradOfU(const ResidualNormGradArgs<T>& g, int64_t r, const T* u, T* du) {
  const int64_t dim = g.dx.dim(1);
  if (const T* past = Row(g.du, r)) {
    std::copy(past, past + dim, du);
  } else {
    std::fill(du, du + dim, T{0});
  }
  if (const T* dnormed = Row(g.dnormed, r)) {
    const T rstd = g.forward.rstd[r];
    const T dot = LaneSum<T>(dim, [&](int64_t d) { return dnormed[d] * u[d]; });
    const T scale = g.forward.norm_scale * rstd;
    const T shrink = dot * rstd * rstd / static_cast<T>(dim);
    for (int64_t d = 0; d < dim; ++d) du[d] += scale * (dnormed[d] - shrink * u[d]);
  }
}

// du, dy, u: scratch rows. sums: this chunk's partial sums, [kResidualNormGroups, dim].
template <typename T>
void BackwardRow(const ResidualNormGradArgs<T>& g, int64_t r, T* du, T* dy, T* u, T* sums) {
  const ResidualNormArgs<T>& a = g.forward;
  const int64_t dim = g.dx.dim(1);
  const T* kept = !a.u.empty() ? Row(a.u, r) : !a.y.empty() ? Row(a.y, r) : Row(a.x, r);
  if (const T* x0 = Row(a.x0, r)) {
    const T* y = Row(a.y, r);
    const T* mix0 = a.mix.data();
    const T* mix1 = mix0 + dim;
    for (int64_t d = 0; d < dim; ++d) u[d] = mix0[d] * y[d] + mix1[d] * x0[d];
    kept = u;
  }
  GradOfU(g, r, kept, du);
  if (const T* past = Row(g.dy, r)) {
    std::copy(past, past + dim, dy);
  } else {
    std::fill(dy, dy + dim, T{0});
  }
  if (const T* x0 = Row(a.x0, r)) {
    AddProducts(dim, a.mix.data(), du, dy);
    T* const dx0 = Row(g.dx0, r);
    if (g.begins_dx0) std::fill(dx0, dx0 + dim, T{0});
    AddProducts(dim, a.mix.data() + dim, du, dx0);
    AddProducts(dim, du, Row(a.y, r), sums + kMix0Group * dim);
    AddProducts(dim, du, x0, sums + kMix1Group * dim);
  } else {
    for (int64_t d = 0; d < dim; ++d) dy[d] += du[d];
  }
  if (const T* branch = Row(a.branch, r)) {
    T* dbranch = Row(g.dbranch, r);
    const T* scale = a.branch_scale.data();
    if (a.branch_scale.size() == 1) {
      for (int64_t d = 0; d < dim; ++d) dbranch[d] = scale[0] * dy[d];
    } else {
      for (int64_t d = 0; d < dim; ++d) dbranch[d] = scale[d] * dy[d];
    }
    AddProducts(dim, dy, branch, sums + kBranchScaleGroup * dim);
  }
  if (const T* skip = Row(a.skip, r)) {
    T* dskip = Row(g.dskip, r);
    const T* weight = a.skip_weight.data();
    for (int64_t d = 0; d < dim; ++d) dskip[d] = weight[d] * dy[d];
    AddProducts(dim, dy, skip, sums + kSkipWeightGroup * dim);
  }
  T* const dx = Row(g.dx, r);
  if (dx == Row(g.dx0, r) || dx == Row(g.dskip, r)) {
    for (int64_t d = 0; d < dim; ++d) dx[d] += dy[d];
  } else {
    std::copy(dy, dy + dim, dx);
  }
}

// scratch: [kMaxChunks, 3, dim].
template <typename T>
void CpuBackward(const ResidualNormGradArgs<T>& g, Tensor<T> scratch, Tensor<T> partials) {
  const ResidualNormArgs<T>& a = g.forward;
  const int64_t rows = g.dx.dim(0);
  const int64_t dim = g.dx.dim(1);
  const int64_t stride = kResidualNormGroups * dim;
  ForChunks(rows, MinRows(dim), [&](int64_t chunk, int64_t begin, int64_t end) {
    T* const spare = scratch.data() + chunk * 3 * dim;
    T* const sums = partials.data() + chunk * stride;
    std::fill(sums, sums + stride, T{0});
    for (int64_t r = begin; r < end; ++r) BackwardRow(g, r, spare, spare + dim, spare + 2 * dim, sums);
  });
  const int64_t chunks = ChunkCount(rows, MinRows(dim));
  const auto add = [&](ResidualNormGroup group, T* to) {
    AddPartials(partials.data() + group * dim, chunks, stride, dim, to);
  };
  if (a.branch_scale.size() > 1 || (dim == 1 && !a.branch.empty())) {
    add(kBranchScaleGroup, g.dbranch_scale.data());
  } else if (!a.branch.empty()) {
    T* sums = scratch.data();
    std::fill(sums, sums + dim, T{0});
    add(kBranchScaleGroup, sums);
    g.dbranch_scale[0] += LaneSum<T>(dim, [&](int64_t d) { return sums[d]; });
  }
  if (!a.skip.empty()) add(kSkipWeightGroup, g.dskip_weight.data());
  if (!a.x0.empty()) add(kMix0Group, g.dmix.data());
  if (!a.x0.empty()) add(kMix1Group, g.dmix.data() + dim);
}

}  // namespace

template <typename T>
void ResidualNormForward(Arena& arena, const ResidualNormArgs<T>& args) {
  const OpScope op("ResidualNormForward", args.x, args.branch, args.branch_scale, args.skip, args.skip_weight,
                   args.x0, args.mix, args.y, args.u, args.normed, args.normed8, args.rstd);
  Check(args);
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<Accum<T>> scratch = arena.New<Accum<T>>({kMaxChunks, 2, args.x.dim(1)});
  if (args.x.empty()) return;
  Dispatch<T>(
      "ResidualNormForward", device, [&]<typename U>() { CpuForward<U>(args, scratch); },
      [&]<typename U>() { cuda::ResidualNormForward<U>(device, args); });
}

template <typename T>
void ResidualNormBackward(Arena& arena, const ResidualNormGradArgs<T>& args) {
  const ResidualNormArgs<T>& forward = args.forward;
  const bool u_is_kept = forward.x0.empty() && !forward.u.empty();
  const OpScope op("ResidualNormBackward", u_is_kept ? forward.u : forward.y, forward.rstd, forward.x0,
                   forward.branch, forward.skip, forward.skip_weight, forward.mix, args.dnormed, args.du,
                   args.dy, args.dx, args.dx8, args.dbranch, args.dskip, args.dx0, args.dx0,
                   args.dbranch_scale, args.dskip_weight, args.dmix);
  CheckGrad(args);
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const int64_t dim = args.dx.dim(1);
  const Tensor<Accum<T>> partials = NewPartials<Accum<T>>(arena, args.dx.dim(0), kResidualNormGroups * dim);
  const Tensor<Accum<T>> scratch = arena.New<Accum<T>>({kMaxChunks, 3, dim});
  if (args.dx.empty()) return;
  Dispatch<T>(
      "ResidualNormBackward", device, [&]<typename U>() { CpuBackward<U>(args, scratch, partials); },
      [&]<typename U>() { cuda::ResidualNormBackward<U>(device, args, partials); });
}

template void ResidualNormForward<double>(Arena&, const ResidualNormArgs<double>&);
template void ResidualNormForward<float>(Arena&, const ResidualNormArgs<float>&);
template void ResidualNormForward<Bf16>(Arena&, const ResidualNormArgs<Bf16>&);
template void ResidualNormBackward<double>(Arena&, const ResidualNormGradArgs<double>&);
template void ResidualNormBackward<float>(Arena&, const ResidualNormGradArgs<float>&);
template void ResidualNormBackward<Bf16>(Arena&, const ResidualNormGradArgs<Bf16>&);

}  // namespace hm11
