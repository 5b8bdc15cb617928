// The selective scan's backward pass on a GPU.
#include "scan/selective_scan_cuda.h"
#include "scan/selective_scan_kernels.cuh"

namespace hm11::cuda {
namespace {

constexpr int kChunk = static_cast<int>(kSelectiveScanChunk);
constexpr int kGroup = 8;  // Tokens whose gradients of b and c leave the block together.
constexpr float kLn2 = 0.6931471805599453f;

template <typename T>
struct BackwardOperands {
  const T* x;
  const T* delta;
  const T* b;
  const T* c;
  const T* z;  // null when absent, as all below
  const T* dy;
  const float* delta_bias;
  const float* a_log;
  const float* d;
  const float* chunk_states;
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
  int64_t b_stride;
  int64_t c_stride;
  int64_t z_stride;
  int64_t dz_stride;
  int batch;
  int time;
  int inner;
  int states;
  int chunks;
  int channel_blocks;
  int segments;
  int segment_tokens;
  bool softplus;
  bool channel_vectors;  // x, delta, z, dy, dx, ddelta and dz move as 16-byte vectors
  bool column_vectors;   // b and c
  bool state_vectors;    // states in memory
};

// How a block is cut. kStateGroups groups of 4 lanes of a warp share out the states, the 4 lanes of a group
// and the sets of kStateGroups groups the warp's channels. kHeld tokens are in registers at a time; sums over
// states wait in shared memory until there are kSumTokens tokens of them.
template <int kStatesPadded, int kStateGroupCount, int kThreadChannelCount, int kWarpCount, int kHeldTokens,
          int kSumTokenCount, int kBufferCount, int kPolynomialCount, int kMinBlockCount>
struct BackwardShape {
  static constexpr int kStates = kStatesPadded;
  static constexpr int kStateGroups = kStateGroupCount;
  static constexpr int kSets = 8 / kStateGroups;
  static constexpr int kThreadChannels = kThreadChannelCount;
  static constexpr int kThreadStates = kStates / kStateGroups;
  static constexpr int kStatePairs = kThreadStates / 2;
  static constexpr int kElements = kThreadChannels * kThreadStates;
  static constexpr int kWarps = kWarpCount;
  static constexpr int kWarpChannels = 4 * kSets * kThreadChannels;
  static constexpr int kBlockChannels = kWarps * kWarpChannels;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kHeld = kHeldTokens;
  static constexpr int kCheckpoints = kChunk / kHeld;
  static constexpr int kSumTokens = kSumTokenCount;
  static constexpr int kSumChannels = kWarpChannels * kSumTokens / 32;  // a lane's
  static constexpr int kSumStride = (kStateGroups + 1) * kWarpChannels;
  static constexpr int kBuffers = kBufferCount;
  static constexpr int kPolynomials = kPolynomialCount;
  static constexpr int kMinBlocks = kMinBlockCount;
  static constexpr int kColumnStride = 2 * kStates + 4;  // Padded: see StoreColumns.
  static_assert(kGroup % kHeld == 0 && kHeld % kSumTokens == 0 && kSumChannels >= 1);
  static_assert(kThreadChannels % 2 == 0 && kThreadStates % 2 == 0 && kElements % 4 == 0);
};

template <typename Shape>
struct alignas(16) BackwardTile {
  // (step, step * x) of the chunk, overwritten group by group with the sums over states that the gradients of
  // step and of step * x need.
  float2 steps[kChunk][Shape::kBlockChannels];
  // The gradient of y before the gate, overwritten with y before skip and gate.
  float dy[kChunk][Shape::kBlockChannels];
  float b[kChunk][Shape::kStates];
  float c[kChunk][Shape::kStates];
  // States before each kHeld tokens; before the last ones they stay in registers.
  float4 checkpoints[Shape::kCheckpoints - 1][Shape::kElements / 4][Shape::kThreads];
  float sums[Shape::kWarps][3 * Shape::kSumTokens][Shape::kSumStride];
  float columns[Shape::kBuffers][Shape::kWarps * Shape::kSets][kGroup][Shape::kColumnStride];
  float delta_bias[Shape::kBlockChannels];
  float d[Shape::kBlockChannels];
  float dd[Shape::kWarps][Shape::kBlockChannels];
  float ddelta_bias[Shape::kWarps][Shape::kBlockChannels];
  unsigned resets[2];  // bit t: the chunk's token t begins from zero
};

template <typename Shape>
constexpr bool FitsAnSm() {
  constexpr int64_t kBytes = sizeof(BackwardTile<Shape>);
  return kBytes <= kSharedBytes && Shape::kMinBlocks * (kBytes + 1024) <= kSmSharedBytes;
}

template <typename T, typename Shape>
struct BackwardItems {
  static constexpr int kVector = kVectorSize<T>;
  static constexpr int kColumnVectors = Shape::kBlockChannels / kVector;
  static constexpr int kItems = kChunk * kColumnVectors / Shape::kThreads;
  static constexpr int kStateVectors = CeilDiv(Shape::kStates, kVector);
  static constexpr int kStateItems = CeilDiv(kChunk * kStateVectors, Shape::kThreads);
  static_assert(kItems * Shape::kThreads == kChunk * kColumnVectors && Shape::kThreads % kColumnVectors == 0);
};

struct BlockPlace {
  int channel_begin;
  int channel_block;
  int batch;
  int segment;
};

template <typename Shape, typename T>
__device__ __forceinline__ BlockPlace PlaceOfBlock(const BackwardOperands<T>& p) {
  const int channel_block = static_cast<int>(blockIdx.x) % p.channel_blocks;
  return {channel_block * Shape::kBlockChannels, channel_block,
          static_cast<int>(blockIdx.x) / p.channel_blocks % p.batch,
          static_cast<int>(blockIdx.x) / p.channel_blocks / p.batch};
}

// The chunk's steps, inputs, gradients behind the gate, b, c and resets, as floats into shared memory. Tokens
// past the end get step and gradient 0 and change nothing.
template <typename Shape, typename T>
__device__ __forceinline__ void LoadChunk(const BackwardOperands<T>& p, const BlockPlace& place, int chunk,
                                          BackwardTile<Shape>& tile) {
  using Items = BackwardItems<T, Shape>;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t first_row = int64_t{place.batch} * p.time;
#pragma unroll 2
  for (int i = 0; i < Items::kItems; ++i) {
    const int item = i * Shape::kThreads + thread;
    const int t = item / Items::kColumnVectors;
    const int column = item % Items::kColumnVectors * Items::kVector;
    const int channel = place.channel_begin + column;
    const int token = chunk * kChunk + t;
    const int count = token < p.time ? p.inner : 0;
    const int64_t row = first_row + token;
    const auto x = LoadRow(p.x + row * p.inner, channel, count, p.channel_vectors);
    const auto delta = LoadRow(p.delta + row * p.inner, channel, count, p.channel_vectors);
    const auto dy = LoadRow(p.dy + row * p.inner, channel, count, p.channel_vectors);
    RowVector<T> z = {};
    if (p.z != nullptr) z = LoadRow(p.z + row * p.z_stride, channel, count, p.channel_vectors);
#pragma unroll
    for (int k = 0; k < Items::kVector; ++k) {
      float step = delta[k] + tile.delta_bias[column + k];
      if (p.softplus) step = Softplus(step);
      step = count > 0 ? step : 0.0f;
      tile.steps[t][column + k] = make_float2(step, step * x[k]);
      tile.dy[t][column + k] = p.z == nullptr ? dy[k] : dy[k] * (z[k] * Sigmoid(z[k]));
    }
  }
#pragma unroll
  for (int i = 0; i < Items::kStateItems; ++i) {
    const int item = i * Shape::kThreads + thread;
    const int t = item / Items::kStateVectors;
    if (item >= kChunk * Items::kStateVectors) break;
    const int state = item % Items::kStateVectors * Items::kVector;
    const int token = chunk * kChunk + t;
    const int count = token < p.time ? p.states : 0;
    const int64_t row = first_row + token;
    const auto b = LoadRow(p.b + row * p.b_stride, state, count, p.column_vectors);
    const auto c = LoadRow(p.c + row * p.c_stride, state, count, p.column_vectors);
#pragma unroll
    for (int k = 0; k < Items::kVector; ++k) {
      tile.b[t][state + k] = b[k];
      tile.c[t][state + k] = c[k];
    }
  }
  if (thread < 32) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int token = chunk * kChunk + half * 32 + thread;
      const bool resets = p.reset != nullptr && token < p.time && p.reset[first_row + token] != 0;
      const unsigned bits = __ballot_sync(0xffffffffu, resets);
      if (thread == 0) tile.resets[half] = bits;
    }
  }
}

