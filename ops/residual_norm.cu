// Residual norm on a GPU, a team of warps a row, 16 numbers of the row in each lane's registers.
//
// Rows of more than 2048 numbers, or not cut into aligned 16-byte packs, go to residual_norm_wide.cu.
#include <algorithm>

#include "core/launch.cuh"
#include "ops/fp8.cuh"
#include "ops/packs.cuh"
#include "ops/residual_norm.h"
#include "ops/residual_norm_kernels.cuh"
#include "ops/row_teams.cuh"
#include "ops/sums.h"

namespace hm11::cuda {
namespace {

// Blocks of backward on a multiprocessor at once: what its registers allow.
template <typename T>
constexpr int BackwardBlocks(bool mixed) {
  return (std::is_same_v<T, Bf16> ? 4 : 3) - (mixed ? 1 : 0);
}

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
__global__ void __launch_bounds__(kTeamThreads) ForwardKernel(ResidualNormOperands<T> p) {
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
    if constexpr (N == 8) {
      if (p.normed8) StoreEightFp8(u[k], kNormedFactor, column, p.normed8 + start);
    }
  }
}

// A lane's share of one pack of columns of a row, as stored.
template <typename T, int N>
struct BackwardPacks {
  Pack<T, N> dnormed, kept, du, dy, branch, skip, x0, dx0;
};

template <bool kMixed, typename T, int N>
__device__ __forceinline__ void FetchPacks(const ResidualNormGradOperands<T>& p, int64_t at,
                                           BackwardPacks<T, N>* packs) {
  if (p.dnormed) packs->dnormed = Fetch<N>(p.dnormed + at);
  if (p.x) packs->kept = Fetch<N>(p.x + at);
  if (p.du) packs->du = Fetch<N>(p.du + at);
  if (p.dy) packs->dy = Fetch<N>(p.dy + at);
  if (p.branch) packs->branch = Fetch<N>(p.branch + at);
  if (p.skip) packs->skip = Fetch<N>(p.skip + at);
  if constexpr (kMixed) {
    packs->x0 = Fetch<N>(p.x0 + at);
    if (!p.begins_dx0) packs->dx0 = Fetch<N>(p.dx0 + at);
  }
}

// u, from what was kept of it: itself, or y with x0.
template <bool kMixed, typename T, int N>
__device__ __forceinline__ void UnpackU(const ResidualNormGradOperands<T>& p,
                                        const BackwardPacks<T, N>& packs, int column, float (&u)[N]) {
  Unpack(packs.kept, u);
  if (!kMixed || column >= p.dim) return;
  float mix[N];
  Load<N>(p.mix0 + column, mix);
#pragma unroll
  for (int i = 0; i < N; ++i) u[i] *= mix[i];
  AddScaled<N>(p.mix1, column, false, packs.x0, u);
}

// Through u = mix[0] y + mix[1] x0: adds to dy, to dx0 in memory, and to the sums for mix.
template <typename T, int N>
__device__ __forceinline__ void MixBackward(const ResidualNormGradOperands<T>& p,
                                            const BackwardPacks<T, N>& packs, int column, int64_t at,
                                            const float (&du)[N], float (&dy)[N], float (&mix0_sums)[N],
                                            float (&mix1_sums)[N]) {
  float y[N], x0[N], dx0[N], mix0[N], mix1[N];
  Unpack(packs.kept, y);
  Unpack(packs.x0, x0);
  Unpack(packs.dx0, dx0);
  Load<N>(p.mix0 + column, mix0);
  Load<N>(p.mix1 + column, mix1);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    mix0_sums[i] = fmaf(du[i], y[i], mix0_sums[i]);
    mix1_sums[i] = fmaf(du[i], x0[i], mix1_sums[i]);
    dy[i] = fmaf(mix0[i], du[i], dy[i]);
    dx0[i] = fmaf(mix1[i], du[i], dx0[i]);
    if (p.dx0 == p.dx) dx0[i] += dy[i];
  }
  Store<N>(dx0, p.dx0 + at);
}

