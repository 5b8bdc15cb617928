// Random numbers as a pure function of (seed, stream, index): no state to save, the same on host and GPU, in
// any order.
//
// `stream` names what the numbers are for (a tensor's name hashed, a step), `index` is the element. The mixer
// is SplitMix64's finalizer (Steele, Lea & Flood, OOPSLA 2014) applied to each of the three words in turn.
#ifndef HM11_CORE_RANDOM_H_
#define HM11_CORE_RANDOM_H_

#include <cmath>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "core/dtype.h"

namespace hm11 {

HM_HOST_DEVICE inline uint64_t MixBits(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

HM_HOST_DEVICE inline uint64_t RandomBits(uint64_t seed, uint64_t stream, uint64_t index) {
  return MixBits(MixBits(MixBits(seed) ^ stream) ^ index);
}

// Uniform in [0, 1), 53 bits.
HM_HOST_DEVICE inline double RandomUniform(uint64_t seed, uint64_t stream, uint64_t index) {
  return static_cast<double>(RandomBits(seed, stream, index) >> 11) * 0x1p-53;
}

// Uniform in {0, ..., bound - 1}; bound >= 1. The bias, below bound / 2^64, is far under any use here.
HM_HOST_DEVICE inline int64_t RandomIndex(uint64_t seed, uint64_t stream, uint64_t index, int64_t bound) {
  return static_cast<int64_t>(RandomBits(seed, stream, index) % static_cast<uint64_t>(bound));
}

// Standard normal (Box & Muller 1958; one of the pair).
inline double RandomNormal(uint64_t seed, uint64_t stream, uint64_t index) {
  const double u = 1.0 - RandomUniform(seed, stream, 2 * index);  // in (0, 1]
  const double v = RandomUniform(seed, stream, 2 * index + 1);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v);
}

// A stream number for a name (FNV-1a).
inline uint64_t StreamOf(absl::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

}  // namespace hm11

#endif  // HM11_CORE_RANDOM_H_
