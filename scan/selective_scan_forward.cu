// The selective scan's forward pass on a GPU.
#include "scan/selective_scan_cuda.h"
#include "scan/selective_scan_kernels.cuh"

namespace hm11::cuda {
namespace {

constexpr int kBlockChannels = 64;

template <typename T>
struct ForwardOperands {
  const T* x;
  const T* delta;
  const T* b;
  const T* c;
  const T* z;  // null when absent, as all below
  const float* delta_bias;
  const float* a_log;
  const float* d;
  const float* initial_state;  // of the segment when there are several
  const uint8_t* reset;
  T* y;
  T* ungated;
  T* saved_states;
  float* final_state;
  SegmentEffects effects;
  Relay relay;
  int64_t b_stride;
  int64_t c_stride;
  int64_t z_stride;
  int batch;
  int time;
  int inner;
  int states;
  int channel_blocks;
  int segments;
  int segment_tokens;
  bool softplus;
  bool channel_vectors;  // x, delta, z, y and ungated move as 16-byte vectors
  bool column_vectors;   // b and c
  bool state_vectors;    // a thread's states of a channel
};

// How a block of 64 channels is cut. Its warps share out the channels in order: lane 4 g + q of a warp has
// kThreadChannels of them, from g kThreadChannels on, and of each a quarter of the states, from
// q kThreadStates on. kPolynomials of every 16 exponentials are computed on the FMA pipe. kIsWhole says that
// every operand is there, nothing is padded and nothing is reset, as in training: then no thread asks.
template <int kStatesPadded, int kWarpCount, int kTileTokenCount, int kPolynomialCount, int kMinBlockCount,
          bool kIsWhole>
struct ForwardShape {
  static constexpr bool kWhole = kIsWhole;
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
  static constexpr int kPairStride = kBlockChannels / 2 + 1;
  static constexpr int kStateStride = kStates + 4;
  static_assert(kThreadChannels % 2 == 0 && kThreadStates % 2 == 0);
  static_assert(kSelectiveScanChunk % kTileTokens == 0 && kTileTokens <= 32 && kSavedSpacing == 4);
};

// <states, warps, tokens of a tile, polynomials of 16, blocks of an SM>, for so many states.
template <typename T, bool kWhole>
struct ForwardShapes {
  using UpTo8 = ForwardShape<8, 2, 16, 2, 4, kWhole>;
  using UpTo16 = ForwardShape<16, 2, 16, 2, 4, kWhole>;
  using UpTo32 = ForwardShape<32, 4, 16, 2, 3, kWhole>;
  using UpTo64 = ForwardShape<64, 4, 16, 2, 3, kWhole>;
};
template <bool kWhole>
struct ForwardShapes<Bf16, kWhole> {
  using UpTo8 = ForwardShape<8, 2, 16, 3, 8, kWhole>;
  using UpTo16 = ForwardShape<16, 4, 32, 3, 4, kWhole>;
  using UpTo32 = ForwardShape<32, 4, 32, 3, 4, kWhole>;
  using UpTo64 = ForwardShape<64, 4, 16, 3, 3, kWhole>;
};

template <typename T, typename Shape>
struct ForwardItems {
  static constexpr int kVector = kVectorSize<T>;
  static constexpr int kColumnVectors = kBlockChannels / kVector;
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
  alignas(16) float delta_bias[kBlockChannels];
  float d[kBlockChannels];
  float longest_step[kBlockChannels];  // whose exponents Exp2OnFma takes, of every state
  unsigned resets;                     // bit t: the tile's token t begins from zero
  int block;
};

template <typename T, typename Shape>
constexpr bool FitsAnSm() {
  constexpr int64_t kBytes = sizeof(ForwardTile<T, Shape>);
  return kBytes <= kSharedBytes && Shape::kMinBlocks * (kBytes + 1024) <= kSmSharedBytes;
}

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
  const bool relays = p.relay.states != nullptr;
  const int time_begin = relays ? RelayBorder(p.time, segment) : segment * p.segment_tokens;
  const int next_begin = relays ? RelayBorder(p.time, segment + 1) : time_begin + p.segment_tokens;
  return {block % p.channel_blocks * kBlockChannels, block / p.channel_blocks % p.batch, segment, time_begin,
          segment == p.segments - 1 ? p.time : next_begin};
}

// Where a row of shared memory keeps a pair of channels, in pairs. A lane of the phases that read and write
// global memory has up to 4 neighbouring pairs, and a warp of them the same of each; a warp of the scan has
// pairs side by side. In this order the lanes of both hit different banks.
__device__ __forceinline__ constexpr int PlaceOfPair(int pair) {
  return pair % 4 * (kBlockChannels / 8) + (pair / 4 + pair % 4 * 2) % (kBlockChannels / 8);
}

// Sets the tile's rows on their way into shared memory.
template <bool kAggregate, typename Shape, typename T>
__device__ __forceinline__ void CopyTile(const ForwardOperands<T>& p, const ForwardPlace& place,
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
    const int64_t row = first_row + token;
    CopyRowAsync(&tile.x[stage][i][thread], p.x, row * p.inner, channel, count,
                 Shape::kWhole || p.channel_vectors);
    CopyRowAsync(&tile.delta[i][thread], p.delta, row * p.inner, channel, count,
                 Shape::kWhole || p.channel_vectors);
    if (!kAggregate && (Shape::kWhole || p.z != nullptr)) {
      CopyRowAsync(&tile.z[stage][i][thread], p.z, row * p.z_stride, channel, count,
                   Shape::kWhole || p.channel_vectors);
    }
  }
#pragma unroll
  for (int i = 0; i < Items::kStateItems; ++i) {
    const int item = i * Shape::kThreads + thread;
    const int token = tile_begin + item / Items::kStateVectors;
    const int count =
        token < place.time_end && item < Shape::kTileTokens * Items::kStateVectors ? p.states : 0;
    const int state = item % Items::kStateVectors * Items::kVector;
    const int64_t row = first_row + token;
    CopyRowAsync(&tile.raw_b[i][thread], p.b, row * p.b_stride, state, count,
                 Shape::kWhole || p.column_vectors);
    if (!kAggregate) {
      CopyRowAsync(&tile.raw_c[i][thread], p.c, row * p.c_stride, state, count,
                   Shape::kWhole || p.column_vectors);
    }
  }
}

