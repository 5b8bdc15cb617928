// The selective scan's backward pass on a GPU: the recurrence over a tile, and the kernels.
#ifndef HM11_SCAN_SELECTIVE_SCAN_BACKWARD_RECURRENCE_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_BACKWARD_RECURRENCE_CUH_

#include <cstdint>

#include "core/launch.cuh"
#include "scan/scan_math.cuh"
#include "scan/selective_scan_backward_sums.cuh"
#include "scan/selective_scan_backward_tile.cuh"
#include "scan/selective_scan_chain.cuh"
#include "scan/selective_scan_plan.cuh"
#include "scan/selective_scan_tiles.cuh"

namespace hm11::cuda {

template <typename Shape, typename T>
__device__ __forceinline__ void LoadThreadRates(const BackwardOperands<T>& p, int first_channel,
                                                const ThreadPlace<Shape>& self,
                                                float (&rate)[2][Shape::kThreadStates]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int channel = first_channel + self.channel_begin + i;
    LoadRates(p.a_log + int64_t{channel} * p.states, self.state_begin, Shape::StatesOf(p, channel, p.states),
              Shape::StateVectors(p), rate[i]);
  }
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
  LoadBackwardChannels(p, place, tile);
  for (int index = place.tile_end - 1; index >= place.tile_begin; --index) {
    __syncthreads();
    LoadBackwardTile(p, place, index, tile);
    __syncthreads();
#pragma unroll 4
    for (int t = Shape::kTile - 1; t >= 0; --t) {
      float pairs[4], dy[2], c[kStates];
      LoadShared(&tile.steps[t][self.in_block].x, pairs);
      LoadShared(&tile.dy[t][self.in_block], dy);
      LoadShared(&tile.c[t][self.state_begin], c);
      const bool forget = Shape::IsReset(tile.resets, t);
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
    StoreStates(p.effects.states + row * p.states, self.state_begin, Shape::StatesOf(p, channel, p.states),
                p.state_vectors, carry[i]);
    if (channel < p.inner && self.state_group == 0) p.effects.steps[row] = step_sum[i];
  }
}

// A thread's part of the recurrence: two neighbouring channels and of each kThreadStates states.
template <typename T, typename Shape>
struct BackwardThread {
  static constexpr int kStates = Shape::kThreadStates;
  using Saved = StateVector<T, kStates>;
  using States = float[2][kStates];

  using Operands = BackwardOperands<T>;
  using Tile = BackwardTile<T, Shape>;

  const ThreadPlace<Shape> self;
  States rate, carry = {}, drate = {};
  float dcolumns[2][Shape::kStatePairs][4] = {};
  int buffer = 0;  // of tile.columns
  // The states that the next kHeld tokens begin with; on their way while those behind are worked on.
  Saved saved[2] = {};

  // The gradient of the state behind the segment: from the segment behind where segments are chained, else
  // from the operands.
  __device__ __forceinline__ void LoadStart(const Operands& p, const BackwardPlace& place, bool is_chained,
                                            int64_t first_row, int64_t chain_row) {
    const float* const behind = is_chained && !place.is_last ? p.chain.states : p.dfinal_state;
    if (behind == nullptr) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int channel = place.channel_begin + self.channel_begin + i;
      LoadStates(behind + ((is_chained ? chain_row : first_row) + channel) * p.states, self.state_begin,
                 Shape::StatesOf(p, channel, p.states), Shape::StateVectors(p), carry[i]);
    }
  }

