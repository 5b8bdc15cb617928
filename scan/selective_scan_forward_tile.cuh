// The selective scan's forward pass on a GPU: a block's tile of time, into shared memory and out of it.
#ifndef HM11_SCAN_SELECTIVE_SCAN_FORWARD_TILE_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_FORWARD_TILE_CUH_

#include <cstdint>

#include "core/special_functions.cuh"
#include "scan/selective_scan_operands.cuh"
#include "scan/selective_scan_plan.cuh"
#include "scan/selective_scan_tiles.cuh"

namespace hm11::cuda {

inline constexpr int kForwardBlockChannels = 64;

template <typename T>
struct ForwardOperands : SelectiveScanOperands<T> {
  const float* initial_state;  // of the segment when there are several
  T* y;
  T* ungated;
  T* saved_states;
  float* final_state;
};

// How a block of 64 channels is cut. Its warps share out the channels in order: lane 4 g + q of a warp has
// kThreadChannels of them, from g kThreadChannels on, and of each a quarter of the states, from
// q kThreadStates on. kPolynomials of every 16 exponentials are computed on the FMA pipe.
template <int kStatesPadded, int kWarpCount, int kTileTokenCount, int kPolynomialCount, int kMinBlockCount,
          bool kIsWhole>
struct ForwardShape : OperandPolicy<kIsWhole> {
  static constexpr int kStates = kStatesPadded;
  static constexpr int kWarps = kWarpCount;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kThreadChannels = 8 / kWarps;
  static constexpr int kRowTiles = kThreadChannels / 2;
  static constexpr int kThreadStates = kStates / 4;
  static constexpr int kTileTokens = kTileTokenCount;
  static constexpr int kPolynomials = kPolynomialCount;
  static constexpr int kMinBlocks = kMinBlockCount;
  // Rows of shared memory, padded so that the lanes of an access hit different banks.
  static constexpr int kPairStride = kForwardBlockChannels / 2 + 1;
  static constexpr int kStateStride = kStates + 4;
  static_assert(kThreadChannels % 2 == 0 && kThreadStates % 2 == 0);
  static_assert(kSelectiveScanChunk % kTileTokens == 0 && kTileTokens <= 32 && kSavedSpacing == 4);
};

template <typename T, typename Shape>
struct ForwardItems {
  static constexpr int kVector = kVectorSize<T>;
  static constexpr int kColumnVectors = kForwardBlockChannels / kVector;
  static constexpr int kItems = Shape::kTileTokens * kColumnVectors / Shape::kThreads;
  static constexpr int kStateVectors = CeilDiv(Shape::kStates, kVector);
  static constexpr int kStateItems = CeilDiv(Shape::kTileTokens * kStateVectors, Shape::kThreads);
  // A thread's items are of the same channels.
  static_assert(kItems * Shape::kThreads == Shape::kTileTokens * kColumnVectors &&
                Shape::kThreads % kColumnVectors == 0);
};

template <typename T, typename Shape>
struct alignas(16) ForwardTile {
  using Items = ForwardItems<T, Shape>;
  // Rows as they lie in memory. A thread reads only what it copied; x and z are kept until y is written.
  uint4 x[2][Items::kItems][Shape::kThreads];
  uint4 z[2][Items::kItems][Shape::kThreads];
  uint4 delta[Items::kItems][Shape::kThreads];
  uint4 raw_b[Items::kStateItems][Shape::kThreads];
  uint4 raw_c[Items::kStateItems][Shape::kThreads];
  // step, step * x of pairs of channels by PlaceOfPair. The pair's two sums over states, which begin y, are
  // written over one half of it, which one by turns from token to token.
  float4 steps[Shape::kTileTokens][Shape::kPairStride];
  float b[Shape::kTileTokens][Shape::kStateStride];
  float c[Shape::kTileTokens][Shape::kStateStride];
  alignas(16) float delta_bias[kForwardBlockChannels];
  float d[kForwardBlockChannels];
  float longest_step[kForwardBlockChannels];  // whose exponents Exp2OnFma takes, of every state
  unsigned resets;                            // bit t: the tile's token t begins from zero
  int block;
};

struct ForwardPlace {
  int block_begin;  // the block's first channel
  int batch;
  int segment;
  int time_begin;
  int time_end;
};

template <typename Shape, typename T>
__device__ __forceinline__ ForwardPlace PlaceOfForwardBlock(const ForwardOperands<T>& p, int block) {
  const int segment = block / p.channel_blocks / p.batch;
  const bool is_chained = p.chain.states != nullptr;
  const int time_begin = is_chained ? ChainedSegmentBegin(p.time, segment) : segment * p.segment_tokens;
  const int next_begin =
      is_chained ? ChainedSegmentBegin(p.time, segment + 1) : time_begin + p.segment_tokens;
  return {block % p.channel_blocks * kForwardBlockChannels, block / p.channel_blocks % p.batch, segment,
          time_begin, segment == p.segments - 1 ? p.time : next_begin};
}

// Where a row of shared memory keeps a pair of channels, in pairs. A lane of the phases that read and write
// global memory has up to 4 neighbouring pairs, and a warp of them the same of each; a warp of the scan has
// pairs side by side. In this order the lanes of both hit different banks.
__device__ __forceinline__ constexpr int PlaceOfPair(int pair) {
  return pair % 4 * (kForwardBlockChannels / 8) + (pair / 4 + pair % 4 * 2) % (kForwardBlockChannels / 8);
}

// Sets the tile's rows on their way into shared memory: x, delta and z, then b and c.
template <bool kAggregate, typename Shape, typename T>
__device__ __forceinline__ void CopyForwardTile(const ForwardOperands<T>& p, const ForwardPlace& place,
                                                int tile_begin, int stage, ForwardTile<T, Shape>& tile) {
  using Items = ForwardItems<T, Shape>;
  const int thread = static_cast<int>(threadIdx.x);
  const int first_row = place.batch * p.time;
  const int channel = place.block_begin + thread % Items::kColumnVectors * Items::kVector;
#pragma unroll
  for (int i = 0; i < Items::kItems; ++i) {
    const int item = i * Shape::kThreads + thread;
    const int token = tile_begin + item / Items::kColumnVectors;
    const int count = token < place.time_end ? p.inner : 0;
    const int64_t row = first_row + min(token, place.time_end - 1);
    CopyRowAsync(&tile.x[stage][i][thread], p.x, row * p.inner, channel, count, Shape::ChannelVectors(p));
    CopyRowAsync(&tile.delta[i][thread], p.delta, row * p.inner, channel, count, Shape::ChannelVectors(p));
    if (!kAggregate && (Shape::HasGate(p))) {
      CopyRowAsync(&tile.z[stage][i][thread], p.z, row * p.z_stride, channel, count,
                   Shape::ChannelVectors(p));
    }
  }
#pragma unroll
  for (int i = 0; i < Items::kStateItems; ++i) {
    const int item = i * Shape::kThreads + thread;
    const int token = tile_begin + item / Items::kStateVectors;
    const int count =
        token < place.time_end && item < Shape::kTileTokens * Items::kStateVectors ? p.states : 0;
    const int state = item % Items::kStateVectors * Items::kVector;
    const int64_t row = first_row + min(token, place.time_end - 1);
    CopyRowAsync(&tile.raw_b[i][thread], p.b, row * p.b_stride, state, count, Shape::ColumnVectors(p));
    if (!kAggregate) {
      CopyRowAsync(&tile.raw_c[i][thread], p.c, row * p.c_stride, state, count, Shape::ColumnVectors(p));
    }
  }
}

// What the tile keeps of its channels for all of time.
template <typename Shape, typename T>
__device__ __forceinline__ void LoadForwardChannels(const ForwardOperands<T>& p, const ForwardPlace& place,
                                                    ForwardTile<T, Shape>& tile) {
  for (int i = static_cast<int>(threadIdx.x); i < kForwardBlockChannels; i += Shape::kThreads) {
    const int channel = place.block_begin + i;
    tile.delta_bias[i] = p.delta_bias != nullptr && channel < p.inner ? p.delta_bias[channel] : 0.0f;
    tile.d[i] = p.d != nullptr && channel < p.inner ? p.d[channel] : 0.0f;
  }
}

// The tile's copied b and c as floats.
template <bool kAggregate, typename Shape, typename T>
__device__ __forceinline__ void PrepareForwardColumns(ForwardTile<T, Shape>& tile) {
  using Items = ForwardItems<T, Shape>;
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < Items::kStateItems; ++i) {
    const int item = i * Shape::kThreads + thread;
    const int t = item / Items::kStateVectors;
    const int state = item % Items::kStateVectors * Items::kVector;
    if (item < Shape::kTileTokens * Items::kStateVectors) {
      const auto b = FromShared<T>(tile.raw_b[i][thread]);
      const auto c = FromShared<T>(tile.raw_c[i][thread]);
#pragma unroll
      for (int k = 0; k < Items::kVector; k += 4) {
        const float b_four[4] = {b[k], b[k + 1], b[k + 2], b[k + 3]};
        const float c_four[4] = {c[k], c[k + 1], c[k + 2], c[k + 3]};
        StoreShared(&tile.b[t][state + k], b_four);
        if (!kAggregate) StoreShared(&tile.c[t][state + k], c_four);
      }
    }
  }
}

