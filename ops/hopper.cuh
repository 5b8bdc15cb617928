// The instructions of compute capability 9.0 that attention's and the MLP's fastest kernels are made of:
// tiles copied by the tensor memory unit, barriers in shared memory, clusters of blocks, and products of
// four warps with operands there (wgmma).
//
// A tile here is 64 rows of 64 bf16 numbers, 8 KB on a 1024-byte boundary: a row is 128 bytes, its 16-byte
// chunk c lies at chunk c ^ (row % 8). That is the 128-byte swizzle of both units, and it makes columns as
// cheap to read as rows.
//
// A product is c[64, 64] += a[64, 64] b[64, 64] by the four warps of a warpgroup, warp w having rows
// 16w..16w+15 of a and c as in tensor_core.cuh: c[n][i] is row 8 (i / 2) + lane / 4, column 8 n + 2 (lane %
// 4) + i % 2. b is a tile, with the summed axis along its rows (columns of c are the tile's rows) or along
// its columns.
#ifndef HM11_OPS_HOPPER_CUH_
#define HM11_OPS_HOPPER_CUH_

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "core/dtype.h"
#include "core/launch.cuh"
#include "ops/fp8.h"

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
// but the innermost, whose box has 64 numbers, or 32 in the 64-byte swizzle. What lies outside of the extents
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
  const bool is_strip = box[0] == kTileCols / 2;
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

// ---- Products of a warpgroup.

using Product64 = float[8][4];  // what a lane has of c
using Rows64 = uint32_t[4][4];  // what a lane has of a, when a is in registers: fragments of 16 columns

// Where shared memory begins to be that of an operand, in units of 16 bytes. In a cluster the address also
// says which block's it is, which an operand has no room for: it is always the block's own.
__device__ __forceinline__ uint32_t OperandStart(uint32_t tile) { return tile >> 4 & 0x3fffu; }

// An operand of its halves: where it starts and from which block of rows or columns to the next, in units of 16
// bytes, and the bytes of eight rows with the swizzle.
__device__ __forceinline__ uint64_t OperandOf(uint32_t start, uint32_t rows) {
  uint64_t operand;
  asm("mov.b64 %0, {%1, %2};" : "=l"(operand) : "r"(start), "r"(rows));
  return operand;
}

// A tile as an operand: where it starts, with `offset` units of 16 bytes into it; the constants say that
// eight rows are 1024 bytes, and the swizzle.
__device__ __forceinline__ uint64_t Operand(uint32_t tile, uint32_t offset) {
  return OperandOf((OperandStart(tile) | 1u << 16) + offset, 1024u >> 4 | 1u << 30);
}

// As Operand(), of several tiles side by side whose summed axis runs down them: 8192 bytes from one to the
// other.
__device__ __forceinline__ uint64_t TransposedOperand(uint32_t tiles, uint32_t offset) {
  return OperandOf((OperandStart(tiles) | (kTileBytes >> 4) << 16) + offset, 1024u >> 4 | 1u << 30);
}

// Before a product that reads registers written by other instructions, accumulators included.
__device__ __forceinline__ void FenceProducts() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Ends a group of products that may be waited for.
__device__ __forceinline__ void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Keeps the compiler from reading accumulators before this.
template <int kCount>
__device__ __forceinline__ void ReadFromHere(float (&c)[kCount][4]) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(c[n][i])::"memory");
  }
}
// Until at most kPending groups are under way. `c`: the accumulators that are read next.
template <int kPending, typename... Accumulators>
__device__ __forceinline__ void WaitForProducts(Accumulators&... c) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
  (ReadFromHere(c), ...);
}

// Products under way read `rows` until they have been waited for: this, after the wait, keeps the registers.
__device__ __forceinline__ void KeepUntilHere(Rows64& rows) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(rows[step][i])::"memory");
  }
}

