// The selective scan's backward pass on a GPU: a block's tile of time, into shared memory and out of it.
#ifndef HM11_SCAN_SELECTIVE_SCAN_BACKWARD_TILE_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_BACKWARD_TILE_CUH_

#include <cstdint>

#include "core/special_functions.cuh"
#include "scan/scan_math.cuh"
#include "scan/selective_scan_chain.cuh"
#include "scan/selective_scan_operands.cuh"
#include "scan/selective_scan_plan.cuh"
#include "scan/selective_scan_tiles.cuh"

namespace hm11::cuda {

inline constexpr int kHeld = kSavedSpacing;  // Tokens whose decays and states are in registers.
inline constexpr float kLn2 = 0.6931471805599453f;

template <typename T>
struct BackwardOperands : SelectiveScanOperands<T> {
  const T* ungated;
  const T* dy;
  const T* saved_states;
  const float* dfinal_state;  // what enters each segment from behind, when there are several
  T* dx;
  T* ddelta;
  T* dz;
  T* dcolumns;    // [channel_blocks, batch * time, 2 * padded states]: db beside dc, of a block's channels
  float* da_log;  // [segments, batch, inner, state]
  float* dd;      // [segments, batch, inner]
  float* ddelta_bias;  // [segments, batch, inner]
  float* dinitial_state;
  int64_t dz_stride;
  int64_t saved_stride;  // of saved_states, from one token's to the next's
};

// Where a block keeps a channel's numbers in a row of shared memory. A lane of the phases that read and write
// global memory has up to 8 neighbouring channels, a lane of the scan two or four; in this order both find
// pairs of theirs side by side, and the lanes of a warp neighbouring pairs.
template <int kBlockChannels>
__device__ __forceinline__ constexpr int PlaceOfChannel(int channel) {
  return channel % 8 / 2 * (kBlockChannels / 4) + channel / 8 * 2 + channel % 2;
}

// How a block of four warps is cut. kStateGroups groups of 4 lanes of a warp share out the states; the 4
// lanes of a group and the kSets sets of kStateGroups groups share out the warp's channels, two to a lane.
template <int kStatesPadded, int kStateGroupCount, int kTileTokens, int kMinBlockCount, bool kIsWhole>
struct BackwardShape : OperandPolicy<kIsWhole> {
  static constexpr int kStates = kStatesPadded;
  static constexpr int kStateGroups = kStateGroupCount;
  static constexpr int kSets = 8 / kStateGroups;
  static constexpr int kThreadStates = kStates / kStateGroups;
  static constexpr int kStatePairs = kThreadStates / 2;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kWarpChannels = 8 * kSets;
  static constexpr int kBlockChannels = kWarps * kWarpChannels;
  static constexpr int kTile = kTileTokens;  // Tokens whose operands are in shared memory at a time.
  static constexpr int kSumChannels = kWarpChannels * kHeld / 32;  // a lane's
  static constexpr int kMinBlocks = kMinBlockCount;
  // Tokens whose db and dc leave the block together; with two buffers, while those of the next are added.
  static constexpr int kGroup = kStateGroups == 8 ? 8 : 16;
  static constexpr int kGroupBuffers = kTile > kGroup ? 2 : 1;
  // Rows of shared memory, padded so that the lanes of an access hit different banks.
  static constexpr int kChannelStride = kBlockChannels + 8;
  static constexpr int kStateStride = kStates + 8;
  static constexpr int kPartStride = kStateGroups * kWarpChannels + 4;
  static_assert(kThreadStates % 2 == 0 && kSumChannels >= 1);
  static_assert(kSelectiveScanChunk % kTile == 0 && kTile % (kGroupBuffers * kGroup) == 0);
  static_assert(kGroup % kStateGroups == 0);
};

// Whether what enters the states goes to the tensor cores: b as 16 bits hold it loses nothing there, step * x is
// rounded to 11 bits (RoundedFactor). The gradients of the states do not: each waits for the one behind it, and a
// product takes longer than an addition.
template <typename T>
inline constexpr bool kOuterProducts = sizeof(T) == 2;

// Whether sums over channels come from PairFactors, two tokens at a time.
template <typename T, typename Shape>
inline constexpr bool kPairSums = Shape::kSets == 1 && kOuterProducts<T>;

// Of db and dc of a token in shared memory. The lanes of a phase that stores accumulators there hit different
// banks: with PairFactors two tokens' numbers, half of kThreadStates a lane; else eight tokens', of all.
template <typename T, typename Shape>
inline constexpr int kColumnSumStride = 2 * Shape::kStates +
                                        (kPairSums<T, Shape> && Shape::kThreadStates == 4 ? 16 : 4);

template <typename T, typename Shape>
struct BackwardItems {
  static constexpr int kVector = kVectorSize<T>;
  static constexpr int kColumnVectors = Shape::kBlockChannels / kVector;
  static constexpr int kItems = Shape::kTile * kColumnVectors / Shape::kThreads;
  static constexpr int kStateVectors = CeilDiv(Shape::kStates, kVector);
  static constexpr int kStateItems = CeilDiv(Shape::kTile * kStateVectors, Shape::kThreads);
  static_assert(kItems * Shape::kThreads == Shape::kTile * kColumnVectors &&
                Shape::kThreads % kColumnVectors == 0);
};

enum BackwardRow { kStep, kInput, kDy };  // step, step * x, the gradient of y before the gate
enum BackwardColumn { kB, kC };

// Channels of a row are in the order of PlaceOfChannel.
template <typename T, typename Shape>
struct alignas(16) BackwardTile {
  using Items = BackwardItems<T, Shape>;
  // Rows as they lie in memory.
  struct Outputs {
    uint4 x[Items::kItems][Shape::kThreads];  // and then its gradient
    uint4 ddelta[Items::kItems][Shape::kThreads];
  } outputs[2];
  uint4 delta[Items::kItems][Shape::kThreads];
  uint4 raw_dy[Items::kItems][Shape::kThreads];
  uint4 z[Items::kItems][Shape::kThreads];
  uint4 ungated[Items::kItems][Shape::kThreads];
  uint4 raw_b[Items::kStateItems][Shape::kThreads];
  uint4 raw_c[Items::kStateItems][Shape::kThreads];
  // What the scan reads, by Row and Column: arrays of one kind one behind the other.
  float rows[3][Shape::kTile][Shape::kChannelStride];
  float columns[2][Shape::kTile][Shape::kStateStride];
  float2 parts[Shape::kWarps][kHeld][Shape::kPartStride];  // of the sums, one of each group of lanes
  // db and dc of kGroup tokens, summed over each set's channels.
  float column_sums[Shape::kGroupBuffers][Shape::kWarps * Shape::kSets][Shape::kGroup]
                   [kColumnSumStride<T, Shape>];
  alignas(16) float delta_bias[Shape::kBlockChannels];  // in order
  float d[Shape::kBlockChannels];
  unsigned resets;  // bit t: the tile's token t begins from zero
  int block;
};

struct BackwardPlace {
  int channel_begin;
  int channel_block;
  int batch;
  int segment;     // where segments are chained, the first is the last in time
  int tile_begin;  // the segment's tiles
  int tile_end;
  bool is_first;  // in time
  bool is_last;
};

template <typename Shape, typename T>
__device__ __forceinline__ BackwardPlace PlaceOfBackwardBlock(const BackwardOperands<T>& p, int block) {
  BackwardPlace place;
  place.channel_block = block % p.channel_blocks;
  place.channel_begin = place.channel_block * Shape::kBlockChannels;
  place.batch = block / p.channel_blocks % p.batch;
  place.segment = block / p.channel_blocks / p.batch;
  const bool is_outer = place.segment == p.segments - 1;
  int begin, end;
  if (p.chain.states != nullptr) {
    begin = is_outer ? 0 : ChainedSegmentEnd(p.time, place.segment + 1);
    end = ChainedSegmentEnd(p.time, place.segment);
    place.is_first = is_outer;
    place.is_last = place.segment == 0;
  } else {
    begin = place.segment * p.segment_tokens;
    end = min(p.time, begin + p.segment_tokens);
    place.is_first = place.segment == 0;
    place.is_last = is_outer;
  }
  place.tile_begin = begin / Shape::kTile;
  place.tile_end = CeilDiv(end, Shape::kTile);
  return place;
}

// The sums over channels of kStateGroups tokens (two where kPairSums) on the tensor cores, db and dc: of a
// pair of states a tile.
template <typename Shape>
using BackwardAccumulators = float[2][Shape::kStatePairs][4];

template <int kPairs>
__device__ __forceinline__ void Clear(float (&accumulators)[2][kPairs][4]) {
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
    for (int i = 0; i < 4; ++i) accumulators[0][pair][i] = accumulators[1][pair][i] = 0.0f;
  }
}