// The copied rows as the floats that the scan reads: steps, inputs, b, c and resets. Tokens past the end get
// step 0 and change nothing. Returns whether none of the thread's steps is longer than its channel's longest.
template <bool kAggregate, typename Shape, typename T>
__device__ __forceinline__ bool PrepareTile(const ForwardOperands<T>& p, const ForwardPlace& place,
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
        if (Shape::kWhole || p.softplus) step = Softplus<T>(step);
        step = inside ? step : 0.0f;
        all_within = all_within && fabsf(step) <= longest_step[k + j];  // not so for NaN
        pairs[2 * j] = step;
        pairs[2 * j + 1] = step * x[k + j];
      }
      StoreShared(&tile.steps[t][PlaceOfPair((column + k) / 2)].x, pairs);
    }
  }
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
  if (!Shape::kWhole && thread < 32) {
    const int token = tile_begin + thread;
    const bool resets = p.reset != nullptr && thread < Shape::kTileTokens && token < place.time_end &&
                        p.reset[place.batch * p.time + token] != 0;
    const unsigned bits = __ballot_sync(0xffffffffu, resets);
    if (thread == 0) tile.resets = bits;
  }
  return all_within;
}

// y of the tile's tokens, out of the sums over states.
template <typename Shape, typename T>
__device__ __forceinline__ void FinishTile(const ForwardOperands<T>& p, const ForwardPlace& place,
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
      if (Shape::kWhole || p.z != nullptr) {
#pragma unroll
        for (int j = 0; j < 2; ++j) value[j] *= z[k + j] * Sigmoid(z[k + j]);
      }
      y.SetPair(k, value[0], value[1]);
    }
    const int64_t row = place.batch * p.time + tile_begin + t;
    const int count = tile_begin + t < place.time_end ? p.inner : 0;
    StoreRow(p.y + row * p.inner, place.block_begin + column, count, Shape::kWhole || p.channel_vectors, y);
    if (p.ungated != nullptr) {
      StoreRow(p.ungated + row * p.inner, place.block_begin + column, count,
               Shape::kWhole || p.channel_vectors, ungated);
    }
  }
}

