// The selective scan's backward pass on a GPU.
#include "scan/selective_scan_cuda.h"
#include "scan/selective_scan_kernels.cuh"

namespace hm11::cuda {
namespace {

constexpr int kGroup = 8;             // Tokens whose gradients of b and c leave the block together.
constexpr int kHeld = kSavedSpacing;  // Tokens whose decays and states are in registers.
constexpr float kLn2 = 0.6931471805599453f;
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
  Relay relay;
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
// kIsWhole as in forward.
template <int kStatesPadded, int kStateGroupCount, int kMinBlockCount, bool kIsWhole>
struct BackwardShape {
  static constexpr bool kWhole = kIsWhole;
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

template <typename T, typename Shape>
constexpr bool FitsAnSm() {
  constexpr int64_t kBytes = sizeof(BackwardTile<T, Shape>);
  return kBytes <= kSharedBytes && Shape::kMinBlocks * (kBytes + 1024) <= kSmSharedBytes;
}

struct BackwardPlace {
  int channel_begin;
  int channel_block;
  int batch;
  int segment;     // of a relay, the first is the last in time
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
  if (p.relay.states != nullptr) {
    begin = is_outer ? 0 : RelayBorderBackward(p.time, place.segment + 1);
    end = RelayBorderBackward(p.time, place.segment);
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

// The tile's steps, inputs, gradients behind the gate, b, c and resets, as floats into shared memory. Tokens
// past the end get step and gradient 0 and change nothing.
template <typename Shape, typename T>
__device__ __forceinline__ void LoadTile(const BackwardOperands<T>& p, const BackwardPlace& place, int index,
                                         BackwardTile<T, Shape>& tile) {
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
    const auto x = LoadRow(p.x + row * p.inner, channel, count, Shape::kWhole || p.channel_vectors);
    const auto delta = LoadRow(p.delta + row * p.inner, channel, count, Shape::kWhole || p.channel_vectors);
    const auto dy = LoadRow(p.dy + row * p.inner, channel, count, Shape::kWhole || p.channel_vectors);
    RowVector<T> z = {};
    if (Shape::kWhole || p.z != nullptr)
      z = LoadRow(p.z + row * p.z_stride, channel, count, Shape::kWhole || p.channel_vectors);
#pragma unroll
    for (int k = 0; k < Items::kVector; k += 2) {
      float pairs[4], dout[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float step = delta[k + j] + tile.delta_bias[column + k + j];
        if (Shape::kWhole || p.softplus) step = Softplus<T>(step);
        step = count > 0 ? step : 0.0f;
        pairs[2 * j] = step;
        pairs[2 * j + 1] = step * x[k + j];
        dout[j] = !Shape::kWhole && p.z == nullptr ? dy[k + j] : dy[k + j] * (z[k + j] * Sigmoid(z[k + j]));
      }
      const int at = PlaceOfChannel<Shape::kBlockChannels>(column + k);
      StoreShared(&tile.steps[t][at].x, pairs);
      StoreShared(&tile.dy[t][at], dout);
    }
  }
#pragma unroll
  for (int i = 0; i < Items::kStateItems; ++i) {
    const int item = i * Shape::kThreads + thread;
    const int t = item / Items::kStateVectors;
    if (item >= Shape::kTile * Items::kStateVectors) break;
    const int state = item % Items::kStateVectors * Items::kVector;
    const int token = index * Shape::kTile + t;
    const int count = token < p.time ? p.states : 0;
    const int64_t row = first_row + token;
    const auto b = LoadRow(p.b + row * p.b_stride, state, count, Shape::kWhole || p.column_vectors);
    const auto c = LoadRow(p.c + row * p.c_stride, state, count, Shape::kWhole || p.column_vectors);
#pragma unroll
    for (int k = 0; k < Items::kVector; k += 4) {
      const float b_four[4] = {b[k], b[k + 1], b[k + 2], b[k + 3]};
      const float c_four[4] = {c[k], c[k + 1], c[k + 2], c[k + 3]};
      StoreShared(&tile.b[t][state + k], b_four);
      StoreShared(&tile.c[t][state + k], c_four);
    }
  }
  if (!Shape::kWhole && thread < 32) {
    const int token = index * Shape::kTile + thread;
    const bool resets = p.reset != nullptr && token < p.time && p.reset[first_row + token] != 0;
    const unsigned bits = __ballot_sync(0xffffffffu, resets);
    if (thread == 0) tile.resets = bits;
  }
}

template <typename Shape, typename T>
__device__ __forceinline__ void LoadChannels(const BackwardOperands<T>& p, const BackwardPlace& place,
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

template <typename Shape, typename T>
__device__ __forceinline__ void LoadThreadRates(const BackwardOperands<T>& p, int first_channel,
                                                const ThreadPlace<Shape>& self,
                                                float (&rate)[2][Shape::kThreadStates]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int channel = first_channel + self.channel_begin + i;
    LoadRates(p.a_log + int64_t{channel} * p.states, self.state_begin,
              Shape::kWhole || channel < p.inner ? p.states : 0, Shape::kWhole || p.state_vectors, rate[i]);
  }
}

__device__ __forceinline__ void StoreFour(float* to, const float (&from)[4]) { StoreShared(to, from); }
__device__ __forceinline__ void StoreFour(Bf16* to, const float (&from)[4]) {
  StateVector<Bf16, 4>::Of(from).Store(to, 0, 4, true);
}

// What a segment does to the gradient of the state that enters it from behind: the recurrence of the
// gradients alone, from zero.
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    SelectiveScanSegmentGradientKernel(const __grid_constant__ BackwardOperands<T> p) {
  extern __shared__ uint4 shared_memory[];
  auto& tile = *reinterpret_cast<BackwardTile<T, Shape>*>(shared_memory);
  constexpr int kStates = Shape::kThreadStates;
  const BackwardPlace place = PlaceOfBackwardBlock<Shape>(p, static_cast<int>(blockIdx.x));
  const ThreadPlace<Shape> self;
  float rate[2][kStates], carry[2][kStates] = {}, step_sum[2] = {};
  LoadThreadRates(p, place.channel_begin, self, rate);
  LoadChannels(p, place, tile);
  for (int index = place.tile_end - 1; index >= place.tile_begin; --index) {
    __syncthreads();
    LoadTile(p, place, index, tile);
    __syncthreads();
#pragma unroll 4
    for (int t = Shape::kTile - 1; t >= 0; --t) {
      float pairs[4], dy[2], c[kStates];
      LoadShared(&tile.steps[t][self.in_block].x, pairs);
      LoadShared(&tile.dy[t][self.in_block], dy);
      LoadShared(&tile.c[t][self.state_begin], c);
      const bool forget = !Shape::kWhole && (tile.resets >> t & 1u) != 0;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        step_sum[i] = forget ? ForgetsEverything() : step_sum[i] + pairs[2 * i];
#pragma unroll
        for (int j = 0; j < kStates; ++j) {
          const float decay = Exp2(pairs[2 * i] * rate[i][j]);
          carry[i][j] = forget ? 0.0f : decay * fmaf(c[j], dy[i], carry[i][j]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int channel = place.channel_begin + self.channel_begin + i;
    const int64_t row = (int64_t{place.segment} * p.batch + place.batch) * p.inner + channel;
    StoreStates(p.effects.states + row * p.states, self.state_begin,
                Shape::kWhole || channel < p.inner ? p.states : 0, p.state_vectors, carry[i]);
    if (channel < p.inner && self.state_group == 0) p.effects.steps[row] = step_sum[i];
  }
}

// The sums over states of kHeld tokens, from one number a lane group to one a channel. A lane does
// kSumChannels channels of one token; only this warp's shared memory is touched.
template <typename Shape, typename T>
__device__ __forceinline__ void SumOverStates(const ThreadPlace<Shape>& self, int first_token,
                                              BackwardTile<T, Shape>& tile) {
  constexpr int kChannels = Shape::kSumChannels;
  constexpr int kLanes = 32 / kHeld;
  __syncwarp();
  const int token = self.lane / kLanes;
  const int channel = self.lane % kLanes * kChannels;
  float totals[2 * kChannels] = {};
#pragma unroll
  for (int g = 0; g < Shape::kStateGroups; ++g) {
    float part[2 * kChannels];
    LoadShared(&tile.parts[self.warp][token][g * Shape::kWarpChannels + channel].x, part);
#pragma unroll
    for (int i = 0; i < 2 * kChannels; ++i) totals[i] += part[i];
  }
#pragma unroll
  for (int i = 0; i < kChannels; ++i) totals[2 * i] *= kLn2;
  StoreShared(&tile.sums[first_token + token][self.warp * Shape::kWarpChannels + channel].x, totals);
  __syncwarp();
}

// The sums over a set's channels of kStateGroups tokens from the accumulators to shared memory. Row g of an
// accumulator belongs to the set of lane group g, and so does column g: what lies in rows of one set and
// columns of another is nothing. The stride makes the lanes of a store phase hit all 32 banks.
template <typename Shape>
__device__ __forceinline__ void StoreAccumulators(const ThreadPlace<Shape>& self, int place_in_group,
                                                  float (&dcolumns)[2][Shape::kStatePairs][4],
                                                  float (&columns)[kGroup][Shape::kColumnStride]) {
  constexpr int kStates = Shape::kThreadStates;
  if (Shape::kSets == 1 || 2 * self.quad / Shape::kStateGroups == self.set) {
    const int place = place_in_group + 2 * self.quad % Shape::kStateGroups;
#pragma unroll
    for (int which = 0; which < 2; ++which) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        float values[kStates];
#pragma unroll
        for (int j = 0; j < kStates; ++j) values[j] = dcolumns[which][j / 2][j % 2 * 2 + odd];
        StoreShared(&columns[place + odd][which * Shape::kStates + self.state_begin], values);
      }
    }
  }
#pragma unroll
  for (int which = 0; which < 2; ++which) {
#pragma unroll
    for (int m = 0; m < Shape::kStatePairs; ++m) {
#pragma unroll
      for (int k = 0; k < 4; ++k) dcolumns[which][m][k] = 0.0f;
    }
  }
}

// The sums over the block's channels of kGroup tokens, out of those of its sets.
template <typename Shape, typename T>
__device__ __forceinline__ void StoreColumns(
    const BackwardOperands<T>& p, const BackwardPlace& place, int first_token,
    const float (&columns)[Shape::kWarps * Shape::kSets][kGroup][Shape::kColumnStride]) {
  constexpr int kFours = 2 * Shape::kStates / 4;
  for (int item = static_cast<int>(threadIdx.x); item < kGroup * kFours; item += Shape::kThreads) {
    const int t = item / kFours;
    const int column = item % kFours * 4;
    float sum[4] = {};
#pragma unroll
    for (int set = 0; set < Shape::kWarps * Shape::kSets; ++set) {
      float part[4];
      LoadShared(&columns[set][t][column], part);
#pragma unroll
      for (int k = 0; k < 4; ++k) sum[k] += part[k];
    }
    if (first_token + t < p.time) {
      const int64_t row = (int64_t{place.channel_block} * p.batch + place.batch) * p.time + first_token + t;
      StoreFour(p.dcolumns + row * (2 * Shape::kStates) + column, sum);
    }
  }
}

// Brings what LoadTile and FinishTile will read into the L2 cache.
template <typename Shape, typename T>
__device__ __forceinline__ void PrefetchTile(const BackwardOperands<T>& p, const BackwardPlace& place,
                                             int index) {
  constexpr int kRowLines = CeilDiv(Shape::kBlockChannels * static_cast<int>(sizeof(T)), 128);
  constexpr int kLineChannels = Shape::kBlockChannels / kRowLines;
  const auto prefetch = [](const void* line) { asm volatile("prefetch.global.L2 [%0];" ::"l"(line)); };
  for (int item = static_cast<int>(threadIdx.x); item < Shape::kTile * kRowLines; item += Shape::kThreads) {
    const int token = index * Shape::kTile + item / kRowLines;
    const int channel = place.channel_begin + item % kRowLines * kLineChannels;
    if (token >= p.time || channel >= p.inner) break;
    const int64_t row = place.batch * p.time + token;
    prefetch(p.x + row * p.inner + channel);
    prefetch(p.delta + row * p.inner + channel);
    prefetch(p.dy + row * p.inner + channel);
    if (Shape::kWhole || p.z != nullptr) {
      prefetch(p.z + row * p.z_stride + channel);
      prefetch(p.ungated + row * p.inner + channel);
    }
    if (item % kRowLines == 0) {
      prefetch(p.b + row * p.b_stride);
      prefetch(p.c + row * p.c_stride);
    }
  }
  // The saved states of the block's channels lie side by side.
  constexpr int kLine = 128 / static_cast<int>(sizeof(T));
  const int numbers = min(Shape::kBlockChannels, p.inner - place.channel_begin) * p.states;
  const int lines = CeilDiv(numbers, kLine);
  const int first_step =
      place.batch * CeilDiv(p.time, kSavedSpacing) + index * (Shape::kTile / kSavedSpacing);
  for (int item = static_cast<int>(threadIdx.x); item < Shape::kTile / kSavedSpacing * lines;
       item += Shape::kThreads) {
    const int step = item / lines;
    if (index * Shape::kTile + step * kSavedSpacing >= p.time) break;
    prefetch(p.saved_states + (int64_t{first_step + step} * p.inner + place.channel_begin) * p.states +
             item % lines * kLine);
  }
}

__device__ __forceinline__ void AddFour(float4* to, const float (&from)[4]) {
  const float4 four = *to;
  *to = make_float4(four.x + from[0], four.y + from[1], four.z + from[2], four.w + from[3]);
}

// What is left once a token and channel: gradients of x, delta and z from the sums over states, and the
// tile's part of those of d and delta_bias.
template <typename Shape, typename T>
__device__ __forceinline__ void FinishTile(const BackwardOperands<T>& p, const BackwardPlace& place,
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
    const auto x = LoadRow(p.x + row * p.inner, channel, count, Shape::kWhole || p.channel_vectors);
    RowVector<T> delta = {}, dy = {}, z = {}, ungated = {}, dx = {}, ddelta = {}, dz = {};
    if (Shape::kWhole || p.softplus)
      delta = LoadRow(p.delta + row * p.inner, channel, count, Shape::kWhole || p.channel_vectors);
    if (Shape::kWhole || p.z != nullptr) {
      dy = LoadRow(p.dy + row * p.inner, channel, count, Shape::kWhole || p.channel_vectors);
      z = LoadRow(p.z + row * p.z_stride, channel, count, Shape::kWhole || p.channel_vectors);
      ungated = LoadRow(p.ungated + row * p.inner, channel, count, Shape::kWhole || p.channel_vectors);
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
          if (Shape::kWhole || p.softplus) dstep[j] *= Sigmoid(delta[m] + tile.delta_bias[column + m]);
          dinput[j] = fmaf(pairs[2 * j], sums[2 * j + 1], tile.d[column + m] * dout[j]);
          if (Shape::kWhole || p.z != nullptr) {
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
    StoreRow(p.dx + row * p.inner, channel, count, Shape::kWhole || p.channel_vectors, dx);
    StoreRow(p.ddelta + row * p.inner, channel, count, Shape::kWhole || p.channel_vectors, ddelta);
    if (Shape::kWhole || p.z != nullptr)
      StoreRow(p.dz + row * p.dz_stride, channel, count, Shape::kWhole || p.channel_vectors, dz);
  }
}

// The gradients of d and delta_bias: a channel's parts, which are every kColumnVectors-th thread's.
template <typename Shape, typename T>
__device__ __forceinline__ void StoreChannels(const BackwardOperands<T>& p, const BackwardPlace& place,
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

// A block walks its channels' time (or one segment of it) backward, tile by tile, and in a tile kHeld tokens
// at a time: forward from the state that was saved before them, decays and states kept in registers, and
// backward over those. Sums over states, which the gradients of x and step need, go through shared memory
// inside a warp. Sums over channels, which those of b and c need, are products with step * x and dy: the
// tensor cores take them, with a set's channels as inner dimension and the token's place as column, so that
// kStateGroups tokens fill one accumulator. What of them is left to sum over sets and blocks is written once
// for every block.
//
// A state and token cost one exponential and, at 32 states, 20 issue slots: 15 in the recurrence, 2 for sums
// over channels, 3 for what is done once a channel. H200, batch 48, length 2048, inner 1024, 32 states, Bf16
// (scan_benchmark, ncu): 3.66 ms, 58 % of issue slots taken by 12 warps an SM.
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kMinBlocks)
    SelectiveScanBackwardKernel(const __grid_constant__ BackwardOperands<T> p) {
  static_assert(FitsAnSm<T, Shape>());
  extern __shared__ uint4 shared_memory[];
  auto& tile = *reinterpret_cast<BackwardTile<T, Shape>*>(shared_memory);
  constexpr int kStates = Shape::kThreadStates;
  using Saved = StateVector<T, kStates>;
  const BackwardPlace place = PlaceOfBackwardBlock<Shape>(p, DealBlock(p.relay, &tile.block));
  const ThreadPlace<Shape> self;
  float rate[2][kStates], carry[2][kStates] = {}, drate[2][kStates] = {};
  float dcolumns[2][Shape::kStatePairs][4] = {};
  const int states = Shape::kWhole ? Shape::kStates : p.states;
  int buffer = 0;  // of tile.columns
  LoadThreadRates(p, place.channel_begin, self, rate);
  LoadChannels(p, place, tile);
  const int first_channel = place.channel_begin + self.channel_begin;
  const int64_t first_row = (int64_t{place.segment} * p.batch + place.batch) * p.inner;
  const bool relays = p.relay.states != nullptr;
  const int64_t relay_row = int64_t{place.batch} * p.inner;
  const int relay_index = place.batch * p.channel_blocks + place.channel_block;
  if (relays && !place.is_last) AwaitSegments(p.relay, relay_index, place.segment);
  const float* const behind = relays && !place.is_last ? p.relay.states : p.dfinal_state;
  if (behind != nullptr) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int channel = first_channel + i;
      LoadStates(behind + ((relays ? relay_row : first_row) + channel) * p.states, self.state_begin,
                 Shape::kWhole || channel < p.inner ? p.states : 0, Shape::kWhole || p.state_vectors,
                 carry[i]);
    }
  }

  // The states that the kHeld tokens from `token` on begin with; on their way while those behind are worked
  // on.
  Saved saved[2] = {};
  const auto fetch = [&](int token) {
    if (token >= p.time) return;
    const int step = place.batch * CeilDiv(p.time, kSavedSpacing) + token / kSavedSpacing;
    const T* const row = p.saved_states + (int64_t{step} * p.inner + first_channel) * states;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      saved[i] = Saved::Load(row + i * states, self.state_begin,
                             Shape::kWhole || first_channel + i < p.inner ? states : 0,
                             Shape::kWhole || p.state_vectors);
    }
  };

