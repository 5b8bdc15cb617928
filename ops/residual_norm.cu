// Residual norm on a GPU: a team of one, two or four warps a row, 16 numbers of the row in each lane's
// registers.
//
// Rows of more than 2048 numbers, or not cut into aligned 16-byte packs, go to a block a row that reads them
// twice.
#include <algorithm>

#include "core/launch.cuh"
#include "ops/packs.cuh"
#include "ops/residual_norm.h"
#include "ops/row_teams.cuh"
#include "ops/sums.h"

namespace hm11::cuda {
namespace {

constexpr int kWideThreads = 256;

// Blocks of backward on a multiprocessor at once: what its registers allow.
template <typename T>
constexpr int BackwardBlocks(bool mixed) {
  return (std::is_same_v<T, Bf16> ? 4 : 3) - (mixed ? 1 : 0);
}

template <typename T>
struct ForwardOperands {
  int64_t rows;
  int dim;
  float norm_scale;
  bool scalar_branch_scale;
  const T* x;
  const T* branch;
  const T* skip;
  const T* x0;
  const float* branch_scale;
  const float* skip_weight;
  const float* mix0;
  const float* mix1;
  T* y;
  T* u;
  T* normed;
  float* rstd;
};

// What a row's backward reads and writes. Without x0, `u` is what was normed; with it, u is computed from y
// and x0.
template <typename T>
struct BackwardOperands {
  int64_t rows;
  int dim;
  float norm_scale;
  bool scalar_branch_scale;
  const T* u;
  const T* branch;
  const T* skip;
  const T* x0;
  const float* branch_scale;
  const float* skip_weight;
  const float* mix0;
  const float* mix1;
  const float* rstd;
  const T* dnormed;
  const T* du;
  const T* dy;
  T* dx;
  T* dbranch;
  T* dskip;
  T* dx0;
  float* partials;  // [blocks, kResidualNormGroups, dim]
};

// N per-channel factors from column `column` on: from memory, or one scalar for all.
template <int N>
__device__ __forceinline__ void LoadFactors(const float* from, int column, bool scalar, float (&to)[N]) {
  if (scalar) {
    const float value = from[0];
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = value;
  } else {
    Load<N>(from + column, to);
  }
}

// to += factor * what `from` holds.
template <int N, typename T>
__device__ __forceinline__ void AddScaled(const float* factors, int column, bool scalar,
                                          const Pack<T, N>& from, float (&to)[N]) {
  float factor[N], values[N];
  LoadFactors<N>(factors, column, scalar, factor);
  Unpack(from, values);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = fmaf(factor[i], values[i], to[i]);
}

// A team a row, a row a team. All packs are fetched before the first is used, so that a warp has up to 4 KB
// on their way; y and u leave as soon as they are known and u stays in registers for the norm.
template <typename T, int kWarps>
__global__ void __launch_bounds__(kTeamThreads) ForwardKernel(ForwardOperands<T> p) {
  using Team = Team<T, kWarps>;
  constexpr int N = Team::kSize;
  constexpr int kPacks = Team::kPacks;
  __shared__ float shared[kTeamThreads / 32];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * Team::kTeams + Team::Index();
  const bool active = row < p.rows;
  const int64_t start = row * p.dim;

  Pack<T, N> x[kPacks] = {}, branch[kPacks] = {}, skip[kPacks] = {}, x0[kPacks] = {};
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = Team::Column(k);
    if (!active || column >= p.dim) continue;
    x[k] = Fetch<N>(p.x + start + column);
    if (p.branch) branch[k] = Fetch<N>(p.branch + start + column);
    if (p.skip) skip[k] = Fetch<N>(p.skip + start + column);
    if (p.x0) x0[k] = Fetch<N>(p.x0 + start + column);
  }
  float u[kPacks][N];
  float squares = 0;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = Team::Column(k);
    if (!active || column >= p.dim) continue;
    Unpack(x[k], u[k]);
    if (p.branch) AddScaled<N>(p.branch_scale, column, p.scalar_branch_scale, branch[k], u[k]);
    if (p.skip) AddScaled<N>(p.skip_weight, column, false, skip[k], u[k]);
    if (p.y) Store<N>(u[k], p.y + start + column);
    if (p.x0) {
      float mix[N];
      Load<N>(p.mix0 + column, mix);
#pragma unroll
      for (int i = 0; i < N; ++i) u[k][i] *= mix[i];
      AddScaled<N>(p.mix1, column, false, x0[k], u[k]);
    }
    if (p.u) Store<N>(u[k], p.u + start + column);
#pragma unroll
    for (int i = 0; i < N; ++i) squares = fmaf(u[k][i], u[k][i], squares);
  }
  if (p.normed == nullptr) return;
  const float mean = Team::Sum(squares, shared) / static_cast<float>(p.dim);
  const float rstd = rsqrtf(mean + static_cast<float>(kNormEpsilon));
  if (active && Team::Lane() == 0) p.rstd[row] = rstd;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = Team::Column(k);
    if (!active || column >= p.dim) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) u[k][i] *= p.norm_scale * rstd;
    Store<N>(u[k], p.normed + start + column);
  }
}

