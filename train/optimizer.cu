// Kernels of the optimizer. All are bound by memory: each number is read and written once, in 16-byte
// accesses where the sizes allow, and the gradient is zeroed by whoever reads it last.
#include "core/launch.cuh"
#include "ops/packs.cuh"
#include "train/optimizer_cuda.h"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void FinishNormKernel(const float* sum_of_squares, float* norm) { *norm = sqrtf(*sum_of_squares); }

// The average (EMA) and the 16-bit working copy of kWidth weights at `at`, in one pass.
template <int kWidth>
__device__ __forceinline__ void FusedEmaAndCast(const StepOperands& s, float decay, int64_t at,
                                                const float (&weight)[kWidth]) {
  if (decay == 0) {
    Store<kWidth>(weight, s.average.At(at));
  } else {
    float average[kWidth];
    Load<kWidth>(s.average.At(at), average);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) average[i] = AverageUpdate(decay, average[i], weight[i]);
    Store<kWidth>(average, s.average.At(at));
  }
  if (s.working_copy != nullptr) Store<kWidth>(weight, s.working_copy + at);
}

constexpr int kAdamWidth = 4;
constexpr int kAdamPacks = 4;  // a thread's, one after the other
constexpr int64_t kAdamBlock = kThreads * kAdamWidth * kAdamPacks;

// A block owns 4096 neighbouring floats, a half-warp a granule at a time. Blocks over Muon's matrices, most
// of them, read their rules and end.
__global__ void __launch_bounds__(kThreads)
    AdamKernel(const __grid_constant__ StepOperands s, const UpdateRule* rules, int64_t size) {
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kAdamBlock + threadIdx.x * kAdamWidth;
#pragma unroll
  for (int pack = 0; pack < kAdamPacks; ++pack) {
    const int64_t at = begin + pack * kThreads * kAdamWidth;
    if (at >= size) return;
    const UpdateRule rule = rules[at / kGranule];
    if (rule == UpdateRule::kMuon) continue;
    const AdamStep step = AdamStepOf(s, rule);
    float gradient[kAdamWidth], weight[kAdamWidth], first[kAdamWidth], second[kAdamWidth];
    Load<kAdamWidth>(s.gradients + at, gradient);
    Load<kAdamWidth>(s.weights.At(at), weight);
    Load<kAdamWidth>(s.first.At(at), first);
    Load<kAdamWidth>(s.second.At(at), second);
#pragma unroll
    for (int i = 0; i < kAdamWidth; ++i) {
      weight[i] = AdamUpdate(step, gradient[i], weight[i], first[i], second[i]);
      gradient[i] = 0;
    }
    Store<kAdamWidth>(gradient, s.gradients + at);
    Store<kAdamWidth>(weight, s.weights.At(at));
    Store<kAdamWidth>(first, s.first.At(at));
    Store<kAdamWidth>(second, s.second.At(at));
    FusedEmaAndCast<kAdamWidth>(s, s.scalars->average_decay, at, weight);
  }
}

// The tile of a weight matrix that a block works on, and the threads' shares of it: kLanes threads a row,
// kWidth neighbouring numbers each, kPacks rows a thread.
template <int kWidth>
struct Tile {
  static constexpr int kLanes = kMuonTile / kWidth;
  static constexpr int kRowsAtOnce = kThreads / kLanes;
  static constexpr int kPacks = kMuonTile / kRowsAtOnce;