  // kHeld tokens from the tile's token `first` on, forward from the saved states and back; `token` is the
  // sequence's, and there are tokens of this block before it when `more`.
  const auto reverse = [&](int first, int token, bool more) {
    float start[2][kStates], h[kHeld][2][kStates], decay[kHeld][2][kStates];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < kStates; ++j) start[i][j] = saved[i][j];
    }
    if (more) fetch(token - kHeld);
#pragma unroll
    for (int t = 0; t < kHeld; ++t) {
      float pairs[4], b[kStates];
      LoadShared(&tile.steps[first + t][self.in_block].x, pairs);
      LoadShared(&tile.b[first + t][self.state_begin], b);
      const bool forget = !Shape::kWhole && (tile.resets >> (first + t) & 1u) != 0;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < kStates; ++j) {
          decay[t][i][j] = Exp2(pairs[2 * i] * rate[i][j]);
          if (!Shape::kWhole) decay[t][i][j] = forget ? 0.0f : decay[t][i][j];
          h[t][i][j] = fmaf(decay[t][i][j], t == 0 ? start[i][j] : h[t - 1][i][j], pairs[2 * i + 1] * b[j]);
        }
      }
    }
    // A token's operands are on their way while the token after it is worked on.
    float pairs[2][4], dy[2][2], b[2][kStates], c[2][kStates];
    const auto load = [&](int t) {
      LoadShared(&tile.steps[first + t][self.in_block].x, pairs[t % 2]);
      LoadShared(&tile.dy[first + t][self.in_block], dy[t % 2]);
      LoadShared(&tile.b[first + t][self.state_begin], b[t % 2]);
      LoadShared(&tile.c[first + t][self.state_begin], c[t % 2]);
    };
    load(kHeld - 1);
#pragma unroll
    for (int t = kHeld - 1; t >= 0; --t) {
      if (t > 0) load(t - 1);
      const auto& my_pairs = pairs[t % 2];
      const auto& my_dy = dy[t % 2];
      float dinput[2] = {}, dstep[2] = {}, dh[2][kStates];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < kStates; ++j) {
          dh[i][j] = fmaf(c[t % 2][j], my_dy[i], carry[i][j]);
          dinput[i] = fmaf(dh[i][j], b[t % 2][j], dinput[i]);
          carry[i][j] = decay[t][i][j] * dh[i][j];
          const float dexponent = carry[i][j] * (t == 0 ? start[i][j] : h[t - 1][i][j]);
          drate[i][j] = fmaf(my_pairs[2 * i], dexponent, drate[i][j]);
          dstep[i] = fmaf(rate[i][j], dexponent, dstep[i]);
        }
      }
      const float parts[4] = {dstep[0], dinput[0], dstep[1], dinput[1]};
      StoreShared(&tile.parts[self.warp][t][self.state_group * Shape::kWarpChannels + self.in_warp].x, parts);
      const bool own_column = self.state_group == (first + t) % Shape::kStateGroups;
      const float inputs[2] = {own_column ? my_pairs[1] : 0.0f, own_column ? my_pairs[3] : 0.0f};
      const float outputs[2] = {own_column ? my_dy[0] : 0.0f, own_column ? my_dy[1] : 0.0f};
