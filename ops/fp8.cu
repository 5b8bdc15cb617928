// Matrices in 8 bits: a thread makes 16 bytes of a row, a quarter of a block of 64 terms.
#include <algorithm>

#include "core/launch.cuh"
#include "ops/fp8.cuh"
#include "ops/hopper.cuh"
#include "ops/tensor_core.cuh"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 256;

// from(term) for the sixteen terms of quarter `quad` of a block.
template <typename To, typename F>
__device__ __forceinline__ uint4 Quarter(int quad, float factor, F&& from) {
  float terms[8][4];
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) terms[n][i] = from(8 * n + 2 * quad + i);
  }
  return Fp8OfSums<To>(terms, 0, factor);
}

template <typename To>
__global__ void __launch_bounds__(kThreads)
    ConvertKernel(int64_t sixteens, const Bf16* __restrict__ from, float factor, uint4* to) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= sixteens) return;
  const Bf16* const block = from + index / 4 * 64;
  to[index] =
      Quarter<To>(static_cast<int>(index % 4), factor, [=](int k) { return static_cast<float>(block[k]); });
}

constexpr int kTile = 64;  // rows and columns of a weight that a block converts
static_assert(kTile * kTile / 16 == kThreads);

struct Weight {
  const Bf16* from;
  const float* scale;  // null: 1
  E4m3* plain;
  E4m3* transposed;  // may be null
  int rows, cols;
  unsigned first_block;  // of those that convert it
};

// As many as fit into a kernel's parameters.
constexpr int kMostWeights = 64;
struct Weights {
  Weight weights[kMostWeights];
  int count;
};

__global__ void __launch_bounds__(kThreads) WeightsKernel(const __grid_constant__ Weights all) {
  __shared__ float tile[kTile][kTile + 1];
  __shared__ float scales[kTile];
  int index = 0;
  while (index + 1 < all.count && all.weights[index + 1].first_block <= blockIdx.x) ++index;
  const Weight& weight = all.weights[index];
  const int block = static_cast<int>(blockIdx.x - weight.first_block), tile_cols = weight.cols / kTile;
  const int first_row = block / tile_cols * kTile, first_col = block % tile_cols * kTile;
  const int line = threadIdx.x / 4, quad = threadIdx.x % 4;
  alignas(16) Bf16 loaded[16];
  const uint4* const from =
      reinterpret_cast<const uint4*>(weight.from + int64_t{first_row + line} * weight.cols + first_col) +
      2 * quad;
  for (int k = 0; k < 2; ++k) reinterpret_cast<uint4*>(loaded)[k] = from[k];
#pragma unroll
  for (int k = 0; k < 16; ++k) tile[line][16 * quad + k] = static_cast<float>(loaded[k]);
  if (threadIdx.x < kTile) {
    scales[threadIdx.x] = weight.scale == nullptr ? 1 : weight.scale[first_row + threadIdx.x];
  }
  __syncthreads();
  const auto to = [&](E4m3* matrix, int row, int cols, int col) {
    return reinterpret_cast<uint4*>(matrix + int64_t{row + line} * cols + col) + quad;
  };
  *to(weight.plain, first_row, weight.cols, first_col) =
      Quarter<E4m3>(quad, kWeightFactor, [&](int k) { return tile[line][k]; });
  if (weight.transposed == nullptr) return;
  *to(weight.transposed, first_col, weight.rows, first_row) =
      Quarter<E4m3>(quad, kWeightFactor, [&](int k) { return scales[k] * tile[k][line]; });
}

// ---- Transposed copies. A block has 128 rows of 64 columns. A warp has 16 of the rows: interleaved with the row 8
// below, the bytes of a row are 16-bit numbers, which the matrix unit's stores transpose eight rows at a time.

constexpr int kRows = 128;
constexpr int kWarpRows = 16;
static_assert(kRows / kWarpRows * 32 == kThreads);

