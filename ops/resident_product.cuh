// A matrix product for compute capability 9.0 whose weights stay in shared memory, with the elementwise work
// behind it done on the sums while they are in registers: out = epilogue(a b), bf16, sums of up to 512 terms.
//
// Tall products of a narrow model (65,536 rows and more, 512 terms) read few bytes and write many. So a block
// keeps 128 columns of b for its life (128 KB) and walks down the rows in tiles of 64. Two blocks on
// neighbouring multiprocessors (a cluster) have neighbouring columns and the same rows: each asks for half of
// a's tile and the copy unit writes it to both. Within a block a producer runs ahead through a ring of
// stages, and two warpgroups take turns: while one is at its epilogue, the other has the tensor cores. A
// warpgroup looks for its tile once the one before has all arrived at the other: a barrier tells phases apart
// by their parity only, and so would take the tile before for this one's. For either a porter brings what the
// epilogue reads and takes away what it has made. Producer and porters are threads of warps of their own.
//
// Results of 8 bits, and what is read then, lie transposed (ops/fp8.h): they are operands of a weight's gradient.
//
// Every element is one sum in a fixed order: bits repeat.
#ifndef HM11_OPS_RESIDENT_PRODUCT_CUH_
#define HM11_OPS_RESIDENT_PRODUCT_CUH_

#include <algorithm>

#include "ops/fp8.cuh"
#include "ops/hopper.cuh"
#include "ops/hopper_products.cuh"
#include "ops/tensor_core.cuh"

namespace hm11::cuda::resident {

inline constexpr int kGroups = 2;                                    // warpgroups that multiply
inline constexpr int kThreads = kGroups * 128 + (1 + kGroups) * 32;  // with the producer's and porters' warps
inline constexpr int kBlockCols = 128;                               // of a block
inline constexpr int kPairCols = 256;                                // of the two blocks of a cluster
inline constexpr int kMaxInner = 512;
// Terms of a stage: two tiles' rows, one asked for by each block.
template <typename In>
inline constexpr int kStageInner = 2 * kTileTerms<In>;
inline constexpr int kStages = 4;
inline constexpr uint16_t kBoth = 3;  // blocks of a cluster, as bits

// Sums of a warpgroup's 64 rows and 128 columns: c[n][i] as in hopper.cuh, n up to 16.
using Sums = float[16][4];

template <typename Epilogue>
inline constexpr bool kIsFp8 = sizeof(typename Epilogue::Result) == 1;

// What a kernel is told.
struct Sizes {
  int rows, cols, inner;

  __host__ __device__ int row_tiles() const { return (rows + kTileRows - 1) / kTileRows; }
  __host__ __device__ int pairs() const { return cols / kPairCols; }
  template <typename In>
  __device__ int stages() const {  // of a tile
    return inner / kStageInner<In>;
  }
};

// ---- Shared memory: columns of b, the ring of a's stages, for the epilogue 64 x 128 numbers a warpgroup in
// two tiles, barriers.

struct Shared {
  static constexpr uint32_t kWeightBytes = kBlockCols * kMaxInner * 2;
  static constexpr uint32_t kStageBytes = 2 * kTileBytes;
  static constexpr uint32_t kRing = kWeightBytes;
  static constexpr uint32_t kResults = kRing + kStages * kStageBytes;
  static constexpr uint32_t kBarriers = kResults + kGroups * 2 * kTileBytes;
  static constexpr uint32_t kBytes = kBarriers + 8 * (1 + 2 * kStages + 3 * kGroups);

  uint32_t base = SharedAddress(DynamicShared());