template <typename Shape, typename T>
__device__ __forceinline__ void LoadChannels(const BackwardOperands<T>& p, const BlockPlace& place,
                                             BackwardTile<Shape>& tile) {
  for (int i = static_cast<int>(threadIdx.x); i < Shape::kBlockChannels; i += Shape::kThreads) {
    const int channel = place.channel_begin + i;
    tile.delta_bias[i] = p.delta_bias != nullptr && channel < p.inner ? p.delta_bias[channel] : 0.0f;
    tile.d[i] = p.d != nullptr && channel < p.inner ? p.d[channel] : 0.0f;
#pragma unroll
    for (int warp = 0; warp < Shape::kWarps; ++warp) tile.dd[warp][i] = tile.ddelta_bias[warp][i] = 0.0f;
  }
}

// 2^exponent for the thread's state number `index`, on the one pipe or the other.
template <typename T, typename Shape>
__device__ __forceinline__ float Decay(float exponent, int index) {
  return index % 8 < Shape::kPolynomials ? Exp2OnFma < sizeof(T) == 2 ? 4 : 5 > (exponent) : Exp2(exponent);
}

// What a thread is to its block.
template <typename Shape>
struct ThreadPlace {
  int warp = static_cast<int>(threadIdx.x) / 32;
  int lane = static_cast<int>(threadIdx.x) % 32;
  int quad = lane % 4;
  int state_group = lane / 4 % Shape::kStateGroups;
  int set = lane / 4 / Shape::kStateGroups;
  int state_begin = state_group * Shape::kThreadStates;
  int warp_channel = (set * 4 + quad) * Shape::kThreadChannels;    // in the warp
  int channel_begin = warp * Shape::kWarpChannels + warp_channel;  // in the block
};

