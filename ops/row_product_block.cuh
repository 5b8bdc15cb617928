// What a block of ops/row_product.cuh has: its shared memory, the sums in its registers, its share of the rows.
#ifndef HM11_OPS_ROW_PRODUCT_BLOCK_CUH_
#define HM11_OPS_ROW_PRODUCT_BLOCK_CUH_

#include <cstdint>

#include "ops/hopper.cuh"
#include "ops/tensor_core.cuh"

namespace hm11::cuda::rows {

inline constexpr int kGroups = 2;                       // warpgroups that multiply
inline constexpr int kWarps = kGroups * 4;              // that multiply
inline constexpr int kThreads = (kWarps + 1) * 32;      // with the producer's warp
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
inline constexpr int kMinInner = (kStages + 1) * kTileCols;

// Sums of a warpgroup's 64 rows and 256 columns: c[n][i] as in hopper.cuh, n up to 32.
using Sums = float[32][4];

struct Sizes {
  int rows, cols, inner;
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

// Where the ring is: a stage, and the parity of its phase.
struct Place {
  int index = 0;
  __device__ int stage() const { return index % kStages; }
  __device__ uint32_t parity() const { return index / kStages & 1; }
};

// ---- Instructions.

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
__device__ __forceinline__ float LoadShared(uint32_t address) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}

// ---- Products.

#define HM_SUMS(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])

// c = a b (+ c if `add`) for 16 terms.
template <bool kTransposed>
__device__ __forceinline__ void Multiply16(uint64_t a, uint64_t b, bool add, Sums& c) {
  asm volatile(
      "{\n"
      ".reg .pred add;\n"
      "setp.ne.b32 add, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "
      "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, "
      "%102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, "
      "%119, %120, %121, %122, %123, %124, %125, %126, %127}, %128, %129, add, 1, 1, 0, %131;\n"
      "}"
      : HM_SUMS(0), HM_SUMS(1), HM_SUMS(2), HM_SUMS(3), HM_SUMS(4), HM_SUMS(5), HM_SUMS(6), HM_SUMS(7),
        HM_SUMS(8), HM_SUMS(9), HM_SUMS(10), HM_SUMS(11), HM_SUMS(12), HM_SUMS(13), HM_SUMS(14), HM_SUMS(15),
        HM_SUMS(16), HM_SUMS(17), HM_SUMS(18), HM_SUMS(19), HM_SUMS(20), HM_SUMS(21), HM_SUMS(22),
        HM_SUMS(23), HM_SUMS(24), HM_SUMS(25), HM_SUMS(26), HM_SUMS(27), HM_SUMS(28), HM_SUMS(29),
        HM_SUMS(30), HM_SUMS(31)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(kTransposed ? 1 : 0));
}
#undef HM_SUMS

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
