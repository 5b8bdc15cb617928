// Rounding to 8 bits on a GPU.
#ifndef HM11_OPS_FP8_CUH_
#define HM11_OPS_FP8_CUH_

#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "ops/fp8.h"

namespace hm11::cuda {

// Two numbers, `low` in the lower half.
template <typename To>
__device__ __forceinline__ uint32_t PackFp8(float low, float high) {
  uint16_t pair = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  if constexpr (std::is_same_v<To, E4m3>) {
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  }
#endif
  return pair;
}

// Eight neighbouring numbers of a row from column `first`, a multiple of 8, on.
template <typename To>
__device__ __forceinline__ void StoreEightFp8(const float (&values)[8], float factor, int first, To* row) {
  uint16_t* const to = reinterpret_cast<uint16_t*>(row + first / 64 * 64 + first % 64 / 8 * 2);
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    to[8 * q] = static_cast<uint16_t>(PackFp8<To>(factor * values[2 * q], factor * values[2 * q + 1]));
  }
}

// The two numbers of a pair of E4m3.
__device__ __forceinline__ float2 UnpackFp8(uint32_t pair) {
  uint32_t halves = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<uint16_t>(pair)));
#else
  static_cast<void>(pair);
#endif
  return __half22float2(*reinterpret_cast<const __half2*>(&halves));
}

// Sums of 8-bit terms as what they stand for.
template <int kTiles>
__device__ __forceinline__ void ScaleSums(float factor, float (&c)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) c[n][i] *= factor;
  }
}

// A lane's sums of a row's 64 columns, c[n][first] and c[n][first + 1] times `factor`: its 16 bytes of the row.
template <typename To>
__device__ __forceinline__ uint4 Fp8OfSums(const float (*c)[4], int first, float factor) {
  uint32_t words[4];
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const float* const even = c[2 * w] + first;
    const float* const odd = c[2 * w + 1] + first;
    const uint32_t low = PackFp8<To>(factor * even[0], factor * even[1]);
    const uint32_t high = PackFp8<To>(factor * odd[0], factor * odd[1]);
    words[w] = low | high << 16;
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// This lane's numbers of rows row and row + 8, of 64 kTiles columns from `col` on, into a [rows, cols] matrix:
// quarter(half, tile), 16 bytes of row + 8 half.
template <int kTiles, typename To, typename F>
__device__ __forceinline__ void StoreQuarters(int row, int rows, int col, int cols, To* to, F&& quarter) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (row + 8 * half >= rows) break;
    To* const at = to + int64_t{row + 8 * half} * cols + col + threadIdx.x % 4 * 16;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) *reinterpret_cast<uint4*>(at + tile * 64) = quarter(half, tile);
  }
}

// Sums, each times its row's factor; c[n] is of columns col + 8 n and up.
template <int kTiles, typename To>
__device__ __forceinline__ void StoreSumsFp8(const float (*c)[4], const float (&factors)[2], int row,
                                             int rows, int col, int cols, To* to) {
  StoreQuarters<kTiles>(row, rows, col, cols, to, [&](int half, int tile) {
    return Fp8OfSums<To>(c + 8 * tile, 2 * half, factors[half]);
  });
}

// ---- Sums of rows r and r + 8 as a word: column 2 q's of both rows, then column 2 q + 1's. Stored as 16-bit numbers,
// transposed (ops/hopper.cuh), words of 8 rows are bytes in the order of PlaceOfRow.

template <typename To>
__device__ __forceinline__ uint32_t WordOfSums(const float (&c)[4], float factor) {
  return PackFp8<To>(factor * c[0], factor * c[2]) | PackFp8<To>(factor * c[1], factor * c[3]) << 16;
}

// As StoreSumsFp8, from words[n] of columns col + 8 n and up.
template <int kTiles, typename To>
__device__ __forceinline__ void StoreWordsFp8(const uint32_t* words, int row, int rows, int col, int cols,
                                              To* to) {
  StoreQuarters<kTiles>(row, rows, col, cols, to, [&](int half, int tile) {
    uint32_t four[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const uint32_t* const two = words + 8 * tile + 2 * w;
      four[w] = __byte_perm(two[0], two[1], half == 0 ? 0x6420 : 0x7531);
    }
    return make_uint4(four[0], four[1], four[2], four[3]);
  });
}

}  // namespace hm11::cuda

#endif  // HM11_OPS_FP8_CUH_