// Which of the tile's tokens begin from zero, by the first warp.
template <typename Shape, typename T>
__device__ __forceinline__ void PrepareForwardResets(const ForwardOperands<T>& p, const ForwardPlace& place,
                                                     int tile_begin, ForwardTile<T, Shape>& tile) {
  const int thread = static_cast<int>(threadIdx.x);
  if (!Shape::kWhole && thread < 32) {
    const int token = tile_begin + thread;
    const bool resets = p.reset != nullptr && thread < Shape::kTileTokens && token < place.time_end &&
                        p.reset[place.batch * p.time + token] != 0;
    const unsigned bits = __ballot_sync(0xffffffffu, resets);
    if (thread == 0) tile.resets = bits;
  }
}

// The copied rows as the floats that the scan reads: steps, inputs, b, c and resets. Tokens past the end get
// step 0 and change nothing. Returns whether none of the thread's steps is longer than its channel's longest.
template <bool kAggregate, typename Shape, typename T>
__device__ __forceinline__ bool PrepareForwardTile(const ForwardOperands<T>& p, const ForwardPlace& place,
                                                   int tile_begin, int stage, ForwardTile<T, Shape>& tile) {
  using Items = ForwardItems<T, Shape>;
  const int thread = static_cast<int>(threadIdx.x);
  const int column = thread % Items::kColumnVectors * Items::kVector;
  float delta_bias[Items::kVector], longest_step[Items::kVector];
  LoadShared(&tile.delta_bias[column], delta_bias);
  LoadShared(&tile.longest_step[column], longest_step);
  bool all_within = true;
#pragma unroll
  for (int i = 0; i < Items::kItems; ++i) {
    const int t = (i * Shape::kThreads + thread) / Items::kColumnVectors;
    const bool inside = tile_begin + t < place.time_end;
    const auto x = FromShared<T>(tile.x[stage][i][thread]);
    const auto delta = FromShared<T>(tile.delta[i][thread]);
#pragma unroll
    for (int k = 0; k < Items::kVector; k += 2) {
      float pairs[4];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float step = delta[k + j] + delta_bias[k + j];
        if (Shape::HasSoftplus(p)) step = Softplus<T>(step);
        step = inside ? step : 0.0f;
        all_within = all_within && fabsf(step) <= longest_step[k + j];  // not so for NaN
        pairs[2 * j] = step;
        pairs[2 * j + 1] = step * x[k + j];
      }
      StoreShared(&tile.steps[t][PlaceOfPair((column + k) / 2)].x, pairs);
    }
  }
  PrepareForwardColumns<kAggregate>(tile);
  PrepareForwardResets(p, place, tile_begin, tile);
  return all_within;
}

