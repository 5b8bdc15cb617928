// How the selective scan is spread over a GPU: cutting time into segments, those that are scanned side by
// side and those that are chained, and the scratch memory that takes.
#ifndef HM11_SCAN_SELECTIVE_SCAN_PLAN_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_PLAN_CUH_

#include <algorithm>
#include <cstdint>

#include "core/arena.h"
#include "core/device.h"
#include "core/launch.cuh"
#include "scan/scan_math.cuh"
#include "scan/selective_scan.h"
#include "scan/selective_scan_chain.cuh"

namespace hm11::cuda {

// Time is cut into `count` segments of `tokens` each (a multiple of kSelectiveScanChunk; the last may be
// shorter) so that some 800 blocks of 64 channels run at once. A function of the shape alone: results must
// not depend on the GPU. More than one segment costs a second pass over the decays, so it is done only when
// most of the GPU would idle otherwise.
struct TimeSegments {
  int count;
  int tokens;
};

inline TimeSegments CutTime(int64_t batch, int64_t time, int64_t inner) {
  constexpr int64_t kBlocks = 132 * 6;
  const int64_t chunks = CeilDiv<int64_t>(time, kSelectiveScanChunk);
  const int64_t blocks = batch * CeilDiv<int64_t>(inner, 64);
  const int64_t wanted = blocks * 4 > kBlocks ? 1 : std::min(chunks, kBlocks / blocks);
  const int64_t segment_chunks = CeilDiv<int64_t>(chunks, std::max<int64_t>(wanted, 1));
  return {static_cast<int>(CeilDiv<int64_t>(chunks, segment_chunks)),
          static_cast<int>(segment_chunks * kSelectiveScanChunk)};
}

// A sum of step sizes that says "a reset came between": nothing of the state before is left.
__device__ __forceinline__ float ForgetsEverything() { return __int_as_float(0x7f800000); }

// Scratch by bumping a pointer; with a null base it only counts.
class Scratch {
 public:
  explicit Scratch(uint8_t* base) : base_(base) {}
  template <typename U>
  U* Take(int64_t count) {
    U* taken = base_ == nullptr ? nullptr : reinterpret_cast<U*>(base_ + used_);
    const int64_t size_bytes = count * static_cast<int64_t>(sizeof(U));
    used_ += CeilDiv<int64_t>(size_bytes, Arena::kAlignment) * Arena::kAlignment;
    return taken;
  }
  int64_t used_bytes() const { return used_; }

 private:
  uint8_t* base_;
  int64_t used_ = 0;
};

// What one segment does to the state that enters it: scaled by exp2(rate * steps), plus `states`.
struct SegmentEffects {
  float* states = nullptr;  // [segments, batch, inner, state]
  float* steps = nullptr;   // [segments, batch, inner], a sum over the segment's tokens
};

// How a pass cuts time, and the scratch that takes: of channels in `channel_blocks` blocks.
struct CutScratch {
  CutScratch(Scratch& scratch, int64_t batch, int64_t time, int64_t inner, int64_t states,
             int64_t channel_blocks)
      : parallel(CutTime(batch, time, inner)),
        is_chained(parallel.count == 1 && ChainedSegments(time) > 1 &&
                   1 + batch * channel_blocks <= Device::kCounters),  // beyond, whole sequences fill any GPU
        segments(is_chained ? ChainedSegments(time) : parallel.count) {
    if (parallel.count > 1) {
      effects.states = scratch.Take<float>(segments * batch * inner * states);
      effects.steps = scratch.Take<float>(segments * batch * inner);
    } else if (is_chained) {
      chain.states = scratch.Take<float>(batch * inner * states);
    }
  }

  TimeSegments parallel;
  bool is_chained;
  int segments;
  SegmentEffects effects;
  ChainedScan chain;  // without counters
};

struct CombineSegmentsArgs {
  SegmentEffects effects;
  const float* a_log;  // [inner, states]
  const float* start;  // [batch, inner, states]; may be absent: 0
  int segments;
  int64_t batch, inner, states;
  bool backward;  // from the last segment to the first
};

// effects.states[k] becomes what enters segment k. One thread a state.
void CombineSegments(const Device& device, const CombineSegmentsArgs& args);

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_PLAN_CUH_