#pragma unroll
      for (int j = 0; j < kStates; j += 2) {
        const float db[4] = {dh[0][j], dh[0][j + 1], dh[1][j], dh[1][j + 1]};
        const float dc[4] = {h[t][0][j], h[t][0][j + 1], h[t][1][j], h[t][1][j + 1]};
        MultiplyTilesFor<T>(dcolumns[0][j / 2], db, inputs);
        MultiplyTilesFor<T>(dcolumns[1][j / 2], dc, outputs);
      }
      if (t % Shape::kStateGroups == 0 && kHeld >= Shape::kStateGroups) {
        StoreAccumulators(self, (first + t) % kGroup, dcolumns,
                          tile.columns[buffer][self.warp * Shape::kSets + self.set]);
      }
    }
    SumOverStates(self, first, tile);
  };

  if (place.tile_end > place.tile_begin) fetch(place.tile_end * Shape::kTile - kHeld);
  for (int index = place.tile_end - 1; index >= place.tile_begin; --index) {
    __syncthreads();
    LoadTile(p, place, index, tile);
    __syncthreads();
    if (index > place.tile_begin) PrefetchTile<Shape>(p, place, index - 1);
#pragma unroll 1
    for (int group = Shape::kTile - kGroup; group >= 0; group -= kGroup) {
#pragma unroll 1
      for (int first = group + kGroup - kHeld; first >= group; first -= kHeld) {
        const bool more = first > 0 || index > place.tile_begin;
        reverse(first, index * Shape::kTile + first, more);
      }
      if (Shape::kStateGroups > kHeld) {
        StoreAccumulators(self, 0, dcolumns, tile.columns[buffer][self.warp * Shape::kSets + self.set]);
      }
      __syncthreads();
      StoreColumns<Shape>(p, place, index * Shape::kTile + group, tile.columns[buffer]);
      buffer ^= 1;
    }
    FinishTile(p, place, index, tile);
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int channel = first_channel + i;
    const int count = channel < p.inner ? p.states : 0;
    float* const before = place.is_first ? p.dinitial_state : p.relay.states;
    if (before != nullptr) {
      StoreStates(before + (relay_row + channel) * p.states, self.state_begin, count, p.state_vectors,
                  carry[i]);
    }
#pragma unroll
    for (int j = 0; j < kStates; ++j) drate[i][j] *= kLn2 * rate[i][j];
    StoreStates(p.da_log + (first_row + channel) * p.states, self.state_begin, count, p.state_vectors,
                drate[i]);
  }
  if (relays && !place.is_first) EndSegment(p.relay, relay_index, place.segment + 1);
  __syncthreads();
  StoreChannels(p, place, tile);
}

