// The selective scan's forward pass on a GPU.
#include "scan/selective_scan_cuda.h"
#include "scan/selective_scan_kernels.cuh"

namespace hm11::cuda {
namespace {

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
  float* final_state;
  float* chunk_states;
  SegmentEffects effects;
  int64_t b_stride;
  int64_t c_stride;
  int64_t z_stride;
  int batch;
  int time;
  int inner;
  int states;
  int chunks;
  int channel_blocks;
  int segments;
  int segment_tokens;
  bool softplus;
  bool channel_vectors;  // x, delta, z and y move as 16-byte vectors
  bool column_vectors;   // b and c
  bool state_vectors;    // states in memory
};

// How a block is cut. A thread keeps kThreadChannels x kThreadStates states in registers; kStateLanes
// neighbouring lanes share channels. kPolynomials of every 8 exponentials are computed on the FMA pipe.
template <int kStatesPadded, int kThreadChannelCount, int kThreadStateCount, int kWarpCount,
          int kTileTokenCount, int kPolynomialCount, int kMinBlockCount>
struct ForwardShape {
  static constexpr int kStates = kStatesPadded;
  static constexpr int kThreadChannels = kThreadChannelCount;
  static constexpr int kThreadStates = kThreadStateCount;
  static constexpr int kStateLanes = kStates / kThreadStates;
  static constexpr int kWarpChannels = 32 / kStateLanes * kThreadChannels;
  static constexpr int kBlockChannels = kWarpCount * kWarpChannels;
  static constexpr int kThreads = 32 * kWarpCount;
  static constexpr int kTileTokens = kTileTokenCount;
  static constexpr int kPolynomials = kPolynomialCount;
  static constexpr int kMinBlocks = kMinBlockCount;
  static_assert(kSelectiveScanChunk % kTileTokens == 0 && kTileTokens <= 32 && kStateLanes <= 32);
};

// <states, thread channels, thread states, warps, tile tokens, polynomials of 8, blocks of an SM>, for so
// many states.
template <typename T>
struct ForwardShapes {
  using UpTo8 = ForwardShape<8, 4, 4, 2, 16, 1, 3>;
  using UpTo16 = ForwardShape<16, 2, 8, 2, 16, 1, 5>;
  using UpTo32 = ForwardShape<32, 2, 16, 2, 16, 1, 4>;
  using UpTo64 = ForwardShape<64, 4, 8, 4, 16, 1, 3>;
};
template <>
struct ForwardShapes<Bf16> {
  using UpTo8 = ForwardShape<8, 4, 4, 2, 16, 1, 4>;
  using UpTo16 = ForwardShape<16, 1, 16, 2, 16, 1, 8>;
  using UpTo32 = ForwardShape<32, 2, 16, 2, 16, 1, 6>;
  using UpTo64 = ForwardShape<64, 4, 8, 4, 16, 1, 3>;
};

template <typename T, typename Shape>
struct ForwardItems {
  static constexpr int kVector = kVectorSize<T>;
  static constexpr int kColumnVectors = Shape::kBlockChannels / kVector;
  static constexpr int kItems = Shape::kTileTokens * kColumnVectors / Shape::kThreads;
  static constexpr int kStateVectors = CeilDiv(Shape::kStates, kVector);
  static constexpr int kStateItems = CeilDiv(Shape::kTileTokens * kStateVectors, Shape::kThreads);
  static_assert(kItems * Shape::kThreads == Shape::kTileTokens * kColumnVectors);
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
  float2 steps[Shape::kTileTokens][Shape::kBlockChannels];  // step, step * x
  float y[Shape::kTileTokens][Shape::kBlockChannels];
  float b[Shape::kTileTokens][Shape::kStates];
  float c[Shape::kTileTokens][Shape::kStates];
  float delta_bias[Shape::kBlockChannels];
  float d[Shape::kBlockChannels];
  unsigned resets;  // bit t: the tile's token t begins from zero
};

template <typename T, typename Shape>
constexpr bool FitsAnSm() {
  constexpr int64_t kBytes = sizeof(ForwardTile<T, Shape>);
  return kBytes <= kSharedBytes && Shape::kMinBlocks * (kBytes + 1024) <= kSmSharedBytes;
}

// Sums over the kLanes lanes of a group. Channels are halved between lanes while there are some to halve, so
// that a lane ends with kChannels / kLanes sums (one at least) of the channels from the result on.
template <int kLanes, int kChannels>
__device__ __forceinline__ int SumOverLanes(int lane, float (&sums)[kChannels]) {
  int first = 0;
  int width = kChannels;
#pragma unroll
  for (int mask = kLanes / 2; mask > 0; mask /= 2) {
    if (width > 1) {
      width /= 2;
      const bool upper = (lane & mask) != 0;
#pragma unroll
      for (int i = 0; i < kChannels / 2; ++i) {
        if (i < width) {
          const float sent = upper ? sums[i] : sums[i + width];
          const float kept = upper ? sums[i + width] : sums[i];
          sums[i] = kept + __shfl_xor_sync(0xffffffffu, sent, mask);
        }
      }
      first += upper ? width : 0;
    } else {
      sums[0] += __shfl_xor_sync(0xffffffffu, sums[0], mask);
    }
  }
  return first;
}

// A block walks its channels' time (or one segment of it) tile by tile. For each tile all threads turn step
// size and x into shared floats, once a token and channel; then every thread runs the recurrence of its
// states with those and B, C broadcast from shared memory; then all threads write the tile's y. The next
// tile's rows are on their way into registers meanwhile. With kAggregate nothing is written but the segment's
// effect.
//
// A state and token cost a multiplication for the exponent, the exponential, one for step * x * b, and two
// FMAs: 5 issue slots, and 0.9 to 1.4 more for loads, the sums across lanes and what is done once a channel.
// The special-function unit gives an exponential every 8 cycles a scheduler, so it would be the limit; part
// of the exponentials goes to the FMA pipe, which brings both under their limit.
template <typename T, typename Shape, bool kAggregate>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kMinBlocks)
    SelectiveScanForwardKernel(const __grid_constant__ ForwardOperands<T> p) {
  static_assert(FitsAnSm<T, Shape>());
  using Items = ForwardItems<T, Shape>;
  constexpr int kTokens = Shape::kTileTokens;
  constexpr int kChannels = Shape::kThreadChannels;
  constexpr int kStates = Shape::kThreadStates;
  extern __shared__ uint4 shared_memory[];
  auto& tile = *reinterpret_cast<ForwardTile<T, Shape>*>(shared_memory);

  const int thread = static_cast<int>(threadIdx.x);
  const int channel_block = static_cast<int>(blockIdx.x) % p.channel_blocks;
  const int batch = static_cast<int>(blockIdx.x) / p.channel_blocks % p.batch;
  const int segment = static_cast<int>(blockIdx.x) / p.channel_blocks / p.batch;
  const int block_begin = channel_block * Shape::kBlockChannels;
  const int time_begin = segment * p.segment_tokens;
  const int time_end = min(p.time, time_begin + p.segment_tokens);
  const int64_t first_row = int64_t{batch} * p.time;

  for (int i = thread; i < Shape::kBlockChannels; i += Shape::kThreads) {
    const int channel = block_begin + i;
    tile.delta_bias[i] = p.delta_bias != nullptr && channel < p.inner ? p.delta_bias[channel] : 0.0f;
    tile.d[i] = p.d != nullptr && channel < p.inner ? p.d[channel] : 0.0f;
  }

  const int lane = thread % 32;
  const int state_lane = lane % Shape::kStateLanes;
  const int state_begin = state_lane * kStates;
  const int thread_begin = thread / Shape::kStateLanes * kChannels;
  float rate[kChannels][kStates];  // A log2(e)
  float h[kChannels][kStates];
  float step_sum[kChannels] = {};
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const int channel = block_begin + thread_begin + i;
    const bool inside = channel < p.inner;
    const int count = inside ? p.states : 0;
    LoadStates(p.a_log + int64_t{channel} * p.states, state_begin, count, p.state_vectors, rate[i]);
#pragma unroll
    for (int j = 0; j < kStates; ++j) {
      rate[i][j] = state_begin + j < count ? -kLog2E * expf(rate[i][j]) : 0.0f;
      h[i][j] = 0.0f;
    }
    if (!kAggregate && p.initial_state != nullptr) {
      const int64_t row = (int64_t{segment} * p.batch + batch) * p.inner + channel;
      LoadStates(p.initial_state + row * p.states, state_begin, count, p.state_vectors, h[i]);
    }
  }

  const auto load = [&](int tile_begin, int stage) {
#pragma unroll
    for (int i = 0; i < Items::kItems; ++i) {
      const int item = i * Shape::kThreads + thread;
      const int token = tile_begin + item / Items::kColumnVectors;
      const int channel = block_begin + item % Items::kColumnVectors * Items::kVector;
      const int count = token < time_end ? p.inner : 0;
      const int64_t row = first_row + token;
      CopyRowAsync(&tile.x[stage][i][thread], p.x, row * p.inner, channel, count, p.channel_vectors);
      CopyRowAsync(&tile.delta[i][thread], p.delta, row * p.inner, channel, count, p.channel_vectors);
      if (!kAggregate && p.z != nullptr) {
        CopyRowAsync(&tile.z[stage][i][thread], p.z, row * p.z_stride, channel, count, p.channel_vectors);
      }
    }
#pragma unroll
    for (int i = 0; i < Items::kStateItems; ++i) {
      const int item = i * Shape::kThreads + thread;
      const int token = tile_begin + item / Items::kStateVectors;
      const int count = token < time_end && item < kTokens * Items::kStateVectors ? p.states : 0;
      const int state = item % Items::kStateVectors * Items::kVector;
      const int64_t row = first_row + token;
      CopyRowAsync(&tile.raw_b[i][thread], p.b, row * p.b_stride, state, count, p.column_vectors);
      if (!kAggregate) {
        CopyRowAsync(&tile.raw_c[i][thread], p.c, row * p.c_stride, state, count, p.column_vectors);
      }
    }
  };

  const auto scan = [&](auto with_resets) {
#pragma unroll 2
    for (int t = 0; t < kTokens; ++t) {
      float pairs[2 * kChannels], b[kStates], c[kStates], y[kChannels] = {};
      LoadShared(&tile.steps[t][thread_begin].x, pairs);
      LoadShared(&tile.b[t][state_begin], b);
      if (!kAggregate) LoadShared(&tile.c[t][state_begin], c);
      if (kAggregate) {
#pragma unroll
        for (int i = 0; i < kChannels; ++i) step_sum[i] += pairs[2 * i];
      }
      bool forget = false;
      if constexpr (with_resets) {
        forget = (tile.resets >> t & 1u) != 0;
        if (kAggregate && forget) {
#pragma unroll
          for (int i = 0; i < kChannels; ++i) step_sum[i] = ForgetsEverything();
        }
      }
#pragma unroll
      for (int j = 0; j < kStates; ++j) {
#pragma unroll
        for (int i = 0; i < kChannels; ++i) {
          const float exponent = pairs[2 * i] * rate[i][j];
          float decay = (i * kStates + j) % 8 < Shape::kPolynomials
                            ? Exp2OnFma < sizeof(T) == 2 ? 4 : 5 > (exponent)
                            : Exp2(exponent);
          if constexpr (with_resets) decay = forget ? 0.0f : decay;
          h[i][j] = fmaf(decay, h[i][j], pairs[2 * i + 1] * b[j]);
          if (!kAggregate) y[i] = fmaf(c[j], h[i][j], y[i]);
        }
      }
      if constexpr (!kAggregate) {
        const int first = SumOverLanes<Shape::kStateLanes>(state_lane, y);
        constexpr int kKept = kChannels > Shape::kStateLanes ? kChannels / Shape::kStateLanes : 1;
        constexpr int kSpare = kChannels >= Shape::kStateLanes ? 1 : Shape::kStateLanes / kChannels;
        if (state_lane % kSpare == 0) {
#pragma unroll
          for (int i = 0; i < kKept; ++i) tile.y[t][thread_begin + first + i] = y[i];
        }
      }
    }
  };

  load(time_begin, 0);
  __syncthreads();
  int stage = 0;
  for (int tile_begin = time_begin; tile_begin < time_end; tile_begin += kTokens, stage ^= 1) {
    AwaitCopies();
#pragma unroll
    for (int i = 0; i < Items::kItems; ++i) {
      const int item = i * Shape::kThreads + thread;
      const int t = item / Items::kColumnVectors;
      const int column = item % Items::kColumnVectors * Items::kVector;
      const bool inside = tile_begin + t < time_end;
      const auto x = FromShared<T>(tile.x[stage][i][thread]);
      const auto delta = FromShared<T>(tile.delta[i][thread]);
#pragma unroll
      for (int k = 0; k < Items::kVector; ++k) {
        float step = delta[k] + tile.delta_bias[column + k];
        if (p.softplus) step = Softplus(step);
        step = inside ? step : 0.0f;
        tile.steps[t][column + k] = make_float2(step, step * x[k]);
      }
    }
#pragma unroll
    for (int i = 0; i < Items::kStateItems; ++i) {
      const int item = i * Shape::kThreads + thread;
      const int t = item / Items::kStateVectors;
      if (item < kTokens * Items::kStateVectors) {
        const auto b = FromShared<T>(tile.raw_b[i][thread]);
        const auto c = FromShared<T>(tile.raw_c[i][thread]);
#pragma unroll
        for (int k = 0; k < Items::kVector; ++k) {
          const int state = item % Items::kStateVectors * Items::kVector + k;
          if (state < Shape::kStates) {
            tile.b[t][state] = b[k];
            if (!kAggregate) tile.c[t][state] = c[k];
          }
        }
      }
    }
    if (thread < 32) {
      const int token = tile_begin + lane;
      const bool resets =
          p.reset != nullptr && lane < kTokens && token < time_end && p.reset[first_row + token] != 0;
      const unsigned bits = __ballot_sync(0xffffffffu, resets);
      if (lane == 0) tile.resets = bits;
    }
    if (tile_begin + kTokens < time_end) load(tile_begin + kTokens, stage ^ 1);
    __syncthreads();
    if (!kAggregate && p.chunk_states != nullptr && tile_begin % kSelectiveScanChunk == 0) {
      const int64_t chunk = int64_t{batch} * p.chunks + tile_begin / kSelectiveScanChunk;
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        const int channel = block_begin + thread_begin + i;
        StoreStates(p.chunk_states + (chunk * p.inner + channel) * p.states, state_begin,
                    channel < p.inner ? p.states : 0, p.state_vectors, h[i]);
      }
    }
    if (tile.resets != 0) {
      scan(std::true_type{});
    } else {
      scan(std::false_type{});
    }
    __syncthreads();
    if constexpr (!kAggregate) {
#pragma unroll
      for (int i = 0; i < Items::kItems; ++i) {
        const int item = i * Shape::kThreads + thread;
        const int t = item / Items::kColumnVectors;
        const int column = item % Items::kColumnVectors * Items::kVector;
        const auto x = FromShared<T>(tile.x[stage][i][thread]);
        const auto z = FromShared<T>(tile.z[stage][i][thread]);
        RowVector<T> y = {};
#pragma unroll
        for (int k = 0; k < Items::kVector; ++k) {
          float value = fmaf(tile.d[column + k], x[k], tile.y[t][column + k]);
          if (p.z != nullptr) value *= z[k] * Sigmoid(z[k]);
          y.Set(k, value);
        }
        const int64_t row = first_row + tile_begin + t;
        StoreRow(p.y + row * p.inner, block_begin + column, tile_begin + t < time_end ? p.inner : 0,
                 p.channel_vectors, y);
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const int channel = block_begin + thread_begin + i;
    const int count = channel < p.inner ? p.states : 0;
    if constexpr (kAggregate) {
      const int64_t row = (int64_t{segment} * p.batch + batch) * p.inner + channel;
      StoreStates(p.effects.states + row * p.states, state_begin, count, p.state_vectors, h[i]);
      if (count > 0 && state_lane == 0) p.effects.steps[row] = step_sum[i];
    } else if (p.final_state != nullptr && segment == p.segments - 1) {
      const int64_t row = int64_t{batch} * p.inner + channel;
      StoreStates(p.final_state + row * p.states, state_begin, count, p.state_vectors, h[i]);
    }
  }
}

