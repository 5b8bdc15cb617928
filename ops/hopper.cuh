// The instructions of compute capability 9.0 that attention's and the MLP's fastest kernels are made of:
// tiles copied by the tensor memory unit, barriers in shared memory, clusters of blocks. Products of what is in
// these tiles: ops/hopper_products.cuh.
//
// A tile here is 64 rows of 64 bf16 numbers, or of 128 of 8 bits, 8 KB on a 1024-byte boundary: a row is 128
// bytes, its 16-byte chunk c lies at chunk c ^ (row % 8). That is the 128-byte swizzle of both units, and it
// makes columns as cheap to read as rows.
#ifndef HM11_OPS_HOPPER_CUH_
#define HM11_OPS_HOPPER_CUH_

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "core/dtype.h"
#include "core/launch.cuh"

namespace hm11::cuda {

// Whether what is being compiled may have these instructions: kernels have no body elsewhere.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
inline constexpr bool kIsHopper = true;
#else
inline constexpr bool kIsHopper = false;
#endif

inline constexpr int kTileRows = 64;
inline constexpr int kTileCols = 64;
inline constexpr uint32_t kTileBytes = kTileRows * kTileCols * 2;
inline constexpr int kTileRowBytes = 128;
// Numbers of In in a row of a tile: 64, or 128 of 8 bits.
template <typename In>
inline constexpr int kTileTerms = kTileRowBytes / static_cast<int>(sizeof(In));

// Where the copy unit finds 64-row tiles of [batch, time, heads, 64]. Rows from `time` on read as zeros.
struct TileMap {
  CUtensorMap map;
};

// A map of `rank` <= 5 axes, the innermost first: extents and boxes in numbers, strides in bytes, of all axes
// but the innermost, whose box has 128 bytes, or 64 in the 64-byte swizzle. What lies outside of the extents
// reads as zeros.
template <typename In>
TileMap EncodeTileMap(const In* data, uint32_t rank, const cuuint64_t* extents, const cuuint64_t* strides,
                      const cuuint32_t* box) {
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                              const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const Encode encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    HM_CHECK_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                   cudaEnableDefault, &found));
#else
    HM_CHECK_CUDA(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found));
#endif
    return reinterpret_cast<Encode>(function);
  }();
  const cuuint32_t steps[] = {1, 1, 1, 1, 1};
  const bool is_strip = box[0] * sizeof(In) == kTileRowBytes / 2;
  constexpr auto kType = sizeof(In) == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  TileMap map;
  const CUresult result =
      encode(&map.map, kType, rank, const_cast<In*>(data), extents, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, is_strip ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B,
             is_strip ? CU_TENSOR_MAP_L2_PROMOTION_L2_64B : CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    std::fprintf(stderr, "cuTensorMapEncodeTiled: error %d for %u axes,", static_cast<int>(result), rank);
    for (uint32_t axis = 0; axis < rank; ++axis) {
      std::fprintf(stderr, " %llu", static_cast<unsigned long long>(extents[axis]));
    }
    std::fprintf(stderr, "\n");
    std::_Exit(1);
  }
  return map;
}

// A row-major matrix in boxes of `box_rows` rows and 128 bytes.
template <typename In>
TileMap MatrixMap(const In* data, int64_t rows, int64_t cols, int box_rows = kTileRows) {
  const cuuint64_t extents[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(sizeof(In) * cols)};
  const cuuint32_t box[] = {kTileTerms<In>, static_cast<cuuint32_t>(box_rows)};
  return EncodeTileMap(data, 2, extents, strides, box);
}

inline TileMap MakeTileMap(const Bf16* data, int64_t batch, int64_t time, int64_t heads) {
  const auto u = [](int64_t value) { return static_cast<cuuint64_t>(value); };
  const cuuint64_t extents[] = {kTileCols, u(heads), u(time), u(batch)};
  const cuuint64_t strides[] = {kTileCols * 2, u(heads * kTileCols * 2), u(time * heads * kTileCols * 2)};
  const cuuint32_t box[] = {kTileCols, 1, kTileRows, 1};
  return EncodeTileMap(data, 4, extents, strides, box);
}