template <typename Shape, typename T>
__device__ __forceinline__ void LoadRates(const BackwardOperands<T>& p, int first_channel,
                                          const ThreadPlace<Shape>& self,
                                          float (&rate)[Shape::kThreadChannels][Shape::kThreadStates]) {
#pragma unroll
  for (int i = 0; i < Shape::kThreadChannels; ++i) {
    const int channel = first_channel + self.channel_begin + i;
    const int count = channel < p.inner ? p.states : 0;
    LoadStates(p.a_log + int64_t{channel} * p.states, self.state_begin, count, p.state_vectors, rate[i]);
#pragma unroll
    for (int j = 0; j < Shape::kThreadStates; ++j) {
      rate[i][j] = self.state_begin + j < count ? -kLog2E * expf(rate[i][j]) : 0.0f;
    }
  }
}

// d += a b on the tensor cores, a: 16 rows x 8, b: 8 x 8. Lane 4 g + q has a[g][q], a[g + 8][q], a[g][q + 4],
// a[g + 8][q + 4], b[q][g], b[q + 4][g], d[g][2 q], d[g][2 q + 1], d[g + 8][2 q], d[g + 8][2 q + 1]. Of a and
// b the first 10 bits of the mantissa count.
__device__ __forceinline__ void MultiplyTiles(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

__device__ __forceinline__ float LeadingBits(float value) {
  return __uint_as_float(__float_as_uint(value) & 0xffffe000u);
}

// The same to float's precision: both factors in two parts, the product of the trailing parts left out.
__device__ __forceinline__ void MultiplyTilesExactly(float (&d)[4], const float (&a)[4],
                                                     const float (&b)[2]) {
  float a_leading[4], a_trailing[4], b_leading[2], b_trailing[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    a_leading[i] = LeadingBits(a[i]);
    a_trailing[i] = a[i] - a_leading[i];
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    b_leading[i] = LeadingBits(b[i]);
    b_trailing[i] = b[i] - b_leading[i];
  }
  MultiplyTiles(d, a_trailing, b_leading);
  MultiplyTiles(d, a_leading, b_trailing);
  MultiplyTiles(d, a_leading, b_leading);
}

template <int kCount>
__device__ __forceinline__ void StoreShared(float* to, const float (&from)[kCount]) {
  if constexpr (kCount % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      *reinterpret_cast<float4*>(to + i) = make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]);
    }
  } else if constexpr (kCount % 2 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 2) {
      *reinterpret_cast<float2*>(to + i) = make_float2(from[i], from[i + 1]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = from[i];
  }
}

__device__ __forceinline__ void StoreFour(float* to, const float (&from)[4]) { StoreShared(to, from); }
__device__ __forceinline__ void StoreFour(Bf16* to, const float (&from)[4]) {
  uint32_t words[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    words[i] = FromFloat<Bf16>(from[2 * i]).bits |
               static_cast<uint32_t>(FromFloat<Bf16>(from[2 * i + 1]).bits) << 16;
  }
  *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
}