// Through a term factor * value of y: stores the value's gradient, adds to the sums for the factor. value_is_x: the
// gradient is that of x too.
template <typename T, int N>
__device__ __forceinline__ void TermBackward(const float* factors, int column, bool scalar,
                                             const Pack<T, N>& pack, const float (&dy)[N], bool value_is_x,
                                             T* gradient, float (&sums)[N]) {
  float value[N], factor[N];
  Unpack(pack, value);
  LoadFactors<N>(factors, column, scalar, factor);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    sums[i] = fmaf(dy[i], value[i], sums[i]);
    factor[i] = fmaf(factor[i], dy[i], value_is_x ? dy[i] : 0.0f);
  }
  Store<N>(factor, gradient);
}

// The sum over all columns and the block's rows, to *to: the gradient of a factor that all columns share.
template <int kPacks, int N>
__device__ __forceinline__ void StoreSumOfSums(const float (&sums)[kPacks][N], float* shared, float* to) {
  float sum = 0;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
#pragma unroll
    for (int i = 0; i < N; ++i) sum += sums[k][i];
  }
  sum = BlockSum<kTeamThreads>(sum, shared);
  if (threadIdx.x == 0) *to = sum;
}

// Blocks stay and stride over the rows, a team a row: every operand is fetched before the one sum over the
// row that the norm needs, every result is stored after it, and sums over rows stay in registers until the
// end.
template <typename T, int kWarps, bool kMixed>
__global__ void __launch_bounds__(kTeamThreads, BackwardBlocks<T>(kMixed))
    BackwardKernel(ResidualNormGradOperands<T> p) {
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
    BackwardPacks<T, N> packs[kPacks] = {};
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int column = Team::Column(k);
      if (active && column < p.dim) FetchPacks<kMixed>(p, row * p.dim + column, &packs[k]);
    }
    const float rstd = p.dnormed && active ? p.rstd[row] : 0;

    float u[kPacks][N];
    float dot = 0;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      float g[N];
      UnpackU<kMixed>(p, packs[k], Team::Column(k), u[k]);
      Unpack(packs[k].dnormed, g);
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
      const int64_t at = row * p.dim + column;
      float du[N], dy[N], g[N];
      Unpack(packs[k].du, du);
      Unpack(packs[k].dy, dy);
      Unpack(packs[k].dnormed, g);
#pragma unroll
      for (int i = 0; i < N; ++i) du[i] = fmaf(scale, fmaf(-shrink, u[k][i], g[i]), du[i]);
      if constexpr (kMixed) {
        MixBackward(p, packs[k], column, at, du, dy, mix0_sums[k], mix1_sums[k]);
      } else {
#pragma unroll
        for (int i = 0; i < N; ++i) dy[i] += du[i];
      }
      if (p.dx != p.dx0 && p.dx != p.dskip) Store<N>(dy, p.dx + at);
      if constexpr (N == 8) {
        if (p.dx8) StoreEightFp8(dy, p.factor8, column, p.dx8 + row * p.dim);
      }
      if (p.branch) {
        TermBackward(p.branch_scale, column, p.scalar_branch_scale, packs[k].branch, dy, false,
                     p.dbranch + at, branch_sums[k]);
      }
      if (p.skip) {
        TermBackward(p.skip_weight, column, false, packs[k].skip, dy, p.dskip == p.dx, p.dskip + at,
                     skip_sums[k]);
      }
    }
  }

  float* const to = p.partials + static_cast<int64_t>(blockIdx.x) * kResidualNormGroups * p.dim;
  if (p.branch && p.scalar_branch_scale) {
    StoreSumOfSums(branch_sums, shared, to + kBranchScaleGroup * p.dim);
  } else if (p.branch) {
    Team::StoreSums(branch_sums, shared, p.dim, to + kBranchScaleGroup * p.dim);
  }
  if (p.skip) Team::StoreSums(skip_sums, shared, p.dim, to + kSkipWeightGroup * p.dim);
  if constexpr (kMixed) {
    Team::StoreSums(mix0_sums, shared, p.dim, to + kMix0Group * p.dim);
    Team::StoreSums(mix1_sums, shared, p.dim, to + kMix1Group * p.dim);
  }
}

template <typename T>
ResidualNormTerms<T> Terms(const ResidualNormArgs<T>& a) {
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
          .mix1 = a.mix.empty() ? nullptr : a.mix.data() + dim};
}

template <typename T>
ResidualNormOperands<T> Operands(const ResidualNormArgs<T>& a) {
  ResidualNormOperands<T> p = {Terms(a)};
  p.y = Data(a.y);
  p.u = Data(a.u);
  p.normed = Data(a.normed);
  p.normed8 = Data(a.normed8);
  p.rstd = Data(a.rstd);
  return p;
}