// db and dc of a token: the sum over blocks of channels, in order. A thread has 16 bytes of a row.
template <typename T>
__global__ void __launch_bounds__(256)
    SumColumnsKernel(const T* __restrict__ parts, int channel_blocks, int64_t rows, int padded_states,
                     int states, T* db, int64_t db_stride, T* dc, int64_t dc_stride, bool vectors) {
  constexpr int kVector = kVectorSize<T>;
  const int row_vectors = 2 * padded_states / kVector;
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= rows * row_vectors) return;
  const int64_t row = index / row_vectors;
  const int column = static_cast<int>(index % row_vectors) * kVector;
  float sum[kVector] = {};
#pragma unroll 8
  for (int block = 0; block < channel_blocks; ++block) {
    const auto part =
        LoadRow(parts + (block * rows + row) * (2 * padded_states), column, 2 * padded_states, true);
#pragma unroll
    for (int k = 0; k < kVector; ++k) sum[k] += part[k];
  }
  RowVector<T> total = {};
#pragma unroll
  for (int k = 0; k < kVector; ++k) total.Set(k, sum[k]);
  if (column < padded_states) {
    StoreRow(db + row * db_stride, column, states, vectors, total);
  } else {
    StoreRow(dc + row * dc_stride, column - padded_states, states, vectors, total);
  }
}