// A block walks its channels' time (or one segment of it) tile by tile. For each tile all threads turn step
// size and x into shared floats, once a token and channel; then every thread runs the recurrence of its
// states with those and B, C broadcast from shared memory; then all threads write the tile's y. The next
// tile's rows are on their way meanwhile. With kAggregate nothing is written but the segment's effect.
//
// y, the sum over states of C h, is a product for the tensor cores: rows are a warp's channels, the inner
// dimension their states, all columns the same; what comes out are whole sums that no lane needs to exchange.
//
// A state and token cost a multiplication for the exponent, the exponential, one for step * x * b, one FMA
// and a quarter of a product's issue slot; with loads and what is done once a channel 7.6 slots at 32 states.
// The special-function unit gives an exponential every 8 cycles a scheduler, so it would be the limit; part
// of the exponentials goes to the FMA pipe, for which no step of a tile may be too long: where one is, the
// tile is scanned by code that asks for every exponent, to the same bits. H100, batch 48, length 2048, inner
// 1024, 32 states, Bf16, states kept (scan_benchmark, ncu): 1.22 ms at 1.8 GHz, 71 % of issue slots taken by
// 16 warps an SM, the special-function unit busy for 62 % of the time, shared memory for 68 %.
template <typename T, typename Shape, bool kAggregate>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kMinBlocks)
    SelectiveScanForwardKernel(const __grid_constant__ ForwardOperands<T> p) {
  static_assert(FitsAnSm<T, Shape>());
  constexpr int kTokens = Shape::kTileTokens;
  constexpr int kChannels = Shape::kThreadChannels;
  constexpr int kStates = Shape::kThreadStates;
  extern __shared__ uint4 shared_memory[];
  auto& tile = *reinterpret_cast<ForwardTile<T, Shape>*>(shared_memory);
  const ForwardPlace place = PlaceOfForwardBlock<Shape>(p, DealBlock(p.relay, &tile.block));
  const int thread = static_cast<int>(threadIdx.x);

  LetKernelAfterBegin();
  CopyTile<kAggregate>(p, place, place.time_begin, 0, tile);
  for (int i = thread; i < kBlockChannels; i += Shape::kThreads) {
    const int channel = place.block_begin + i;
    tile.delta_bias[i] = p.delta_bias != nullptr && channel < p.inner ? p.delta_bias[channel] : 0.0f;
    tile.d[i] = p.d != nullptr && channel < p.inner ? p.d[channel] : 0.0f;
  }

  const int warp = thread / 32;
  const int quad = thread % 4;
  const int group = thread % 32 / 4;
  const int state_begin = quad * kStates;
  const int channel_begin = place.block_begin + (warp * 8 + group) * kChannels;
  const int states = Shape::kWhole ? Shape::kStates : p.states;
  float rate[kChannels][kStates];  // A log2(e)
  float h[kChannels][kStates];
  float step_sum[kChannels] = {};
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const int channel = channel_begin + i;
    const int count = Shape::kWhole || channel < p.inner ? states : 0;
    LoadRates(p.a_log + int64_t{channel} * states, state_begin, count, Shape::kWhole || p.state_vectors,
              rate[i]);
    float fastest = 0.0f;
#pragma unroll
    for (int j = 0; j < kStates; ++j) fastest = fmaxf(fastest, fabsf(rate[i][j]));
    fastest = fmaxf(fastest, __shfl_xor_sync(0xffffffffu, fastest, 1));
    fastest = fmaxf(fastest, __shfl_xor_sync(0xffffffffu, fastest, 2));
    if (quad == 0) tile.longest_step[channel - place.block_begin] = kLongestExponent / fastest;
  }

  const bool relays = p.relay.states != nullptr;
  const int relay_index = place.batch * p.channel_blocks + place.block_begin / kBlockChannels;
  if (relays && place.segment > 0) AwaitSegments(p.relay, relay_index, place.segment);
  AwaitKernelBefore();
  const float* const start = relays && place.segment > 0 ? p.relay.states : p.initial_state;
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
#pragma unroll
    for (int j = 0; j < kStates; ++j) h[i][j] = 0.0f;
    const int channel = channel_begin + i;
    const int count = Shape::kWhole || channel < p.inner ? states : 0;
    if (!kAggregate && start != nullptr) {
      const int64_t segment_row = relays ? 0 : int64_t{place.segment} * p.batch;
      const int64_t row = (segment_row + place.batch) * p.inner + channel;
      LoadStates(start + row * states, state_begin, count, Shape::kWhole || p.state_vectors, h[i]);
    }
  }

  const auto save = [&](int token) {
    const int step = place.batch * CeilDiv(p.time, kSavedSpacing) + token / kSavedSpacing;
    T* const row = p.saved_states + (int64_t{step} * p.inner + channel_begin) * states;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      StateVector<T, kStates>::Of(h[i]).Store(row + i * states, state_begin,
                                              Shape::kWhole || channel_begin + i < p.inner ? states : 0,
                                              Shape::kWhole || p.state_vectors);
    }
  };
  // The tile's token t; y, whole sums over states, goes to the lanes whose quad is t % 4.
  const auto advance = [&](auto all_within, int t, float(&y)[Shape::kThreadChannels]) {
    float pairs[2 * kChannels], b[kStates], c[kStates];
#pragma unroll
    for (int r = 0; r < Shape::kRowTiles; ++r) {
      float four[4];
      LoadShared(&tile.steps[t][PlaceOfPair((warp * 8 + group) * Shape::kRowTiles + r)].x, four);
#pragma unroll
      for (int k = 0; k < 4; ++k) pairs[4 * r + k] = four[k];
    }
    LoadShared(&tile.b[t][state_begin], b);
    if (!kAggregate) LoadShared(&tile.c[t][state_begin], c);
    const bool forget = !Shape::kWhole && (tile.resets >> t & 1u) != 0;
    if (kAggregate) {
#pragma unroll
      for (int i = 0; i < kChannels; ++i)
        step_sum[i] = forget ? ForgetsEverything() : step_sum[i] + pairs[2 * i];
    }
#pragma unroll
    for (int j = 0; j < kStates; ++j) {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        const bool on_fma = (j * kChannels + i) * Shape::kPolynomials % 16 < Shape::kPolynomials;
        const float exponent = pairs[2 * i] * rate[i][j];
        float decay = on_fma && (all_within || fabsf(exponent) <= kLongestExponent)
                          ? Exp2OnFma < sizeof(T) == 2 ? 3 : 5 > (pairs[2 * i], rate[i][j])
                          : Exp2(exponent);
        if (!Shape::kWhole) decay = forget ? 0.0f : decay;
        h[i][j] = fmaf(decay, h[i][j], pairs[2 * i + 1] * b[j]);
      }
    }
    if constexpr (!kAggregate) {
#pragma unroll
      for (int r = 0; r < Shape::kRowTiles; ++r) {
        // Two accumulators, so that products do not wait for each other. All columns are the same.
        float sums[2][4] = {};
#pragma unroll
        for (int j = 0; j < kStates; j += 2) {
          const float rows[4] = {h[2 * r][j], h[2 * r + 1][j], h[2 * r][j + 1], h[2 * r + 1][j + 1]};
          const float column[2] = {c[j], c[j + 1]};
          MultiplyTilesFor<T>(sums[j / 2 % 2], rows, column);
        }
        if (quad == t % 4) {
          y[2 * r] = kStates > 2 ? sums[0][0] + sums[1][0] : sums[0][0];
          y[2 * r + 1] = kStates > 2 ? sums[0][2] + sums[1][2] : sums[0][2];
        }
      }
    }
  };
  const auto scan = [&](auto all_within, int tile_begin) {
#pragma unroll 1
    for (int four = 0; four < kTokens; four += kSavedSpacing) {
      if (!kAggregate && p.saved_states != nullptr && tile_begin + four < place.time_end)
        save(tile_begin + four);
      float y[kChannels];
#pragma unroll
      for (int i = 0; i < 4; ++i) advance(all_within, four + i, y);
      if constexpr (!kAggregate) {
        __syncwarp();
#pragma unroll
        for (int r = 0; r < Shape::kRowTiles; ++r) {
          const float pair[2] = {y[2 * r], y[2 * r + 1]};
          const int place_of_pair = PlaceOfPair((warp * 8 + group) * Shape::kRowTiles + r);
          StoreShared(&tile.steps[four + quad][place_of_pair].x + quad % 2 * 2, pair);
        }
      }
    }
  };

  __syncthreads();
  int stage = 0;
  for (int tile_begin = place.time_begin; tile_begin < place.time_end; tile_begin += kTokens, stage ^= 1) {
    AwaitCopies();
    const bool within = PrepareTile<kAggregate>(p, place, tile_begin, stage, tile);
    if (tile_begin + kTokens < place.time_end) {
      CopyTile<kAggregate>(p, place, tile_begin + kTokens, stage ^ 1, tile);
    }
    if (__syncthreads_and(within)) {
      scan(std::true_type(), tile_begin);
    } else {
      scan(std::false_type(), tile_begin);
    }
    __syncthreads();
    if constexpr (!kAggregate) FinishTile(p, place, tile_begin, stage, tile);
  }