// ---- Barriers in shared memory: a phase ends when `count` arrivals and all announced bytes have come.
// Waiting for the parity of a phase returns when that phase, and so the one before it, is over; a new barrier
// is in phase 0, and a wait for parity 1 returns at once.

__device__ __forceinline__ void InitBarrier(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}
// After the last InitBarrier, before the block's first use.
__device__ __forceinline__ void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void ArriveAndExpect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void WaitBarrier(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// Where a ring of stages, each with a barrier, is at the `index`th stage of all: a stage, the parity of its phase.
template <int kStages>
struct RingPlace {
  int index = 0;
  __device__ int stage() const { return index % kStages; }
  __device__ uint32_t parity() const { return index / kStages & 1; }
};
// All `threads` of those that name barrier `id` (1 to 15) wait for each other.
__device__ __forceinline__ void SyncThreads(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// Orders this thread's ordinary accesses to shared memory before later ones by the copy unit and the tensor
// cores (which the barrier after it lets go ahead).
__device__ __forceinline__ void FenceForUnits() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Hands registers of this warpgroup back to the block's pool, or takes more from it (waiting until they are
// there); a multiple of 8. All warps of the warpgroup call it.
template <int kRegisters>
__device__ __forceinline__ void ShrinkRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void GrowRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Starts the copy of one tile; its 8 KB count for `barrier`.
__device__ __forceinline__ void CopyTile(uint32_t tile, const TileMap& map, uint32_t barrier, int row,
                                         int head, int batch) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, "
      "%4, "
      "%5}], [%6];" ::"r"(tile),
      "l"(&map.map), "r"(0), "r"(head), "r"(row), "r"(batch), "r"(barrier)
      : "memory");
}

// ---- Instructions of clusters and of matrices of two axes.

__device__ __forceinline__ int ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
// Until all threads of all blocks of the cluster are here.
__device__ __forceinline__ void SyncCluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Arrives at the barrier that block `rank` of the cluster has at this address.
__device__ __forceinline__ void ArriveAt(uint32_t barrier, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}
__device__ __forceinline__ void CopyBox(uint32_t to, const TileMap& map, uint32_t barrier, int col, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
      "%3}], "
      "[%4];" ::"r"(to),
      "l"(&map.map), "r"(col), "r"(row), "r"(barrier)
      : "memory");
}
// To the same place in the blocks of a cluster whose ranks are bits of `blocks`; the bytes count for the
// barrier of each.
__device__ __forceinline__ void CopyBoxTo(uint16_t blocks, uint32_t to, const TileMap& map, uint32_t barrier,
                                          int col, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(&map.map), "r"(col), "r"(row), "r"(barrier), "h"(blocks)
      : "memory");
}
__device__ __forceinline__ void StoreBox(const TileMap& map, uint32_t from, int col, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map.map),
      "r"(col), "r"(row), "r"(from)
      : "memory");
}
__device__ __forceinline__ void CommitStores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until all but this thread's latest kPending groups of stores have read what they store.
template <int kPending>
__device__ __forceinline__ void WaitForStores() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

__device__ __forceinline__ float LoadShared(uint32_t address) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}
__device__ __forceinline__ void StoreShared(uint32_t address, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}
// Four 8x8 matrices to shared memory, as LoadMatrices has them.
__device__ __forceinline__ void StoreMatrices(uint32_t row_address, const uint32_t (&from)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_address),
               "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
               : "memory");
}
// Transposed: lane 8 i + j gives the address of column j of matrix i, of which LoadMatricesTransposed would give each
// lane these numbers again.
__device__ __forceinline__ void StoreMatricesTransposed(uint32_t column_address, const uint32_t* from) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(column_address),
               "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
               : "memory");
}

}  // namespace hm11::cuda

#endif  // HM11_OPS_HOPPER_CUH_