// Where a thread's items of a tile lie in global memory: a vector of channels of one token each.
template <typename T, typename Shape>
struct BackwardItem {
  using Items = BackwardItems<T, Shape>;
  int t, column, channel, count;  // count: 0 past the end of time
  int64_t row;                    // the last of the sequence where it would be past that

  __device__ __forceinline__ BackwardItem(const BackwardOperands<T>& p, const BackwardPlace& place, int index,
                                          int i) {
    const unsigned item = i * Shape::kThreads + threadIdx.x;
    t = static_cast<int>(item / Items::kColumnVectors);
    column = static_cast<int>(item % Items::kColumnVectors) * Items::kVector;
    channel = place.channel_begin + column;
    const int token = index * Shape::kTile + t;
    count = token < p.time ? p.inner : 0;
    row = place.batch * p.time + min(token, p.time - 1);
  }
};

// Sets the tile's rows on their way into shared memory.
template <bool kAggregate, typename Shape, typename T>
__device__ __forceinline__ void CopyBackwardTile(const BackwardOperands<T>& p, const BackwardPlace& place,
                                                 int index, BackwardTile<T, Shape>& tile) {
  using Items = BackwardItems<T, Shape>;
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < Items::kItems; ++i) {
    const BackwardItem<T, Shape> at(p, place, index, i);
    const int64_t offset = at.row * p.inner;
    const auto copy = [&](uint4* to, const T* base, int64_t row_offset) {
      CopyRowAsync(to, base, row_offset, at.channel, at.count, Shape::ChannelVectors(p));
    };
    copy(&tile.outputs[index & 1].x[i][thread], p.x, offset);
    copy(&tile.delta[i][thread], p.delta, offset);
    copy(&tile.raw_dy[i][thread], p.dy, offset);
    if (Shape::HasGate(p)) {
      copy(&tile.z[i][thread], p.z, at.row * p.z_stride);
      if (!kAggregate) copy(&tile.ungated[i][thread], p.ungated, offset);
    }
  }