  __device__ explicit Tile(const MuonShape& shape)
      : matrix(shape.matrices[blockIdx.y]), rows(shape.rows(matrix)), cols(shape.cols(matrix)) {
    const int64_t tile_cols = (cols + kMuonTile - 1) / kMuonTile;
    first_row = blockIdx.x / tile_cols * kMuonTile;
    first_col = blockIdx.x % tile_cols * kMuonTile;
    lane = threadIdx.x % kLanes * kWidth;
  }
  __device__ int Row(int pack) const { return threadIdx.x / kLanes + pack * kRowsAtOnce; }
  // Packs are inside as a whole, or outside: with kWidth > 1 rows and cols are multiples of it.
  __device__ bool Has(int row, int col) const { return first_row + row < rows && first_col + col < cols; }
  __device__ int64_t WeightAt(int row, int col) const {
    return matrix.offset + (first_row + row) * cols + first_col + col;
  }
  // Of weight (row, col) in x: [small, large] for each matrix.
  __device__ int64_t OrthogonalAt(int row, int col) const {
    const int64_t r = first_row + row, c = first_col + col;
    return blockIdx.y * rows * cols + (matrix.transposed ? c * rows + r : r * cols + c);
  }

  const MuonMatrix matrix;
  const int64_t rows, cols;
  int64_t first_row, first_col;
  int lane;
};

// A block takes a 64 x 64 tile of one weight matrix; directions of transposed matrices turn in shared memory,
// so that x too is written along its rows. Everything is loaded before anything is stored: eight 16-byte
// loads a thread in flight.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    GatherMuonKernel(const __grid_constant__ StepOperands s, MuonShape shape, T* x, float* partials) {
  __shared__ float turned[kMuonTile][kMuonTile + 1];
  __shared__ float scratch[32];
  const Tile<kWidth> tile(shape);
  constexpr int kPacks = Tile<kWidth>::kPacks;
  const int lane = tile.lane;
  const float clip_factor = ClipFactor(s), momentum = s.scalars->muon_momentum;
  Pack<float, kWidth> gradients[kPacks], firsts[kPacks];
#pragma unroll
  for (int pack = 0; pack < kPacks; ++pack) {
    const int row = tile.Row(pack);
    if (!tile.Has(row, lane)) continue;
    gradients[pack] = Fetch<kWidth>(s.gradients + tile.WeightAt(row, lane));
    firsts[pack] = Fetch<kWidth>(s.first.At(tile.WeightAt(row, lane)));
  }
  float squares = 0;
#pragma unroll
  for (int pack = 0; pack < kPacks; ++pack) {
    const int row = tile.Row(pack);
    if (!tile.Has(row, lane)) continue;
    float gradient[kWidth], first[kWidth], direction[kWidth];
    Unpack(gradients[pack], gradient);
    Unpack(firsts[pack], first);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      direction[i] = MuonDirection(gradient[i] * clip_factor, momentum, first[i]);
      squares += direction[i] * direction[i];
      gradient[i] = 0;
      if (tile.matrix.transposed) turned[row][lane + i] = direction[i];
    }
    Store<kWidth>(first, s.first.At(tile.WeightAt(row, lane)));
    Store<kWidth>(gradient, s.gradients + tile.WeightAt(row, lane));
    if (!tile.matrix.transposed) Store<kWidth>(direction, x + tile.OrthogonalAt(row, lane));
  }
  squares = BlockSum<kThreads>(squares, scratch);
  if (threadIdx.x == 0) partials[static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = squares;
  if (!tile.matrix.transposed) return;
  __syncthreads();
#pragma unroll
  for (int pack = 0; pack < kPacks; ++pack) {
    const int col = tile.Row(pack);  // Rows of x are columns of the weight.
    if (!tile.Has(lane, col)) continue;
    float direction[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) direction[i] = turned[lane + i][col];
    Store<kWidth>(direction, x + tile.OrthogonalAt(lane, col));
  }
}

constexpr int kEqualRows = 32;  // of a block

