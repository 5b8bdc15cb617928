// What the kernels of ops/thin_product.cu are made of: a block's shared memory, operands, products.
//
// Of the two operands that have a row for each token one is wide and the other thin. dweight is either way the
// wide one's columns times the thin one's, summed over rows: a block keeps its share of it in registers while it
// walks down the rows, and leaves it as a partial sum. dx is the thin or the wide one:
//
//   ToWide: dy is thin (up to 96 columns), x and dx wide. A block has 256 columns; with the weights of these in
//     shared memory it makes their dx of a tile of 64 rows.
//   ToThin: dy is wide (up to 1024 columns), x and dx thin (up to 32 columns). A block has all columns of its
//     rows, 256 a stage, and all weights.
//
// A producer runs ahead through a ring of stages: 64 rows of 256 columns of the wide operand, those of
// the thin one, and, where dx is wide, room for it, filled with what it is added to. Two warpgroups have half of
// a stage's columns each. What is thinner than its place is filled up with zeros.
//
// Thin operands lie in strips of 32 columns, 64 rows of 64 bytes in the 64-byte swizzle: tiles as in hopper.cuh
// but half as wide.
#ifndef HM11_OPS_THIN_PRODUCT_CUH_
#define HM11_OPS_THIN_PRODUCT_CUH_

#include <cstdint>

#include "ops/hopper.cuh"
#include "ops/hopper_products.cuh"
#include "ops/tensor_core.cuh"

namespace hm11::cuda::thin {

inline constexpr int kGroups = 2;                     // warpgroups that multiply
inline constexpr int kWarps = kGroups * 4;            // that multiply
inline constexpr int kThreads = (kGroups + 1) * 128;  // with the producer's warpgroup
inline constexpr int kTiles = 4;                      // of a stage's wide operand
inline constexpr int kGroupTiles = kTiles / kGroups;
inline constexpr int kStageCols = kTiles * kTileCols;
inline constexpr int kStripCols = 32;
inline constexpr uint32_t kStripBytes = kTileRows * kStripCols * 2;
inline constexpr int kWarpRows = 16;
// A thread's, of the 168 that it begins with: most of the producer's go to those that multiply.
inline constexpr int kProducerRegisters = 40;
inline constexpr int kRegisters = 232;

struct ToWide {
  static constexpr int kStrips = 3;
  static constexpr int kMaxThin = kStrips * kStripCols;
  static constexpr int kStages = 2;
  static constexpr int kResultTiles = kTiles;                             // of a stage
  static constexpr uint32_t kWeightTileBytes = kMaxThin * kTileCols * 2;  // 64 columns of the weights
  static constexpr int kWeightTiles = kTiles;
  static constexpr uint32_t kExchangeBytes = 0;
};

struct ToThin {
  static constexpr int kStrips = 1;
  static constexpr int kMaxThin = kStrips * kStripCols;
  static constexpr int kMaxParts = 4;  // stages of a tile of rows
  static constexpr int kMaxWide = kMaxParts * kStageCols;
  static constexpr int kStages = 4;
  static constexpr int kResultTiles = 0;
  static constexpr uint32_t kWeightTileBytes = kStripBytes;  // 64 rows of the weights
  static constexpr int kWeightTiles = kMaxParts * kTiles;
  static constexpr uint32_t kExchangeBytes = kTileRows * kMaxThin * 4;  // sums of one warpgroup
};

struct Sizes {
  int rows, wide, thin;

  __host__ __device__ int row_tiles() const { return (rows + kTileRows - 1) / kTileRows; }
  __host__ __device__ int parts() const { return (wide + kStageCols - 1) / kStageCols; }
};

// Where matrices are. Boxes of what is wide have 64 columns, of what is thin 32.
struct Maps {
  TileMap wide;    // [rows, wide], boxes of 64 rows
  TileMap thin;    // [rows, thin], boxes of 64 rows
  TileMap weight;  // to wide: [thin, wide], boxes of 96 rows; to thin: [wide, thin], boxes of 64 rows
  TileMap added;   // to wide: dx, boxes of 64 rows
  TileMap result;  // to wide: dx, boxes of a warp's rows
};

// ---- Shared memory.

template <typename Kind>
struct Shared {
  static constexpr uint32_t kWeightBytes = Kind::kWeightTiles * Kind::kWeightTileBytes;
  static constexpr uint32_t kThin = (kTiles + Kind::kResultTiles) * kTileBytes;  // in a stage
  static constexpr uint32_t kStageBytes = kThin + Kind::kStrips * kStripBytes;
  static constexpr uint32_t kExchange = kWeightBytes + Kind::kStages * kStageBytes;
  static constexpr uint32_t kBarriers = kExchange + Kind::kExchangeBytes;
  static constexpr uint32_t kBytes = kBarriers + 8 * (1 + 2 * Kind::kStages);

  uint32_t base = SharedAddress(DynamicShared());