// to[i] += the sum over parts of from[part][i], in order.
__global__ void __launch_bounds__(128)
    AddPartsKernel(const float* __restrict__ from, int64_t parts, int64_t size, float* to) {
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= size) return;
  float sum = 0.0f;
#pragma unroll 8
  for (int64_t part = 0; part < parts; ++part) sum += from[part * size + index];
  to[index] += sum;
}

void AddParts(const Device& device, const float* from, int64_t parts, int64_t size, float* to) {
  Launch(device, {.blocks = dim3(static_cast<unsigned>(CeilDiv<int64_t>(size, 128))), .threads = dim3(128)},
         AddPartsKernel, from, parts, size, to);
}

template <typename T>
struct BackwardScratch {
  BackwardScratch(uint8_t* base, int64_t batch, int64_t time, int64_t inner, int64_t states,
                  int block_channels, int padded_states)
      : scratch(base),
        channel_blocks(CeilDiv<int64_t>(inner, block_channels)),
        cut(scratch, batch, time, inner, states, channel_blocks),
        parts(cut.segments * batch) {
    dcolumns = scratch.Take<T>(channel_blocks * batch * time * 2 * padded_states);
    da_log = scratch.Take<float>(parts * inner * states);
    dd = scratch.Take<float>(parts * inner);
    ddelta_bias = scratch.Take<float>(parts * inner);
  }

