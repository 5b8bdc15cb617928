// Head teams: how kernels over [rows, heads, head_dim] that work within each head are laid out.
//
// Eight lanes have a head, packs of its channels going round the lanes, in registers as float: a head of 64
// bf16 numbers is one 16-byte pack a lane. Channels from head_dim on are zeros and are not stored.
#ifndef HM11_OPS_HEAD_TEAMS_CUH_
#define HM11_OPS_HEAD_TEAMS_CUH_

#include <cstdint>

#include "core/check.h"
#include "ops/packs.cuh"

namespace hm11::cuda {

inline constexpr int kHeadLanes = 8;
inline constexpr int64_t kMaxHeadDim = 128;

template <typename T, int kPackNumbers, int kLanePacks>
struct HeadTeam {
  static constexpr int kSize = kPackNumbers;  // numbers a pack
  static constexpr int kPacks = kLanePacks;   // packs a lane
  using Values = float[kPacks][kSize];

  __device__ static int Lane() { return threadIdx.x % kHeadLanes; }
  // The first channel of this lane's pack k.
  __device__ static int Channel(int k) { return (k * kHeadLanes + Lane()) * kSize; }

  __device__ static void LoadHead(const T* head, int head_dim, Values& to) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (Channel(k) < head_dim) {
        Load(head + Channel(k), to[k]);
      } else {
#pragma unroll
        for (int i = 0; i < kSize; ++i) to[k][i] = 0;
      }
    }
  }
  __device__ static void StoreHead(const Values& values, int head_dim, T* head) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      if (Channel(k) < head_dim) Store(values[k], head + Channel(k));
    }
  }

  // Calls function(value of a, value of b) for the lane's numbers.
  template <typename F>
  __device__ static void Zip(Values& a, const Values& b, F&& function) {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) function(a[k][i], b[k][i]);
    }
  }

  // Over all channels of the head; the same bits in each of its lanes. All lanes of the head call it.
  __device__ static float Dot(const Values& a, const Values& b) {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) sum += a[k][i] * b[k][i];
    }
    const unsigned mask = 0xffu << (threadIdx.x % 32 / kHeadLanes * kHeadLanes);
#pragma unroll
    for (int offset = kHeadLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(mask, sum, offset);
    return sum;
  }
};

// Calls function(team) with the team for heads of head_dim <= kMaxHeadDim; `packed`: all tensors begin on
// 16-byte boundaries, and whatever else the caller needs of a pack holds for kPackSize numbers.
template <typename T, typename F>
void WithHeadTeam(int64_t head_dim, bool packed, F&& function) {
  constexpr int kSize = kPackSize<T>;
  HM_CHECK_LE(head_dim, kMaxHeadDim);
  if (!packed || head_dim % kSize != 0) return function(HeadTeam<T, 1, kMaxHeadDim / kHeadLanes>());
  if (head_dim <= kHeadLanes * kSize) return function(HeadTeam<T, kSize, 1>());
  if (head_dim <= 2 * kHeadLanes * kSize) return function(HeadTeam<T, kSize, 2>());
  function(HeadTeam<T, kSize, kMaxHeadDim / kHeadLanes / kSize>());
}

}  // namespace hm11::cuda

#endif  // HM11_OPS_HEAD_TEAMS_CUH_
