// Vectors of neighbouring channels for the selective scan on the CPU, and the memory they are kept in.
//
// Everything here, and in the headers that build on it, is in an anonymous namespace: each of the two files
// that include them compiles its own copy, for its own CPU.
#ifndef HM11_SCAN_SELECTIVE_SCAN_VECTORS_H_
#define HM11_SCAN_SELECTIVE_SCAN_VECTORS_H_

#include <xmmintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/fast_math.h"
#include "scan/selective_scan.h"

namespace hm11::cpu {
namespace {

constexpr int64_t kBlock = 4;  // as many as SumFour
constexpr int64_t kSteps = kSelectiveScanChunk;

template <typename T, int kLanes>
struct VectorOf {
  typedef T Type __attribute__((vector_size(kLanes * sizeof(T))));
};

// Numbers that decay towards zero end as zero, and not as denormals that take a CPU a hundred cycles each.
class FlushDenormals {
 public:
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushDenormals() { _mm_setcsr(saved_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned saved_;
};

// Vectors and numbers out of one block of memory, each aligned to 64 bytes. With a null base it only counts.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}
  template <typename N>
  N* Take(int64_t count) {
    N* const taken = reinterpret_cast<N*>(base_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(N)) + 63) / 64 * 64;
    return taken;
  }
  int64_t used_bytes() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

constexpr int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

template <typename T, int kLanes>
struct Vectors {
  using V = typename VectorOf<T, kLanes>::Type;

  static V Splat(T value) { return V{} + value; }

  // The first `count` numbers from memory, zeros behind them.
  static V Load(const T* from, int64_t count) {
    if (count < kLanes) return LoadPart(from, count);
    V v;
    std::memcpy(&v, from, sizeof(v));
    return v;
  }
  static void Store(T* to, V v, int64_t count) {
    if (count < kLanes) return StorePart(to, v, count);
    std::memcpy(to, &v, sizeof(v));
  }
  // Apart, for the whole vectors to stay in registers.
  [[gnu::noinline]] static V LoadPart(const T* from, int64_t count) {
    V v = {};
    std::memcpy(&v, from, static_cast<size_t>(count) * sizeof(T));
    return v;
  }
  [[gnu::noinline]] static void StorePart(T* to, V v, int64_t count) {
    std::memcpy(to, &v, static_cast<size_t>(count) * sizeof(T));
  }

  template <typename F>
  static V Each(V v, F&& function) {
    for (int lane = 0; lane < kLanes; ++lane) v[lane] = function(v[lane]);
    return v;
  }
  static V Exp2(V x) {
    if constexpr (std::is_same_v<T, float>) return FastExp2<V>(x);
    return Each(x, [](T lane) { return FastExp2<T>(lane); });
  }
  static V Exp2OfNegative(V x) {
    if constexpr (std::is_same_v<T, float>) return FastExp2OfNegative<V>(x);
    return Exp2(x);
  }
  static V Softplus(V x) {
    if constexpr (std::is_same_v<T, float>) return FastSoftplus<V>(x);
    return Each(x, [](T lane) { return FastSoftplus<T>(lane); });
  }
  static V Sigmoid(V x) {
    if constexpr (std::is_same_v<T, float>) return FastSigmoid<V>(x);
    return Each(x, [](T lane) { return FastSigmoid<T>(lane); });
  }

  // to[j] = the sum of the lanes of from[j], for four vectors.
  static void SumFour(const V* from, T* to) {
    if constexpr (std::is_same_v<T, float>) return SumFourAtOnce(from, to);
    for (int j = 0; j < 4; ++j) {
      to[j] = 0;
      for (int lane = 0; lane < kLanes; ++lane) to[j] += from[j][lane];
    }
  }
  static void SumFourAtOnce(const V* from, float* to) {
    using Quad = typename VectorOf<float, 4>::Type;
    Quad sums[4];
    for (int j = 0; j < 4; ++j) {
      const float* const lanes = reinterpret_cast<const float*>(from + j);
      sums[j] = Quad{};
      for (int lane = 0; lane < kLanes; lane += 4) {
        Quad quad;
        std::memcpy(&quad, lanes + lane, sizeof(quad));
        sums[j] += quad;
      }
    }
    const Quad first = __builtin_shufflevector(sums[0], sums[1], 0, 4, 1, 5) +
                       __builtin_shufflevector(sums[0], sums[1], 2, 6, 3, 7);
    const Quad second = __builtin_shufflevector(sums[2], sums[3], 0, 4, 1, 5) +
                        __builtin_shufflevector(sums[2], sums[3], 2, 6, 3, 7);
    const Quad all = __builtin_shufflevector(first, second, 0, 1, 4, 5) +
                     __builtin_shufflevector(first, second, 2, 3, 6, 7);
    std::memcpy(to, &all, sizeof(all));
  }

  // Rows of `state` numbers, one a channel, to a vector a state and back. Absent rows are zeros.
  static void LoadTransposed(const T* rows, int64_t channels, int64_t state, V* to) {
    for (int64_t n = 0; n < state; ++n) {
      V v = {};
      if (rows != nullptr) {
        for (int64_t lane = 0; lane < channels; ++lane) v[lane] = rows[lane * state + n];
      }
      to[n] = v;
    }
  }
  static void StoreTransposed(const V* from, int64_t channels, int64_t state, T* rows) {
    for (int64_t n = 0; n < state; ++n) {
      for (int64_t lane = 0; lane < channels; ++lane) rows[lane * state + n] = from[n][lane];
    }
  }
};

}  // namespace
}  // namespace hm11::cpu

#endif  // HM11_SCAN_SELECTIVE_SCAN_VECTORS_H_