// Divides the rows of directions by their norms and, for a Frobenius norm of 1, by the root of their number.
// A block takes 32 rows of one weight matrix. Where they are rows of x a warp takes every eighth, where they
// are columns of x a lane takes one, and the warps every eighth number of it.
template <typename T>
__global__ void __launch_bounds__(kThreads) EqualizeRowsKernel(MuonShape shape, T* x) {
  constexpr int kWarps = kThreads / 32;
  __shared__ float sums[kWarps][kEqualRows];
  const MuonMatrix matrix = shape.matrices[blockIdx.y];
  const int64_t rows = shape.rows(matrix), cols = shape.cols(matrix);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kEqualRows;
  if (first >= rows) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  T* const values = x + blockIdx.y * shape.size();
  const float share = rsqrtf(static_cast<float>(rows));
  if (!matrix.transposed) {
    for (int64_t row = first + warp; row < min(first + kEqualRows, rows); row += kWarps) {
      float squares = 0;
      for (int64_t col = lane; col < cols; col += 32) {
        const float value = static_cast<float>(values[row * cols + col]);
        squares += value * value;
      }
      const float factor = share * MuonNormalizer(WarpSum(squares));
      for (int64_t col = lane; col < cols; col += 32) {
        values[row * cols + col] = T(factor * static_cast<float>(values[row * cols + col]));
      }
    }
    return;
  }
  const int64_t row = first + lane;
  float squares = 0;
  for (int64_t col = warp; row < rows && col < cols; col += kWarps) {
    const float value = static_cast<float>(values[col * rows + row]);
    squares += value * value;
  }
  sums[warp][lane] = squares;
  __syncthreads();
  squares = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) squares += sums[i][lane];
  const float factor = share * MuonNormalizer(squares);
  for (int64_t col = warp; row < rows && col < cols; col += kWarps) {
    values[col * rows + row] = T(factor * static_cast<float>(values[col * rows + row]));
  }
}

constexpr int kNormalizePacks = 4;

// Each block adds up its matrix's partial sums anew, in one order: a few hundred numbers.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    NormalizeKernel(const float* partials, int64_t tiles, int64_t size, T* x) {
  __shared__ float scratch[32];
  float squares = 0;
  for (int64_t i = threadIdx.x; i < tiles; i += kThreads) squares += partials[blockIdx.y * tiles + i];
  const float factor = MuonNormalizer(BlockSum<kThreads>(squares, scratch));
  T* matrix = x + blockIdx.y * size;
#pragma unroll
  for (int pack = 0; pack < kNormalizePacks; ++pack) {
    const int64_t at =
        ((static_cast<int64_t>(blockIdx.x) * kNormalizePacks + pack) * kThreads + threadIdx.x) * kWidth;
    if (at >= size) return;
    float values[kWidth];
    Load<kWidth>(matrix + at, values);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) values[i] *= factor;
    Store<kWidth>(values, matrix + at);
  }
}

// The way back, tile by tile as in GatherMuonKernel.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    ScatterMuonKernel(const __grid_constant__ StepOperands s, MuonShape shape, const T* x) {
  __shared__ float turned[kMuonTile][kMuonTile + 1];
  const Tile<kWidth> tile(shape);
  constexpr int kPacks = Tile<kWidth>::kPacks;
  const int lane = tile.lane;
  const bool transposed = tile.matrix.transposed;
  const MuonStep step = MuonStepOf(s, shape.small, shape.large, transposed);
  const float decay = s.scalars->average_decay;
  Pack<float, kWidth> weights[kPacks];
  Pack<T, kWidth> orthogonals[kPacks];
#pragma unroll
  for (int pack = 0; pack < kPacks; ++pack) {
    const int row = tile.Row(pack);
    if (tile.Has(row, lane)) weights[pack] = Fetch<kWidth>(s.weights.At(tile.WeightAt(row, lane)));
    if (transposed ? tile.Has(lane, row) : tile.Has(row, lane)) {
      orthogonals[pack] =
          Fetch<kWidth>(x + (transposed ? tile.OrthogonalAt(lane, row) : tile.OrthogonalAt(row, lane)));
    }
  }
  if (transposed) {
#pragma unroll
    for (int pack = 0; pack < kPacks; ++pack) {
      const int col = tile.Row(pack);
      if (!tile.Has(lane, col)) continue;
      float orthogonal[kWidth];
      Unpack(orthogonals[pack], orthogonal);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) turned[lane + i][col] = orthogonal[i];
    }
    __syncthreads();
  }
