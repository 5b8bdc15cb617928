// The selective scan's backward pass on a GPU: a block's tile of time, into shared memory and out of it.
#ifndef HM11_SCAN_SELECTIVE_SCAN_BACKWARD_TILE_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_BACKWARD_TILE_CUH_

#include <cstdint>

#include "scan/scan_math.cuh"
#include "scan/selective_scan_chain.cuh"
#include "scan/selective_scan_operands.cuh"
#include "scan/selective_scan_plan.cuh"
#include "scan/selective_scan_tiles.cuh"

namespace hm11::cuda {

inline constexpr int kGroup = 8;             // Tokens whose gradients of b and c leave the block together.
inline constexpr int kHeld = kSavedSpacing;  // Tokens whose decays and states are in registers.
inline constexpr float kLn2 = 0.6931471805599453f;
static_assert(kGroup % kHeld == 0);

template <typename T>
struct BackwardOperands {
  const T* x;
  const T* delta;
  const T* b;
  const T* c;
  const T* z;  // null when absent, as all below
  const T* ungated;
  const T* dy;
  const T* saved_states;
  const float* delta_bias;
  const float* a_log;
  const float* d;
  const float* dfinal_state;  // what enters each segment from behind, when there are several
  const uint8_t* reset;
  T* dx;
  T* ddelta;
  T* dz;
  T* dcolumns;    // [channel_blocks, batch * time, 2 * padded states]: db beside dc, of a block's channels
  float* da_log;  // [segments, batch, inner, state]
  float* dd;      // [segments, batch, inner]
  float* ddelta_bias;  // [segments, batch, inner]
  float* dinitial_state;
  SegmentEffects effects;
  ChainedScan chain;
  int64_t b_stride;
  int64_t c_stride;
  int64_t z_stride;
  int64_t dz_stride;
  int batch;
  int time;
  int inner;
  int states;
  int channel_blocks;
  int segments;
  int segment_tokens;
  bool softplus;
  bool channel_vectors;  // x, delta, z, ungated, dy, dx, ddelta and dz move as 16-byte vectors
  bool column_vectors;   // b and c
  bool state_vectors;    // a thread's states of a channel
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
template <int kStatesPadded, int kStateGroupCount, int kMinBlockCount, bool kIsWhole>
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
  static constexpr int kTile = 32 / kSets;  // Tokens whose operands are in shared memory at a time.
  static constexpr int kSumChannels = kWarpChannels * kHeld / 32;  // a lane's
  static constexpr int kMinBlocks = kMinBlockCount;
  // Rows of shared memory, padded so that the lanes of an access hit different banks.
  static constexpr int kPairStride = kBlockChannels + 8;
  static constexpr int kChannelStride = kBlockChannels + 8;
  static constexpr int kStateStride = kStates + 4;
  static constexpr int kPartStride = kStateGroups * kWarpChannels + 8;
  static constexpr int kColumnStride = 2 * kStates + 4;
  static_assert(kThreadStates % 2 == 0 && kSumChannels >= 1);
  static_assert(kSelectiveScanChunk % kTile == 0 && kTile % kGroup == 0);
};

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

// Channels of a row are in the order of PlaceOfChannel.
template <typename T, typename Shape>
struct alignas(16) BackwardTile {
  float2 steps[Shape::kTile][Shape::kPairStride];  // step, step * x
  float2 sums[Shape::kTile][Shape::kPairStride];   // gradients of step (by the decays) and of step * x
  float dy[Shape::kTile][Shape::kChannelStride];   // the gradient of y before the gate
  float b[Shape::kTile][Shape::kStateStride];
  float c[Shape::kTile][Shape::kStateStride];
  float2 parts[Shape::kWarps][kHeld][Shape::kPartStride];  // of the sums, one of each group of lanes
  float columns[2][Shape::kWarps * Shape::kSets][kGroup][Shape::kColumnStride];
  // Of the channels that a thread reads and writes: gradients of d and of delta_bias.
  float4 channel_sums[2][kVectorSize<T> / 4][Shape::kThreads];
  float delta_bias[Shape::kBlockChannels];  // in order
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

// The tile's steps, inputs and gradients behind the gate. Tokens past the end get step and gradient 0 and
// change nothing.
template <typename Shape, typename T>
__device__ __forceinline__ void LoadBackwardRows(const BackwardOperands<T>& p, const BackwardPlace& place,
                                                 int index, BackwardTile<T, Shape>& tile) {
  using Items = BackwardItems<T, Shape>;
  const int thread = static_cast<int>(threadIdx.x);
  const int first_row = place.batch * p.time;
#pragma unroll
  for (int i = 0; i < Items::kItems; ++i) {
    const int item = i * Shape::kThreads + thread;
    const int t = item / Items::kColumnVectors;
    const int column = item % Items::kColumnVectors * Items::kVector;
    const int channel = place.channel_begin + column;
    const int token = index * Shape::kTile + t;
    const int count = token < p.time ? p.inner : 0;
    const int64_t row = first_row + token;
    const auto x = LoadRow(p.x + row * p.inner, channel, count, Shape::ChannelVectors(p));
    const auto delta = LoadRow(p.delta + row * p.inner, channel, count, Shape::ChannelVectors(p));
    const auto dy = LoadRow(p.dy + row * p.inner, channel, count, Shape::ChannelVectors(p));
    RowVector<T> z = {};
    if (Shape::HasGate(p)) z = LoadRow(p.z + row * p.z_stride, channel, count, Shape::ChannelVectors(p));
#pragma unroll
    for (int k = 0; k < Items::kVector; k += 2) {
      float pairs[4], dout[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float step = delta[k + j] + tile.delta_bias[column + k + j];
        if (Shape::HasSoftplus(p)) step = Softplus<T>(step);
        step = count > 0 ? step : 0.0f;
        pairs[2 * j] = step;
        pairs[2 * j + 1] = step * x[k + j];
        dout[j] = !Shape::HasGate(p) ? dy[k + j] : dy[k + j] * (z[k + j] * Sigmoid(z[k + j]));
      }
      const int at = PlaceOfChannel<Shape::kBlockChannels>(column + k);
      StoreShared(&tile.steps[t][at].x, pairs);
      StoreShared(&tile.dy[t][at], dout);
    }
  }
}

// The tile's b and c.
template <typename Shape, typename T>
__device__ __forceinline__ void LoadBackwardColumns(const BackwardOperands<T>& p, const BackwardPlace& place,
                                                    int index, BackwardTile<T, Shape>& tile) {
  using Items = BackwardItems<T, Shape>;
  const int thread = static_cast<int>(threadIdx.x);
  const int first_row = place.batch * p.time;
#pragma unroll
  for (int i = 0; i < Items::kStateItems; ++i) {
    const int item = i * Shape::kThreads + thread;
    const int t = item / Items::kStateVectors;
    if (item >= Shape::kTile * Items::kStateVectors) break;
    const int state = item % Items::kStateVectors * Items::kVector;
    const int token = index * Shape::kTile + t;
    const int count = token < p.time ? p.states : 0;
    const int64_t row = first_row + token;
    const auto b = LoadRow(p.b + row * p.b_stride, state, count, Shape::ColumnVectors(p));
    const auto c = LoadRow(p.c + row * p.c_stride, state, count, Shape::ColumnVectors(p));
#pragma unroll
    for (int k = 0; k < Items::kVector; k += 4) {
      const float b_four[4] = {b[k], b[k + 1], b[k + 2], b[k + 3]};
      const float c_four[4] = {c[k], c[k + 1], c[k + 2], c[k + 3]};
      StoreShared(&tile.b[t][state + k], b_four);
      StoreShared(&tile.c[t][state + k], c_four);
    }
  }
}

// Which of the tile's tokens begin from zero, by the first warp.
template <typename Shape, typename T>
__device__ __forceinline__ void LoadBackwardResets(const BackwardOperands<T>& p, const BackwardPlace& place,
                                                   int index, BackwardTile<T, Shape>& tile) {
  const int thread = static_cast<int>(threadIdx.x);
  const int first_row = place.batch * p.time;
  if (!Shape::kWhole && thread < 32) {
    const int token = index * Shape::kTile + thread;
    const bool resets = p.reset != nullptr && token < p.time && p.reset[first_row + token] != 0;
    const unsigned bits = __ballot_sync(0xffffffffu, resets);
    if (thread == 0) tile.resets = bits;
  }
}

// Operands as floats into shared memory.
template <typename Shape, typename T>
__device__ __forceinline__ void LoadBackwardTile(const BackwardOperands<T>& p, const BackwardPlace& place,
                                                 int index, BackwardTile<T, Shape>& tile) {
  LoadBackwardRows(p, place, index, tile);
  LoadBackwardColumns(p, place, index, tile);
  LoadBackwardResets(p, place, index, tile);
}

template <typename Shape, typename T>
__device__ __forceinline__ void LoadBackwardChannels(const BackwardOperands<T>& p, const BackwardPlace& place,
                                                     BackwardTile<T, Shape>& tile) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < Shape::kBlockChannels; i += Shape::kThreads) {
    const int channel = place.channel_begin + i;
    tile.delta_bias[i] = p.delta_bias != nullptr && channel < p.inner ? p.delta_bias[channel] : 0.0f;
    tile.d[i] = p.d != nullptr && channel < p.inner ? p.d[channel] : 0.0f;
  }
#pragma unroll
  for (int k = 0; k < kVectorSize<T> / 4; ++k) {
    tile.channel_sums[0][k][thread] = tile.channel_sums[1][k][thread] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
}

// What a thread is to its block in the scan: its two channels are neighbours.
template <typename Shape>
struct ThreadPlace {
  int warp = static_cast<int>(threadIdx.x) / 32;
  int lane = static_cast<int>(threadIdx.x) % 32;
  int quad = lane % 4;
  int state_group = lane / 4 % Shape::kStateGroups;
  int set = lane / 4 / Shape::kStateGroups;
  int state_begin = state_group * Shape::kThreadStates;
  int in_warp = (set * 4 + quad) * 2;                    // its first channel's place
  int in_block = warp * Shape::kWarpChannels + in_warp;  // likewise
  int channel_begin = (set * 4 + quad) * 8 + warp * 2;   // its first channel
};

__device__ __forceinline__ void PrefetchLine(const void* line) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
}