// Blocks stay and stride over the rows, a team a row: every operand is fetched before the one sum over the
// row that the norm needs, every result is stored after it, and sums over rows stay in registers until the
// end.
template <typename T, int kWarps, bool kMixed>
__global__ void __launch_bounds__(kTeamThreads, BackwardBlocks<T>(kMixed))
    BackwardKernel(BackwardOperands<T> p) {
  using Team = Team<T, kWarps>;
  constexpr int N = Team::kSize;
  constexpr int kPacks = Team::kPacks;
  __shared__ __align__(16) float shared[Team::kTeams * Team::kColumns];
  float branch_sums[kPacks][N] = {}, skip_sums[kPacks][N] = {};
  float mix0_sums[kMixed ? kPacks : 1][N] = {}, mix1_sums[kMixed ? kPacks : 1][N] = {};

  for (int64_t base = static_cast<int64_t>(blockIdx.x) * Team::kTeams; base < p.rows;
       base += static_cast<int64_t>(gridDim.x) * Team::kTeams) {
    const int64_t row = base + Team::Index();
    const bool active = row < p.rows;
    const int64_t start = row * p.dim;
    Pack<T, N> dnormed[kPacks] = {}, kept[kPacks] = {}, du_past[kPacks] = {}, dy_past[kPacks] = {};
    Pack<T, N> branch[kPacks] = {}, skip[kPacks] = {}, x0[kPacks] = {}, dx0[kPacks] = {};
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int column = Team::Column(k);
      if (!active || column >= p.dim) continue;
      const int64_t at = start + column;
      if (p.dnormed) dnormed[k] = Fetch<N>(p.dnormed + at);
      if (p.u) kept[k] = Fetch<N>(p.u + at);
      if (kMixed) x0[k] = Fetch<N>(p.x0 + at);
      if (p.du) du_past[k] = Fetch<N>(p.du + at);
      if (p.dy) dy_past[k] = Fetch<N>(p.dy + at);
      if (p.branch) branch[k] = Fetch<N>(p.branch + at);
      if (p.skip) skip[k] = Fetch<N>(p.skip + at);
      if (kMixed) dx0[k] = Fetch<N>(p.dx0 + at);
    }
    const float rstd = p.dnormed && active ? p.rstd[row] : 0;

    float u[kPacks][N];
    float dot = 0;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int column = Team::Column(k);
      Unpack(kept[k], u[k]);
      if (kMixed && column < p.dim) {
        float mix[N];
        Load<N>(p.mix0 + column, mix);
#pragma unroll
        for (int i = 0; i < N; ++i) u[k][i] *= mix[i];
        AddScaled<N>(p.mix1, column, false, x0[k], u[k]);
      }
      float g[N];
      Unpack(dnormed[k], g);
#pragma unroll
      for (int i = 0; i < N; ++i) dot = fmaf(g[i], u[k][i], dot);
    }
    if (p.dnormed) dot = Team::Sum(dot, shared);
    const float scale = p.norm_scale * rstd;
    const float shrink = dot * rstd * rstd / static_cast<float>(p.dim);

#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int column = Team::Column(k);
      if (!active || column >= p.dim) continue;
      const int64_t at = start + column;
      float du[N], dy[N], g[N];
      Unpack(du_past[k], du);
      Unpack(dy_past[k], dy);
      Unpack(dnormed[k], g);
