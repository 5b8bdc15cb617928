// The selective scan's backward pass on a GPU: the recurrence over a tile.
#ifndef HM11_SCAN_SELECTIVE_SCAN_BACKWARD_RECURRENCE_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_BACKWARD_RECURRENCE_CUH_

#include <cstdint>

#include "core/special_functions.cuh"
#include "scan/scan_math.cuh"
#include "scan/selective_scan_backward_factors.cuh"
#include "scan/selective_scan_backward_sums.cuh"
#include "scan/selective_scan_backward_tile.cuh"
#include "scan/selective_scan_tiles.cuh"

namespace hm11::cuda {

// A thread's part of the recurrence: two neighbouring channels and of each kThreadStates states.
template <typename T, typename Shape>
struct BackwardThread {
  static constexpr int kStates = Shape::kThreadStates;
  using States = BackwardStates<Shape>;
  using Saved = StateVector<T, kStates>;
  using Operands = BackwardOperands<T>;
  using Tile = BackwardTile<T, Shape>;
  using Cursors = BackwardCursors<T, Shape>;

  const ThreadPlace<Shape> self;
  ChannelSums<T, Shape> sums;
  ColumnSums<T, Shape> columns;
  States rate, carry = {}, drate = {};
  // The states that the next kHeld tokens begin with; on their way while those behind are worked on.
  Saved saved[2] = {};
  const T* next_saved;  // where the next ones are
  // The token before those that they are for, from the segment's first one on; how many of such tokens have
  // states before them that next_saved goes to.
  int before_next;
  unsigned moves;
  int channels_left;
  // Where the thread's parts of the sums go, behind those of the last of kHeld tokens: without an offset the
  // compiler would store four numbers one by one.
  float* behind_parts;

  __device__ __forceinline__ BackwardThread(const Operands& p, const BackwardPlace& place, Tile& tile)
      : sums(tile),
        columns(p, place, self, tile),
        behind_parts(
            KeptAddress(&tile.parts[self.warp][0][self.state_group * Shape::kWarpChannels + self.in_warp].x +
                        2 * kHeld * Shape::kPartStride)) {}

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

  // Where Fetch begins: at the segment's end.
  __device__ __forceinline__ void BeginFetch(const Operands& p, const BackwardPlace& place) {
    const int states = Shape::kWhole ? Shape::kStates : p.states;
    const int first = place.tile_begin * Shape::kTile, last = place.tile_end * Shape::kTile - kHeld;
    const int last_saved = (p.time - 1) / kSavedSpacing;
    const int step = place.batch * (last_saved + 1) + min(last / kSavedSpacing, last_saved);
    next_saved = p.saved_states +
                 (int64_t{step} * p.inner + place.channel_begin + self.channel_begin) * states +
                 self.state_begin;
    before_next = last - kHeld - first;
    moves = static_cast<unsigned>(max(min(p.time, last + kHeld) - kHeld - first, 0));
    channels_left = p.inner - place.channel_begin - self.channel_begin;
  }

  // Sets the states on their way that the kHeld tokens before those of the last call begin with. There is
  // always something to load: tokens past the end of time get the last states, of which they make nothing,
  // and of what comes at the segment's begin nobody makes anything.
  __device__ __forceinline__ void Fetch(const Operands& p) {
    const int states = Shape::kWhole ? Shape::kStates : p.states;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int count = Shape::kWhole ? states : (i < channels_left ? states : 0) - self.state_begin;
      saved[i] = Saved::Load(next_saved + i * states, 0, count, Shape::StateVectors(p));
    }
    next_saved -= static_cast<unsigned>(before_next) < moves ? p.saved_stride : 0;
    before_next -= kHeld;
  }

