// What the two directions of the selective scan share on a GPU: operands, tiles of rows, cutting time into
// segments when batch x channels alone would leave the GPU half empty.
#ifndef HM11_SCAN_SELECTIVE_SCAN_KERNELS_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_KERNELS_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "core/arena.h"
#include "core/launch.cuh"
#include "scan/scan_math.cuh"
#include "scan/selective_scan.h"

namespace hm11::cuda {

// What a block may have of shared memory; what the blocks of an SM have, 1 KB of it taken for each.
inline constexpr int64_t kSharedBytes = 227 * 1024;
inline constexpr int64_t kSmSharedBytes = 228 * 1024;

// A sum of step sizes that says "a reset came between": nothing of the state before is left.
__device__ __forceinline__ float ForgetsEverything() { return __int_as_float(0x7f800000); }

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
    const T* from = inside ? base + offset + begin : base;
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

// kCount consecutive states of one channel.
template <int kCount>
__device__ __forceinline__ void LoadStates(const float* row, int begin, int count, bool vectors,
                                           float (&states)[kCount]) {
  if constexpr (kCount % 4 == 0) {
    if (vectors) {
#pragma unroll
      for (int i = 0; i < kCount; i += 4) {
        float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (begin + i < count) four = *reinterpret_cast<const float4*>(row + begin + i);
        states[i] = four.x, states[i + 1] = four.y, states[i + 2] = four.z, states[i + 3] = four.w;
      }
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) states[i] = begin + i < count ? row[begin + i] : 0.0f;
}

template <int kCount>
__device__ __forceinline__ void StoreStates(float* row, int begin, int count, bool vectors,
                                            const float (&states)[kCount]) {
  if constexpr (kCount % 4 == 0) {
    if (vectors) {
#pragma unroll
      for (int i = 0; i < kCount; i += 4) {
        if (begin + i < count) {
          *reinterpret_cast<float4*>(row + begin + i) =
              make_float4(states[i], states[i + 1], states[i + 2], states[i + 3]);
        }
      }
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (begin + i < count) row[begin + i] = states[i];
  }
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

template <typename T>
bool RowsAreVectors(const void* base, int64_t stride, int64_t count) {
  return reinterpret_cast<uintptr_t>(base) % 16 == 0 && stride % kVectorSize<T> == 0 &&
         count % kVectorSize<T> == 0;
}

// Time is cut into `count` segments of `tokens` each (a multiple of kSelectiveScanChunk; the last may be
// shorter) so that some 800 blocks of 64 channels run at once. A function of the shape alone: results must
// not depend on the GPU. More than one segment costs a second pass over the decays, so it is done only when
// half of the GPU would idle otherwise.
struct TimeSegments {
  int count;
  int tokens;
};

inline TimeSegments CutTime(int64_t batch, int64_t time, int64_t inner) {
  constexpr int64_t kBlocks = 132 * 6;
  const int64_t chunks = CeilDiv<int64_t>(time, kSelectiveScanChunk);
  const int64_t blocks = batch * CeilDiv<int64_t>(inner, 64);
  const int64_t wanted = blocks * 2 > kBlocks ? 1 : std::min(chunks, kBlocks / blocks);
  const int64_t segment_chunks = CeilDiv<int64_t>(chunks, std::max<int64_t>(wanted, 1));
  return {static_cast<int>(CeilDiv<int64_t>(chunks, segment_chunks)),
          static_cast<int>(segment_chunks * kSelectiveScanChunk)};
}

// Scratch by bumping a pointer; with a null base it only counts.
class Scratch {
 public:
  explicit Scratch(uint8_t* base) : base_(base) {}
  template <typename U>
  U* Take(int64_t count) {
    U* taken = base_ == nullptr ? nullptr : reinterpret_cast<U*>(base_ + used_);
    const int64_t size_bytes = count * static_cast<int64_t>(sizeof(U));
    used_ += CeilDiv<int64_t>(size_bytes, Arena::kAlignment) * Arena::kAlignment;
    return taken;
  }
  int64_t used_bytes() const { return used_; }

 private:
  uint8_t* base_;
  int64_t used_ = 0;
};

// What one segment does to the state that enters it: scaled by exp2(rate * steps), plus `states`.
struct SegmentEffects {
  float* states = nullptr;  // [segments, batch, inner, state]
  float* steps = nullptr;   // [segments, batch, inner], a sum over the segment's tokens
};

// states[k] becomes what enters segment k: from `start` (absent: 0), segments in order, or in reverse order
// when the scan runs backward. One thread a state.
void CombineSegments(const Device& device, const SegmentEffects& effects, const float* a_log,
                     const float* start, int segments, int64_t batch, int64_t inner, int64_t states,
                     bool backward);

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_KERNELS_CUH_
