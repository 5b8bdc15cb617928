// What the two directions of the selective scan do with tiles on a GPU: rows of global memory and of shared
// memory, a thread's states, products on the tensor cores.
#ifndef HM11_SCAN_SELECTIVE_SCAN_TILES_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_TILES_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "core/launch.cuh"
#include "core/special_functions.cuh"
#include "scan/scan_math.cuh"
#include "scan/selective_scan.h"

namespace hm11::cuda {

// What a block may have of shared memory; what the blocks of an SM have, 1 KB of it taken for each.
inline constexpr int64_t kSharedBytes = 227 * 1024;
inline constexpr int64_t kSmSharedBytes = 228 * 1024;

template <typename Tile, int kMinBlocks>
constexpr bool FitsAnSm() {
  constexpr int64_t kBytes = sizeof(Tile);
  return kBytes <= kSharedBytes && kMinBlocks * (kBytes + 1024) <= kSmSharedBytes;
}

// Tokens between the states that forward keeps for backward.
inline constexpr int kSavedSpacing = static_cast<int>(kSelectiveScanGpuSpacing);

// The vector at `begin` of a row of `count` numbers; what is past the end reads as 0 and is not written.
// `vectors` says that base and rows are aligned to 16 bytes and count divides into vectors; else numbers move
// one by one.
template <typename T>
__device__ __forceinline__ RowVector<T> LoadRow(const T* row, int begin, int count, bool vectors) {
  RowVector<T> result = {};
  if (vectors) {
    if (begin < count) result = RowVector<T>::Load(row + begin);
  } else {
#pragma unroll
    for (int i = 0; i < RowVector<T>::kSize; ++i) {
      if (begin + i < count) result.Set(i, ToFloat(row[begin + i]));
    }
  }
  return result;
}

template <typename T>
__device__ __forceinline__ void StoreRow(T* row, int begin, int count, bool vectors,
                                         const RowVector<T>& vector) {
  if (vectors) {
    if (begin < count) vector.Store(row + begin);
  } else {
#pragma unroll
    for (int i = 0; i < RowVector<T>::kSize; ++i) {
      if (begin + i < count) row[begin + i] = FromFloat<T>(vector[i]);
    }
  }
}

// The same into 16 bytes of shared memory, without passing through registers where rows are vectors: on its
// way until AwaitCopies, and then visible to this thread only.
template <typename T>
__device__ __forceinline__ void CopyRowAsync(uint4* to, const T* base, int64_t offset, int begin, int count,
                                             bool vectors) {
  if (vectors) {
    const bool inside = begin < count;
    const T* const from = base + (offset + (inside ? begin : 0));
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from),
                 "r"(inside ? 16 : 0)
                 : "memory");
  } else {
    const RowVector<T> vector = LoadRow(base + offset, begin, count, false);
    *to = make_uint4(vector.words[0], vector.words[1], vector.words[2], vector.words[3]);
  }
}

__device__ __forceinline__ void AwaitCopies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

template <typename T>
__device__ __forceinline__ RowVector<T> FromShared(const uint4& slot) {
  const uint4 bits = slot;
  return {{bits.x, bits.y, bits.z, bits.w}};
}

// kCount consecutive states of one channel, as T keeps them in memory. They move in one access of up to 16
// bytes, or one by one where `vectors` is false; what is past `count` reads as 0 and is not written.
template <typename T, int kCount>
struct StateVector {
  static constexpr int kWords = kCount * static_cast<int>(sizeof(T)) / 4;
  static_assert(kWords == 1 || kWords == 2 || kWords % 4 == 0);
  uint32_t words[kWords];

  static __device__ __forceinline__ StateVector Load(const T* row, int begin, int count, bool vectors) {
    StateVector result = {};
    if (vectors) {
      if (begin < count) result.LoadWords(row + begin);
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (begin + i < count) result.Set(i, ToFloat(row[begin + i]));
      }
    }
    return result;
  }
  __device__ __forceinline__ void Store(T* row, int begin, int count, bool vectors) const {
    if (vectors) {
      if (begin < count) StoreWords(row + begin);
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (begin + i < count) row[begin + i] = FromFloat<T>((*this)[i]);
      }
    }
  }
  static __device__ __forceinline__ StateVector Of(const float (&states)[kCount]) {
    StateVector result;
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (sizeof(T) == 4) {
        result.words[i] = __float_as_uint(states[i]);
      } else {
        result.words[i] = PackPair<T>(states[2 * i], states[2 * i + 1]);
      }
    }
    return result;
  }
  __device__ __forceinline__ float operator[](int i) const { return NumberInWords<T>(words, i); }

 private:
  __device__ __forceinline__ void Set(int i, float value) {
    if constexpr (sizeof(T) == 4) {
      words[i] = __float_as_uint(value);
    } else {
      words[i / 2] |= static_cast<uint32_t>(FromFloat<T>(value).bits) << (i % 2 * 16);
    }
  }
  __device__ __forceinline__ void LoadWords(const T* from) {
    if constexpr (kWords == 1) {
      words[0] = *reinterpret_cast<const uint32_t*>(from);
    } else if constexpr (kWords == 2) {
      const uint2 two = *reinterpret_cast<const uint2*>(from);
      words[0] = two.x, words[1] = two.y;
    } else {
#pragma unroll
      for (int i = 0; i < kWords; i += 4) {
        const uint4 four = reinterpret_cast<const uint4*>(from)[i / 4];
        words[i] = four.x, words[i + 1] = four.y, words[i + 2] = four.z, words[i + 3] = four.w;
      }
    }
  }
  __device__ __forceinline__ void StoreWords(T* to) const {
    if constexpr (kWords == 1) {
      *reinterpret_cast<uint32_t*>(to) = words[0];
    } else if constexpr (kWords == 2) {
      *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
    } else {
#pragma unroll
      for (int i = 0; i < kWords; i += 4) {
        reinterpret_cast<uint4*>(to)[i / 4] = make_uint4(words[i], words[i + 1], words[i + 2], words[i + 3]);
      }
    }
  }
};