#pragma unroll
      for (int i = 0; i < N; ++i) du[i] = fmaf(scale, fmaf(-shrink, u[k][i], g[i]), du[i]);
      if constexpr (kMixed) {
        float y[N], x[N], mix0[N], mix1[N], out[N];
        Unpack(kept[k], y);
        Unpack(x0[k], x);
        Unpack(dx0[k], out);
        Load<N>(p.mix0 + column, mix0);
        Load<N>(p.mix1 + column, mix1);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          mix0_sums[k][i] = fmaf(du[i], y[i], mix0_sums[k][i]);
          mix1_sums[k][i] = fmaf(du[i], x[i], mix1_sums[k][i]);
          dy[i] = fmaf(mix0[i], du[i], dy[i]);
          out[i] = fmaf(mix1[i], du[i], out[i]);
        }
        Store<N>(out, p.dx0 + at);
      } else {
#pragma unroll
        for (int i = 0; i < N; ++i) dy[i] += du[i];
      }
      Store<N>(dy, p.dx + at);
      if (p.branch) {
        float values[N], factor[N];
        Unpack(branch[k], values);
        LoadFactors<N>(p.branch_scale, column, p.scalar_branch_scale, factor);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          branch_sums[k][i] = fmaf(dy[i], values[i], branch_sums[k][i]);
          factor[i] *= dy[i];
        }
        Store<N>(factor, p.dbranch + at);
      }
      if (p.skip) {
        float values[N], factor[N];
        Unpack(skip[k], values);
        Load<N>(p.skip_weight + column, factor);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          skip_sums[k][i] = fmaf(dy[i], values[i], skip_sums[k][i]);
          factor[i] *= dy[i];
        }
        Store<N>(factor, p.dskip + at);
      }
    }
  }

  float* const to = p.partials + static_cast<int64_t>(blockIdx.x) * kResidualNormGroups * p.dim;
  if (p.branch) Team::StoreSums(branch_sums, shared, p.dim, to + kBranchScaleGroup * p.dim);
  if (p.skip) Team::StoreSums(skip_sums, shared, p.dim, to + kSkipWeightGroup * p.dim);
  if constexpr (kMixed) {
    Team::StoreSums(mix0_sums, shared, p.dim, to + kMix0Group * p.dim);
    Team::StoreSums(mix1_sums, shared, p.dim, to + kMix1Group * p.dim);
  }
}

// y and u of one number of a row.
template <typename T>
__device__ __forceinline__ float2 MixOne(const ForwardOperands<T>& p, int64_t start, int column) {
  float y = static_cast<float>(p.x[start + column]);
  if (p.branch) {
    const float scale = p.branch_scale[p.scalar_branch_scale ? 0 : column];
    y = fmaf(scale, static_cast<float>(p.branch[start + column]), y);
  }
  if (p.skip) y = fmaf(p.skip_weight[column], static_cast<float>(p.skip[start + column]), y);
  if (p.x0 == nullptr) return make_float2(y, y);
  const float x0 = static_cast<float>(p.x0[start + column]);
  return make_float2(y, fmaf(p.mix1[column], x0, p.mix0[column] * y));
}

// Any dim, any alignment: a block a row, its threads striding over the columns, twice.
template <typename T>
__global__ void __launch_bounds__(kWideThreads) WideForwardKernel(ForwardOperands<T> p) {
  __shared__ float shared[32];
  const int64_t start = static_cast<int64_t>(blockIdx.x) * p.dim;
  float squares = 0;
  for (int column = threadIdx.x; column < p.dim; column += kWideThreads) {
    const float2 mixed = MixOne(p, start, column);
    if (p.y) p.y[start + column] = static_cast<T>(mixed.x);
    if (p.u) p.u[start + column] = static_cast<T>(mixed.y);
    squares = fmaf(mixed.y, mixed.y, squares);
  }
  if (p.normed == nullptr) return;
  const float mean = BlockSum<kWideThreads>(squares, shared) / static_cast<float>(p.dim);
  const float rstd = rsqrtf(mean + static_cast<float>(kNormEpsilon));
  if (threadIdx.x == 0) p.rstd[blockIdx.x] = rstd;
  for (int column = threadIdx.x; column < p.dim; column += kWideThreads) {
    p.normed[start + column] = static_cast<T>(p.norm_scale * rstd * MixOne(p, start, column).y);
  }
}

