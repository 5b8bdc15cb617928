// The selective scan's backward pass on a GPU: what its products read of a tile, and where.
#ifndef HM11_SCAN_SELECTIVE_SCAN_BACKWARD_FACTORS_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_BACKWARD_FACTORS_CUH_

#include <cstdint>
#include <type_traits>

#include "scan/scan_math.cuh"
#include "scan/selective_scan_backward_sums.cuh"
#include "scan/selective_scan_backward_tile.cuh"
#include "scan/selective_scan_tiles.cuh"

namespace hm11::cuda {

// What a thread holds of its two channels and kThreadStates states of each.
template <typename Shape>
using BackwardStates = float[2][Shape::kThreadStates];

template <typename T, typename Shape>
struct ColumnFactors;
template <typename T, typename Shape>
struct PairFactors;
template <typename T, typename Shape>
using SumFactors = std::conditional_t<kPairSums<T, Shape>, PairFactors<T, Shape>, ColumnFactors<T, Shape>>;

// Where a thread reads of a tile, at the first of the kStateGroups tokens of an accumulator or at one behind
// it that is its lane's. Rows are those of steps, with inputs and gradients kRows behind one another; columns
// those of b, with c behind it.
template <typename T, typename Shape>
struct BackwardCursors {
  static constexpr int kRowStride = Shape::kChannelStride;
  static constexpr int kRows = Shape::kTile * kRowStride;
  static constexpr int kColumnStride = Shape::kStateStride;
  static constexpr int kColumns = Shape::kTile * kColumnStride;

  const float* row;          // the thread's channels
  const float* column;       // its states
  const float* lane_row;     // of the quad-th token, the channel of the lane group
  const float* lane_column;  // of the quad-th token, the thread's states
  const float* group_row;    // what the factors of sums over channels are read from
  const float* sum_row;      // what ChannelSums reads
  T* sum_x;                  // likewise

  __device__ __forceinline__ BackwardCursors(BackwardTile<T, Shape>& tile, const ThreadPlace<Shape>& self,
                                             const ChannelSums<T, Shape>& sums, int first, int stage)
      : row(&tile.rows[kStep][first][self.in_block]),
        column(&tile.columns[kB][first][self.state_begin]),
        lane_row(&tile.rows[kStep][first + self.quad][self.warp * Shape::kWarpChannels + self.lane / 4]),
        lane_column(column + self.quad * kColumnStride),
        group_row(row + SumFactors<T, Shape>::PlaceOf(self, kRowStride)),
        sum_row(&tile.rows[kStep][first + sums.token][sums.in_block]),
        sum_x(reinterpret_cast<T*>(tile.outputs[stage].x) + (first + sums.token) * Shape::kBlockChannels +
              sums.channel) {}

  // To the kStateGroups tokens before.
  __device__ __forceinline__ void Back() {
    constexpr int kTokens = Shape::kStateGroups;
    row -= kTokens * kRowStride;
    lane_row -= kTokens * kRowStride;
    group_row -= kTokens * kRowStride;
    sum_row -= kTokens * kRowStride;
    column -= kTokens * kColumnStride;
    lane_column -= kTokens * kColumnStride;
    sum_x -= kTokens * Shape::kBlockChannels;
  }
};

// result = start + the outer product of numbers of states and of channels.
template <int kStates>
__device__ __forceinline__ void AddOuterProduct(const float (&states)[kStates], const float (&channels)[2],
                                                const float (&start)[2][kStates],
                                                float (&result)[2][kStates]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < kStates; ++j) result[i][j] = fmaf(states[j], channels[i], start[i][j]);
  }
}

// Of kHeld tokens b and step * x, a lane's of one token, whose outer products the states take up.
template <typename T, typename Shape>
struct OuterFactors {
  using States = BackwardStates<Shape>;
  static constexpr int kStates = Shape::kThreadStates;
  float states[Shape::kSets][kStates];  // of the quad-th token, the thread's; 0 in other sets than its own
  float channels[Shape::kSets];         // of the quad-th token, each set's channel of the lane group

  // `row` and `column` as BackwardCursors' lane_row and lane_column.
  __device__ __forceinline__ void Load(const ThreadPlace<Shape>& self, const float* row,
                                       const float* column) {
    float own[kStates];
    LoadShared(column, own);
#pragma unroll
    for (int set = 0; set < Shape::kSets; ++set) {
#pragma unroll
      for (int j = 0; j < kStates; ++j) states[set][j] = Shape::kSets == 1 || set == self.set ? own[j] : 0.0f;
      channels[set] = row[set * 8];
    }
  }