// y of the tile's tokens, out of the sums over states.
template <typename Shape, typename T>
__device__ __forceinline__ void FinishForwardTile(const ForwardOperands<T>& p, const ForwardPlace& place,
                                                  int tile_begin, int stage, ForwardTile<T, Shape>& tile) {
  using Items = ForwardItems<T, Shape>;
  const int thread = static_cast<int>(threadIdx.x);
  const int column = thread % Items::kColumnVectors * Items::kVector;
  float d[Items::kVector];
  LoadShared(&tile.d[column], d);
#pragma unroll
  for (int i = 0; i < Items::kItems; ++i) {
    const int t = (i * Shape::kThreads + thread) / Items::kColumnVectors;
    const auto x = FromShared<T>(tile.x[stage][i][thread]);
    const auto z = FromShared<T>(tile.z[stage][i][thread]);
    RowVector<T> y = {}, ungated = {};
#pragma unroll
    for (int k = 0; k < Items::kVector; k += 2) {
      float value[2];
      LoadShared(&tile.steps[t][PlaceOfPair((column + k) / 2)].x + t % 2 * 2, value);
#pragma unroll
      for (int j = 0; j < 2; ++j) value[j] = fmaf(d[k + j], x[k + j], value[j]);
      ungated.SetPair(k, value[0], value[1]);
      if (Shape::HasGate(p)) {
#pragma unroll
        for (int j = 0; j < 2; ++j) value[j] *= z[k + j] * Sigmoid(z[k + j]);
      }
      y.SetPair(k, value[0], value[1]);
    }
    const int64_t row = place.batch * p.time + tile_begin + t;
    const int count = tile_begin + t < place.time_end ? p.inner : 0;
    StoreRow(p.y + row * p.inner, place.block_begin + column, count, Shape::ChannelVectors(p), y);
    if (p.ungated != nullptr) {
      StoreRow(p.ungated + row * p.inner, place.block_begin + column, count, Shape::ChannelVectors(p),
               ungated);
    }
  }
}

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_FORWARD_TILE_CUH_