#pragma unroll
  for (int i = 0; i < Items::kStateItems; ++i) {
    const unsigned item = i * Shape::kThreads + threadIdx.x;
    const int t = static_cast<int>(item / Items::kStateVectors);
    if (Items::kStateItems * Shape::kThreads > Shape::kTile * Items::kStateVectors && t >= Shape::kTile)
      break;
    const int state = static_cast<int>(item % Items::kStateVectors) * Items::kVector;
    const int token = index * Shape::kTile + t;
    const int count = token < p.time ? p.states : 0;
    const int64_t row = place.batch * p.time + min(token, p.time - 1);
    CopyRowAsync(&tile.raw_b[i][thread], p.b, row * p.b_stride, state, count, Shape::ColumnVectors(p));
    CopyRowAsync(&tile.raw_c[i][thread], p.c, row * p.c_stride, state, count, Shape::ColumnVectors(p));
  }
}

// The tile's steps, inputs and gradients behind the gate out of the copied rows; and the gradients of the
// gate, which need nothing else. Tokens past the end get step and gradient 0 and change nothing.
template <bool kAggregate, typename Shape, typename T>
__device__ __forceinline__ void PrepareBackwardRows(const BackwardOperands<T>& p, const BackwardPlace& place,
                                                    int index, BackwardTile<T, Shape>& tile) {
  using Items = BackwardItems<T, Shape>;
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < Items::kItems; ++i) {
    const BackwardItem<T, Shape> at(p, place, index, i);
    const auto x = FromShared<T>(tile.outputs[index & 1].x[i][thread]);
    const auto delta = FromShared<T>(tile.delta[i][thread]);
    const auto dy = FromShared<T>(tile.raw_dy[i][thread]);
    RowVector<T> z = {}, ungated = {}, dz = {};
    if (Shape::HasGate(p)) {
      z = FromShared<T>(tile.z[i][thread]);
      if (!kAggregate) ungated = FromShared<T>(tile.ungated[i][thread]);
    }
    float delta_bias[Items::kVector];
    LoadShared(&tile.delta_bias[at.column], delta_bias);
#pragma unroll
    for (int k = 0; k < Items::kVector; k += 2) {
      float step[2], input[2], dout[2], dgate[2] = {};
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int m = k + j;
        step[j] = delta[m] + delta_bias[m];
        if (Shape::HasSoftplus(p)) step[j] = Softplus<T>(step[j]);
        step[j] = at.count > 0 ? step[j] : 0.0f;
        input[j] = RoundedFactor<T>(step[j] * x[m]);
        dout[j] = dy[m];
        if (Shape::HasGate(p)) {
          const float sigmoid = Sigmoid(z[m]);
          const float gate = z[m] * sigmoid;
          dgate[j] = dy[m] * ungated[m] * fmaf(gate, 1.0f - sigmoid, sigmoid);
          dout[j] *= gate;
        }
      }
      const int place_in_row = PlaceOfChannel<Shape::kBlockChannels>(at.column + k);
      StoreShared(&tile.rows[kStep][at.t][place_in_row], step);
      StoreShared(&tile.rows[kInput][at.t][place_in_row], input);
      StoreShared(&tile.rows[kDy][at.t][place_in_row], dout);
      dz.SetPair(k, dgate[0], dgate[1]);
    }
    if (!kAggregate && Shape::HasGate(p)) {
      StoreRow(p.dz + at.row * p.dz_stride, at.channel, at.count, Shape::ChannelVectors(p), dz);
    }
  }
}

