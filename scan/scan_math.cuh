// What the scan kernels share: 16-byte vectors of stored numbers, exponentials, softplus, sigmoid.
#ifndef HM11_SCAN_SCAN_MATH_CUH_
#define HM11_SCAN_SCAN_MATH_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "core/dtype.h"
#include "core/special_functions.cuh"

namespace hm11::cuda {

template <typename T>
inline constexpr int kVectorSize = 16 / static_cast<int>(sizeof(T));

template <typename T>
__device__ __forceinline__ float ToFloat(T value) {
  if constexpr (std::is_same_v<T, Fp16>) {
    return __half2float(__ushort_as_half(value.bits));
  } else {
    return static_cast<float>(value);
  }
}

template <typename T>
__device__ __forceinline__ T FromFloat(float value) {
  if constexpr (std::is_same_v<T, Bf16>) {
    Bf16 result;
    result.bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
    return result;
  } else if constexpr (std::is_same_v<T, Fp16>) {
    Fp16 result;
    result.bits = __half_as_ushort(__float2half_rn(value));
    return result;
  } else {
    return value;
  }
}

// Two 16-bit numbers in a word, the first in its lower half: one conversion for both.
template <typename T>
__device__ __forceinline__ uint32_t PackPair(float low, float high) {
  static_assert(sizeof(T) == 2);
  if constexpr (std::is_same_v<T, Fp16>) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// Number i of T's packed in words.
template <typename T>
__device__ __forceinline__ float NumberInWords(const uint32_t* words, int i) {
  if constexpr (sizeof(T) == 4) {
    return __uint_as_float(words[i]);
  } else {
    T value;
    value.bits = static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
    return ToFloat(value);
  }
}

// Numbers of T side by side in a row, moved as one access: 16 bytes, or a single number where rows are not
// aligned. They stay packed in their words until used.
template <typename T, int kCount = kVectorSize<T>>
struct RowVector {
  static constexpr int kSize = kCount;
  static constexpr int kWords = kCount * sizeof(T) < 4 ? 1 : kCount * static_cast<int>(sizeof(T)) / 4;
  static_assert(kCount == 1 || kWords == 4);
  uint32_t words[kWords];

  __device__ __forceinline__ float operator[](int i) const { return NumberInWords<T>(words, i); }
  __device__ __forceinline__ void Set(int i, float value) {
    if constexpr (sizeof(T) == 4) {
      words[i] = __float_as_uint(value);
    } else {
      const uint32_t bits = FromFloat<T>(value).bits;
      words[i / 2] =
          i % 2 == 0 ? ((words[i / 2] & 0xffff0000u) | bits) : ((words[i / 2] & 0xffffu) | bits << 16);
    }
  }
  // Numbers i and i + 1, for an even i.
  __device__ __forceinline__ void SetPair(int i, float first, float second) {
    if constexpr (sizeof(T) == 4) {
      words[i] = __float_as_uint(first);
      words[i + 1] = __float_as_uint(second);
    } else {
      words[i / 2] = PackPair<T>(first, second);
    }
  }
  static __device__ __forceinline__ RowVector Load(const T* from) {
    RowVector result = {};
    if constexpr (kWords == 4) {
      const uint4 bits = *reinterpret_cast<const uint4*>(from);
      result.words[0] = bits.x, result.words[1] = bits.y, result.words[2] = bits.z, result.words[3] = bits.w;
    } else {
      result.Set(0, ToFloat(*from));
    }
    return result;
  }
  __device__ __forceinline__ void Store(T* to) const {
    if constexpr (kWords == 4) {
      *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
    } else {
      *to = FromFloat<T>((*this)[0]);
    }
  }
  static __device__ __forceinline__ RowVector Filled(float value) {
    RowVector result = {};
#pragma unroll
    for (int i = 0; i < kCount; ++i) result.Set(i, value);
    return result;
  }
};

inline constexpr float kLongestExponent = 125.0f;

// 2^(x y) for |x y| <= kLongestExponent on the ordinary pipes: x y = whole + part with |part| <= 1/2, 2^part
// by a polynomial that is 1 at 0 exactly (so that decays near 1 stay exact), `whole` added to the exponent.
// Relative error under 1e-7 with degree 5; with degree 3 1.3e-4, and under 2e-3 part^2 near 1.
template <int kDegree>
__device__ __forceinline__ float Exp2OnFma(float x, float y) {
  constexpr float kMagic =
      12582912.0f;  // 1.5 * 2^23: its unit is 1, so that adding it rounds to whole numbers.
  const float shifted = fmaf(x, y, kMagic);
  const float part = fmaf(x, y, kMagic - shifted);
  float value;
  if constexpr (kDegree == 5) {
    value = fmaf(part, 0.001326472731307149f, 0.009671512991189957f);
    value = fmaf(value, part, 0.05550733581185341f);
    value = fmaf(value, part, 0.24022242426872253f);
    value = fmaf(value, part, 0.6931470036506653f);
  } else {
    static_assert(kDegree == 3);
    value = fmaf(part, 0.055491267852944885f, 0.24211998513955596f);
    value = fmaf(value, part, 0.6931471805599453f);
  }
  value = fmaf(value, part, 1.0f);
  return __int_as_float(__float_as_int(value) + (__float_as_int(shifted) << 23));
}

// log(1 + e^x), relative to its own size also where it is small: with u = e^-|x| it is
// max(x, 0) + 2 atanh(u / (2 + u)), the atanh as an odd polynomial on [0, 1/3]. To a few units of float's
// last place, or for results that 16 bits will hold to 1e-5.
template <typename T>
__device__ __forceinline__ float Softplus(float x) {
  const float u = Exp2(-kLog2E * fabsf(x));
  const float s = u * Reciprocal(2.0f + u);
  const float w = s * s;
  if constexpr (sizeof(T) == 2) {
    const float series = fmaf(fmaf(w, 0.4489571978912440f, 0.6649252245697600f), w, 2.0f);
    return fmaf(s, series, fmaxf(x, 0.0f));
  }
  float series = fmaf(w, 0.2817833423614502f, 0.27960604429244995f);
  series = fmaf(series, w, 0.40024909377098083f);
  series = fmaf(series, w, 0.6666631698608398f);
  series = fmaf(series, w, 2.0f);
  return fmaf(s, series, fmaxf(x, 0.0f));
}

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SCAN_MATH_CUH_
