// Products with a residual step on compute capability 9.0: which of the kernels, with which operands.
#include <algorithm>
#include <atomic>

#include "core/launch.cuh"
#include "ops/packs.cuh"
#include "ops/residual_product.cuh"
#include "ops/residual_product.h"

namespace hm11::cuda {
namespace {

using rows::Maps;
using rows::NormGradient;
using rows::ResidualStep;
using rows::Sizes;

// Addresses must be multiples of 16 bytes too.
bool Supports(const Device& device, int64_t row_count, int64_t dim, int64_t inner) {
  const int64_t blocks = dim / rows::kBlockCols;
  return device.compute_capability() == 90 && row_count > 0 && row_count < 1 << 30 &&
         dim % rows::kBlockCols == 0 && blocks >= rows::kMinBlocks && blocks <= rows::kMaxBlocks &&
         inner >= rows::kMinInner && inner < 1 << 30 && inner % kTileCols == 0;
}

// How many clusters run at once.
template <typename Kernel>
int ClustersAtOnce(Kernel* kernel, int blocks) {
  HM_CHECK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(rows::Shared::kBytes)));
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(blocks);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(rows::kThreads);
  config.dynamicSmemBytes = rows::Shared::kBytes;
  config.attrs = &cluster;
  config.numAttrs = 1;
  int clusters = 0;
  HM_CHECK_CUDA(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config));
  return std::max(clusters, 1);
}

template <bool kTransposed, typename Epilogue>
void Multiply(const Device& device, const Maps& maps, const Sizes& sizes, const Epilogue& epilogue) {
  auto* const kernel = rows::ProductKernel<kTransposed, Epilogue>;
  const int blocks = rows::BlocksOf(sizes);
  static std::atomic<int> at_once[rows::kMaxBlocks + 1];  // asked for once: it takes longer than a launch
  int clusters = at_once[blocks];
  if (clusters == 0) at_once[blocks] = clusters = ClustersAtOnce(kernel, blocks);
  clusters = std::min(clusters, CeilDiv(sizes.rows, rows::kBlockRows));
  Launch(device,
         {.blocks = static_cast<unsigned>(blocks * clusters),
          .threads = rows::kThreads,
          .shared_bytes = rows::Shared::kBytes,
          .cluster = static_cast<unsigned>(blocks)},
         kernel, maps, sizes, epilogue);
}

template <bool kSkip, bool kMix>
void Step(const Device& device, const MatmulThenResidualNormArgs<Bf16>& args, const Sizes& sizes) {
  const ResidualNormArgs<Bf16>& step = args.step;
  const int64_t row_count = sizes.rows, dim = sizes.cols;
  const auto read = [&](Tensor<const Bf16> t) { return MatrixMap(t.data(), row_count, dim); };
  const auto result = [&](Tensor<Bf16> t) { return MatrixMap(t.data(), row_count, dim, rows::kWarpRows); };
  Maps maps = {.a = MatrixMap(args.x.data(), row_count, sizes.inner),
               .b = MatrixMap(args.weight.data(), dim, sizes.inner)};
  TileMap* reads = maps.reads;
  *reads++ = read(step.x);
  if (kSkip) *reads++ = read(step.skip);
  if (kMix) *reads = read(step.x0);
  TileMap* results = maps.results;
  *results++ = result(step.y);
  if (kMix) *results++ = result(step.u);
  *results = result(step.normed);
  ResidualStep<kSkip, kMix> epilogue = {};
  epilogue.branch_scale = step.branch_scale.data();
  epilogue.skip_weight = Data(step.skip_weight);
  epilogue.mix0 = Data(step.mix);
  epilogue.mix1 = kMix ? step.mix.data() + dim : nullptr;
  epilogue.norm_scale = step.norm_scale;
  epilogue.rstd = step.rstd.data();
  Multiply<false>(device, maps, sizes, epilogue);
}

}  // namespace

bool TryMatmulThenResidualNorm(const Device& device, const MatmulThenResidualNormArgs<Bf16>& args) {
  const ResidualNormArgs<Bf16>& step = args.step;
  const Sizes sizes = {static_cast<int>(step.x.dim(0)), static_cast<int>(step.x.dim(1)),
                       static_cast<int>(args.x.dim(1))};
  if (!Supports(device, step.x.dim(0), step.x.dim(1), args.x.dim(1))) return false;
  const bool mix = !step.x0.empty(), skip = !step.skip.empty();
  if (step.normed.empty() || step.y.empty() || step.u.empty() == mix) return false;
  if (step.branch_scale.size() != sizes.cols || (skip && !mix)) return false;
  if (!AllAligned(args.x.data(), args.weight.data(), step.x.data(), Data(step.skip), Data(step.x0),
                  step.branch_scale.data(), Data(step.skip_weight), Data(step.mix), step.y.data(),
                  Data(step.u), step.normed.data())) {
    return false;
  }
  if (skip) {
    Step<true, true>(device, args, sizes);
  } else if (mix) {
    Step<false, true>(device, args, sizes);
  } else {
    Step<false, false>(device, args, sizes);
  }
  return true;
}

bool TryMatmulBackwardIntoStep(const Device& device, const MatmulGradArgs<Bf16>& product,
                               const ResidualNormGradArgs<Bf16>& step) {
  const ResidualNormArgs<Bf16>& f = step.forward;
  const int64_t row_count = step.dx.dim(0), dim = step.dx.dim(1), inner = product.weight.dim(0);
  if (!Supports(device, row_count, dim, inner) || product.dy.stride() != inner) return false;
  if (f.normed.empty() || !f.branch.empty() || !f.skip.empty() || !f.x0.empty()) return false;
  if (step.du.empty() || !step.dy.empty()) return false;
  const Bf16* const u = !f.u.empty() ? f.u.data() : !f.y.empty() ? f.y.data() : f.x.data();
  if (!AllAligned(product.dy.data(), product.weight.data(), u, step.du.data(), step.dx.data())) return false;
  Maps maps = {.a = MatrixMap(product.dy.data(), row_count, inner),
               .b = MatrixMap(product.weight.data(), inner, dim)};
  maps.reads[0] = MatrixMap(u, row_count, dim);
  maps.reads[1] = MatrixMap(step.du.data(), row_count, dim);
  maps.results[0] = MatrixMap(step.dx.data(), row_count, dim, rows::kWarpRows);
  NormGradient epilogue = {};
  epilogue.norm_scale = f.norm_scale;
  epilogue.rstd = f.rstd.data();
  Multiply<true>(device, maps, {static_cast<int>(row_count), static_cast<int>(dim), static_cast<int>(inner)},
                 epilogue);
  return true;
}

}  // namespace hm11::cuda