// One thread a state: it reads its effects kAhead segments at a time, so that their latencies overlap.
__global__ void __launch_bounds__(256)
    CombineSegmentsKernel(SegmentEffects effects, const float* __restrict__ a_log,
                          const float* __restrict__ start, int segments, int64_t rows, int64_t inner,
                          int states, bool backward) {
  constexpr int kAhead = 8;
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= rows * states) return;
  const int64_t row = index / states;
  const float rate = -kLog2E * expf(a_log[row % inner * states + index % states]);
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
  const TimeSegments segments = CutTime(batch, time, inner);
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
  p.chunk_states = args.chunk_states.data();
  p.b_stride = args.b.stride();
  p.c_stride = args.c.stride();
  p.z_stride = args.z.stride();
  p.batch = static_cast<int>(batch);
  p.time = static_cast<int>(time);
  p.inner = static_cast<int>(inner);
  p.states = static_cast<int>(states);
  p.chunks = static_cast<int>(CeilDiv<int64_t>(time, kSelectiveScanChunk));
  p.channel_blocks = static_cast<int>(CeilDiv<int64_t>(inner, Shape::kBlockChannels));
  p.segments = segments.count;
  p.segment_tokens = segments.tokens;
  p.softplus = args.softplus;
  p.channel_vectors = RowsAreVectors<T>(p.x, inner, inner) && RowsAreVectors<T>(p.delta, inner, inner) &&
                      RowsAreVectors<T>(p.y, inner, inner) &&
                      (args.z.empty() || RowsAreVectors<T>(p.z, p.z_stride, inner));
  p.column_vectors = RowsAreVectors<T>(p.b, p.b_stride, states) && RowsAreVectors<T>(p.c, p.c_stride, states);
  p.state_vectors = states % 4 == 0;
  const LaunchShape shape = {.blocks = dim3(static_cast<unsigned>(p.channel_blocks * batch * p.segments)),
                             .threads = dim3(Shape::kThreads),
                             .shared_bytes = sizeof(ForwardTile<T, Shape>)};
  if (p.segments > 1) {
    Scratch taken(scratch.data());
    p.effects.states = taken.Take<float>(p.segments * batch * inner * states);
    p.effects.steps = taken.Take<float>(p.segments * batch * inner);
    Launch(device, shape, SelectiveScanForwardKernel<T, Shape, true>, p);
    CombineSegments(device, p.effects, p.a_log, p.initial_state, p.segments, batch, inner, states, false);
    p.initial_state = p.effects.states;
  }
  Launch(device, shape, SelectiveScanForwardKernel<T, Shape, false>, p);
}

}  // namespace