template <typename T>
__device__ __forceinline__ float KeptU(const BackwardOperands<T>& p, int64_t start, int column) {
  const float kept = static_cast<float>(p.u[start + column]);
  if (p.x0 == nullptr) return kept;
  return fmaf(p.mix1[column], static_cast<float>(p.x0[start + column]), p.mix0[column] * kept);
}

// The same backward, its sums over rows kept in the block's partials in memory, where each thread has its
// columns.
template <typename T>
__global__ void __launch_bounds__(kWideThreads) WideBackwardKernel(BackwardOperands<T> p) {
  __shared__ float shared[32];
  float* const sums = p.partials + static_cast<int64_t>(blockIdx.x) * kResidualNormGroups * p.dim;
  for (int column = threadIdx.x; column < p.dim; column += kWideThreads) {
    for (int group = 0; group < kResidualNormGroups; ++group) sums[group * p.dim + column] = 0;
  }
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const int64_t start = row * p.dim;
    float dot = 0;
    float rstd = 0;
    if (p.dnormed) {
      for (int column = threadIdx.x; column < p.dim; column += kWideThreads) {
        dot = fmaf(static_cast<float>(p.dnormed[start + column]), KeptU(p, start, column), dot);
      }
      dot = BlockSum<kWideThreads>(dot, shared);
      rstd = p.rstd[row];
    }
    const float scale = p.norm_scale * rstd;
    const float shrink = dot * rstd * rstd / static_cast<float>(p.dim);
    for (int column = threadIdx.x; column < p.dim; column += kWideThreads) {
      const int64_t at = start + column;
      float du = p.du ? static_cast<float>(p.du[at]) : 0;
      float dy = p.dy ? static_cast<float>(p.dy[at]) : 0;
      if (p.dnormed) {
        du = fmaf(scale, fmaf(-shrink, KeptU(p, start, column), static_cast<float>(p.dnormed[at])), du);
      }
      if (p.x0) {
        sums[kMix0Group * p.dim + column] += du * static_cast<float>(p.u[at]);
        sums[kMix1Group * p.dim + column] += du * static_cast<float>(p.x0[at]);
        dy = fmaf(p.mix0[column], du, dy);
        p.dx0[at] = static_cast<T>(fmaf(p.mix1[column], du, static_cast<float>(p.dx0[at])));
      } else {
        dy += du;
      }
      p.dx[at] = static_cast<T>(dy);
      if (p.branch) {
        sums[kBranchScaleGroup * p.dim + column] += dy * static_cast<float>(p.branch[at]);
        p.dbranch[at] = static_cast<T>(p.branch_scale[p.scalar_branch_scale ? 0 : column] * dy);
      }
      if (p.skip) {
        sums[kSkipWeightGroup * p.dim + column] += dy * static_cast<float>(p.skip[at]);
        p.dskip[at] = static_cast<T>(p.skip_weight[column] * dy);
      }
    }
  }
}

template <typename T>
ForwardOperands<T> Operands(const ResidualNormArgs<T>& a) {
  const int64_t dim = a.x.dim(1);
  return {.rows = a.x.dim(0),
          .dim = static_cast<int>(dim),
          .norm_scale = a.norm_scale,
          .scalar_branch_scale = a.branch_scale.size() == 1,
          .x = a.x.data(),
          .branch = Data(a.branch),
          .skip = Data(a.skip),
          .x0 = Data(a.x0),
          .branch_scale = Data(a.branch_scale),
          .skip_weight = Data(a.skip_weight),
          .mix0 = Data(a.mix),
          .mix1 = a.mix.empty() ? nullptr : a.mix.data() + dim,
          .y = Data(a.y),
          .u = Data(a.u),
          .normed = Data(a.normed),
          .rstd = Data(a.rstd)};
}