// The saved states of the block's channels, which lie side by side.
template <typename Shape, typename T>
__device__ __forceinline__ void PrefetchSavedStates(const BackwardOperands<T>& p, const BackwardPlace& place,
                                                    int index) {
  constexpr int kLine = 128 / static_cast<int>(sizeof(T));
  const int numbers = min(Shape::kBlockChannels, p.inner - place.channel_begin) * p.states;
  const int lines = CeilDiv(numbers, kLine);
  const int first_step =
      place.batch * CeilDiv(p.time, kSavedSpacing) + index * (Shape::kTile / kSavedSpacing);
  for (int item = static_cast<int>(threadIdx.x); item < Shape::kTile / kSavedSpacing * lines;
       item += Shape::kThreads) {
    const int step = item / lines;
    if (index * Shape::kTile + step * kSavedSpacing >= p.time) break;
    PrefetchLine(p.saved_states + (int64_t{first_step + step} * p.inner + place.channel_begin) * p.states +
                 item % lines * kLine);
  }
}

// Brings what LoadBackwardTile and FinishBackwardTile will read into the L2 cache.
template <typename Shape, typename T>
__device__ __forceinline__ void PrefetchBackwardTile(const BackwardOperands<T>& p, const BackwardPlace& place,
                                                     int index) {
  constexpr int kRowLines = CeilDiv(Shape::kBlockChannels * static_cast<int>(sizeof(T)), 128);
  constexpr int kLineChannels = Shape::kBlockChannels / kRowLines;
  for (int item = static_cast<int>(threadIdx.x); item < Shape::kTile * kRowLines; item += Shape::kThreads) {
    const int token = index * Shape::kTile + item / kRowLines;
    const int channel = place.channel_begin + item % kRowLines * kLineChannels;
    if (token >= p.time || channel >= p.inner) break;
    const int64_t row = place.batch * p.time + token;
    PrefetchLine(p.x + row * p.inner + channel);
    PrefetchLine(p.delta + row * p.inner + channel);
    PrefetchLine(p.dy + row * p.inner + channel);
    if (Shape::HasGate(p)) {
      PrefetchLine(p.z + row * p.z_stride + channel);
      PrefetchLine(p.ungated + row * p.inner + channel);
    }
    if (item % kRowLines == 0) {
      PrefetchLine(p.b + row * p.b_stride);
      PrefetchLine(p.c + row * p.c_stride);
    }
  }
  PrefetchSavedStates<Shape>(p, place, index);
}

