// Residual norm on a GPU for rows of any size and alignment: a block a row, which reads it twice.
#include "core/launch.cuh"
#include "ops/packs.cuh"
#include "ops/residual_norm.h"
#include "ops/residual_norm_kernels.cuh"
#include "ops/sums.h"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 4;  // of backward, on each multiprocessor

// y and u of one number of a row.
template <typename T>
__device__ __forceinline__ float2 MixOne(const ResidualNormOperands<T>& p, int64_t start, int column) {
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

// Threads stride over the columns, twice.
template <typename T>
__global__ void __launch_bounds__(kThreads) ForwardKernel(ResidualNormOperands<T> p) {
  __shared__ float shared[32];
  const int64_t start = static_cast<int64_t>(blockIdx.x) * p.dim;
  float squares = 0;
  for (int column = threadIdx.x; column < p.dim; column += kThreads) {
    const float2 mixed = MixOne(p, start, column);
    if (p.y) p.y[start + column] = static_cast<T>(mixed.x);
    if (p.u) p.u[start + column] = static_cast<T>(mixed.y);
    squares = fmaf(mixed.y, mixed.y, squares);
  }
  if (p.normed == nullptr) return;
  const float mean = BlockSum<kThreads>(squares, shared) / static_cast<float>(p.dim);
  const float rstd = rsqrtf(mean + static_cast<float>(kNormEpsilon));
  if (threadIdx.x == 0) p.rstd[blockIdx.x] = rstd;
  for (int column = threadIdx.x; column < p.dim; column += kThreads) {
    p.normed[start + column] = static_cast<T>(p.norm_scale * rstd * MixOne(p, start, column).y);
  }
}

template <typename T>
__device__ __forceinline__ float KeptU(const ResidualNormGradOperands<T>& p, int64_t start, int column) {
  const float kept = static_cast<float>(p.x[start + column]);
  if (p.x0 == nullptr) return kept;
  return fmaf(p.mix1[column], static_cast<float>(p.x0[start + column]), p.mix0[column] * kept);
}

// The same backward, its sums over rows kept in the block's partials in memory, where each thread has its
// columns; those of a factor that all columns share are added up at the end.
template <typename T>
__global__ void __launch_bounds__(kThreads) BackwardKernel(ResidualNormGradOperands<T> p) {
  __shared__ float shared[32];
  float* const sums = p.partials + static_cast<int64_t>(blockIdx.x) * kResidualNormGroups * p.dim;
  for (int column = threadIdx.x; column < p.dim; column += kThreads) {
    for (int group = 0; group < kResidualNormGroups; ++group) sums[group * p.dim + column] = 0;
  }
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const int64_t start = row * p.dim;
    float dot = 0;
    float rstd = 0;
    if (p.dnormed) {
      for (int column = threadIdx.x; column < p.dim; column += kThreads) {
        dot = fmaf(static_cast<float>(p.dnormed[start + column]), KeptU(p, start, column), dot);
      }
      dot = BlockSum<kThreads>(dot, shared);
      rstd = p.rstd[row];
    }
    const float scale = p.norm_scale * rstd;
    const float shrink = dot * rstd * rstd / static_cast<float>(p.dim);
    for (int column = threadIdx.x; column < p.dim; column += kThreads) {
      const int64_t at = start + column;
      float du = p.du ? static_cast<float>(p.du[at]) : 0;
      float dy = p.dy ? static_cast<float>(p.dy[at]) : 0;
      if (p.dnormed) {
        du = fmaf(scale, fmaf(-shrink, KeptU(p, start, column), static_cast<float>(p.dnormed[at])), du);
      }
      if (p.x0) {
        sums[kMix0Group * p.dim + column] += du * static_cast<float>(p.x[at]);
        sums[kMix1Group * p.dim + column] += du * static_cast<float>(p.x0[at]);
        dy = fmaf(p.mix0[column], du, dy);
        const float before = p.begins_dx0 ? 0.0f : static_cast<float>(p.dx0[at]);
        const float dx0 = fmaf(p.mix1[column], du, before);
        p.dx0[at] = static_cast<T>(p.dx0 == p.dx ? dx0 + dy : dx0);
      } else {
        dy += du;
      }
      if (p.dx != p.dx0 && p.dx != p.dskip) p.dx[at] = static_cast<T>(dy);
      if (p.branch) {
        sums[kBranchScaleGroup * p.dim + column] += dy * static_cast<float>(p.branch[at]);
        p.dbranch[at] = static_cast<T>(p.branch_scale[p.scalar_branch_scale ? 0 : column] * dy);
      }
      if (p.skip) {
        sums[kSkipWeightGroup * p.dim + column] += dy * static_cast<float>(p.skip[at]);
        p.dskip[at] = static_cast<T>(fmaf(p.skip_weight[column], dy, p.dskip == p.dx ? dy : 0.0f));
      }
    }
  }
  if (p.branch == nullptr || !p.scalar_branch_scale) return;
  float sum = 0;
  for (int column = threadIdx.x; column < p.dim; column += kThreads) {
    sum += sums[kBranchScaleGroup * p.dim + column];
  }
  sum = BlockSum<kThreads>(sum, shared);
  if (threadIdx.x == 0) sums[kBranchScaleGroup * p.dim] = sum;
}

}  // namespace

template <typename T>
void WideResidualNormForward(const Device& device, const ResidualNormOperands<T>& p) {
  Launch(device, {.blocks = static_cast<unsigned>(p.rows), .threads = kThreads}, ForwardKernel<T>, p);
}

template <typename T>
int64_t WideResidualNormBackward(const Device& device, const ResidualNormGradOperands<T>& p) {
  const int64_t blocks = PartialBlocks(device, p.rows, 1, kBlocks);
  Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kThreads}, BackwardKernel<T>, p);
  return blocks;
}

template void WideResidualNormForward<float>(const Device&, const ResidualNormOperands<float>&);
template void WideResidualNormForward<Bf16>(const Device&, const ResidualNormOperands<Bf16>&);
template int64_t WideResidualNormBackward<float>(const Device&, const ResidualNormGradOperands<float>&);
template int64_t WideResidualNormBackward<Bf16>(const Device&, const ResidualNormGradOperands<Bf16>&);

}  // namespace hm11::cuda