// The sums of a product of 32, 64... columns, as an instruction's text and as its operands in the array c.
#define HM_SUMS_TEXT_32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define HM_SUMS_TEXT_64 \
  HM_SUMS_TEXT_32 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define HM_SUMS_TEXT_96 \
  HM_SUMS_TEXT_64 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define HM_SUMS_TEXT_128 \
  HM_SUMS_TEXT_96 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define HM_SUMS_TEXT_256                                                                              \
  HM_SUMS_TEXT_128                                                                                    \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, " \
  "%83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, " \
  "%102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, "  \
  "%118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define HM_SUMS_8(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define HM_SUMS_32(n) HM_SUMS_8(n), HM_SUMS_8(n + 1), HM_SUMS_8(n + 2), HM_SUMS_8(n + 3)
#define HM_SUMS_64(n) HM_SUMS_32(n), HM_SUMS_32(n + 4)
#define HM_SUMS_96(n) HM_SUMS_64(n), HM_SUMS_32(n + 8)
#define HM_SUMS_128(n) HM_SUMS_64(n), HM_SUMS_64(n + 8)
#define HM_SUMS_256(n) HM_SUMS_128(n), HM_SUMS_128(n + 16)

// c = a b (+ c if `add`) for 16 terms, of as many columns as c has. The summed axis goes along an operand's
// rows, or, when transposed, down its columns. `a_at`... are the operands' numbers, behind those of the sums.
#define HM_MULTIPLY_16(columns, a_at, b_at, add_at, a_transposed_at, b_transposed_at)                        \
  template <bool kATransposed, bool kBTransposed>                                                            \
  __device__ __forceinline__ void Multiply16(uint64_t a, uint64_t b, bool add, float(&c)[columns / 8][4]) {  \
    asm volatile(                                                                                            \
        "{\n"                                                                                                \
        ".reg .pred add;\n"                                                                                  \
        "setp.ne.b32 add, %" #add_at                                                                         \
        ", 0;\n"                                                                                             \
        "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.bf16.bf16 {" HM_SUMS_TEXT_##columns            \
        "}, %" #a_at ", %" #b_at ", add, 1, 1, %" #a_transposed_at ", %" #b_transposed_at                    \
        ";\n"                                                                                                \
        "}"                                                                                                  \
        : HM_SUMS_##columns(0)                                                                               \
        : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(kATransposed ? 1 : 0), "n"(kBTransposed ? 1 : 0)); \
  }
HM_MULTIPLY_16(32, 16, 17, 18, 19, 20)
HM_MULTIPLY_16(64, 32, 33, 34, 35, 36)
HM_MULTIPLY_16(96, 48, 49, 50, 51, 52)
HM_MULTIPLY_16(128, 64, 65, 66, 67, 68)
HM_MULTIPLY_16(256, 128, 129, 130, 131, 132)
#undef HM_MULTIPLY_16

// The same for 32 terms of 8 bits, b's of E4m3; the summed axis goes along rows.
#define HM_MULTIPLY_32(In, name, columns, a_at, b_at, add_at)                                         \
  __device__ __forceinline__ void Multiply32(In, uint64_t a, uint64_t b, bool add,                    \
                                             float(&c)[columns / 8][4]) {                             \
    asm volatile(                                                                                     \
        "{\n"                                                                                         \
        ".reg .pred add;\n"                                                                           \
        "setp.ne.b32 add, %" #add_at                                                                  \
        ", 0;\n"                                                                                      \
        "wgmma.mma_async.sync.aligned.m64n" #columns "k32.f32." name ".e4m3 {" HM_SUMS_TEXT_##columns \
        "}, %" #a_at ", %" #b_at                                                                      \
        ", add, 1, 1;\n"                                                                              \
        "}"                                                                                           \
        : HM_SUMS_##columns(0)                                                                        \
        : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                                \
  }
HM_MULTIPLY_32(E4m3, "e4m3", 128, 64, 65, 66)
HM_MULTIPLY_32(E4m3, "e4m3", 256, 128, 129, 130)
HM_MULTIPLY_32(E5m2, "e5m2", 128, 64, 65, 66)
HM_MULTIPLY_32(E5m2, "e5m2", 256, 128, 129, 130)
#undef HM_MULTIPLY_32

// c = a b (+ c if `add`) for the terms of a tile's rows, 128 bytes of them: of as many columns as c has.
template <typename In, bool kBTransposed, int kCount>
__device__ __forceinline__ void MultiplyTileRows(uint32_t a, uint32_t b, bool add, float (&c)[kCount][4]) {
#pragma unroll
  for (int step = 0; step < 4; ++step) {  // of 32 bytes
    if constexpr (sizeof(In) == 1) {
      static_assert(!kBTransposed);
      Multiply32(In(), Operand(a, 2 * step), Operand(b, 2 * step), add || step > 0, c);
    } else {
      const uint64_t operand = kBTransposed ? TransposedOperand(b, 128 * step) : Operand(b, 2 * step);
      Multiply16<false, kBTransposed>(Operand(a, 2 * step), operand, add || step > 0, c);
    }
  }
}

// c = a b^T (+ c with kAdd): both tiles, summed over their columns.
template <bool kAdd>
__device__ __forceinline__ void MultiplyTiles(uint32_t a, uint32_t b, Product64& c) {
#pragma unroll
  for (int step = 0; step < kTileCols / 16; ++step) {  // 16 columns are 32 bytes.
    Multiply16<false, false>(Operand(a, 2 * step), Operand(b, 2 * step), kAdd || step > 0, c);
  }
}

// c += a b, a in registers, summed over the tile's rows.
__device__ __forceinline__ void AddRowsTimesTile(const Rows64& a, uint32_t b, Product64& c) {
#pragma unroll
  for (int step = 0; step < kTileRows / 16; ++step) {  // 16 rows are 2048 bytes.
    asm volatile(
        "{\n"
        ".reg .pred add;\n"
        "setp.ne.b32 add, 1, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" HM_SUMS_TEXT_64
        "}, {%32, %33, %34, %35}, %36, add, 1, 1, 1;\n"
        "}"
        : HM_SUMS_64(0)
        : "r"(a[step][0]), "r"(a[step][1]), "r"(a[step][2]), "r"(a[step][3]), "l"(Operand(b, 128 * step)));
  }
}

#undef HM_SUMS_TEXT_32
#undef HM_SUMS_TEXT_64
#undef HM_SUMS_TEXT_96
#undef HM_SUMS_TEXT_128
#undef HM_SUMS_TEXT_256
#undef HM_SUMS_8
#undef HM_SUMS_32
#undef HM_SUMS_64
#undef HM_SUMS_96
#undef HM_SUMS_128
#undef HM_SUMS_256

}  // namespace hm11::cuda

#endif  // HM11_OPS_HOPPER_CUH_
