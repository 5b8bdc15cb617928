// Products of four warps of a warpgroup with operands in shared memory (wgmma), of compute capability 9.0: tiles
// as ops/hopper.cuh has them.
//
// A product is c[64, 64] += a[64, 64] b[64, 64] by the four warps of a warpgroup, warp w having rows
// 16w..16w+15 of a and c as in tensor_core.cuh: c[n][i] is row 8 (i / 2) + lane / 4, column 8 n + 2 (lane %
// 4) + i % 2. b is a tile, with the summed axis along its rows (columns of c are the tile's rows) or along
// its columns.
#ifndef HM11_OPS_HOPPER_PRODUCTS_CUH_
#define HM11_OPS_HOPPER_PRODUCTS_CUH_

#include <cstdint>

#include "ops/fp8.h"
#include "ops/hopper.cuh"

namespace hm11::cuda {

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
  MultiplyTileRows<Bf16, false>(a, b, kAdd, c);
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

#endif  // HM11_OPS_HOPPER_PRODUCTS_CUH_
