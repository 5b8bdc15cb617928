// What a block of ops/row_product.cuh has: its shared memory, the sums in its registers, its share of the rows.
#ifndef HM11_OPS_ROW_PRODUCT_BLOCK_CUH_
#define HM11_OPS_ROW_PRODUCT_BLOCK_CUH_

#include <cstdint>

#include "ops/hopper.cuh"
#include "ops/tensor_core.cuh"

namespace hm11::cuda::rows {

inline constexpr int kGroups = 2;                     // warpgroups that multiply
inline constexpr int kWarps = kGroups * 4;            // that multiply
inline constexpr int kThreads = (kGroups + 1) * 128;  // with the producer's warpgroup
// Of a thread: without more than its even share a block's sums and its epilogue spill.
inline constexpr int kRegisters = 232, kProducerRegisters = 40;
inline constexpr int kBlockRows = kGroups * kTileRows;  // of a block
inline constexpr int kBlockCols = 256;
inline constexpr int kColTiles = kBlockCols / kTileCols;
inline constexpr int kStages = 4;
inline constexpr int kWarpRows = 16;
inline constexpr uint32_t kSlabBytes = kWarpRows * kTileCols * 2;  // a warp's rows of a tile
inline constexpr int kMinBlocks = 2, kMaxBlocks = 4;               // that have a row
inline constexpr int kMaxReads = 3;
inline constexpr int kMaxResults = 3;
// Terms from which on a warp's product of the next tile cannot be over while another one of the cluster has
// not read its rows' sums: their places are used anew in every tile.
template <typename In>
inline constexpr int kMinInner = (kStages + 1) * kTileTerms<In>;

// Sums of a warpgroup's 64 rows and 256 columns: c[n][i] as in hopper.cuh, n up to 32.
using Sums = float[32][4];

struct Sizes {
  int rows, cols, inner;
  float factor = 1;  // what sums of 8-bit terms are multiplied by
};

// Blocks of a cluster, which are side by side in a row.
__host__ __device__ constexpr int BlocksOf(const Sizes& sizes) { return sizes.cols / kBlockCols; }

// Where matrices are: of reads and results as many as the epilogue has.
struct Maps {
  TileMap a, b;
  TileMap reads[kMaxReads];      // boxes of 64 rows
  TileMap results[kMaxResults];  // boxes of a warp's rows
};

// ---- Shared memory.

struct Shared {
  static constexpr uint32_t kStageBytes = (kGroups + kColTiles) * kTileBytes;
  static constexpr uint32_t kSlabs = kStages * kStageBytes;
  static constexpr uint32_t kRowSums = kSlabs + kWarps * 2 * kSlabBytes;
  static constexpr uint32_t kBarriers = kRowSums + (kMaxBlocks - 1) * kBlockRows * 4;
  static constexpr uint32_t kBytes = kBarriers + 8 * (2 * kStages + kWarps);

  uint32_t base = SharedAddress(DynamicShared());

  __device__ uint32_t Tile(int stage, int tile) const {
    return base + stage * kStageBytes + tile * kTileBytes;
  }
  __device__ uint32_t A(int stage, int group) const { return Tile(stage, group); }
  __device__ uint32_t B(int stage) const { return Tile(stage, kGroups); }
  // Of the stage's `read`, 64 columns.
  __device__ uint32_t Read(int stage, int read, int group) const {
    return Tile(stage, read * kGroups + group);
  }
  // Two for each warp.
  __device__ uint32_t Slab(int warp, int which) const {
    return base + kSlabs + (warp * 2 + which) * kSlabBytes;
  }
  // Sums over the columns of the cluster's other blocks, `which` of three.
  __device__ uint32_t RowSum(int which, int row) const {
    return base + kRowSums + (which * kBlockRows + row) * 4;
  }
  __device__ uint32_t Full(int stage) const { return base + kBarriers + 8 * stage; }
  __device__ uint32_t Empty(int stage) const { return base + kBarriers + 8 * (kStages + stage); }
  __device__ uint32_t RowSumsHere(int warp) const { return base + kBarriers + 8 * (2 * kStages + warp); }

  __device__ void Init(int blocks) const {
    if (threadIdx.x != 0) return;
    for (int stage = 0; stage < kStages; ++stage) {
      InitBarrier(Full(stage), 1);
      InitBarrier(Empty(stage), blocks * kWarps);
    }
    for (int warp = 0; warp < kWarps; ++warp) InitBarrier(RowSumsHere(warp), 1);
    FenceBarrierInit();
  }
};

using Place = RingPlace<kStages>;

// To `address` in block `rank`, where its 4 bytes count for `barrier`.
__device__ __forceinline__ void SendTo(int rank, uint32_t address, uint32_t barrier, float value) {
  asm volatile(
      "{\n"
      ".reg .b32 there, counted;\n"
      "mapa.shared::cluster.u32 there, %0, %2;\n"
      "mapa.shared::cluster.u32 counted, %1, %2;\n"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [there], %3, [counted];\n"
      "}" ::"r"(address),
      "r"(barrier), "r"(rank), "r"(__float_as_uint(value))
      : "memory");
}

// ---- Work: clusters take tiles of rows in turn.

struct Work {
  int blocks, across;  // of the cluster, and which of them this is
  int first, step;

  __device__ explicit Work(const Sizes& sizes)
      : blocks(BlocksOf(sizes)),
        across(ClusterRank()),
        first(static_cast<int>(blockIdx.x) / blocks),
        step(static_cast<int>(gridDim.x) / blocks) {}
  __device__ int Row(int tile) const { return (first + tile * step) * kBlockRows; }
  __device__ int Col() const { return across * kBlockCols; }
};

}  // namespace hm11::cuda::rows

#endif  // HM11_OPS_ROW_PRODUCT_BLOCK_CUH_