// The tile's copied b and c as floats.
template <typename Shape, typename T>
__device__ __forceinline__ void PrepareBackwardColumns(BackwardTile<T, Shape>& tile) {
  using Items = BackwardItems<T, Shape>;
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < Items::kStateItems; ++i) {
    const unsigned item = i * Shape::kThreads + threadIdx.x;
    const int t = static_cast<int>(item / Items::kStateVectors);
    if (Items::kStateItems * Shape::kThreads > Shape::kTile * Items::kStateVectors && t >= Shape::kTile)
      break;
    const int state = static_cast<int>(item % Items::kStateVectors) * Items::kVector;
    const auto b = FromShared<T>(tile.raw_b[i][thread]);
    const auto c = FromShared<T>(tile.raw_c[i][thread]);
#pragma unroll
    for (int k = 0; k < Items::kVector; k += 4) {
      const float b_four[4] = {b[k], b[k + 1], b[k + 2], b[k + 3]};
      const float c_four[4] = {c[k], c[k + 1], c[k + 2], c[k + 3]};
      StoreShared(&tile.columns[kB][t][state + k], b_four);
      StoreShared(&tile.columns[kC][t][state + k], c_four);
    }
  }
}

// Which of the tile's tokens begin from zero, by the first warp.
template <typename Shape, typename T>
__device__ __forceinline__ void PrepareBackwardResets(const BackwardOperands<T>& p,
                                                      const BackwardPlace& place, int index,
                                                      BackwardTile<T, Shape>& tile) {
  const int thread = static_cast<int>(threadIdx.x);
  if (!Shape::kWhole && thread < 32) {
    const int token = index * Shape::kTile + thread;
    const bool resets = p.reset != nullptr && token < p.time && p.reset[place.batch * p.time + token] != 0;
    const unsigned bits = __ballot_sync(0xffffffffu, resets);
    if (thread == 0) tile.resets = bits;
  }
}