// What a segment does to the gradient of the state that enters it from behind: the recurrence of the
// gradients alone, from zero.
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    SelectiveScanSegmentGradientKernel(const __grid_constant__ BackwardOperands<T> p) {
  extern __shared__ uint4 shared_memory[];
  auto& tile = *reinterpret_cast<BackwardTile<Shape>*>(shared_memory);
  constexpr int kChannels = Shape::kThreadChannels;
  constexpr int kStates = Shape::kThreadStates;
  const BlockPlace place = PlaceOfBlock<Shape>(p);
  const ThreadPlace<Shape> self;
  float rate[kChannels][kStates], carry[kChannels][kStates] = {}, step_sum[kChannels] = {};
  LoadRates(p, place.channel_begin, self, rate);
  LoadChannels(p, place, tile);
  const int chunk_begin = place.segment * p.segment_tokens / kChunk;
  const int chunk_end = min(p.chunks, chunk_begin + p.segment_tokens / kChunk);
  for (int chunk = chunk_end - 1; chunk >= chunk_begin; --chunk) {
    __syncthreads();
    LoadChunk(p, place, chunk, tile);
    __syncthreads();
#pragma unroll 2
    for (int t = kChunk - 1; t >= 0; --t) {
      float pairs[2 * kChannels], dy[kChannels], c[kStates];
      LoadShared(&tile.steps[t][self.channel_begin].x, pairs);
      LoadShared(&tile.dy[t][self.channel_begin], dy);
      LoadShared(&tile.c[t][self.state_begin], c);
      const bool forget = (tile.resets[t / 32] >> t % 32 & 1u) != 0;
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        step_sum[i] = forget ? ForgetsEverything() : step_sum[i] + pairs[2 * i];
#pragma unroll
        for (int j = 0; j < kStates; ++j) {
          const float decay = Decay<T, Shape>(pairs[2 * i] * rate[i][j], i * kStates + j);
          carry[i][j] = forget ? 0.0f : decay * fmaf(c[j], dy[i], carry[i][j]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const int channel = place.channel_begin + self.channel_begin + i;
    const int64_t row = (int64_t{place.segment} * p.batch + place.batch) * p.inner + channel;
    StoreStates(p.effects.states + row * p.states, self.state_begin, channel < p.inner ? p.states : 0,
                p.state_vectors, carry[i]);
    if (channel < p.inner && self.state_group == 0) p.effects.steps[row] = step_sum[i];
  }
}

// The sums over states of kSumTokens tokens, from one number a lane group to one a channel. A lane does
// kSumChannels channels of one token; only this warp's shared memory is touched.
template <typename Shape>
__device__ __forceinline__ void SumOverStates(const ThreadPlace<Shape>& self, int first_token,
                                              BackwardTile<Shape>& tile) {
  constexpr int kChannels = Shape::kSumChannels;
  constexpr int kLanes = 32 / Shape::kSumTokens;
  __syncwarp();
  const int place = self.lane / kLanes;
  const int channel = self.lane % kLanes * kChannels;
  float totals[3][kChannels] = {};
#pragma unroll
  for (int quantity = 0; quantity < 3; ++quantity) {
    const float* row = &tile.sums[self.warp][quantity * Shape::kSumTokens + place][channel];
#pragma unroll
    for (int g = 0; g < Shape::kStateGroups; ++g) {
      float part[kChannels];
      LoadShared(row + g * Shape::kWarpChannels, part);
#pragma unroll
      for (int i = 0; i < kChannels; ++i) totals[quantity][i] += part[i];
    }
  }
  float pairs[2 * kChannels];
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    pairs[2 * i] = kLn2 * totals[2][i];
    pairs[2 * i + 1] = totals[1][i];
  }
  const int in_block = self.warp * Shape::kWarpChannels + channel;
  StoreShared(&tile.steps[first_token + place][in_block].x, pairs);
  StoreShared(&tile.dy[first_token + place][in_block], totals[0]);
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
template <typename T, typename Shape>
__device__ __forceinline__ void StoreColumns(
    const BackwardOperands<T>& p, const BlockPlace& place, int first_token,
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

// Brings what LoadChunk and the sweep will read of a chunk into the L2 cache.
template <typename Shape, typename T>
__device__ __forceinline__ void PrefetchChunk(const BackwardOperands<T>& p, const BlockPlace& place,
                                              int chunk) {
  constexpr int kRowLines = CeilDiv(Shape::kBlockChannels * static_cast<int>(sizeof(T)), 128);
  constexpr int kLineChannels = Shape::kBlockChannels / kRowLines;
  const auto prefetch = [](const void* line) { asm volatile("prefetch.global.L2 [%0];" ::"l"(line)); };
  for (int item = static_cast<int>(threadIdx.x); item < kChunk * kRowLines; item += Shape::kThreads) {
    const int token = chunk * kChunk + item / kRowLines;
    const int channel = place.channel_begin + item % kRowLines * kLineChannels;
    if (token >= p.time || channel >= p.inner) break;
    const int64_t row = int64_t{place.batch} * p.time + token;
    prefetch(p.x + row * p.inner + channel);
    prefetch(p.delta + row * p.inner + channel);
    prefetch(p.dy + row * p.inner + channel);
    if (p.z != nullptr) prefetch(p.z + row * p.z_stride + channel);
    if (item % kRowLines == 0) {
      prefetch(p.b + row * p.b_stride);
      prefetch(p.c + row * p.c_stride);
    }
  }
  constexpr int kLines = CeilDiv(Shape::kBlockChannels * Shape::kStates, 32);
  const int64_t row = (int64_t{place.batch} * p.chunks + chunk) * p.inner + place.channel_begin;
  const int numbers = min(Shape::kBlockChannels, p.inner - place.channel_begin) * p.states;
  for (int line = static_cast<int>(threadIdx.x); line < kLines; line += Shape::kThreads) {
    if (line * 32 < numbers) prefetch(p.chunk_states + row * p.states + line * 32);
  }
}

// What is left once a token and channel: gradients of x, delta and z from the sums over states, and the
// chunk's part of those of d and delta_bias.
template <typename T, typename Shape>
__device__ __forceinline__ void FinishChunk(const BackwardOperands<T>& p, const BlockPlace& place, int chunk,
                                            BackwardTile<Shape>& tile) {
  using Items = BackwardItems<T, Shape>;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t first_row = int64_t{place.batch} * p.time;
  const int column = thread % Items::kColumnVectors * Items::kVector;
  const int channel = place.channel_begin + column;
  float dd[Items::kVector] = {}, ddelta_bias[Items::kVector] = {};
#pragma unroll 2
  for (int i = 0; i < Items::kItems; ++i) {
    const int t = (i * Shape::kThreads + thread) / Items::kColumnVectors;
    const int token = chunk * kChunk + t;
    const int count = token < p.time ? p.inner : 0;
    const int64_t row = first_row + token;
    const auto x = LoadRow(p.x + row * p.inner, channel, count, p.channel_vectors);
    const auto delta = LoadRow(p.delta + row * p.inner, channel, count, p.channel_vectors);
    const auto dy = LoadRow(p.dy + row * p.inner, channel, count, p.channel_vectors);
    RowVector<T> z = {}, dx = {}, ddelta = {}, dz = {};
    if (p.z != nullptr) z = LoadRow(p.z + row * p.z_stride, channel, count, p.channel_vectors);
#pragma unroll
    for (int k = 0; k < Items::kVector; ++k) {
      const float2 sums = tile.steps[t][column + k];
      const float y = fmaf(tile.d[column + k], x[k], tile.dy[t][column + k]);
      float dout = dy[k];
      if (p.z != nullptr) {
        const float sigmoid = Sigmoid(z[k]);
        const float gate = z[k] * sigmoid;
        dz.Set(k, dy[k] * y * fmaf(gate, 1.0f - sigmoid, sigmoid));
        dout *= gate;
      }
      float step = delta[k] + tile.delta_bias[column + k];
      float dstep = fmaf(x[k], sums.y, sums.x);
      if (p.softplus) {
        dstep *= Sigmoid(step);
        step = Softplus(step);
      }
      dx.Set(k, fmaf(step, sums.y, tile.d[column + k] * dout));
      ddelta.Set(k, dstep);
      dd[k] = fmaf(dout, x[k], dd[k]);
      ddelta_bias[k] += count > 0 ? dstep : 0.0f;
    }
    StoreRow(p.dx + row * p.inner, channel, count, p.channel_vectors, dx);
    StoreRow(p.ddelta + row * p.inner, channel, count, p.channel_vectors, ddelta);
    if (p.z != nullptr) StoreRow(p.dz + row * p.dz_stride, channel, count, p.channel_vectors, dz);
  }
#pragma unroll
  for (int k = 0; k < Items::kVector; ++k) {
#pragma unroll
    for (int mask = 16; mask >= Items::kColumnVectors; mask /= 2) {
      dd[k] += __shfl_xor_sync(0xffffffffu, dd[k], mask);
      ddelta_bias[k] += __shfl_xor_sync(0xffffffffu, ddelta_bias[k], mask);
    }
    if (thread % 32 < Items::kColumnVectors) {
      tile.dd[thread / 32][column + k] += dd[k];
      tile.ddelta_bias[thread / 32][column + k] += ddelta_bias[k];
    }
  }
}

// A block walks its channels' time (or one segment of it) backward, chunk by chunk. From the saved state a
// first sweep over the chunk leaves a checkpoint every kHeld tokens in shared memory; then, last checkpoint
// first, kHeld tokens are run forward with decays and states kept in registers, and backward over those.
// Sums over states, which the gradients of x and step need, go through shared memory inside a warp. Sums over
// channels, which those of b and c need, are products with step * x and dy: the tensor cores take them, with
// a set's channels as inner dimension and the token's place as column, so that kStateGroups tokens fill one
// accumulator. What of them is left to sum over sets and blocks is written once for every block.
//
// A state and token cost two exponentials and about 21 issue slots.
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kMinBlocks)
    SelectiveScanBackwardKernel(const __grid_constant__ BackwardOperands<T> p) {
  extern __shared__ uint4 shared_memory[];
  auto& tile = *reinterpret_cast<BackwardTile<Shape>*>(shared_memory);
  constexpr int kChannels = Shape::kThreadChannels;
  constexpr int kStates = Shape::kThreadStates;
  constexpr int kHeld = Shape::kHeld;
  constexpr bool kExact = std::is_same_v<T, float>;
  const BlockPlace place = PlaceOfBlock<Shape>(p);
  const ThreadPlace<Shape> self;
  float rate[kChannels][kStates], carry[kChannels][kStates] = {}, drate[kChannels][kStates] = {};
  float dcolumns[2][Shape::kStatePairs][4] = {};
  int buffer = 0;  // of tile.columns
  static_assert(FitsAnSm<Shape>());
  LoadRates(p, place.channel_begin, self, rate);
  LoadChannels(p, place, tile);
  if (p.dfinal_state != nullptr) {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int channel = place.channel_begin + self.channel_begin + i;
      const int64_t row = (int64_t{place.segment} * p.batch + place.batch) * p.inner + channel;
      LoadStates(p.dfinal_state + row * p.states, self.state_begin, channel < p.inner ? p.states : 0,
                 p.state_vectors, carry[i]);
    }
  }

  // One token forward: decays, then states in place.
  const auto advance = [&](auto with_resets, int t, auto& h, auto& decay) {
    float pairs[2 * kChannels], b[kStates];
    LoadShared(&tile.steps[t][self.channel_begin].x, pairs);
    LoadShared(&tile.b[t][self.state_begin], b);
    bool forget = false;
    if constexpr (with_resets) forget = (tile.resets[t / 32] >> t % 32 & 1u) != 0;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
#pragma unroll
      for (int j = 0; j < kStates; ++j) {
        decay[i][j] = Decay<T, Shape>(pairs[2 * i] * rate[i][j], i * kStates + j);
        if constexpr (with_resets) decay[i][j] = forget ? 0.0f : decay[i][j];
        h[i][j] = fmaf(decay[i][j], h[i][j], pairs[2 * i + 1] * b[j]);
      }
    }
  };
  const auto save = [&](int checkpoint, const auto& h) {
    const float* flat = &h[0][0];
#pragma unroll
    for (int k = 0; k < Shape::kElements / 4; ++k) {
      tile.checkpoints[checkpoint][k][threadIdx.x] =
          make_float4(flat[4 * k], flat[4 * k + 1], flat[4 * k + 2], flat[4 * k + 3]);
    }
  };
  const auto sweep = [&](auto with_resets, auto& h) {
    float decay[kChannels][kStates];
#pragma unroll 1
    for (int checkpoint = 0; checkpoint < Shape::kCheckpoints - 1; ++checkpoint) {
      save(checkpoint, h);
#pragma unroll
      for (int i = 0; i < kHeld; ++i) advance(with_resets, checkpoint * kHeld + i, h, decay);
    }
  };
  // kHeld tokens forward from `start` and back; leaves in `start` what the tokens before them start from.
  const auto reverse = [&](auto with_resets, int checkpoint, auto& start) {
    float h[kHeld][kChannels][kStates], decay[kHeld][kChannels][kStates];
#pragma unroll
    for (int t = 0; t < kHeld; ++t) {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
#pragma unroll
        for (int j = 0; j < kStates; ++j) h[t][i][j] = t == 0 ? start[i][j] : h[t - 1][i][j];
      }
      advance(with_resets, checkpoint * kHeld + t, h[t], decay[t]);
    }
    // A token's operands are on their way while the token after it is worked on.
    float pairs[2][2 * kChannels], dy[2][kChannels], b[2][kStates], c[2][kStates];
    const auto load = [&](int t) {
      const int token = checkpoint * kHeld + t;
      LoadShared(&tile.steps[token][self.channel_begin].x, pairs[t % 2]);
      LoadShared(&tile.dy[token][self.channel_begin], dy[t % 2]);
      LoadShared(&tile.b[token][self.state_begin], b[t % 2]);
      LoadShared(&tile.c[token][self.state_begin], c[t % 2]);
    };
    load(kHeld - 1);
#pragma unroll
    for (int t = kHeld - 1; t >= 0; --t) {
      const int token = checkpoint * kHeld + t;
      if (t > 0) load(t - 1);
      const auto& my_pairs = pairs[t % 2];
      const auto& my_dy = dy[t % 2];
      float y[kChannels] = {}, dinput[kChannels] = {}, dstep[kChannels] = {}, dh[kChannels][kStates];
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
#pragma unroll
        for (int j = 0; j < kStates; ++j) {
          dh[i][j] = fmaf(c[t % 2][j], my_dy[i], carry[i][j]);
          y[i] = fmaf(c[t % 2][j], h[t][i][j], y[i]);
          dinput[i] = fmaf(dh[i][j], b[t % 2][j], dinput[i]);
          carry[i][j] = decay[t][i][j] * dh[i][j];
          const float dexponent = carry[i][j] * (t == 0 ? start[i][j] : h[t - 1][i][j]);
          drate[i][j] = fmaf(my_pairs[2 * i], dexponent, drate[i][j]);
          dstep[i] = fmaf(rate[i][j], dexponent, dstep[i]);
        }
      }
      float* sums = &tile.sums[self.warp][t % Shape::kSumTokens]
                              [self.state_group * Shape::kWarpChannels + self.warp_channel];
      StoreShared(sums, y);
      StoreShared(sums + Shape::kSumTokens * Shape::kSumStride, dinput);
      StoreShared(sums + 2 * Shape::kSumTokens * Shape::kSumStride, dstep);
      const bool own_column = self.state_group == token % Shape::kStateGroups;
#pragma unroll
      for (int i = 0; i < kChannels; i += 2) {
        const float inputs[2] = {own_column ? my_pairs[2 * i + 1] : 0.0f,
                                 own_column ? my_pairs[2 * i + 3] : 0.0f};
        const float outputs[2] = {own_column ? my_dy[i] : 0.0f, own_column ? my_dy[i + 1] : 0.0f};
#pragma unroll
        for (int j = 0; j < kStates; j += 2) {
          const float db[4] = {dh[i][j], dh[i][j + 1], dh[i + 1][j], dh[i + 1][j + 1]};
          const float dc[4] = {h[t][i][j], h[t][i][j + 1], h[t][i + 1][j], h[t][i + 1][j + 1]};
          if constexpr (kExact) {
            MultiplyTilesExactly(dcolumns[0][j / 2], db, inputs);
            MultiplyTilesExactly(dcolumns[1][j / 2], dc, outputs);
          } else {
            MultiplyTiles(dcolumns[0][j / 2], db, inputs);
            MultiplyTiles(dcolumns[1][j / 2], dc, outputs);
          }
        }
      }
      if (t % Shape::kSumTokens == 0) SumOverStates(self, token, tile);
      if (t % Shape::kStateGroups == 0 && kHeld >= Shape::kStateGroups) {
        StoreAccumulators(self, token % kGroup, dcolumns,
                          tile.columns[buffer][self.warp * Shape::kSets + self.set]);
      }
    }
    if (checkpoint == 0) return;
#pragma unroll
    for (int k = 0; k < Shape::kElements / 4; ++k) {
      const float4 four = tile.checkpoints[checkpoint - 1][k][threadIdx.x];
      float* flat = &start[0][0];
      flat[4 * k] = four.x, flat[4 * k + 1] = four.y, flat[4 * k + 2] = four.z, flat[4 * k + 3] = four.w;
    }
  };

  const int chunk_begin = place.segment * p.segment_tokens / kChunk;
  const int chunk_end = min(p.chunks, chunk_begin + p.segment_tokens / kChunk);
  for (int chunk = chunk_end - 1; chunk >= chunk_begin; --chunk) {
    __syncthreads();
    LoadChunk(p, place, chunk, tile);
    float start[kChannels][kStates];
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int channel = place.channel_begin + self.channel_begin + i;
      const int64_t row = (int64_t{place.batch} * p.chunks + chunk) * p.inner + channel;
      LoadStates(p.chunk_states + row * p.states, self.state_begin, channel < p.inner ? p.states : 0,
                 p.state_vectors, start[i]);
    }
    __syncthreads();
    if (chunk > chunk_begin) PrefetchChunk<Shape>(p, place, chunk - 1);
    if ((tile.resets[0] | tile.resets[1]) != 0) {
      sweep(std::true_type{}, start);
    } else {
      sweep(std::false_type{}, start);
    }