  __device__ uint32_t Weight(int tile) const { return base + tile * Kind::kWeightTileBytes; }
  __device__ uint32_t Stage(int stage) const { return base + kWeightBytes + stage * kStageBytes; }
  __device__ uint32_t Wide(int stage, int tile) const { return Stage(stage) + tile * kTileBytes; }
  __device__ uint32_t Result(int stage, int tile) const { return Wide(stage, kTiles + tile); }
  __device__ uint32_t Thin(int stage, int strip) const { return Stage(stage) + kThin + strip * kStripBytes; }
  // Sum `i` of a lane of a warpgroup.
  __device__ uint32_t Exchange(int i) const { return base + kExchange + (i * 128 + threadIdx.x % 128) * 4; }
  __device__ uint32_t WeightFull() const { return base + kBarriers; }
  __device__ uint32_t Full(int stage) const { return base + kBarriers + 8 * (1 + stage); }
  __device__ uint32_t Empty(int stage) const { return base + kBarriers + 8 * (1 + Kind::kStages + stage); }

  // All threads of the block call it.
  __device__ void Init() const {
    if (threadIdx.x == 0) {
      InitBarrier(WeightFull(), 1);
      for (int stage = 0; stage < Kind::kStages; ++stage) {
        InitBarrier(Full(stage), 1);
        InitBarrier(Empty(stage), kWarps);
      }
      FenceBarrierInit();
    }
    __syncthreads();
  }
};
static_assert(Shared<ToWide>::kBytes <= 227 << 10 && Shared<ToThin>::kBytes <= 227 << 10);

template <typename Kind>
using Place = RingPlace<Kind::kStages>;

// ---- Work: the blocks that have the same columns share the tiles of rows out.

struct Work {
  int part, first, step;

  __device__ Work(const Sizes&, ToThin) : part(0), first(blockIdx.x), step(gridDim.x) {}
  __device__ Work(const Sizes& sizes, ToWide)
      : part(blockIdx.x % sizes.parts()),
        first(blockIdx.x / sizes.parts()),
        step(gridDim.x / sizes.parts()) {}
  __device__ int Row(int tile) const { return (first + tile * step) * kTileRows; }
};

// A thread that multiplies.
struct Lane {
  int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
  int group = warp / 4;
  int first_row = warp % 4 * kWarpRows;  // of the warp, in a tile
  int lane = threadIdx.x % 32;
  int row = first_row + lane / 4;  // of sums 0 and 1; that of 2 and 3 is eight further down
  int col = lane % 4 * 2;          // of sums 0 and 2, in 8 columns
};

// ---- Products.

// A strip as an operand, as Operand() is a tile: summed over its columns.
__device__ __forceinline__ uint64_t StripOperand(uint32_t strip, uint32_t offset) {
  return OperandOf((OperandStart(strip) | 1u << 16) + offset, 512u >> 4 | 2u << 30);
}
// As TransposedOperand() is tiles side by side: summed over its rows.
__device__ __forceinline__ uint64_t TransposedStripOperand(uint32_t strips, uint32_t offset) {
  return OperandOf((OperandStart(strips) | (kStripBytes >> 4) << 16) + offset, 512u >> 4 | 2u << 30);
}
// Terms 16 step .. 16 step + 15 of them: 16 columns of a tile or a strip are 32 bytes, 16 rows 2048 and 1024.
__device__ __forceinline__ uint64_t TileRowsAt(uint32_t tile, int step) { return Operand(tile, 2 * step); }
__device__ __forceinline__ uint64_t TileColsAt(uint32_t tile, int step) {
  return TransposedOperand(tile, 128 * step);
}
__device__ __forceinline__ uint64_t StripRowsAt(uint32_t strips, int step) {
  return StripOperand(strips + step / 2 * kStripBytes, step % 2 * 2);
}
__device__ __forceinline__ uint64_t StripColsAt(uint32_t strips, int step) {
  return TransposedStripOperand(strips, 64 * step);
}

// Sums of a warpgroup: c[n][i] as in hopper.cuh.
template <int kCols>
using Sums = float[kCols / 8][4];

// This lane's part of 64 columns of the wide operand times the thin one's: number (wide, thin) of dweight goes to
// to[wide * wide_stride + thin * thin_stride].
template <int kCount>
__device__ __forceinline__ void StorePartial(const Sizes& sizes, const Lane& lane,
                                             const float (&c)[kCount][4], int first_wide, float* to,
                                             int wide_stride, int thin_stride) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int wide = first_wide + lane.row + i / 2 * 8, thin = 8 * n + lane.col + i % 2;
      if (wide < sizes.wide && thin < sizes.thin) to[wide * wide_stride + thin * thin_stride] = c[n][i];
    }
  }
}

}  // namespace hm11::cuda::thin

#endif  // HM11_OPS_THIN_PRODUCT_CUH_
