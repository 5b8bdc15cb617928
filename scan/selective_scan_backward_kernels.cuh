// The selective scan's backward pass on a GPU: the kernels over segments of time.
#ifndef HM11_SCAN_SELECTIVE_SCAN_BACKWARD_KERNELS_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_BACKWARD_KERNELS_CUH_

#include <cstdint>

#include "core/launch.cuh"
#include "core/special_functions.cuh"
#include "scan/scan_math.cuh"
#include "scan/selective_scan_backward_recurrence.cuh"
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
    CopyBackwardTile<true>(p, place, index, tile);
    AwaitCopies();
    __syncthreads();
    PrepareBackwardTile<true>(p, place, index, tile);
    __syncthreads();
#pragma unroll 4
    for (int t = Shape::kTile - 1; t >= 0; --t) {
      float step[2], dy[2], c[kStates];
      LoadShared(&tile.rows[kStep][t][self.in_block], step);
      LoadShared(&tile.rows[kDy][t][self.in_block], dy);
      LoadShared(&tile.columns[kC][t][self.state_begin], c);
      const bool forget = Shape::IsReset(tile.resets, t);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        step_sum[i] = forget ? ForgetsEverything() : step_sum[i] + step[i];
#pragma unroll
        for (int j = 0; j < kStates; ++j) {
          const float decay = Exp2(step[i] * rate[i][j]);
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

// A block walks its channels' time (or one segment of it) backward, tile by tile; the next tile's rows are on
// their way meanwhile. In a tile it takes kHeld tokens at a time: forward from the state that was saved
// before them, decays and states kept in registers, and backward over those. Where T is 16 bits wide, what
// enters the states (step * x times b) are outer products for the tensor cores. Sums over states, which the
// gradients of x and step need, go through shared memory inside a warp. Sums over channels, which those of b
// and c need, are products with step * x and dy: the tensor cores take them, with a set's channels as inner
// dimension and the token's place as column, so that kStateGroups tokens fill one accumulator
// (ColumnFactors), or two of them do (PairFactors). What of them is left to sum over sets and blocks is
// written once for every block.
//
// A state and token cost one exponential and, at 32 states in Bf16, 16.5 issue slots by the instructions of
// sm_90a, 2 of them in what is done once a channel. There are three warps a scheduler, as many as registers
// allow; those of a version with 17.5 slots issued in 61 of 100 cycles and waited for fixed latencies, for
// dispatch, for global and shared memory, in this order (ncu).
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kMinBlocks)
    SelectiveScanBackwardKernel(const __grid_constant__ BackwardOperands<T> p) {
  static_assert(FitsAnSm<BackwardTile<T, Shape>, Shape::kMinBlocks>());
  extern __shared__ uint4 shared_memory[];
  auto& tile = *reinterpret_cast<BackwardTile<T, Shape>*>(shared_memory);
  const BackwardPlace place = PlaceOfBackwardBlock<Shape>(p, TakeBlockTicket(p.chain, &tile.block));
  BackwardThread<T, Shape> thread(p, place, tile);
  LoadThreadRates(p, place.channel_begin, thread.self, thread.rate);
  if (place.tile_end > place.tile_begin) CopyBackwardTile<false>(p, place, place.tile_end - 1, tile);
  LoadBackwardChannels(p, place, tile);
  const int64_t first_row = (int64_t{place.segment} * p.batch + place.batch) * p.inner;
  const bool is_chained = p.chain.states != nullptr;
  const int64_t chain_row = int64_t{place.batch} * p.inner;
  const int chain_index = place.batch * p.channel_blocks + place.channel_block;
  if (is_chained && !place.is_last) AwaitSegments(p.chain, chain_index, place.segment, p.segments);
  thread.LoadStart(p, place, is_chained, first_row, chain_row);

  thread.BeginFetch(p, place);
  if (place.tile_end > place.tile_begin) thread.Fetch(p);
  __syncthreads();
  thread.sums.LoadChannels(tile);
  for (int index = place.tile_end - 1; index >= place.tile_begin; --index) {
    AwaitCopies();
    PrepareBackwardTile<false>(p, place, index, tile);
    if (index > place.tile_begin) {
      CopyBackwardTile<false>(p, place, index - 1, tile);
      PrefetchSavedStates<Shape>(p, place, index - 1);
    }
    __syncthreads();
    thread.ReverseTile(p, index, tile);
    StoreBackwardTile(p, place, index, tile);
  }

  thread.StoreEnd(p, place, first_row, chain_row);
  if (is_chained && !place.is_first) EndSegment(p.chain, chain_index, place.segment + 1);
  thread.sums.Store(p, place);
}

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_BACKWARD_KERNELS_CUH_
