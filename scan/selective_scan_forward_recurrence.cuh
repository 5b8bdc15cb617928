// The selective scan's forward pass on a GPU: the recurrence over a tile, and the kernel.
#ifndef HM11_SCAN_SELECTIVE_SCAN_FORWARD_RECURRENCE_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_FORWARD_RECURRENCE_CUH_

#include <cstdint>
#include <type_traits>

#include "core/launch.cuh"
#include "core/special_functions.cuh"
#include "scan/scan_math.cuh"
#include "scan/selective_scan_forward_tile.cuh"

namespace hm11::cuda {

// A thread's part of the recurrence: kThreadChannels neighbouring channels and of each kThreadStates states.
template <typename T, typename Shape, bool kAggregate>
struct ForwardThread {
  static constexpr int kChannels = Shape::kThreadChannels;
  static constexpr int kStates = Shape::kThreadStates;
  static constexpr int kExp2Degree = sizeof(T) == 2 ? 3 : 5;

  using Operands = ForwardOperands<T>;
  using Tile = ForwardTile<T, Shape>;

  __device__ __forceinline__ ForwardThread(const Operands& p, const ForwardPlace& place)
      : channel_begin(place.block_begin + (warp * 8 + group) * kChannels),
        states(Shape::kWhole ? Shape::kStates : p.states) {}

  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int quad = static_cast<int>(threadIdx.x) % 4;
  const int group = static_cast<int>(threadIdx.x) % 32 / 4;
  const int state_begin = quad * kStates;
  const int channel_begin;
  const int states;
  float rate[kChannels][kStates];  // A log2(e)
  float h[kChannels][kStates];
  float step_sum[kChannels] = {};

  __device__ __forceinline__ int StatesOf(const Operands& p, int channel) const {
    return Shape::StatesOf(p, channel, states);
  }

  // The rates, and how long a step may be for their exponents to be Exp2OnFma's.
  __device__ __forceinline__ void LoadThreadRates(const Operands& p, const ForwardPlace& place, Tile& tile) {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int channel = channel_begin + i;
      LoadRates(p.a_log + int64_t{channel} * states, state_begin, StatesOf(p, channel),
                Shape::StateVectors(p), rate[i]);
      float fastest = 0.0f;
#pragma unroll
      for (int j = 0; j < kStates; ++j) fastest = fmaxf(fastest, fabsf(rate[i][j]));
      fastest = fmaxf(fastest, __shfl_xor_sync(0xffffffffu, fastest, 1));
      fastest = fmaxf(fastest, __shfl_xor_sync(0xffffffffu, fastest, 2));
      if (quad == 0) tile.longest_step[channel - place.block_begin] = kLongestExponent / fastest;
    }
  }