#pragma unroll 1
    for (int checkpoint = Shape::kCheckpoints - 1; checkpoint >= 0; --checkpoint) {
      if ((tile.resets[0] | tile.resets[1]) != 0) {
        reverse(std::true_type{}, checkpoint, start);
      } else {
        reverse(std::false_type{}, checkpoint, start);
      }
      const int first = checkpoint * kHeld;
      if (first % kGroup != 0) continue;
      if (Shape::kStateGroups > kHeld) {
        StoreAccumulators(self, 0, dcolumns, tile.columns[buffer][self.warp * Shape::kSets + self.set]);
      }
      __syncthreads();
      StoreColumns<T, Shape>(p, place, chunk * kChunk + first, tile.columns[buffer]);
      if constexpr (Shape::kBuffers == 2) {
        buffer ^= 1;
      } else {
        __syncthreads();
      }
    }
    __syncthreads();
    FinishChunk(p, place, chunk, tile);
  }

  const int64_t first_row = (int64_t{place.segment} * p.batch + place.batch) * p.inner;
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const int channel = place.channel_begin + self.channel_begin + i;
    const int count = channel < p.inner ? p.states : 0;
    if (p.dinitial_state != nullptr && place.segment == 0) {
      StoreStates(p.dinitial_state + (first_row + channel) * p.states, self.state_begin, count,
                  p.state_vectors, carry[i]);
    }