  Scratch scratch;
  int64_t channel_blocks;
  CutScratch cut;
  int64_t parts;
  T* dcolumns;
  float* da_log;
  float* dd;
  float* ddelta_bias;
};

template <typename T, typename Shape>
BackwardOperands<T> ReadOperands(const SelectiveScanGradArgs<T>& args, const BackwardScratch<T>& scratch) {
  const SelectiveScanArgs<T>& forward = args.forward;
  const int64_t inner = forward.x.dim(2), states = forward.a_log.dim(1);
  BackwardOperands<T> p = {};
  p.x = forward.x.data();
  p.delta = forward.delta.data();
  p.b = forward.b.data();
  p.c = forward.c.data();
  p.z = forward.z.data();
  p.dy = args.dy.data();
  p.delta_bias = forward.delta_bias.data();
  p.a_log = forward.a_log.data();
  p.d = forward.d.data();
  p.ungated = forward.saved.ungated.data();
  p.saved_states = forward.saved.states.data();
  p.dfinal_state = args.dfinal_state.data();
  p.reset = forward.reset.data();
  p.dx = args.dx.data();
  p.ddelta = args.ddelta.data();
  p.dz = args.dz.data();
  p.dcolumns = scratch.dcolumns;
  p.da_log = scratch.da_log;
  p.dd = scratch.dd;
  p.ddelta_bias = scratch.ddelta_bias;
  p.dinitial_state = args.dinitial_state.data();
  p.effects = scratch.cut.effects;
  p.relay = scratch.cut.relay;
  p.b_stride = forward.b.stride();
  p.c_stride = forward.c.stride();
  p.z_stride = forward.z.stride();
  p.dz_stride = args.dz.stride();
  p.batch = static_cast<int>(forward.x.dim(0));
  p.time = static_cast<int>(forward.x.dim(1));
  p.inner = static_cast<int>(inner);
  p.states = static_cast<int>(states);
  p.channel_blocks = static_cast<int>(scratch.channel_blocks);
  p.segments = scratch.cut.segments;
  p.segment_tokens = scratch.cut.parallel.tokens;
  p.softplus = forward.softplus;
  p.channel_vectors = true;
  for (const void* rows :
       {static_cast<const void*>(p.x), static_cast<const void*>(p.delta), static_cast<const void*>(p.dy),
        static_cast<const void*>(p.dx), static_cast<const void*>(p.ddelta)}) {
    p.channel_vectors = p.channel_vectors && RowsAreVectors<T>(rows, inner, inner);
  }
  if (Shape::kWhole || p.z != nullptr) {
    p.channel_vectors = p.channel_vectors && RowsAreVectors<T>(p.z, p.z_stride, inner) &&
                        RowsAreVectors<T>(p.ungated, inner, inner) &&
                        RowsAreVectors<T>(p.dz, p.dz_stride, inner);
  }
  p.column_vectors = RowsAreVectors<T>(p.b, p.b_stride, states) && RowsAreVectors<T>(p.c, p.c_stride, states);
  p.state_vectors = states % Shape::kThreadStates == 0;
  return p;
}