#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const int channel = channel_begin + i;
    const int count = Shape::kWhole || channel < p.inner ? states : 0;
    if constexpr (kAggregate) {
      const int64_t row = (int64_t{place.segment} * p.batch + place.batch) * p.inner + channel;
      StoreStates(p.effects.states + row * states, state_begin, count, Shape::kWhole || p.state_vectors,
                  h[i]);
      if (count > 0 && quad == 0) p.effects.steps[row] = step_sum[i];
    } else {
      float* const end = place.segment == p.segments - 1 ? p.final_state : p.relay.states;
      const int64_t row = int64_t{place.batch} * p.inner + channel;
      if (end != nullptr)
        StoreStates(end + row * states, state_begin, count, Shape::kWhole || p.state_vectors, h[i]);
    }
  }
  if (relays && place.segment < p.segments - 1) EndSegment(p.relay, relay_index, place.segment + 1);
}

constexpr int kCombineThreads = 128;

// One thread a state: it reads its effects kAhead segments at a time, so that their latencies overlap.
__global__ void __launch_bounds__(kCombineThreads)
    CombineSegmentsKernel(SegmentEffects effects, const float* __restrict__ a_log,
                          const float* __restrict__ start, int segments, int64_t rows, int64_t inner,
                          int states, bool backward) {
  constexpr int kAhead = 16;
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= rows * states) return;
  const int64_t row = index / states;
  const float rate = -kLog2E * expf(a_log[row % inner * states + index % states]);
  LetKernelAfterBegin();
  AwaitKernelBefore();
  float h = start == nullptr ? 0.0f : start[index];
  for (int first = 0; first < segments; first += kAhead) {
    float added[kAhead], steps[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int k = backward ? segments - 1 - first - i : first + i;
      const bool inside = first + i < segments;
      added[i] = inside ? effects.states[k * rows * states + index] : 0.0f;
      steps[i] = inside ? effects.steps[k * rows + row] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int k = backward ? segments - 1 - first - i : first + i;
      if (first + i < segments) effects.states[k * rows * states + index] = h;
      h = fmaf(steps[i] == ForgetsEverything() ? 0.0f : Exp2(steps[i] * rate), h, added[i]);
    }
  }
}

