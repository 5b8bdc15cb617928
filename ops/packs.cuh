// Packs: a few neighbouring numbers moved between memory and registers at once, in up to 16-byte accesses.
//
// Numbers are float in registers whatever they are stored as. A pack's address must be a multiple of its
// bytes (of 16 for longer ones): hosts ask IsAligned first and take a kernel of one-number packs otherwise.
#ifndef HM11_OPS_PACKS_CUH_
#define HM11_OPS_PACKS_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11::cuda {

// Numbers in 16 bytes.
template <typename T>
inline constexpr int kPackSize = 16 / static_cast<int>(sizeof(T));

namespace packs_internal {

template <int kBytes>
struct WordOf;
template <>
struct WordOf<2> {
  using Type = uint16_t;
};
template <>
struct WordOf<4> {
  using Type = uint32_t;
};
template <>
struct WordOf<8> {
  using Type = uint2;
};
template <>
struct WordOf<16> {
  using Type = uint4;
};

}  // namespace packs_internal

// N numbers as they are stored; fetched early, unpacked when needed.
template <typename T, int N>
struct Pack {
  static constexpr int kBytes = N * static_cast<int>(sizeof(T));
  static constexpr int kWordBytes = kBytes < 16 ? kBytes : 16;
  static constexpr int kWords = kBytes / kWordBytes;
  using Word = typename packs_internal::WordOf<kWordBytes>::Type;
  Word words[kWords];
};

template <typename T, int N>
__device__ __forceinline__ Pack<T, N> ZeroPack() {
  return {};
}

template <int N, typename T>
__device__ __forceinline__ Pack<T, N> Fetch(const T* from) {
  Pack<T, N> pack;
#pragma unroll
  for (int w = 0; w < Pack<T, N>::kWords; ++w) {
    pack.words[w] = reinterpret_cast<const typename Pack<T, N>::Word*>(from)[w];
  }
  return pack;
}

template <typename T, int N>
__device__ __forceinline__ void Unpack(const Pack<T, N>& pack, float (&to)[N]) {
  if constexpr (std::is_same_v<T, Bf16> && N % 2 == 0) {
    // A Bf16 is the upper half of a float: an instruction a number, which its own conversion is not.
    uint32_t pairs[N / 2];
    memcpy(pairs, pack.words, sizeof(pairs));
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      to[2 * i] = __uint_as_float(pairs[i] << 16);
      to[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
  } else {
    T values[N];
    memcpy(values, pack.words, sizeof(values));
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = static_cast<float>(values[i]);
  }
}

template <int N, typename T>
__device__ __forceinline__ void Load(const T* from, float (&to)[N]) {
  Unpack(Fetch<N>(from), to);
}

template <int N, typename T>
__device__ __forceinline__ void Store(const float (&from)[N], T* to) {
  Pack<T, N> pack;
  if constexpr (std::is_same_v<T, Bf16> && N % 2 == 0) {
    __nv_bfloat162 pairs[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) pairs[i] = __floats2bfloat162_rn(from[2 * i], from[2 * i + 1]);
    memcpy(pack.words, pairs, sizeof(pack));
  } else {
    T values[N];
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = static_cast<T>(from[i]);
    memcpy(pack.words, values, sizeof(pack));
  }
#pragma unroll
  for (int w = 0; w < Pack<T, N>::kWords; ++w) {
    reinterpret_cast<typename Pack<T, N>::Word*>(to)[w] = pack.words[w];
  }
}

// The sum over a warp's lanes, the same bits in each of them.
__device__ __forceinline__ float WarpSum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// The same over a block of kThreads; every thread must call it. `scratch` is 32 floats of shared memory.
template <int kThreads>
__device__ __forceinline__ float BlockSum(float value, float* scratch) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024);
  value = WarpSum(value);
  __syncthreads();  // What an earlier call left there has been read.
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / 32; ++warp) value += scratch[warp];
  return value;
}

// Null for an absent operand.
template <typename T>
T* Data(const Tensor<T>& tensor) {
  return tensor.empty() ? nullptr : tensor.data();
}

inline bool IsAligned(const void* pointer, int64_t bytes = 16) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
}
// Absent operands are.
template <typename... Pointers>
bool AllAligned(Pointers... pointers) {
  return (IsAligned(pointers) && ...);
}

}  // namespace hm11::cuda

#endif  // HM11_OPS_PACKS_CUH_