// Where 16 bytes of a column lie, those of the block's `chunk`th 16 rows.
__device__ __forceinline__ int Place(int col, int chunk) { return col * 8 + (chunk ^ (col & 7)); }

__global__ void __launch_bounds__(kThreads)
    TransposeKernel(int rows, int cols, const uint4* from, uint4* to) {
  if constexpr (kIsHopper) {
    __shared__ uint4 tile[kTile * 8];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_row = static_cast<int>(blockIdx.x) * kRows,
              first_col = static_cast<int>(blockIdx.y) * kTile;
    const int row = first_row + warp * kWarpRows + lane / 4;
    uint32_t upper[4] = {}, lower[4] = {};
    if (row < rows) {
      const uint4* const at = from + (int64_t{row} * cols + first_col) / 16 + lane % 4;
      *reinterpret_cast<uint4*>(upper) = __ldg(at);
      *reinterpret_cast<uint4*>(lower) = __ldg(at + cols / 2);
    }
    uint32_t words[8];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      words[n] = __byte_perm(upper[n / 2], lower[n / 2], n % 2 == 0 ? 0x5140 : 0x7362);
    }
#pragma unroll
    for (int n = 0; n < 8; n += 4) {
      StoreMatricesTransposed(SharedAddress(tile + Place(8 * n + lane, warp)), words + n);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int col = i * (kTile / 2) + threadIdx.x / 8, chunk = threadIdx.x % 8;
      if (first_row + chunk * kWarpRows >= rows) continue;
      to[(int64_t{first_col + col} * rows + first_row) / 16 + chunk] = tile[Place(col, chunk)];
    }
  }
}

}  // namespace

void TransposeFp8(const Device& device, int64_t rows, int64_t cols, const void* from, void* to) {
  if (rows == 0 || cols == 0) return;
  Launch(device,
         {.blocks =
              dim3(static_cast<unsigned>(CeilDiv<int64_t>(rows, kRows)), static_cast<unsigned>(cols / kTile)),
          .threads = kThreads},
         TransposeKernel, static_cast<int>(rows), static_cast<int>(cols), static_cast<const uint4*>(from),
         static_cast<uint4*>(to));
}

template <typename To>
void ToFp8(const Device& device, Tensor<const Bf16> from, float factor, Tensor<To> to) {
  if (from.empty()) return;
  const int64_t sixteens = from.size() / 16;
  Launch(device, {.blocks = static_cast<unsigned>(CeilDiv<int64_t>(sixteens, kThreads)), .threads = kThreads},
         ConvertKernel<To>, sixteens, from.data(), factor, reinterpret_cast<uint4*>(to.data()));
}
template void ToFp8(const Device&, Tensor<const Bf16>, float, Tensor<E4m3>);
template void ToFp8(const Device&, Tensor<const Bf16>, float, Tensor<E5m2>);

void WeightsToFp8(const Device& device, std::span<const ScaledWeight> weights,
                  std::span<const Fp8Weight> to) {
  for (size_t first = 0; first < weights.size(); first += kMostWeights) {
    Weights batch = {};
    unsigned blocks = 0;
    for (size_t k = first; k < std::min(first + kMostWeights, weights.size()); ++k) {
      const Tensor<const Bf16> weight = weights[k].weight;
      const int rows = static_cast<int>(weight.dim(0)), cols = static_cast<int>(weight.dim(1));
      batch.weights[batch.count++] = {.from = weight.data(),
                                      .scale = weights[k].scale.data(),
                                      .plain = to[k].plain.data(),
                                      .transposed = to[k].transposed.data(),
                                      .rows = rows,
                                      .cols = cols,
                                      .first_block = blocks};
      blocks += static_cast<unsigned>(rows / kTile * (cols / kTile));
    }
    Launch(device, {.blocks = blocks, .threads = kThreads}, WeightsKernel, batch);
  }
}

}  // namespace hm11::cuda