  // The kth of the terms by 128 bytes, of all 128 columns.
  __device__ uint32_t Weights(int k) const { return base + k * 2 * kTileBytes; }
  __device__ uint32_t Stage(int stage, int half) const {
    return base + kRing + stage * kStageBytes + half * kTileBytes;
  }
  __device__ uint32_t Results(int group, int half) const {
    return base + kResults + (group * 2 + half) * kTileBytes;
  }
  __device__ uint32_t WeightsFull() const { return base + kBarriers; }
  __device__ uint32_t StageFull(int stage) const { return base + kBarriers + 8 * (1 + stage); }
  __device__ uint32_t StageEmpty(int stage) const { return base + kBarriers + 8 * (1 + kStages + stage); }
  // What the epilogue reads is there, and its results may replace it.
  __device__ uint32_t ResultsFree(int group) const {
    return base + kBarriers + 8 * (1 + 2 * kStages + group);
  }
  __device__ uint32_t ResultsMade(int group) const {
    return base + kBarriers + 8 * (1 + 2 * kStages + kGroups + group);
  }
  // The tile before this group's next one has arrived.
  __device__ uint32_t Turn(int group) const {
    return base + kBarriers + 8 * (1 + 2 * kStages + 2 * kGroups + group);
  }

  __device__ void Init() const {
    if (threadIdx.x != 0) return;
    InitBarrier(WeightsFull(), 1);
    for (int stage = 0; stage < kStages; ++stage) {
      InitBarrier(StageFull(stage), 1);
      InitBarrier(StageEmpty(stage), 2 * 4);  // the warps of one warpgroup in either block
    }
    for (int group = 0; group < kGroups; ++group) {
      InitBarrier(ResultsFree(group), 1);
      InitBarrier(ResultsMade(group), 4);
      InitBarrier(Turn(group), 4);
    }
    FenceBarrierInit();
  }
};

// ---- Products of 64 x 128 sums.

// The kth stage of a tile.
template <typename In, bool kTransposed>
__device__ __forceinline__ void MultiplyStage(const Shared& shared, int stage, int k, Sums& c) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    MultiplyTileRows<In, kTransposed>(shared.Stage(stage, half), shared.Weights(2 * k + half),
                                      k > 0 || half > 0, c);
  }
}

// ---- Work: the clusters of a pair of column blocks share its row tiles out.

struct Work {
  int pair, first, step;

  __device__ explicit Work(const Sizes& sizes) {
    const int cluster = blockIdx.x / 2, pairs = sizes.pairs();
    pair = cluster % pairs;
    first = cluster / pairs;
    step = static_cast<int>(gridDim.x) / 2 / pairs;
  }
  __device__ int Row(int index) const { return (first + index * step) * kTileRows; }
  __device__ int FirstCol() const { return pair * kPairCols + ClusterRank() * kBlockCols; }
};

using Place = RingPlace<kStages>;

template <typename In, bool kTransposed>
__device__ void Produce(const Sizes& sizes, const Work& work, const Shared& shared, const TileMap& a_map,
                        const TileMap& b_map) {
  const int rank = ClusterRank(), first_col = work.FirstCol();
  ArriveAndExpect(shared.WeightsFull(), static_cast<uint32_t>(sizes.inner * sizeof(In)) * kBlockCols);
#pragma unroll 1
  for (int k = 0; k < sizes.inner / kTileTerms<In>; ++k) {
    for (int half = 0; half < 2; ++half) {
      const uint32_t to = shared.Weights(k) + half * kTileBytes;
      if (kTransposed) {
        CopyBox(to, b_map, shared.WeightsFull(), first_col + half * kTileCols, k * kTileRows);
      } else {
        CopyBox(to, b_map, shared.WeightsFull(), k * kTileTerms<In>, first_col + half * kTileRows);
      }
    }
  }
  int index = 0;
#pragma unroll 1
  for (int tile = 0; work.Row(tile) < sizes.rows; ++tile) {
#pragma unroll 1
    for (int k = 0; k < sizes.stages<In>(); ++k, ++index) {
      const Place place{index};
      WaitBarrier(shared.StageEmpty(place.stage()), place.parity() ^ 1);
      ArriveAndExpect(shared.StageFull(place.stage()), Shared::kStageBytes);
      CopyBoxTo(kBoth, shared.Stage(place.stage(), rank), a_map, shared.StageFull(place.stage()),
                (2 * k + rank) * kTileTerms<In>, work.Row(tile));
    }
  }
}