template <typename T, typename Shape>
int64_t BackwardScratchBytes(const SelectiveScanArgs<T>& args) {
  return BackwardScratch<T>(nullptr, args.x.dim(0), args.x.dim(1), args.x.dim(2), args.a_log.dim(1),
                            Shape::kBlockChannels, Shape::kStates)
      .scratch.used_bytes();
}

template <typename T, typename Shape>
void Backward(const Device& device, Tensor<uint8_t> memory, const SelectiveScanGradArgs<T>& args) {
  const int64_t batch = args.dy.dim(0), time = args.dy.dim(1), inner = args.dy.dim(2);
  const int64_t states = args.forward.a_log.dim(1);
  const BackwardScratch<T> scratch(memory.data(), batch, time, inner, states, Shape::kBlockChannels,
                                   Shape::kStates);
  BackwardOperands<T> p = ReadOperands<T, Shape>(args, scratch);
  const LaunchShape shape = {
      .blocks = dim3(static_cast<unsigned>(scratch.channel_blocks * batch * p.segments)),
      .threads = dim3(Shape::kThreads),
      .shared_bytes = sizeof(BackwardTile<T, Shape>)};
  scratch.cut.BeginRelay(device);
  if (scratch.cut.parallel.count > 1) {
    Launch(device, shape, SelectiveScanSegmentGradientKernel<T, Shape>, p);
    CombineSegments(device, p.effects, p.a_log, p.dfinal_state, p.segments, batch, inner, states, true);
    p.dfinal_state = p.effects.states;
  }
  Launch(device, shape, SelectiveScanBackwardKernel<T, Shape>, p);

  const int64_t rows = batch * time;
  const int64_t threads = rows * (2 * Shape::kStates / kVectorSize<T>);
  const bool vectors = RowsAreVectors<T>(args.db.data(), args.db.stride(), states) &&
                       RowsAreVectors<T>(args.dc.data(), args.dc.stride(), states);
  Launch(device,
         {.blocks = dim3(static_cast<unsigned>(CeilDiv<int64_t>(threads, 256))), .threads = dim3(256)},
         SumColumnsKernel<T>, p.dcolumns, p.channel_blocks, rows, Shape::kStates, static_cast<int>(states),
         args.db.data(), args.db.stride(), args.dc.data(), args.dc.stride(), vectors);
  AddParts(device, p.da_log, scratch.parts, inner * states, args.da_log.data());
  if (!args.dd.empty()) AddParts(device, p.dd, scratch.parts, inner, args.dd.data());
  if (!args.ddelta_bias.empty()) {
    AddParts(device, p.ddelta_bias, scratch.parts, inner, args.ddelta_bias.data());
  }
}

