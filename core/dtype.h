// Number types: Bf16 and Fp16 storage, and the type that arithmetic on a stored type is done in.
//
// Both 16-bit types round to nearest even and keep NaN and infinity. On the host they are storage only:
// convert to float, compute, convert back. Device code may reinterpret them as __nv_bfloat16 and __half: the
// bits are the same.
#ifndef HM11_CORE_DTYPE_H_
#define HM11_CORE_DTYPE_H_

#include <bit>
#include <cstdint>
#include <type_traits>

// The one place that asks which compiler reads a header.
#ifdef __CUDACC__
#define HM_HOST_DEVICE __host__ __device__
#else
#define HM_HOST_DEVICE
#endif

namespace hm11 {

namespace dtype_internal {
template <typename To, typename From>
HM_HOST_DEVICE inline To BitCast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}
}  // namespace dtype_internal

struct Bf16 {
  uint16_t bits;

  Bf16() = default;
  HM_HOST_DEVICE explicit Bf16(float value) {
    const uint32_t u = dtype_internal::BitCast<uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = static_cast<uint16_t>((u >> 16) | 0x40u);  // NaN stays NaN.
    } else {
      bits = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
  }
  HM_HOST_DEVICE explicit operator float() const {
    return dtype_internal::BitCast<float>(static_cast<uint32_t>(bits) << 16);
  }
};

struct Fp16 {
  uint16_t bits;

  Fp16() = default;
  HM_HOST_DEVICE explicit Fp16(float value) {
    const uint32_t u = dtype_internal::BitCast<uint32_t>(value);
    const uint32_t sign = (u >> 16) & 0x8000u;
    const uint32_t magnitude = u & 0x7fffffffu;
    uint32_t half;
    if (magnitude > 0x7f800000u) {
      half = 0x7e00u;  // NaN.
    } else if (magnitude >= 0x477ff000u) {
      half = 0x7c00u;  // 65520 and above round to infinity.
    } else if (magnitude < 0x38800000u) {
      // Below the smallest normal: adding 0.5 leaves the rounded subnormal in the low bits of the float.
      const float shifted = dtype_internal::BitCast<float>(magnitude) + 0.5f;
      half = dtype_internal::BitCast<uint32_t>(shifted) - 0x3f000000u;
    } else {
      half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    }
    bits = static_cast<uint16_t>(sign | half);
  }
  HM_HOST_DEVICE explicit operator float() const {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    const uint32_t magnitude = bits & 0x7fffu;
    uint32_t u;
    if (magnitude >= 0x7c00u) {
      u = 0x7f800000u | ((magnitude & 0x3ffu) << 13);
    } else if (magnitude >= 0x400u) {
      u = (magnitude << 13) + 0x38000000u;
    } else {
      u = dtype_internal::BitCast<uint32_t>(static_cast<float>(magnitude) * 0x1p-24f);
    }
    return dtype_internal::BitCast<float>(sign | u);
  }
};

static_assert(sizeof(Bf16) == 2 && sizeof(Fp16) == 2);

// The type sums, statistics, losses, step sizes and master weights are kept in.
template <typename T>
using Accum = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Whether there is a CUDA toolkit: functions in namespace cuda are declared always, but defined only then.
inline constexpr bool kHaveCuda = HM11_HAVE_CUDA != 0;

// Storage types that run on each device. Double is the oracle of the gradient checks; 16 bits are for the
// GPU.
template <typename T>
inline constexpr bool kOnCuda = kHaveCuda && !std::is_same_v<T, double>;
template <typename T>
inline constexpr bool kOnCpu = std::is_same_v<T, double> || std::is_same_v<T, float>;

template <typename T>
HM_HOST_DEVICE inline Accum<T> ToAccum(T value) {
  return static_cast<Accum<T>>(value);
}
template <typename T>
HM_HOST_DEVICE inline T FromAccum(Accum<T> value) {
  return static_cast<T>(value);
}

template <typename T>
constexpr const char* DtypeName() {
  if constexpr (std::is_same_v<T, double>) return "float64";
  if constexpr (std::is_same_v<T, float>) return "float32";
  if constexpr (std::is_same_v<T, Bf16>) return "bfloat16";
  if constexpr (std::is_same_v<T, Fp16>) return "float16";
  if constexpr (std::is_same_v<T, int32_t>) return "int32";
  return "?";
}

}  // namespace hm11

#endif  // HM11_CORE_DTYPE_H_