template <typename T>
BackwardOperands<T> Operands(const ResidualNormGradArgs<T>& g, Tensor<float> partials) {
  const ResidualNormArgs<T>& a = g.forward;
  const ForwardOperands<T> f = Operands(a);
  return {.rows = f.rows,
          .dim = f.dim,
          .norm_scale = f.norm_scale,
          .scalar_branch_scale = f.scalar_branch_scale,
          .u = f.x0  ? f.y
               : f.u ? f.u
               : f.y ? f.y
                     : f.x,
          .branch = f.branch,
          .skip = f.skip,
          .x0 = f.x0,
          .branch_scale = f.branch_scale,
          .skip_weight = f.skip_weight,
          .mix0 = f.mix0,
          .mix1 = f.mix1,
          .rstd = f.rstd,
          .dnormed = Data(g.dnormed),
          .du = Data(g.du),
          .dy = Data(g.dy),
          .dx = g.dx.data(),
          .dbranch = Data(g.dbranch),
          .dskip = Data(g.dskip),
          .dx0 = Data(g.dx0),
          .partials = partials.data()};
}

// Returns the number of blocks, each of which leaves a partial sum.
template <typename T, int kWarps>
int64_t LaunchBackward(const Device& device, const BackwardOperands<T>& p) {
  const bool mixed = p.x0 != nullptr;
  const int64_t blocks = PartialBlocks(device, p.rows, 4 / kWarps, BackwardBlocks<T>(mixed));
  Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kTeamThreads},
         mixed ? BackwardKernel<T, kWarps, true> : BackwardKernel<T, kWarps, false>, p);
  return blocks;
}

}  // namespace

template <typename T>
void ResidualNormForward(const Device& device, const ResidualNormArgs<T>& args) {
  const ForwardOperands<T> p = Operands(args);
  const bool aligned =
      AllAligned(p.x, p.branch, p.skip, p.x0, p.skip_weight, p.mix0, p.mix1, p.y, p.u, p.normed) &&
      (p.scalar_branch_scale || IsAligned(p.branch_scale));
  if (!FitsTeams<T>(p.dim) || !aligned) {
    return Launch(device, {.blocks = static_cast<unsigned>(p.rows), .threads = kWideThreads},
                  WideForwardKernel<T>, p);
  }
  WithTeamWarps(p.dim, [&](auto warps) {
    const int64_t blocks = CeilDiv<int64_t>(p.rows, 4 / warps);
    Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kTeamThreads},
           ForwardKernel<T, warps>, p);
  });
}

template <typename T>
void ResidualNormBackward(const Device& device, const ResidualNormGradArgs<T>& args, Tensor<float> partials) {
  const BackwardOperands<T> p = Operands(args, partials);
  const bool aligned = AllAligned(p.u, p.branch, p.skip, p.x0, p.skip_weight, p.mix0, p.mix1, p.dnormed, p.du,
                                  p.dy, p.dx, p.dbranch, p.dskip, p.dx0) &&
                       (p.scalar_branch_scale || IsAligned(p.branch_scale));
  int64_t blocks = 0;
  if (!FitsTeams<T>(p.dim) || !aligned) {
    blocks = PartialBlocks(device, p.rows, 1, 4);
    Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kWideThreads}, WideBackwardKernel<T>,
           p);
  } else {
    blocks = WithTeamWarps(p.dim, [&](auto warps) { return LaunchBackward<T, warps>(device, p); });
  }
  GroupDestinations to = {};
  to[kBranchScaleGroup].to = p.scalar_branch_scale ? nullptr : Data(args.dbranch_scale);
  to[kSkipWeightGroup].to = Data(args.dskip_weight);
  to[kMix0Group].to = Data(args.dmix);
  to[kMix1Group].to = args.dmix.empty() ? nullptr : args.dmix.data() + p.dim;
  if (std::any_of(to.begin(), to.end(), [](const GroupDestination& group) { return group.to != nullptr; })) {
    AddColumnSums(device, p.partials, blocks, kResidualNormGroups, p.dim, to);
  }
  if (p.branch && p.scalar_branch_scale) {
    AddGroupSum(device, p.partials, blocks, kResidualNormGroups, p.dim, kBranchScaleGroup,
                args.dbranch_scale.data());
  }
}

template void ResidualNormForward<float>(const Device&, const ResidualNormArgs<float>&);
template void ResidualNormForward<Bf16>(const Device&, const ResidualNormArgs<Bf16>&);
template void ResidualNormBackward<float>(const Device&, const ResidualNormGradArgs<float>&, Tensor<float>);
template void ResidualNormBackward<Bf16>(const Device&, const ResidualNormGradArgs<Bf16>&, Tensor<float>);

}  // namespace hm11::cuda