  // What enters the segment: from the segment before where segments are chained, else from the operands.
  __device__ __forceinline__ void LoadStart(const Operands& p, const ForwardPlace& place, bool is_chained) {
    const float* const start = is_chained && place.segment > 0 ? p.chain.states : p.initial_state;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
#pragma unroll
      for (int j = 0; j < kStates; ++j) h[i][j] = 0.0f;
      const int channel = channel_begin + i;
      if (!kAggregate && start != nullptr) {
        const int64_t segment_row = is_chained ? 0 : int64_t{place.segment} * p.batch;
        const int64_t row = (segment_row + place.batch) * p.inner + channel;
        LoadStates(start + row * states, state_begin, StatesOf(p, channel), Shape::StateVectors(p), h[i]);
      }
    }
  }

  // The states that token `token` begins with, for backward.
  __device__ __forceinline__ void Save(const Operands& p, const ForwardPlace& place, int token) const {
    const int step = place.batch * CeilDiv(p.time, kSavedSpacing) + token / kSavedSpacing;
    T* const row = p.saved_states + (int64_t{step} * p.inner + channel_begin) * states;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      StateVector<T, kStates>::Of(h[i]).Store(row + i * states, state_begin, StatesOf(p, channel_begin + i),
                                              Shape::StateVectors(p));
    }
  }

  // One token's states; `pairs` are step, step * x of each channel. AllWithin says that no exponent is too
  // long for Exp2OnFma.
  template <typename AllWithin>
  __device__ __forceinline__ void AdvanceStates(AllWithin all_within, const Tile& tile, int t,
                                                const float (&pairs)[2 * kChannels],
                                                const float (&b)[kStates]) {
    const bool forget = Shape::IsReset(tile.resets, t);
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
                          ? Exp2OnFma<kExp2Degree>(pairs[2 * i], rate[i][j])
                          : Exp2(exponent);
        if (!Shape::kWhole) decay = forget ? 0.0f : decay;
        h[i][j] = fmaf(decay, h[i][j], pairs[2 * i + 1] * b[j]);
      }
    }
  }

  // y of the tile's token t, whole sums over states, to the lanes whose quad is t % 4.
  __device__ __forceinline__ void SumStates(int t, const float (&c)[kStates], float (&y)[kChannels]) const {
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

  template <typename AllWithin>
  __device__ __forceinline__ void Advance(AllWithin all_within, const Tile& tile, int t,
                                          float (&y)[kChannels]) {
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
    AdvanceStates(all_within, tile, t, pairs, b);
    if constexpr (!kAggregate) SumStates(t, c, y);
  }

  template <typename AllWithin>
  __device__ __forceinline__ void ScanTile(AllWithin all_within, const Operands& p, const ForwardPlace& place,
                                           int tile_begin, Tile& tile) {
#pragma unroll 1
    for (int four = 0; four < Shape::kTileTokens; four += kSavedSpacing) {
      if (!kAggregate && p.saved_states != nullptr && tile_begin + four < place.time_end)
        Save(p, place, tile_begin + four);
      float y[kChannels];
#pragma unroll
      for (int i = 0; i < 4; ++i) Advance(all_within, tile, four + i, y);
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
  }

  // What leaves the segment: its effect, or its last states, for the segment behind or as the result.
  __device__ __forceinline__ void StoreEnd(const Operands& p, const ForwardPlace& place) const {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int channel = channel_begin + i;
      const int count = StatesOf(p, channel);
      if constexpr (kAggregate) {
        const int64_t row = (int64_t{place.segment} * p.batch + place.batch) * p.inner + channel;
        StoreStates(p.effects.states + row * states, state_begin, count, Shape::StateVectors(p), h[i]);
        if (count > 0 && quad == 0) p.effects.steps[row] = step_sum[i];
      } else {
        float* const end = place.segment == p.segments - 1 ? p.final_state : p.chain.states;
        const int64_t row = int64_t{place.batch} * p.inner + channel;
        if (end != nullptr) StoreStates(end + row * states, state_begin, count, Shape::StateVectors(p), h[i]);
      }
    }
  }
};

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
  static_assert(FitsAnSm<ForwardTile<T, Shape>, Shape::kMinBlocks>());
  constexpr int kTokens = Shape::kTileTokens;
  extern __shared__ uint4 shared_memory[];
  auto& tile = *reinterpret_cast<ForwardTile<T, Shape>*>(shared_memory);
  const ForwardPlace place = PlaceOfForwardBlock<Shape>(p, TakeBlockTicket(p.chain, &tile.block));

  TriggerProgrammaticLaunch();
  CopyForwardTile<kAggregate>(p, place, place.time_begin, 0, tile);
  LoadForwardChannels(p, place, tile);
  ForwardThread<T, Shape, kAggregate> self(p, place);
  self.LoadThreadRates(p, place, tile);
  const bool is_chained = p.chain.states != nullptr;
  const int chain_index = place.batch * p.channel_blocks + place.block_begin / kForwardBlockChannels;
  if (is_chained && place.segment > 0) AwaitSegments(p.chain, chain_index, place.segment, p.segments);
  GridDependencySynchronize();
  self.LoadStart(p, place, is_chained);

  __syncthreads();
  int stage = 0;
  for (int tile_begin = place.time_begin; tile_begin < place.time_end; tile_begin += kTokens, stage ^= 1) {
    AwaitCopies();
    const bool within = PrepareForwardTile<kAggregate>(p, place, tile_begin, stage, tile);
    if (tile_begin + kTokens < place.time_end) {
      CopyForwardTile<kAggregate>(p, place, tile_begin + kTokens, stage ^ 1, tile);
    }
    if (__syncthreads_and(within)) {
      self.ScanTile(std::true_type(), p, place, tile_begin, tile);
    } else {
      self.ScanTile(std::false_type(), p, place, tile_begin, tile);
    }
    __syncthreads();
    if constexpr (!kAggregate) FinishForwardTile(p, place, tile_begin, stage, tile);
  }

  self.StoreEnd(p, place);
  if (is_chained && place.segment < p.segments - 1) EndSegment(p.chain, chain_index, place.segment + 1);
}

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_FORWARD_RECURRENCE_CUH_