void CombineSegments(const Device& device, const SegmentEffects& effects, const float* a_log,
                     const float* start, int segments, int64_t batch, int64_t inner, int64_t states,
                     bool backward) {
  const auto blocks = static_cast<unsigned>(CeilDiv<int64_t>(batch * inner * states, 256));
  Launch(device, {.blocks = dim3(blocks), .threads = dim3(256)}, CombineSegmentsKernel, effects, a_log, start,
         segments, batch * inner, inner, static_cast<int>(states), backward);
}

template <typename T>
int64_t SelectiveScanForwardScratchBytes(const SelectiveScanArgs<T>& args) {
  const int64_t batch = args.x.dim(0), inner = args.x.dim(2);
  const TimeSegments segments = CutTime(batch, args.x.dim(1), inner);
  if (segments.count == 1) return 0;
  Scratch counted(nullptr);
  counted.Take<float>(segments.count * batch * inner * args.a_log.dim(1));
  counted.Take<float>(segments.count * batch * inner);
  return counted.used_bytes();
}

template <typename T>
void SelectiveScanForward(const Device& device, Tensor<uint8_t> scratch, const SelectiveScanArgs<T>& args) {
  using Shapes = ForwardShapes<T>;
  const int64_t states = args.a_log.dim(1);
  if (states <= 8) return Forward<T, typename Shapes::UpTo8>(device, scratch, args);
  if (states <= 16) return Forward<T, typename Shapes::UpTo16>(device, scratch, args);
  if (states <= 32) return Forward<T, typename Shapes::UpTo32>(device, scratch, args);
  HM_CHECK_LE(states, 64);
  Forward<T, typename Shapes::UpTo64>(device, scratch, args);
}

template int64_t SelectiveScanForwardScratchBytes<float>(const SelectiveScanArgs<float>&);
template int64_t SelectiveScanForwardScratchBytes<Bf16>(const SelectiveScanArgs<Bf16>&);
template void SelectiveScanForward<float>(const Device&, Tensor<uint8_t>, const SelectiveScanArgs<float>&);
template void SelectiveScanForward<Bf16>(const Device&, Tensor<uint8_t>, const SelectiveScanArgs<Bf16>&);

}  // namespace hm11::cuda