template <int kCount>
__device__ __forceinline__ void LoadStates(const float* row, int begin, int count, bool vectors,
                                           float (&states)[kCount]) {
  const auto vector = StateVector<float, kCount>::Load(row, begin, count, vectors);
#pragma unroll
  for (int i = 0; i < kCount; ++i) states[i] = vector[i];
}

template <int kCount>
__device__ __forceinline__ void StoreStates(float* row, int begin, int count, bool vectors,
                                            const float (&states)[kCount]) {
  StateVector<float, kCount>::Of(states).Store(row, begin, count, vectors);
}

// Rates A log2(e) of kCount consecutive states of one channel; 0 past `count`.
template <int kCount>
__device__ __forceinline__ void LoadRates(const float* a_log_row, int begin, int count, bool vectors,
                                          float (&rate)[kCount]) {
  LoadStates(a_log_row, begin, count, vectors, rate);
#pragma unroll
  for (int i = 0; i < kCount; ++i) rate[i] = begin + i < count ? -kLog2E * expf(rate[i]) : 0.0f;
}

// A pointer into shared memory that stays in a register: the compiler would compute it anew at each use where
// registers are short, and cannot look through a shuffle. For whole warps.
template <typename T>
__device__ __forceinline__ T* KeptAddress(T* pointer) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
  const uint32_t kept = __shfl_sync(0xffffffffu, address, static_cast<int>(threadIdx.x % 32));
  return static_cast<T*>(__cvta_shared_to_generic(kept));
}

// kCount consecutive floats of shared memory, aligned to their own size up to 16 bytes.
template <int kCount>
__device__ __forceinline__ void LoadShared(const float* from, float (&to)[kCount]) {
  if constexpr (kCount % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(from + i);
      to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
    }
  } else if constexpr (kCount % 2 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      const float2 two = *reinterpret_cast<const float2*>(from + i);
      to[i] = two.x, to[i + 1] = two.y;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = from[i];
  }
}

template <int kCount>
__device__ __forceinline__ void StoreShared(float* to, const float (&from)[kCount]) {
  if constexpr (kCount % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      *reinterpret_cast<float4*>(to + i) = make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]);
    }
  } else if constexpr (kCount % 2 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      *reinterpret_cast<float2*>(to + i) = make_float2(from[i], from[i + 1]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = from[i];
  }
}

// d += a b on the tensor cores, a: 16 rows x 8, b: 8 x 8. Lane 4 g + q has a[g][q], a[g + 8][q], a[g][q + 4],
// a[g + 8][q + 4], b[q][g], b[q + 4][g], d[g][2 q], d[g][2 q + 1], d[g + 8][2 q], d[g + 8][2 q + 1]. Of a and
// b the first 10 bits of the mantissa count.
__device__ __forceinline__ void MultiplyTiles(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

// d = a b + c, a: 16 rows x 4, b: 4 x 8. Lane 4 g + q has a[g][q], a[g + 8][q], b[q][g], and of c and d as
// above.
__device__ __forceinline__ void MultiplyHalfTiles(float (&d)[4], const float (&a)[2], float b,
                                                  const float (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%7, %8, %9, %10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(b)), "f"(c[0]), "f"(c[1]),
        "f"(c[2]), "f"(c[3]));
}

// A factor of MultiplyTiles rounded to the bits that count where products of T are left to it, those behind
// them still there.
template <typename T>
__device__ __forceinline__ float RoundedFactor(float value) {
  return sizeof(T) == 4 ? value : __uint_as_float(__float_as_uint(value) + 0x1000u);
}

__device__ __forceinline__ float LeadingBits(float value) {
  return __uint_as_float(__float_as_uint(value) & 0xffffe000u);
}

// The same to float's precision: both factors in two parts, the product of the trailing parts left out.
__device__ __forceinline__ void MultiplyTilesExactly(float (&d)[4], const float (&a)[4],
                                                     const float (&b)[2]) {
  float a_leading[4], a_trailing[4], b_leading[2], b_trailing[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    a_leading[i] = LeadingBits(a[i]);
    a_trailing[i] = a[i] - a_leading[i];
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    b_leading[i] = LeadingBits(b[i]);
    b_trailing[i] = b[i] - b_leading[i];
  }
  MultiplyTiles(d, a_trailing, b_leading);
  MultiplyTiles(d, a_leading, b_trailing);
  MultiplyTiles(d, a_leading, b_leading);
}

// The first where T's own precision is no better than that.
template <typename T>
__device__ __forceinline__ void MultiplyTilesFor(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  if constexpr (sizeof(T) == 4) {
    MultiplyTilesExactly(d, a, b);
  } else {
    MultiplyTiles(d, a, b);
  }
}

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_TILES_CUH_