// The sums of the block's `tile`th tile of rows, by warpgroup `group`.
template <typename In, bool kTransposed>
__device__ __forceinline__ void Multiply(const Sizes& sizes, const Shared& shared, int group, int tile,
                                         Sums& c) {
  const int lane = threadIdx.x % 32, stages = sizes.stages<In>();
  const auto release = [&](int stage) {
    __syncwarp();
    if (lane < 2) ArriveAt(shared.StageEmpty(stage), lane);
  };
  if (tile > 0) WaitBarrier(shared.Turn(group), (tile - 1) / kGroups & 1);
#pragma unroll 1
  for (int k = 0; k < stages; ++k) {
    const Place place{tile * stages + k};
    WaitBarrier(shared.StageFull(place.stage()), place.parity());
    if (k == stages - 1 && lane == 0) Arrive(shared.Turn((group + 1) % kGroups));
    FenceProducts();
    MultiplyStage<In, kTransposed>(shared, place.stage(), k, c);
    CommitProducts();
    if (k > 0) {
      WaitForProducts<1>(c);
      release(Place{tile * stages + k - 1}.stage());
    }
  }
  WaitForProducts<0>(c);
  release(Place{tile * stages + stages - 1}.stage());
}

// The address of this lane's row of 8 numbers for LoadMatrices and StoreMatrices, of columns 8 n .. 8 n + 15
// of a warpgroup's tile; n is even.
__device__ __forceinline__ uint32_t MatrixRow(const Shared& shared, int group, int n) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane % 16, chunk = n % 8 + lane / 16;
  return shared.Results(group, n / 8) + row * 128 + (chunk ^ (row & 7)) * 16;
}

// The address of this lane's column of 16 bytes for LoadMatricesTransposed and StoreMatricesTransposed, of columns
// 8 n .. 8 n + 31 of a warpgroup's tile in 8 bits: a column's 64 rows are 64 bytes, in the swizzle of 64.
__device__ __forceinline__ uint32_t MatrixColumn(const Shared& shared, int group, int n) {
  const int col = 8 * n + threadIdx.x % 32, chunk = threadIdx.x / 32 % 4;
  return shared.Results(group, 0) + col * kTileRows + (chunk ^ (col / 2 & 3)) * 16;
}

// The sums' replacements, by pairs of neighbours, to where the porter takes them from.
template <typename Epilogue>
__device__ __forceinline__ void Finish(const Shared& shared, int group, Epilogue& epilogue, Sums& c) {
#pragma unroll
  for (int n = 0; n < 16; n += 2) {
    const uint32_t address = MatrixRow(shared, group, n);
    uint32_t pairs[4] = {};
    if (Epilogue::kReads) LoadMatrices(pairs, address);
#pragma unroll
    for (int m = 0; m < 4; ++m) {  // halves of the rows within columns
      float(&four)[4] = c[n + m / 2];
      const int half = m % 2;
      epilogue.Apply(n + m / 2, half, four[2 * half], four[2 * half + 1], LowOf(pairs[m]), HighOf(pairs[m]));
      pairs[m] = PackBf16(four[2 * half], four[2 * half + 1]);
    }
    StoreMatrices(address, pairs);
  }
}

// The same in 8 bits, by words (ops/fp8.cuh).
using Words = uint32_t[16];