#pragma unroll
    for (int j = 0; j < kStates; ++j) drate[i][j] *= kLn2 * rate[i][j];
    StoreStates(p.da_log + (first_row + channel) * p.states, self.state_begin, count, p.state_vectors,
                drate[i]);
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < Shape::kBlockChannels; i += Shape::kThreads) {
    const int channel = place.channel_begin + i;
    float dd = 0.0f, ddelta_bias = 0.0f;
#pragma unroll
    for (int warp = 0; warp < Shape::kWarps; ++warp) {
      dd += tile.dd[warp][i];
      ddelta_bias += tile.ddelta_bias[warp][i];
    }
    if (channel < p.inner) {
      p.dd[first_row + channel] = dd;
      p.ddelta_bias[first_row + channel] = ddelta_bias;
    }
  }
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
      : segments(CutTime(batch, time, inner)),
        channel_blocks(CeilDiv<int64_t>(inner, block_channels)),
        parts(segments.count * batch) {
    Scratch scratch(base);
    dcolumns = scratch.Take<T>(channel_blocks * batch * time * 2 * padded_states);
    da_log = scratch.Take<float>(parts * inner * states);
    dd = scratch.Take<float>(parts * inner);
    ddelta_bias = scratch.Take<float>(parts * inner);
    if (segments.count > 1) {
      effects.states = scratch.Take<float>(parts * inner * states);
      effects.steps = scratch.Take<float>(parts * inner);
    }
    size_bytes = scratch.used_bytes();
  }

  TimeSegments segments;
  int64_t channel_blocks;
  int64_t parts;
  T* dcolumns;
  float* da_log;
  float* dd;
  float* ddelta_bias;
  SegmentEffects effects;
  int64_t size_bytes;
};