  // Sets the states that the kHeld tokens from `token` on begin with on their way.
  __device__ __forceinline__ void Fetch(const Operands& p, const BackwardPlace& place, int token) {
    if (token >= p.time) return;
    const int states = Shape::kWhole ? Shape::kStates : p.states;
    const int first_channel = place.channel_begin + self.channel_begin;
    const int step = place.batch * CeilDiv(p.time, kSavedSpacing) + token / kSavedSpacing;
    const T* const row = p.saved_states + (int64_t{step} * p.inner + first_channel) * states;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      saved[i] = Saved::Load(row + i * states, self.state_begin,
                             Shape::StatesOf(p, first_channel + i, states), Shape::StateVectors(p));
    }
  }

  // Decays and states of kHeld tokens from the tile's token `first` on, from the states they begin with.
  __device__ __forceinline__ void Recompute(const Tile& tile, int first, const States& start,
                                            States (&h)[kHeld], States (&decay)[kHeld]) const {
#pragma unroll
    for (int t = 0; t < kHeld; ++t) {
      float pairs[4], b[kStates];
      LoadShared(&tile.steps[first + t][self.in_block].x, pairs);
      LoadShared(&tile.b[first + t][self.state_begin], b);
      const bool forget = Shape::IsReset(tile.resets, first + t);
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
  }

  // What the recurrence reads of one token.
  struct Token {
    float pairs[4], dy[2], b[kStates], c[kStates];
  };
  __device__ __forceinline__ void Load(const Tile& tile, int t, Token& token) const {
    LoadShared(&tile.steps[t][self.in_block].x, token.pairs);
    LoadShared(&tile.dy[t][self.in_block], token.dy);
    LoadShared(&tile.b[t][self.state_begin], token.b);
    LoadShared(&tile.c[t][self.state_begin], token.c);
  }

  // One token backward: `before` are the states that it begins with, `dh` becomes the gradient of those that
  // it ends with. The gradients of step and of step * x, summed over the thread's states, go to tile.parts.
  __device__ __forceinline__ void StepBack(const Token& token, const States& before, const States& decay,
                                           int held, States& dh, Tile& tile) {
    float dinput[2] = {}, dstep[2] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < kStates; ++j) {
        dh[i][j] = fmaf(token.c[j], token.dy[i], carry[i][j]);
        dinput[i] = fmaf(dh[i][j], token.b[j], dinput[i]);
        carry[i][j] = decay[i][j] * dh[i][j];
        const float dexponent = carry[i][j] * before[i][j];
        drate[i][j] = fmaf(token.pairs[2 * i], dexponent, drate[i][j]);
        dstep[i] = fmaf(rate[i][j], dexponent, dstep[i]);
      }
    }
    const float parts[4] = {dstep[0], dinput[0], dstep[1], dinput[1]};
    StoreShared(&tile.parts[self.warp][held][self.state_group * Shape::kWarpChannels + self.in_warp].x,
                parts);
  }

  // db and dc of the tile's token `t`, summed over the warp's channels, into its column of the accumulators.
  __device__ __forceinline__ void AddToColumns(int t, const Token& token, const States& dh, const States& h) {
    const bool own_column = self.state_group == t % Shape::kStateGroups;
    const float inputs[2] = {own_column ? token.pairs[1] : 0.0f, own_column ? token.pairs[3] : 0.0f};
    const float outputs[2] = {own_column ? token.dy[0] : 0.0f, own_column ? token.dy[1] : 0.0f};
#pragma unroll
    for (int j = 0; j < kStates; j += 2) {
      const float db[4] = {dh[0][j], dh[0][j + 1], dh[1][j], dh[1][j + 1]};
      const float dc[4] = {h[0][j], h[0][j + 1], h[1][j], h[1][j + 1]};
      MultiplyTilesFor<T>(dcolumns[0][j / 2], db, inputs);
      MultiplyTilesFor<T>(dcolumns[1][j / 2], dc, outputs);
    }
  }

  // kHeld tokens from the tile's token `first` on, forward from the saved states and back; `token` is the
  // sequence's, and there are tokens of this block before it when `more`.
  __device__ __forceinline__ void Reverse(const Operands& p, const BackwardPlace& place, int first, int token,
                                          bool more, Tile& tile) {
    States start, h[kHeld], decay[kHeld];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < kStates; ++j) start[i][j] = saved[i][j];
    }
    if (more) Fetch(p, place, token - kHeld);
    Recompute(tile, first, start, h, decay);
    // A token's operands are on their way while the token after it is worked on.
    Token tokens[2];
    Load(tile, first + kHeld - 1, tokens[(kHeld - 1) % 2]);