  // result = the outer product of the kHeld tokens' t-th.
  __device__ __forceinline__ void Multiply(const ThreadPlace<Shape>& self, int t, States& result) const {
    float of_token[Shape::kSets];
#pragma unroll
    for (int set = 0; set < Shape::kSets; ++set) of_token[set] = self.quad == t ? channels[set] : 0.0f;
#pragma unroll
    for (int j = 0; j < kStates; j += 2) {
      float to[4] = {};
      if constexpr (Shape::kSets == 1) {
        MultiplyHalfTiles(to, {states[0][j], states[0][j + 1]}, of_token[0], {});
      } else {
        const float rows[4] = {states[0][j], states[0][j + 1], states[1][j], states[1][j + 1]};
        MultiplyTiles(to, rows, of_token);
      }
      result[0][j] = to[0], result[1][j] = to[1], result[0][j + 1] = to[2], result[1][j + 1] = to[3];
    }
  }
};

// step * x and dy of the token, one of kStateGroups, whose sums over channels are in the lane group's column
// of the accumulators.
template <typename T, typename Shape>
struct ColumnFactors {
  using States = BackwardStates<Shape>;
  float input[2], dy[2];

  // From the thread's channels of the first token to what it loads, its channels of the lane group's token.
  static __device__ __forceinline__ int PlaceOf(const ThreadPlace<Shape>& self, int row_stride) {
    return self.state_group * row_stride;
  }

  // `row` as BackwardCursors' group_row.
  __device__ __forceinline__ void Load(const float* row) {
    constexpr int kRows = BackwardCursors<T, Shape>::kRows;
    LoadShared(row + kInput * kRows, input);
    LoadShared(row + kDy * kRows, dy);
#pragma unroll
    for (int i = 0; i < 2; ++i) dy[i] = RoundedFactor<T>(dy[i]);
  }

  // db and dc of the t-th of the kStateGroups tokens, summed over the warp's channels, into its column.
  __device__ __forceinline__ void AddSums(const ThreadPlace<Shape>& self, int t, const States& dh,
                                          const States& h, BackwardAccumulators<Shape>& sums) const {
    const bool own = self.state_group == t;
    const float inputs[2] = {own ? input[0] : 0.0f, own ? input[1] : 0.0f};
    const float outputs[2] = {own ? dy[0] : 0.0f, own ? dy[1] : 0.0f};
#pragma unroll
    for (int j = 0; j < Shape::kThreadStates; j += 2) {
      const float db[4] = {dh[0][j], dh[0][j + 1], dh[1][j], dh[1][j + 1]};
      const float dc[4] = {h[0][j], h[0][j + 1], h[1][j], h[1][j + 1]};
      MultiplyTilesFor<T>(sums[0][j / 2], db, inputs);
      MultiplyTilesFor<T>(sums[1][j / 2], dc, outputs);
    }
  }
};

// The same where kPairSums, for two tokens at a time, with one number of input and dy a lane in place of two of
// each, and fewer instructions. Rows g and g + 8 of the left
// factor are the lanes' first and second channels, its inner dimension is an even state of lane group g and
// then the odd one behind. So column 4 u + 2 s + i of the right factor is for the u-th of the two tokens, the
// state of parity s and the i-th channels, 0 for all others; and a lane's sum is the accumulator's first
// number (of first channels) and its last (of second ones).
template <typename T, typename Shape>
struct PairFactors {
  using States = BackwardStates<Shape>;
  float input, dy;  // of the lane group's column

  // From the thread's channels of the first token to what it loads, its column's channel and token.
  static __device__ __forceinline__ int PlaceOf(const ThreadPlace<Shape>& self, int row_stride) {
    return self.state_group / 4 * row_stride + self.state_group % 2;
  }

  // `row` as BackwardCursors' group_row, of the first token of two.
  __device__ __forceinline__ void Load(const float* row) {
    constexpr int kRows = BackwardCursors<T, Shape>::kRows;
    input = row[kInput * kRows];
    dy = RoundedFactor<T>(row[kDy * kRows]);
  }

  // db and dc of the t-th of the two tokens, summed over the warp's channels, into its columns.
  __device__ __forceinline__ void AddSums(const ThreadPlace<Shape>& self, int t, const States& dh,
                                          const States& h, BackwardAccumulators<Shape>& sums) const {
    const bool even = self.state_group / 2 == 2 * t, odd = self.state_group / 2 == 2 * t + 1;
    const float inputs[2] = {even ? input : 0.0f, odd ? input : 0.0f};
    const float outputs[2] = {even ? dy : 0.0f, odd ? dy : 0.0f};
#pragma unroll
    for (int j = 0; j < Shape::kThreadStates; j += 2) {
      const float db[4] = {dh[0][j], dh[1][j], dh[0][j + 1], dh[1][j + 1]};
      const float dc[4] = {h[0][j], h[1][j], h[0][j + 1], h[1][j + 1]};
      MultiplyTiles(sums[0][j / 2], db, inputs);
      MultiplyTiles(sums[1][j / 2], dc, outputs);
    }
  }
};

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_BACKWARD_FACTORS_CUH_