  // Decays and states of kHeld tokens, from the states they begin with: from the token `place` behind the
  // cursors' on, the tile's token `first`.
  __device__ __forceinline__ void Recompute(const Tile& tile, const Cursors& at, int place, int first,
                                            const States& start, States (&decay)[kHeld],
                                            States (&h)[kHeld]) const {
    OuterFactors<T, Shape> factors;
    if constexpr (kOuterProducts<T>) {
      factors.Load(self, at.lane_row + kInput * Cursors::kRows + place * Cursors::kRowStride,
                   at.lane_column + place * Cursors::kColumnStride);
    }
#pragma unroll
    for (int t = 0; t < kHeld; ++t) {
      float step[2];
      LoadShared(at.row + (place + t) * Cursors::kRowStride, step);
      const bool forget = Shape::IsReset(tile.resets, first + t);
      States added = {};
      if constexpr (kOuterProducts<T>) {
        factors.Multiply(self, t, added);
      } else {
        float input[2], b[kStates];
        LoadShared(at.row + kInput * Cursors::kRows + (place + t) * Cursors::kRowStride, input);
        LoadShared(at.column + (place + t) * Cursors::kColumnStride, b);
        AddOuterProduct(b, input, added, added);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < kStates; ++j) {
          decay[t][i][j] = Exp2(step[i] * rate[i][j]);
          if (!Shape::kWhole) decay[t][i][j] = forget ? 0.0f : decay[t][i][j];
          h[t][i][j] = fmaf(decay[t][i][j], t == 0 ? start[i][j] : h[t - 1][i][j], added[i][j]);
        }
      }
    }
  }

  // That token backward: `before` are the states that it begins with. The gradients of step and of step * x,
  // summed over the thread's states, go to the tile's parts.
  __device__ __forceinline__ void StepBack(int t, const float (&step)[2], const float (&b)[kStates],
                                           const States& before, const States& decay, const States& dh) {
    float dinput[2] = {}, dstep[2] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < kStates; ++j) {
        dinput[i] = fmaf(dh[i][j], b[j], dinput[i]);
        carry[i][j] = decay[i][j] * dh[i][j];
        const float dexponent = carry[i][j] * before[i][j];
        drate[i][j] = fmaf(step[i], dexponent, drate[i][j]);
        dstep[i] = fmaf(rate[i][j], dexponent, dstep[i]);
      }
    }
    const float parts[4] = {dstep[0], dinput[0], dstep[1], dinput[1]};
    StoreShared(behind_parts - 2 * (kHeld - t) * Shape::kPartStride, parts);
  }

  // kStateGroups tokens, from the tile's token `first` on, kHeld at a time: forward from the saved states and
  // back. The kHeld tokens behind are finished between those two, so that their sums are on their way
  // meanwhile.
  __device__ __forceinline__ void Reverse(const Operands& p, const Cursors& at, int begin, int first,
                                          const Tile& tile) {
    const auto finish = [&](int place) {
      sums.Finish(p, begin + first + place, at.sum_row + place * Cursors::kRowStride,
                  at.sum_x + place * Shape::kBlockChannels);
    };
    BackwardAccumulators<Shape> dcolumns = {};
    SumFactors<T, Shape> factors[kPairSums<T, Shape> ? kHeld / 2 : 1];  // of each two tokens, or of all
    if constexpr (!kPairSums<T, Shape>) factors[0].Load(at.group_row);
#pragma unroll
    for (int place = Shape::kStateGroups - kHeld; place >= 0; place -= kHeld) {
      States start, h[kHeld], decay[kHeld];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < kStates; ++j) start[i][j] = saved[i][j];
      }
      Fetch(p);
      Recompute(tile, at, place, first + place, start, decay, h);
      // What a token reads of shared memory is loaded before the parts of the one behind are stored, or x and
      // ddelta finished: the compiler keeps loads behind stores, and would wait for them there.
      float step[kHeld][2], b[kHeld][kStates], c[kHeld][kStates], dy[kHeld][2];
      const auto load = [&](int t) {
        LoadShared(at.row + (place + t) * Cursors::kRowStride, step[t]);
        LoadShared(at.column + (place + t) * Cursors::kColumnStride, b[t]);
        LoadShared(at.row + kDy * Cursors::kRows + (place + t) * Cursors::kRowStride, dy[t]);
        LoadShared(at.column + kC * Cursors::kColumns + (place + t) * Cursors::kColumnStride, c[t]);
        if constexpr (kPairSums<T, Shape>) {
          if (t % 2 == 1) factors[t / 2].Load(at.group_row + (place + t - 1) * Cursors::kRowStride);
        }
      };
      load(kHeld - 1);
      if (place + kHeld < Shape::kStateGroups) {
        finish(place + kHeld);
        __syncwarp();  // the parts are written again
      }
#pragma unroll
      for (int t = kHeld - 1; t >= 0; --t) {
        States dh;
        AddOuterProduct(c[t], dy[t], carry, dh);
        if (t > 0) load(t - 1);
        StepBack(t, step[t], b[t], t == 0 ? start : h[t - 1], decay[t], dh);
        if constexpr (!kPairSums<T, Shape>) {
          factors[0].AddSums(self, place + t, dh, h[t], dcolumns);
        } else if (t % 2 == 1) {
          Clear(dcolumns);
          factors[t / 2].AddSums(self, 1, dh, h[t], dcolumns);
        } else {
          factors[t / 2].AddSums(self, 0, dh, h[t], dcolumns);
          columns.AddPair(first % Shape::kGroup + place + t, dcolumns);
        }
      }
      __syncwarp();  // the parts are written
    }
    finish(0);
    __syncwarp();
    if constexpr (!kPairSums<T, Shape>) columns.Add(self, first % Shape::kGroup, dcolumns);
  }

  // All of a tile that is in shared memory.
  __device__ __forceinline__ void ReverseTile(const Operands& p, int index, Tile& tile) {
    Cursors at(tile, self, sums, Shape::kTile - Shape::kStateGroups, index % 2);
    const int begin = index * Shape::kTile;
#pragma unroll 1
    for (int group = Shape::kTile - Shape::kGroup; group >= 0; group -= Shape::kGroup) {
#pragma unroll 1
      for (int in_group = Shape::kGroup - Shape::kStateGroups; in_group >= 0;
           in_group -= Shape::kStateGroups) {
        Reverse(p, at, begin, group + in_group, tile);
        at.Back();
      }
      __syncthreads();
      columns.Store(p, begin + group);
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

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_BACKWARD_RECURRENCE_CUH_
