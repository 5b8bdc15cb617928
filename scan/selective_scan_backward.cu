// The selective scan's backward pass on a GPU: shapes of blocks, scratch memory, launches.
#include <type_traits>

#include "core/launch.cuh"
#include "scan/selective_scan_backward_kernels.cuh"
#include "scan/selective_scan_backward_sums.cuh"
#include "scan/selective_scan_cuda.h"
#include "scan/selective_scan_plan.cuh"

namespace hm11::cuda {
namespace {

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
BackwardOperands<T> ReadBackwardOperands(const SelectiveScanGradArgs<T>& args,
                                         const BackwardScratch<T>& scratch) {
  const SelectiveScanArgs<T>& forward = args.forward;
  BackwardOperands<T> p = {ReadOperands(forward, scratch.cut, Shape::kBlockChannels, Shape::kThreadStates)};
  p.ungated = forward.saved.ungated.data();
  p.dy = args.dy.data();
  p.saved_states = forward.saved.states.data();
  p.dfinal_state = args.dfinal_state.data();
  p.dx = args.dx.data();
  p.ddelta = args.ddelta.data();
  p.dz = args.dz.data();
  p.dcolumns = scratch.dcolumns;
  p.da_log = scratch.da_log;
  p.dd = scratch.dd;
  p.ddelta_bias = scratch.ddelta_bias;
  p.dinitial_state = args.dinitial_state.data();
  p.dz_stride = args.dz.stride();
  p.saved_stride = args.dy.dim(2) * forward.a_log.dim(1);
  for (const void* rows :
       {static_cast<const void*>(p.dy), static_cast<const void*>(p.dx), static_cast<const void*>(p.ddelta)}) {
    p.channel_vectors = p.channel_vectors && RowsAreVectors<T>(rows, p.inner, p.inner);
  }
  if (Shape::HasGate(p)) {
    p.channel_vectors = p.channel_vectors && RowsAreVectors<T>(p.ungated, p.inner, p.inner) &&
                        RowsAreVectors<T>(p.dz, p.dz_stride, p.inner);
  }
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
  BackwardOperands<T> p = ReadBackwardOperands<T, Shape>(args, scratch);
  const LaunchShape shape = {
      .blocks = dim3(static_cast<unsigned>(scratch.channel_blocks * batch * p.segments)),
      .threads = dim3(Shape::kThreads),
      .shared_bytes = sizeof(BackwardTile<T, Shape>)};
  if (scratch.cut.is_chained) p.chain.counters = device.counters();
  if (scratch.cut.parallel.count > 1) {
    Launch(device, shape, SelectiveScanSegmentGradientKernel<T, Shape>, p);
    CombineSegments(device, {.effects = p.effects,
                             .a_log = p.a_log,
                             .start = p.dfinal_state,
                             .segments = p.segments,
                             .batch = batch,
                             .inner = inner,
                             .states = states,
                             .backward = true});
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
  AddParts(device,
           {{{p.da_log, inner * states, args.da_log.data()},
             {p.dd, args.dd.size(), args.dd.data()},
             {p.ddelta_bias, args.ddelta_bias.size(), args.ddelta_bias.data()}}},
           scratch.parts);
}

// <states, state groups, tokens of a tile, blocks of an SM>, for so many states.
template <typename T, bool kWhole>
struct BackwardShapes {
  using UpTo8 = BackwardShape<8, 4, 16, 2, kWhole>;
  using UpTo16 = BackwardShape<16, 4, 16, 2, kWhole>;
  using UpTo32 = BackwardShape<32, 8, 16, 2, kWhole>;
  using UpTo64 = BackwardShape<64, 8, 16, 2, kWhole>;
};
template <bool kWhole>
struct BackwardShapes<Bf16, kWhole> {
  using UpTo8 = BackwardShape<8, 4, 16, 3, kWhole>;
  using UpTo16 = BackwardShape<16, 4, 16, 3, kWhole>;
  using UpTo32 = BackwardShape<32, 8, 32, 3, kWhole>;
  using UpTo64 = BackwardShape<64, 8, 32, 2, kWhole>;
};

// Calls function(Shape()) with the shape for this many states.
template <typename T, bool kWhole, typename Function>
auto WithBackwardShape(int64_t states, Function function) {
  using Shapes = BackwardShapes<T, kWhole>;
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
  return WithBackwardShape<T, false>(args.forward.a_log.dim(1), [&](auto shape) {
    return BackwardScratchBytes<T, decltype(shape)>(args.forward);
  });
}

template <typename T>
void SelectiveScanBackward(const Device& device, Tensor<uint8_t> scratch,
                           const SelectiveScanGradArgs<T>& args) {
  const auto run = [&](auto shape) { Backward<T, decltype(shape)>(device, scratch, args); };
  const int64_t states = args.forward.a_log.dim(1);
  if constexpr (std::is_same_v<T, Bf16>) {
    if (IsWhole(args)) return WithBackwardShape<T, true>(states, run);
  }
  WithBackwardShape<T, false>(states, run);
}

template int64_t SelectiveScanBackwardScratchBytes<float>(const SelectiveScanGradArgs<float>&);
template int64_t SelectiveScanBackwardScratchBytes<Bf16>(const SelectiveScanGradArgs<Bf16>&);
template void SelectiveScanBackward<float>(const Device&, Tensor<uint8_t>,
                                           const SelectiveScanGradArgs<float>&);
template void SelectiveScanBackward<Bf16>(const Device&, Tensor<uint8_t>, const SelectiveScanGradArgs<Bf16>&);

}  // namespace hm11::cuda