template <typename T, typename Shape>
void Forward(const Device& device, Tensor<uint8_t> scratch, const SelectiveScanArgs<T>& args) {
  const int64_t batch = args.x.dim(0), time = args.x.dim(1), inner = args.x.dim(2);
  const int64_t states = args.a_log.dim(1);
  const int64_t channel_blocks = CeilDiv<int64_t>(inner, kBlockChannels);
  Scratch taken(scratch.data());
  const CutScratch cut(taken, batch, time, inner, states, channel_blocks);
  ForwardOperands<T> p = {};
  p.x = args.x.data();
  p.delta = args.delta.data();
  p.b = args.b.data();
  p.c = args.c.data();
  p.z = args.z.data();
  p.delta_bias = args.delta_bias.data();
  p.a_log = args.a_log.data();
  p.d = args.d.data();
  p.initial_state = args.initial_state.data();
  p.reset = args.reset.data();
  p.y = args.y.data();
  p.final_state = args.final_state.data();
  p.ungated = args.saved.ungated.data();
  p.saved_states = args.saved.states.data();
  p.b_stride = args.b.stride();
  p.c_stride = args.c.stride();
  p.z_stride = args.z.stride();
  p.batch = static_cast<int>(batch);
  p.time = static_cast<int>(time);
  p.inner = static_cast<int>(inner);
  p.states = static_cast<int>(states);
  p.channel_blocks = static_cast<int>(channel_blocks);
  p.effects = cut.effects;
  p.relay = cut.relay;
  p.segments = cut.segments;
  p.segment_tokens = cut.parallel.tokens;
  p.softplus = args.softplus;
  p.channel_vectors = RowsAreVectors<T>(p.x, inner, inner) && RowsAreVectors<T>(p.delta, inner, inner) &&
                      RowsAreVectors<T>(p.y, inner, inner) &&
                      (args.z.empty() || RowsAreVectors<T>(p.z, p.z_stride, inner));
  p.column_vectors = RowsAreVectors<T>(p.b, p.b_stride, states) && RowsAreVectors<T>(p.c, p.c_stride, states);
  p.state_vectors = states % Shape::kThreadStates == 0;
  LaunchShape shape = {.blocks = dim3(static_cast<unsigned>(p.channel_blocks * batch * p.segments)),
                       .threads = dim3(Shape::kThreads),
                       .shared_bytes = sizeof(ForwardTile<T, Shape>)};
  cut.BeginRelay(device);
  if (cut.parallel.count > 1) {
    Launch(device, shape, SelectiveScanForwardKernel<T, Shape, true>, p);
    CombineSegments(device, p.effects, p.a_log, p.initial_state, p.segments, batch, inner, states, false);
    p.initial_state = p.effects.states;
    shape.begins_early = true;  // after CombineSegments
  }
  Launch(device, shape, SelectiveScanForwardKernel<T, Shape, false>, p);
}

}  // namespace