// <states, state groups, blocks of an SM>, for so many states.
template <bool kWhole>
struct BackwardShapes {
  using UpTo8 = BackwardShape<8, 4, 3, kWhole>;
  using UpTo16 = BackwardShape<16, 4, 3, kWhole>;
  using UpTo32 = BackwardShape<32, 8, 3, kWhole>;
  using UpTo64 = BackwardShape<64, 8, 2, kWhole>;
};

// Calls function(Shape()) with the shape for this many states.
template <bool kWhole, typename Function>
auto WithBackwardShape(int64_t states, Function function) {
  using Shapes = BackwardShapes<kWhole>;
  if (states <= 8) return function(typename Shapes::UpTo8());
  if (states <= 16) return function(typename Shapes::UpTo16());
  if (states <= 32) return function(typename Shapes::UpTo32());
  HM_CHECK_LE(states, 64);
  return function(typename Shapes::UpTo64());
}

template <typename T>
bool IsWhole(const SelectiveScanGradArgs<T>& args) {
  const int64_t inner = args.dy.dim(2);
  return ScanIsWhole(args.forward) && RowsAreVectors<T>(args.dz.data(), args.dz.stride(), inner) &&
         RowsAreVectors<T>(args.dy.data(), inner, inner) && RowsAreVectors<T>(args.dx.data(), inner, inner) &&
         RowsAreVectors<T>(args.ddelta.data(), inner, inner);
}

}  // namespace

template <typename T>
int64_t SelectiveScanBackwardScratchBytes(const SelectiveScanGradArgs<T>& args) {
  return WithBackwardShape<false>(args.forward.a_log.dim(1), [&](auto shape) {
    return BackwardScratchBytes<T, decltype(shape)>(args.forward);
  });
}

template <typename T>
void SelectiveScanBackward(const Device& device, Tensor<uint8_t> scratch,
                           const SelectiveScanGradArgs<T>& args) {
  const auto run = [&](auto shape) { Backward<T, decltype(shape)>(device, scratch, args); };
  const int64_t states = args.forward.a_log.dim(1);
  if constexpr (std::is_same_v<T, Bf16>) {
    if (IsWhole(args)) return WithBackwardShape<true>(states, run);
  }
  WithBackwardShape<false>(states, run);
}

template int64_t SelectiveScanBackwardScratchBytes<float>(const SelectiveScanGradArgs<float>&);
template int64_t SelectiveScanBackwardScratchBytes<Bf16>(const SelectiveScanGradArgs<Bf16>&);
template void SelectiveScanBackward<float>(const Device&, Tensor<uint8_t>,
                                           const SelectiveScanGradArgs<float>&);
template void SelectiveScanBackward<Bf16>(const Device&, Tensor<uint8_t>, const SelectiveScanGradArgs<Bf16>&);

}  // namespace hm11::cuda