template <typename Epilogue>
__device__ __forceinline__ void FinishFp8(const Shared& shared, int group, Epilogue& epilogue, Sums& c,
                                          Words& words) {
#pragma unroll
  for (int n = 0; n < 16; n += 4) {
    const uint32_t address = MatrixColumn(shared, group, n);
    uint32_t reads[4] = {};
    if (Epilogue::kReads) LoadMatricesTransposed(reads, address);
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      float(&four)[4] = c[n + m];
      float2 read[2] = {};  // of a column each
      if (Epilogue::kReads) {
        read[0] = UnpackFp8(reads[m] & 0xffff);
        read[1] = UnpackFp8(reads[m] >> 16);
      }
      epilogue.Apply(n + m, 0, four[0], four[1], read[0].x, read[1].x);
      epilogue.Apply(n + m, 1, four[2], four[3], read[0].y, read[1].y);
      words[n + m] = WordOfSums<typename Epilogue::Result>(four, epilogue.factor8);
    }
    StoreMatricesTransposed(address, words + n);
  }
}

// Epilogue is a struct of what the elementwise work reads and writes beside the sums, with
//
//   Result: Bf16, or of 8 bits, then times factor8;
//   kReads: whether it is given the numbers of a matrix like out, those at the places of the sums; of E4m3 where
//     results are of 8 bits;
//   Begin(sizes, row, col), before the product: this lane has sums of rows row and row + 8 and of columns
//     col + 8 n + {0, 1};
//   Apply(n, half, a, b, read_a, read_b): replaces the two sums of row + 8 half, given the numbers read there;
//   End(sizes, row, col, results), after all: of Sums, what they were replaced by, or of 8 bits Words.
template <typename In, bool kTransposed, typename Epilogue>
__device__ void Consume(const Sizes& sizes, const Work& work, const Shared& shared, Epilogue epilogue) {
  const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0), lane = threadIdx.x % 32;
  const int col = work.FirstCol() + lane % 4 * 2;
  WaitBarrier(shared.WeightsFull(), 0);
#pragma unroll 1
  for (int tile = group; work.Row(tile) < sizes.rows; tile += kGroups) {
    const int row = work.Row(tile) + threadIdx.x / 32 % 4 * 16 + lane / 4;
    epilogue.Begin(sizes, row, col);
    Sums c;
    Multiply<In, kTransposed>(sizes, shared, group, tile, c);
    WaitBarrier(shared.ResultsFree(group), tile / kGroups & 1);
    const auto made = [&] {
      FenceForUnits();
      __syncwarp();
      if (lane == 0) Arrive(shared.ResultsMade(group));
    };
    if constexpr (kIsFp8<Epilogue>) {
      Words words;
      FinishFp8(shared, group, epilogue, c, words);
      made();
      epilogue.End(sizes, row, col, words);
    } else {
      Finish(shared, group, epilogue, c);
      made();
      epilogue.End(sizes, row, col, c);
    }
  }
}

// This lane's results of rows row and row + 8 in 8 bits, untransposed; `col` as End() has it.
template <typename To>
__device__ __forceinline__ void StoreFp8(const Sizes& sizes, int row, int col, float factor, const Sums& c,
                                         To* to) {
  StoreSumsFp8<2>(c, {factor, factor}, row, sizes.rows, col - threadIdx.x % 4 * 2, sizes.cols, to);
}
template <typename To>
__device__ __forceinline__ void StoreFp8(const Sizes& sizes, int row, int col, float, const Words& words,
                                         To* to) {
  StoreWordsFp8<2>(words, row, sizes.rows, col - threadIdx.x % 4 * 2, sizes.cols, to);
}

