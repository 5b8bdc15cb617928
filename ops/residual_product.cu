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
template <typename In>
bool Supports(const Device& device, int64_t row_count, int64_t dim, int64_t inner) {
  const int64_t blocks = dim / rows::kBlockCols;
  return device.compute_capability() == 90 && row_count > 0 && row_count < 1 << 30 &&
         dim % rows::kBlockCols == 0 && blocks >= rows::kMinBlocks && blocks <= rows::kMaxBlocks &&
         inner >= rows::kMinInner<In> && inner < 1 << 30 && inner % kTileTerms<In> == 0;
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

template <typename In, bool kTransposed, typename Epilogue>
void Multiply(const Device& device, const Maps& maps, const Sizes& sizes, const Epilogue& epilogue) {
  auto* const kernel = rows::ProductKernel<In, kTransposed, Epilogue>;
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

template <bool kSkip, bool kMix, bool kNorm, typename In>
void Step(const Device& device, const MatmulThenResidualNormArgs<Bf16>& args, const Sizes& sizes, const In* x,
          const In* weight) {
  const ResidualNormArgs<Bf16>& step = args.step;
  const int64_t row_count = sizes.rows, dim = sizes.cols;
  const auto read = [&](Tensor<const Bf16> t) { return MatrixMap(t.data(), row_count, dim); };
  const auto result = [&](Tensor<Bf16> t) { return MatrixMap(t.data(), row_count, dim, rows::kWarpRows); };
  Maps maps = {.a = MatrixMap(x, row_count, sizes.inner), .b = MatrixMap(weight, dim, sizes.inner)};
  TileMap* reads = maps.reads;
  *reads++ = read(step.x);
  if (kSkip) *reads++ = read(step.skip);
  if (kMix) *reads = read(step.x0);
  TileMap* results = maps.results;
  *results++ = result(step.y);
  if (kMix) *results++ = result(step.u);
  if (kNorm) *results = result(step.normed);
  ResidualStep<kSkip, kMix, kNorm> epilogue = {};
  epilogue.branch_scale = step.branch_scale.data();
  epilogue.skip_weight = Data(step.skip_weight);
  epilogue.mix0 = Data(step.mix);
  epilogue.mix1 = kMix ? step.mix.data() + dim : nullptr;
  epilogue.norm_scale = step.norm_scale;
  epilogue.rstd = Data(step.rstd);
  epilogue.normed8 = Data(step.normed8);
  epilogue.rows = sizes.rows;
  epilogue.cols = sizes.cols;
  Multiply<In, false>(device, maps, sizes, epilogue);
}

// args.x and args.weight, or the same in 8 bits.
template <typename In>
bool TryStep(const Device& device, const MatmulThenResidualNormArgs<Bf16>& args, const In* x,
             const In* weight) {
  const ResidualNormArgs<Bf16>& step = args.step;
  const Sizes sizes = {.rows = static_cast<int>(step.x.dim(0)),
                       .cols = static_cast<int>(step.x.dim(1)),
                       .inner = static_cast<int>(args.weight.dim(1)),
                       .factor = 1 / (kActivatedFactor * kWeightFactor)};
  if (!Supports<In>(device, sizes.rows, sizes.cols, sizes.inner)) return false;
  const bool mix = !step.x0.empty(), skip = !step.skip.empty(), norm = !step.normed.empty();
  if (step.y.empty() || step.u.empty() == mix || (skip && !mix) || (mix && !norm)) return false;
  if (step.branch_scale.size() != sizes.cols) return false;
  if (!AllAligned(x, weight, step.x.data(), Data(step.skip), Data(step.x0), step.branch_scale.data(),
                  Data(step.skip_weight), Data(step.mix), step.y.data(), Data(step.u), Data(step.normed))) {
    return false;
  }
  if (skip) {
    Step<true, true, true>(device, args, sizes, x, weight);
  } else if (mix) {
    Step<false, true, true>(device, args, sizes, x, weight);
  } else if (norm) {
    Step<false, false, true>(device, args, sizes, x, weight);
  } else {
    Step<false, false, false>(device, args, sizes, x, weight);
  }
  return true;
}

}  // namespace

bool TryMatmulThenResidualNorm(const Device& device, const MatmulThenResidualNormArgs<Bf16>& args) {
  return TryStep(device, args, args.x.data(), args.weight.data());
}

bool TryFp8ThenResidualNorm(const Device& device, const MatmulThenResidualNormArgs<Bf16>& args) {
  return TryStep(device, args, args.in8.x.data(), args.in8.weight.data());
}

namespace {

// dx of a product and the step behind it; b is its weight, or of 8 bits the transposed one.
template <typename In, typename B>
bool TryIntoStep(const Device& device, const In* dy, const B* b, int64_t inner, float factor,
                 const ResidualNormGradArgs<Bf16>& step) {
  constexpr bool kTransposed = sizeof(In) == 2;
  const ResidualNormArgs<Bf16>& f = step.forward;
  const int64_t row_count = step.dx.dim(0), dim = step.dx.dim(1);
  if (!Supports<In>(device, row_count, dim, inner)) return false;
  if (f.normed.empty() || !f.branch.empty() || !f.skip.empty() || !f.x0.empty()) return false;
  if (step.du.empty() || !step.dy.empty()) return false;
  const Bf16* const u = !f.u.empty() ? f.u.data() : !f.y.empty() ? f.y.data() : f.x.data();
  if (!AllAligned(dy, b, u, step.du.data(), step.dx.data())) return false;
  Maps maps = {.a = MatrixMap(dy, row_count, inner),
               .b = kTransposed ? MatrixMap(b, inner, dim) : MatrixMap(b, dim, inner)};
  maps.reads[0] = MatrixMap(u, row_count, dim);
  maps.reads[1] = MatrixMap(step.du.data(), row_count, dim);
  maps.results[0] = MatrixMap(step.dx.data(), row_count, dim, rows::kWarpRows);
  NormGradient epilogue = {};
  epilogue.norm_scale = f.norm_scale;
  epilogue.rstd = f.rstd.data();
  Multiply<In, kTransposed>(
      device, maps, {static_cast<int>(row_count), static_cast<int>(dim), static_cast<int>(inner), factor},
      epilogue);
  return true;
}

}  // namespace

bool TryMatmulBackwardIntoStep(const Device& device, const MatmulGradArgs<Bf16>& product,
                               const ResidualNormGradArgs<Bf16>& step) {
  const int64_t inner = product.weight.dim(0);
  return product.dy.stride() == inner &&
         TryIntoStep(device, product.dy.data(), product.weight.data(), inner, 1, step);
}

bool TryFp8BackwardIntoStep(const Device& device, Tensor<const E5m2> dy8, Tensor<const E4m3> transposed,
                            const ResidualNormGradArgs<Bf16>& step) {
  const float factor = 1 / (GradientFactor(dy8.dim(0)) * kWeightFactor);
  return TryIntoStep(device, dy8.data(), transposed.data(), dy8.dim(1), factor, step);
}

bool Fp8StepServes(const Device& device, int64_t rows, int64_t dim, int64_t in) {
  return Supports<E4m3>(device, rows, dim, in);
}

}  // namespace hm11::cuda
