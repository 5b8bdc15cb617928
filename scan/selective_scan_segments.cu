// What enters each of the segments that are scanned side by side.
#include "core/launch.cuh"
#include "core/special_functions.cuh"
#include "scan/scan_math.cuh"
#include "scan/selective_scan_plan.cuh"

namespace hm11::cuda {
namespace {

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
  TriggerProgrammaticLaunch();
  GridDependencySynchronize();
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

}  // namespace

void CombineSegments(const Device& device, const CombineSegmentsArgs& args) {
  const int64_t rows = args.batch * args.inner;
  const auto blocks = static_cast<unsigned>(CeilDiv<int64_t>(rows * args.states, kCombineThreads));
  Launch(device, {.blocks = dim3(blocks), .threads = dim3(kCombineThreads), .programmatic_launch = true},
         CombineSegmentsKernel, args.effects, args.a_log, args.start, args.segments, rows, args.inner,
         static_cast<int>(args.states), args.backward);
}

}  // namespace hm11::cuda