// The copied rows as the floats that the scan reads; a thread reads only what it copied.
template <bool kAggregate, typename Shape, typename T>
__device__ __forceinline__ void PrepareBackwardTile(const BackwardOperands<T>& p, const BackwardPlace& place,
                                                    int index, BackwardTile<T, Shape>& tile) {
  PrepareBackwardRows<kAggregate>(p, place, index, tile);
  PrepareBackwardColumns(tile);
  PrepareBackwardResets(p, place, index, tile);
}

template <typename Shape, typename T>
__device__ __forceinline__ void LoadBackwardChannels(const BackwardOperands<T>& p, const BackwardPlace& place,
                                                     BackwardTile<T, Shape>& tile) {
  for (int i = static_cast<int>(threadIdx.x); i < Shape::kBlockChannels; i += Shape::kThreads) {
    const int channel = place.channel_begin + i;
    tile.delta_bias[i] = p.delta_bias != nullptr && channel < p.inner ? p.delta_bias[channel] : 0.0f;
    tile.d[i] = p.d != nullptr && channel < p.inner ? p.d[channel] : 0.0f;
  }
}

// What a thread is to its block in the scan: its two channels are neighbours.
template <typename Shape>
struct ThreadPlace {
  int warp = static_cast<int>(threadIdx.x / 32);
  int lane = static_cast<int>(threadIdx.x % 32);
  int quad = lane % 4;
  int state_group = lane / 4 % Shape::kStateGroups;
  int set = lane / 4 / Shape::kStateGroups;
  int state_begin = state_group * Shape::kThreadStates;
  int in_warp = (set * 4 + quad) * 2;                    // its first channel's place
  int in_block = warp * Shape::kWarpChannels + in_warp;  // likewise
  int channel_begin = (set * 4 + quad) * 8 + warp * 2;   // its first channel
};

// Brings the saved states of the tile's tokens into the L2 cache: those of the block's channels lie side by
// side, in kTile / kSavedSpacing runs.
template <typename Shape, typename T>
__device__ __forceinline__ void PrefetchSavedStates(const BackwardOperands<T>& p, const BackwardPlace& place,
                                                    int index) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const int token = index * Shape::kTile + static_cast<int>(threadIdx.x) * kSavedSpacing;
  if (Shape::kWhole && threadIdx.x < Shape::kTile / kSavedSpacing && token < p.time) {
    const int step = place.batch * CeilDiv(p.time, kSavedSpacing) + token / kSavedSpacing;
    const T* const run = p.saved_states + (int64_t{step} * p.inner + place.channel_begin) * Shape::kStates;
    constexpr int kBytes = Shape::kBlockChannels * Shape::kStates * static_cast<int>(sizeof(T));
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(run), "n"(kBytes) : "memory");
  }
#endif
}

// The tile's gradients of x and delta, out of shared memory.
template <typename Shape, typename T>
__device__ __forceinline__ void StoreBackwardTile(const BackwardOperands<T>& p, const BackwardPlace& place,
                                                  int index, BackwardTile<T, Shape>& tile) {
  using Items = BackwardItems<T, Shape>;
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < Items::kItems; ++i) {
    const BackwardItem<T, Shape> at(p, place, index, i);
    const int64_t offset = at.row * p.inner;
    StoreRow(p.dx + offset, at.channel, at.count, Shape::ChannelVectors(p),
             FromShared<T>(tile.outputs[index & 1].x[i][thread]));
    StoreRow(p.ddelta + offset, at.channel, at.count, Shape::ChannelVectors(p),
             FromShared<T>(tile.outputs[index & 1].ddelta[i][thread]));
  }
}

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_BACKWARD_TILE_CUH_