template <typename T>
ResidualNormGradOperands<T> Operands(const ResidualNormGradArgs<T>& g, Tensor<float> partials) {
  const ResidualNormOperands<T> f = Operands(g.forward);
  const T* kept = f.x0 ? f.y : nullptr;
  if (!f.x0 && f.normed) kept = f.u ? f.u : f.y ? f.y : f.x;
  ResidualNormGradOperands<T> p = {f};
  p.x = kept;
  p.rstd = f.rstd;
  p.dnormed = Data(g.dnormed);
  p.du = Data(g.du);
  p.dy = Data(g.dy);
  p.dx = g.dx.data();
  p.dx8 = Data(g.dx8);
  p.factor8 = GradientFactor(p.rows);
  p.dbranch = Data(g.dbranch);
  p.dskip = Data(g.dskip);
  p.dx0 = Data(g.dx0);
  p.begins_dx0 = g.begins_dx0;
  p.partials = partials.data();
  return p;
}

// Returns the number of blocks, each of which leaves a partial sum.
template <typename T, int kWarps>
int64_t LaunchBackward(const Device& device, const ResidualNormGradOperands<T>& p) {
  const bool mixed = p.x0 != nullptr;
  const int64_t blocks = PartialBlocks(device, p.rows, 4 / kWarps, BackwardBlocks<T>(mixed));
  Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kTeamThreads},
         mixed ? BackwardKernel<T, kWarps, true> : BackwardKernel<T, kWarps, false>, p);
  return blocks;
}

}  // namespace

template <typename T>
void ResidualNormForward(const Device& device, const ResidualNormArgs<T>& args) {
  const ResidualNormOperands<T> p = Operands(args);
  const bool aligned =
      AllAligned(p.x, p.branch, p.skip, p.x0, p.skip_weight, p.mix0, p.mix1, p.y, p.u, p.normed) &&
      (p.scalar_branch_scale || IsAligned(p.branch_scale));
  if (!FitsTeams<T>(p.dim) || !aligned) {
    WideResidualNormForward(device, p);
    if constexpr (std::is_same_v<T, Bf16>) {
      if (p.normed8) cuda::ToFp8(device, Tensor<const Bf16>(args.normed), kNormedFactor, args.normed8);
    }
    return;
  }
  WithTeamWarps(p.dim, [&](auto warps) {
    const int64_t blocks = CeilDiv<int64_t>(p.rows, 4 / warps);
    Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kTeamThreads},
           ForwardKernel<T, warps>, p);
  });
}

template <typename T>
void ResidualNormBackward(const Device& device, const ResidualNormGradArgs<T>& args, Tensor<float> partials) {
  const ResidualNormGradOperands<T> p = Operands(args, partials);
  const bool aligned = AllAligned(p.x, p.branch, p.skip, p.x0, p.skip_weight, p.mix0, p.mix1, p.dnormed, p.du,
                                  p.dy, p.dx, p.dbranch, p.dskip, p.dx0) &&
                       (p.scalar_branch_scale || IsAligned(p.branch_scale));
  const bool is_wide = !FitsTeams<T>(p.dim) || !aligned;
  const int64_t blocks =
      is_wide ? WideResidualNormBackward(device, p)
              : WithTeamWarps(p.dim, [&](auto warps) { return LaunchBackward<T, warps>(device, p); });
  if constexpr (std::is_same_v<T, Bf16>) {
    if (is_wide && !args.dx8.empty()) cuda::ToFp8(device, Tensor<const Bf16>(args.dx), p.factor8, args.dx8);
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
    AddNumbers(device, p.partials + kBranchScaleGroup * p.dim, blocks, kResidualNormGroups * p.dim,
               args.dbranch_scale.data());
  }
}

template void ResidualNormForward<float>(const Device&, const ResidualNormArgs<float>&);
template void ResidualNormForward<Bf16>(const Device&, const ResidualNormArgs<Bf16>&);
template void ResidualNormBackward<float>(const Device&, const ResidualNormGradArgs<float>&, Tensor<float>);
template void ResidualNormBackward<Bf16>(const Device&, const ResidualNormGradArgs<Bf16>&, Tensor<float>);

}  // namespace hm11::cuda