__device__ __forceinline__ void AddFour(float4* to, const float (&from)[4]) {
  const float4 four = *to;
  *to = make_float4(four.x + from[0], four.y + from[1], four.z + from[2], four.w + from[3]);
}

// What is left once a token and channel: gradients of x, delta and z from the sums over states, and the
// tile's part of those of d and delta_bias.
template <typename Shape, typename T>
__device__ __forceinline__ void FinishBackwardTile(const BackwardOperands<T>& p, const BackwardPlace& place,
                                                   int index, BackwardTile<T, Shape>& tile) {
  using Items = BackwardItems<T, Shape>;
  const int thread = static_cast<int>(threadIdx.x);
  const int column = thread % Items::kColumnVectors * Items::kVector;
  const int channel = place.channel_begin + column;
#pragma unroll
  for (int i = 0; i < Items::kItems; ++i) {
    const int t = (i * Shape::kThreads + thread) / Items::kColumnVectors;
    const int token = index * Shape::kTile + t;
    const int count = token < p.time ? p.inner : 0;
    const int64_t row = place.batch * p.time + token;
    const auto x = LoadRow(p.x + row * p.inner, channel, count, Shape::ChannelVectors(p));
    RowVector<T> delta = {}, dy = {}, z = {}, ungated = {}, dx = {}, ddelta = {}, dz = {};
    if (Shape::HasSoftplus(p))
      delta = LoadRow(p.delta + row * p.inner, channel, count, Shape::ChannelVectors(p));
    if (Shape::HasGate(p)) {
      dy = LoadRow(p.dy + row * p.inner, channel, count, Shape::ChannelVectors(p));
      z = LoadRow(p.z + row * p.z_stride, channel, count, Shape::ChannelVectors(p));
      ungated = LoadRow(p.ungated + row * p.inner, channel, count, Shape::ChannelVectors(p));
    }
#pragma unroll
    for (int four = 0; four < Items::kVector; four += 4) {
      float dd[4], ddelta_bias[4];
#pragma unroll
      for (int k = four; k < four + 4; k += 2) {
        const int at = PlaceOfChannel<Shape::kBlockChannels>(column + k);
        float pairs[4], sums[4], dout[2], dinput[2], dstep[2], dgate[2] = {};
        LoadShared(&tile.steps[t][at].x, pairs);
        LoadShared(&tile.sums[t][at].x, sums);
        LoadShared(&tile.dy[t][at], dout);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int m = k + j;
          dstep[j] = fmaf(x[m], sums[2 * j + 1], sums[2 * j]);
          if (Shape::HasSoftplus(p)) dstep[j] *= Sigmoid(delta[m] + tile.delta_bias[column + m]);
          dinput[j] = fmaf(pairs[2 * j], sums[2 * j + 1], tile.d[column + m] * dout[j]);
          if (Shape::HasGate(p)) {
            const float sigmoid = Sigmoid(z[m]);
            dgate[j] = dy[m] * ungated[m] * fmaf(z[m] * sigmoid, 1.0f - sigmoid, sigmoid);
          }
          dd[m - four] = dout[j] * x[m];
          ddelta_bias[m - four] = count > 0 ? dstep[j] : 0.0f;
        }
        dx.SetPair(k, dinput[0], dinput[1]);
        ddelta.SetPair(k, dstep[0], dstep[1]);
        dz.SetPair(k, dgate[0], dgate[1]);
      }
      AddFour(&tile.channel_sums[0][four / 4][thread], dd);
      AddFour(&tile.channel_sums[1][four / 4][thread], ddelta_bias);
    }
    StoreRow(p.dx + row * p.inner, channel, count, Shape::ChannelVectors(p), dx);
    StoreRow(p.ddelta + row * p.inner, channel, count, Shape::ChannelVectors(p), ddelta);
    if (Shape::HasGate(p)) StoreRow(p.dz + row * p.dz_stride, channel, count, Shape::ChannelVectors(p), dz);
  }
}

// The gradients of d and delta_bias: a channel's parts, which are every kColumnVectors-th thread's.
template <typename Shape, typename T>
__device__ __forceinline__ void StoreBackwardChannels(const BackwardOperands<T>& p,
                                                      const BackwardPlace& place,
                                                      const BackwardTile<T, Shape>& tile) {
  using Items = BackwardItems<T, Shape>;
  for (int i = static_cast<int>(threadIdx.x); i < Shape::kBlockChannels; i += Shape::kThreads) {
    float dd = 0.0f, ddelta_bias = 0.0f;
    const int k = i % Items::kVector;
    for (int thread = i / Items::kVector; thread < Shape::kThreads; thread += Items::kColumnVectors) {
      dd += (&tile.channel_sums[0][k / 4][thread].x)[k % 4];
      ddelta_bias += (&tile.channel_sums[1][k / 4][thread].x)[k % 4];
    }
    const int channel = place.channel_begin + i;
    if (channel < p.inner) {
      const int64_t row = (int64_t{place.segment} * p.batch + place.batch) * p.inner + channel;
      p.dd[row] = dd;
      p.ddelta_bias[row] = ddelta_bias;
    }
  }
}

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_BACKWARD_TILE_CUH_