template <typename T>
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
  p.chunk_states = forward.chunk_states.data();
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
  p.effects = scratch.effects;
  p.b_stride = forward.b.stride();
  p.c_stride = forward.c.stride();
  p.z_stride = forward.z.stride();
  p.dz_stride = args.dz.stride();
  p.batch = static_cast<int>(forward.x.dim(0));
  p.time = static_cast<int>(forward.x.dim(1));
  p.inner = static_cast<int>(inner);
  p.states = static_cast<int>(states);
  p.chunks = static_cast<int>(CeilDiv<int64_t>(p.time, kChunk));
  p.channel_blocks = static_cast<int>(scratch.channel_blocks);
  p.segments = scratch.segments.count;
  p.segment_tokens = scratch.segments.tokens;
  p.softplus = forward.softplus;
  p.channel_vectors = true;
  for (const void* rows :
       {static_cast<const void*>(p.x), static_cast<const void*>(p.delta), static_cast<const void*>(p.dy),
        static_cast<const void*>(p.dx), static_cast<const void*>(p.ddelta)}) {
    p.channel_vectors = p.channel_vectors && RowsAreVectors<T>(rows, inner, inner);
  }
  if (p.z != nullptr) {
    p.channel_vectors = p.channel_vectors && RowsAreVectors<T>(p.z, p.z_stride, inner) &&
                        RowsAreVectors<T>(p.dz, p.dz_stride, inner);
  }
  p.column_vectors = RowsAreVectors<T>(p.b, p.b_stride, states) && RowsAreVectors<T>(p.c, p.c_stride, states);
  p.state_vectors = states % 4 == 0;
  return p;
}

