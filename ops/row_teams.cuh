// Row teams: how kernels over [rows, dim] that sum over each row, and over all rows, are laid out.
//
// A team of one, two or four warps has a row, 16 numbers of it in each lane's registers: up to 512 numbers a
// warp, packs of neighbouring numbers going round the lanes. A block is four warps. Sums over a row need the
// team; sums over rows stay in each lane's registers while its team visits row after row, and are added over
// the block's teams at the end.
#ifndef HM11_OPS_ROW_TEAMS_CUH_
#define HM11_OPS_ROW_TEAMS_CUH_

#include <cstdint>
#include <type_traits>

#include "ops/packs.cuh"

namespace hm11::cuda {

inline constexpr int kTeamThreads = 128;
inline constexpr int kLaneColumns = 16;
inline constexpr int kWarpColumns = 32 * kLaneColumns;

template <typename T, int kTeamWarps>
struct Team {
  static constexpr int kWarps = kTeamWarps;
  static constexpr int kSize = kPackSize<T>;                   // numbers a pack
  static constexpr int kPacks = kLaneColumns / kSize;          // packs a lane
  static constexpr int kTeams = kTeamThreads / (32 * kWarps);  // a block
  static constexpr int kColumns = kWarpColumns * kWarps;

  __device__ static int Index() { return threadIdx.x / (32 * kWarps); }
  __device__ static int Lane() { return threadIdx.x % (32 * kWarps); }
  // The first column of this lane's pack k.
  __device__ static int Column(int k) { return (k * 32 * kWarps + Lane()) * kSize; }

  // Adds over the team's lanes. Every thread of the block calls it; `shared` has a float a warp of the block.
  __device__ static float Sum(float value, float* shared) {
    value = WarpSum(value);
    if constexpr (kWarps > 1) {
      const int warp = threadIdx.x / 32;
      __syncthreads();  // The sums of the row before have been read.
      if (threadIdx.x % 32 == 0) shared[warp] = value;
      __syncthreads();
      value = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) value += shared[warp / kWarps * kWarps + w];
    }
    return value;
  }

  // Sums over the block's rows: each lane's columns, added over the teams in order, to to[0, dim). `shared`
  // has kTeams * kColumns floats, 16-byte aligned. Every thread of the block calls it.
  __device__ static void StoreSums(const float (&sums)[kPacks][kSize], float* shared, int dim, float* to) {
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kPacks; ++k) Store<kSize>(sums[k], shared + Index() * kColumns + Column(k));
    __syncthreads();
    for (int column = threadIdx.x; column < dim; column += kTeamThreads) {
      float sum = 0;
#pragma unroll
      for (int team = 0; team < kTeams; ++team) sum += shared[team * kColumns + column];
      to[column] = sum;
    }
  }
};

// Whether rows of this many numbers go to teams; tensors must begin on 16-byte boundaries too.
template <typename T>
bool FitsTeams(int64_t dim) {
  return dim <= 4 * kWarpColumns && dim % kPackSize<T> == 0;
}

// Calls function(std::integral_constant<int, warps>) with the warps of a team for rows of `dim`.
template <typename F>
auto WithTeamWarps(int64_t dim, F&& function) {
  if (dim <= kWarpColumns) return function(std::integral_constant<int, 1>());
  if (dim <= 2 * kWarpColumns) return function(std::integral_constant<int, 2>());
  return function(std::integral_constant<int, 4>());
}

}  // namespace hm11::cuda

#endif  // HM11_OPS_ROW_TEAMS_CUH_