#pragma unroll
  for (int pack = 0; pack < kPacks; ++pack) {
    const int row = tile.Row(pack);
    if (!tile.Has(row, lane)) continue;
    float weight[kWidth], orthogonal[kWidth];
    Unpack(weights[pack], weight);
    Unpack(orthogonals[pack], orthogonal);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      weight[i] = MuonUpdate(step, weight[i], transposed ? turned[row][lane + i] : orthogonal[i]);
    }
    const int64_t at = tile.WeightAt(row, lane);
    Store<kWidth>(weight, s.weights.At(at));
    FusedEmaAndCast<kWidth>(s, decay, at, weight);
  }
}

dim3 TileBlocks(const MuonShape& shape) {
  return dim3(static_cast<unsigned>(MuonTiles(shape)), static_cast<unsigned>(shape.count));
}

// Weights begin at multiples of 64 floats and their parts are whole rows: with sides that are multiples of 4
// every pack of 4 is aligned.
bool HasWholePacks(const MuonShape& shape) { return shape.small % 4 == 0 && shape.large % 4 == 0; }

template <typename T, int kWidth>
void Normalize(const Device& device, const MuonShape& shape, const float* partials, T* x) {
  const int64_t blocks = CeilDiv<int64_t>(shape.size(), kThreads * kWidth * kNormalizePacks);
  Launch(device,
         {.blocks = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(shape.count)),
          .threads = kThreads},
         NormalizeKernel<T, kWidth>, partials, MuonTiles(shape), shape.size(), x);
}

}  // namespace

void FinishNorm(const Device& device, const float* sum_of_squares, float* norm) {
  Launch(device, {.blocks = 1, .threads = 1}, FinishNormKernel, sum_of_squares, norm);
}

void StepAdam(const Device& device, const StepOperands& operands, Tensor<const UpdateRule> rules) {
  const int64_t size = rules.size() * kGranule;
  Launch(device, {.blocks = static_cast<unsigned>(CeilDiv(size, kAdamBlock)), .threads = kThreads},
         AdamKernel, operands, rules.data(), size);
}

template <typename T>
void GatherMuon(const Device& device, const StepOperands& operands, const MuonShape& shape, Tensor<T> x,
                Tensor<float> partials) {
  const LaunchShape launch = {.blocks = TileBlocks(shape), .threads = kThreads};
  if (HasWholePacks(shape)) {
    Launch(device, launch, GatherMuonKernel<T, 4>, operands, shape, x.data(), partials.data());
  } else {
    Launch(device, launch, GatherMuonKernel<T, 1>, operands, shape, x.data(), partials.data());
  }
  if (operands.muon_equal_rows) {
    const dim3 blocks(static_cast<unsigned>(CeilDiv<int64_t>(shape.large, kEqualRows)),
                      static_cast<unsigned>(shape.count));
    return Launch(device, {.blocks = blocks, .threads = kThreads}, EqualizeRowsKernel<T>, shape, x.data());
  }
  if (shape.size() % kPackSize<T> == 0) {
    Normalize<T, kPackSize<T>>(device, shape, partials.data(), x.data());
  } else {
    Normalize<T, 1>(device, shape, partials.data(), x.data());
  }
}

template <typename T>
void ScatterMuon(const Device& device, const StepOperands& operands, const MuonShape& shape,
                 Tensor<const T> x) {
  const LaunchShape launch = {.blocks = TileBlocks(shape), .threads = kThreads};
  if (HasWholePacks(shape)) {
    Launch(device, launch, ScatterMuonKernel<T, 4>, operands, shape, x.data());
  } else {
    Launch(device, launch, ScatterMuonKernel<T, 1>, operands, shape, x.data());
  }
}

#define HM11_INSTANTIATE(T)                                                                    \
  template void GatherMuon<T>(const Device&, const StepOperands&, const MuonShape&, Tensor<T>, \
                              Tensor<float>);                                                  \
  template void ScatterMuon<T>(const Device&, const StepOperands&, const MuonShape&, Tensor<const T>)
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
#undef HM11_INSTANTIATE

}  // namespace hm11::cuda