#pragma unroll
    for (int t = kHeld - 1; t >= 0; --t) {
      if (t > 0) Load(tile, first + t - 1, tokens[(t - 1) % 2]);
      States dh;
      StepBack(tokens[t % 2], t == 0 ? start : h[t - 1], decay[t], t, dh, tile);
      AddToColumns(first + t, tokens[t % 2], dh, h[t]);
      if (t % Shape::kStateGroups == 0 && kHeld >= Shape::kStateGroups)
        StoreColumnSums((first + t) % kGroup, tile);
    }
    SumOverStates(self, first, tile);
  }

  __device__ __forceinline__ void StoreColumnSums(int place_in_group, Tile& tile) {
    StoreAccumulators(self, place_in_group, dcolumns,
                      tile.columns[buffer][self.warp * Shape::kSets + self.set]);
  }

  // All of a tile that is in shared memory.
  __device__ __forceinline__ void ReverseTile(const Operands& p, const BackwardPlace& place, int index,
                                              Tile& tile) {
#pragma unroll 1
    for (int group = Shape::kTile - kGroup; group >= 0; group -= kGroup) {
#pragma unroll 1
      for (int first = group + kGroup - kHeld; first >= group; first -= kHeld) {
        const bool more = first > 0 || index > place.tile_begin;
        Reverse(p, place, first, index * Shape::kTile + first, more, tile);
      }
      if (Shape::kStateGroups > kHeld) StoreColumnSums(0, tile);
      __syncthreads();
      StoreColumns<Shape>(p, place, index * Shape::kTile + group, tile.columns[buffer]);
      buffer ^= 1;
    }
  }

  // The gradient of the state before the segment, for the segment before or as the result; that of a_log.
  __device__ __forceinline__ void StoreEnd(const Operands& p, const BackwardPlace& place, int64_t first_row,
                                           int64_t chain_row) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int channel = place.channel_begin + self.channel_begin + i;
      const int count = channel < p.inner ? p.states : 0;
      float* const before = place.is_first ? p.dinitial_state : p.chain.states;
      if (before != nullptr) {
        StoreStates(before + (chain_row + channel) * p.states, self.state_begin, count, p.state_vectors,
                    carry[i]);
      }
#pragma unroll
      for (int j = 0; j < kStates; ++j) drate[i][j] *= kLn2 * rate[i][j];
      StoreStates(p.da_log + (first_row + channel) * p.states, self.state_begin, count, p.state_vectors,
                  drate[i]);
    }
  }
};

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
  static_assert(FitsAnSm<BackwardTile<T, Shape>, Shape::kMinBlocks>());
  extern __shared__ uint4 shared_memory[];
  auto& tile = *reinterpret_cast<BackwardTile<T, Shape>*>(shared_memory);
  const BackwardPlace place = PlaceOfBackwardBlock<Shape>(p, TakeBlockTicket(p.chain, &tile.block));
  BackwardThread<T, Shape> thread;
  LoadThreadRates(p, place.channel_begin, thread.self, thread.rate);
  LoadBackwardChannels(p, place, tile);
  const int64_t first_row = (int64_t{place.segment} * p.batch + place.batch) * p.inner;
  const bool is_chained = p.chain.states != nullptr;
  const int64_t chain_row = int64_t{place.batch} * p.inner;
  const int chain_index = place.batch * p.channel_blocks + place.channel_block;
  if (is_chained && !place.is_last) AwaitSegments(p.chain, chain_index, place.segment);
  thread.LoadStart(p, place, is_chained, first_row, chain_row);

  if (place.tile_end > place.tile_begin) thread.Fetch(p, place, place.tile_end * Shape::kTile - kHeld);
  for (int index = place.tile_end - 1; index >= place.tile_begin; --index) {
    __syncthreads();
    LoadBackwardTile(p, place, index, tile);
    __syncthreads();
    if (index > place.tile_begin) PrefetchBackwardTile<Shape>(p, place, index - 1);
    thread.ReverseTile(p, place, index, tile);
    FinishBackwardTile(p, place, index, tile);
  }

  thread.StoreEnd(p, place, first_row, chain_row);
  if (is_chained && !place.is_first) EndSegment(p.chain, chain_index, place.segment + 1);
  __syncthreads();
  StoreBackwardChannels(p, place, tile);
}

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_BACKWARD_RECURRENCE_CUH_