template <typename Epilogue>
__device__ void Carry(const Sizes& sizes, const Work& work, const Shared& shared, int group,
                      const TileMap& read_map, const TileMap& out_map) {
  constexpr int kBoxes = kIsFp8<Epilogue> ? 1 : 2;
  static_assert(kBlockCols * kTileRows == kTileBytes);
#pragma unroll 1
  for (int tile = group; work.Row(tile) < sizes.rows; tile += kGroups) {
    // function(where a box is, its place among the map's columns and rows)
    const auto for_boxes = [&](auto&& function) {
      if constexpr (kIsFp8<Epilogue>) {
        function(shared.Results(group, 0), work.Row(tile), work.FirstCol());
      } else {
        for (int half = 0; half < 2; ++half) {
          function(shared.Results(group, half), work.FirstCol() + half * kTileCols, work.Row(tile));
        }
      }
    };
    if (Epilogue::kReads) {
      ArriveAndExpect(shared.ResultsFree(group), kBoxes * kTileBytes);
      for_boxes([&](uint32_t to, int x, int y) { CopyBox(to, read_map, shared.ResultsFree(group), x, y); });
    } else {
      Arrive(shared.ResultsFree(group));
    }
    WaitBarrier(shared.ResultsMade(group), tile / kGroups & 1);
    for_boxes([&](uint32_t from, int x, int y) { StoreBox(out_map, from, x, y); });
    CommitStores();
    WaitForStores<0>();
  }
}

// (Code for older GPUs, which is empty, may not name clusters.)
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define HM_CLUSTER_OF_TWO
#else
#define HM_CLUSTER_OF_TWO __cluster_dims__(2, 1, 1)
#endif

template <typename In, bool kTransposed, typename Epilogue>
__global__ void HM_CLUSTER_OF_TWO __launch_bounds__(kThreads, 1)
    ProductKernel(const __grid_constant__ TileMap a_map, const __grid_constant__ TileMap b_map,
                  const __grid_constant__ TileMap read_map, const __grid_constant__ TileMap out_map,
                  const Sizes sizes, const Epilogue epilogue) {
  if constexpr (kIsHopper) {
    const Shared shared;
    const Work work(sizes);
    shared.Init();
    SyncCluster();
    if (threadIdx.x / 128 < kGroups) {
      Consume<In, kTransposed>(sizes, work, shared, epilogue);
    } else if (threadIdx.x % 32 == 0) {
      const int group = threadIdx.x / 32 - 4 * kGroups - 1;
      if (group < 0) {
        Produce<In, kTransposed>(sizes, work, shared, a_map, b_map);
      } else {
        Carry<Epilogue>(sizes, work, shared, group, read_map, out_map);
      }
    }
    __syncwarp();
    SyncCluster();  // The other block may still copy to this one, and arrive at its barriers.
  }
}

#undef HM_CLUSTER_OF_TWO

// ---- Host.

// Whether a product of these sizes can be computed here (addresses must be multiples of 16 bytes too).
template <typename In>
bool Supports(const Device& device, int64_t rows, int64_t cols, int64_t inner) {
  return device.compute_capability() == 90 && rows > 0 && rows < 1 << 30 && inner > 0 && inner <= kMaxInner &&
         inner % kStageInner<In> == 0 && cols > 0 && cols % kPairCols == 0 &&
         cols / kPairCols <= device.multiprocessors() / 2;
}

// Of what is read and made beside the sums: a matrix of so many rows and columns, or of 8 bits its transposed one.
template <typename N>
TileMap ResultMap(const N* data, int64_t rows, int64_t cols) {
  if constexpr (sizeof(N) == 1) {
    const cuuint64_t extents[] = {static_cast<cuuint64_t>(rows), static_cast<cuuint64_t>(cols)};
    const cuuint64_t strides[] = {static_cast<cuuint64_t>(rows)};
    const cuuint32_t box[] = {kTileRows, kBlockCols};
    return EncodeTileMap(data, 2, extents, strides, box);
  } else {
    return MatrixMap(data, rows, cols);
  }
}

inline int Blocks(const Device& device, const Sizes& sizes) {
  const int clusters_a_pair = device.multiprocessors() / 2 / sizes.pairs();
  return 2 * sizes.pairs() * std::min(clusters_a_pair, sizes.row_tiles());
}

}  // namespace hm11::cuda::resident

#endif  // HM11_OPS_RESIDENT_PRODUCT_CUH_