void CombineSegments(const Device& device, const SegmentEffects& effects, const float* a_log,
                     const float* start, int segments, int64_t batch, int64_t inner, int64_t states,
                     bool backward) {
  const auto blocks = static_cast<unsigned>(CeilDiv<int64_t>(batch * inner * states, kCombineThreads));
  Launch(device, {.blocks = dim3(blocks), .threads = dim3(kCombineThreads), .begins_early = true},
         CombineSegmentsKernel, effects, a_log, start, segments, batch * inner, inner,
         static_cast<int>(states), backward);
}

template <typename T>
int64_t SelectiveScanForwardScratchBytes(const SelectiveScanArgs<T>& args) {
  const int64_t inner = args.x.dim(2);
  Scratch counted(nullptr);
  CutScratch(counted, args.x.dim(0), args.x.dim(1), inner, args.a_log.dim(1),
             CeilDiv<int64_t>(inner, kBlockChannels));
  return counted.used_bytes();
}

template <typename T, bool kWhole>
void ForwardOfStates(const Device& device, Tensor<uint8_t> scratch, const SelectiveScanArgs<T>& args) {
  using Shapes = ForwardShapes<T, kWhole>;
  const int64_t states = args.a_log.dim(1);
  if (states <= 8) return Forward<T, typename Shapes::UpTo8>(device, scratch, args);
  if (states <= 16) return Forward<T, typename Shapes::UpTo16>(device, scratch, args);
  if (states <= 32) return Forward<T, typename Shapes::UpTo32>(device, scratch, args);
  HM_CHECK_LE(states, 64);
  Forward<T, typename Shapes::UpTo64>(device, scratch, args);
}

template <typename T>
void SelectiveScanForward(const Device& device, Tensor<uint8_t> scratch, const SelectiveScanArgs<T>& args) {
  if constexpr (std::is_same_v<T, Bf16>) {
    if (ScanIsWhole(args)) return ForwardOfStates<T, true>(device, scratch, args);
  }
  ForwardOfStates<T, false>(device, scratch, args);
}

template int64_t SelectiveScanForwardScratchBytes<float>(const SelectiveScanArgs<float>&);
template int64_t SelectiveScanForwardScratchBytes<Bf16>(const SelectiveScanArgs<Bf16>&);
template void SelectiveScanForward<float>(const Device&, Tensor<uint8_t>, const SelectiveScanArgs<float>&);
template void SelectiveScanForward<Bf16>(const Device&, Tensor<uint8_t>, const SelectiveScanArgs<Bf16>&);

}  // namespace hm11::cuda