template <typename T, typename Shape>
int64_t BackwardScratchBytes(const SelectiveScanArgs<T>& args) {
  return BackwardScratch<T>(nullptr, args.x.dim(0), args.x.dim(1), args.x.dim(2), args.a_log.dim(1),
                            Shape::kBlockChannels, Shape::kStates)
      .size_bytes;
}

template <typename T, typename Shape>
void Backward(const Device& device, Tensor<uint8_t> memory, const SelectiveScanGradArgs<T>& args) {
  const int64_t batch = args.dy.dim(0), time = args.dy.dim(1), inner = args.dy.dim(2);
  const int64_t states = args.forward.a_log.dim(1);
  const BackwardScratch<T> scratch(memory.data(), batch, time, inner, states, Shape::kBlockChannels,
                                   Shape::kStates);
  BackwardOperands<T> p = ReadOperands(args, scratch);
  const LaunchShape shape = {
      .blocks = dim3(static_cast<unsigned>(scratch.channel_blocks * batch * p.segments)),
      .threads = dim3(Shape::kThreads),
      .shared_bytes = sizeof(BackwardTile<Shape>)};
  if (p.segments > 1) {
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

// <states, state groups, thread channels, warps, held tokens, sum tokens, buffers, polynomials of 8, blocks
// of an SM>, for so many states.
using BackwardShape8 = BackwardShape<8, 4, 4, 2, 8, 4, 1, 1, 2>;
using BackwardShape16 = BackwardShape<16, 4, 2, 4, 8, 4, 1, 1, 2>;
using BackwardShape32 = BackwardShape<32, 8, 2, 4, 8, 8, 1, 1, 2>;
using BackwardShape64 = BackwardShape<64, 8, 2, 4, 4, 4, 1, 1, 1>;

// Calls function(Shape()) with the shape for this many states.
template <typename Function>
auto WithBackwardShape(int64_t states, Function function) {
  if (states <= 8) return function(BackwardShape8());
  if (states <= 16) return function(BackwardShape16());
  if (states <= 32) return function(BackwardShape32());
  HM_CHECK_LE(states, 64);
  return function(BackwardShape64());
}

}  // namespace

template <typename T>
int64_t SelectiveScanBackwardScratchBytes(const SelectiveScanGradArgs<T>& args) {
  return WithBackwardShape(args.forward.a_log.dim(1), [&](auto shape) {
    return BackwardScratchBytes<T, decltype(shape)>(args.forward);
  });
}

template <typename T>
void SelectiveScanBackward(const Device& device, Tensor<uint8_t> scratch,
                           const SelectiveScanGradArgs<T>& args) {
  WithBackwardShape(args.forward.a_log.dim(1),
                    [&](auto shape) { Backward<T, decltype(shape)>(device, scratch, args); });
}

template int64_t SelectiveScanBackwardScratchBytes<float>(const SelectiveScanGradArgs<float>&);
template int64_t SelectiveScanBackwardScratchBytes<Bf16>(const SelectiveScanGradArgs<Bf16>&);
template void SelectiveScanBackward<float>(const Device&, Tensor<uint8_t>,
                                           const SelectiveScanGradArgs<float>&);
template void SelectiveScanBackward<Bf16>(const Device&, Tensor<uint8_t>, const SelectiveScanGradArgs<Bf16>&);

}  // namespace hm11::cuda
