// The selective scan's forward pass on a GPU: shapes of blocks, scratch memory, launches.
#include <type_traits>

#include "core/launch.cuh"
#include "scan/selective_scan_cuda.h"
#include "scan/selective_scan_forward_recurrence.cuh"
#include "scan/selective_scan_plan.cuh"

namespace hm11::cuda {
namespace {

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
ForwardOperands<T> ReadForwardOperands(const SelectiveScanArgs<T>& args, const CutScratch& cut) {
  ForwardOperands<T> p = {ReadOperands(args, cut, kForwardBlockChannels, Shape::kThreadStates)};
  p.initial_state = args.initial_state.data();
  p.y = args.y.data();
  p.ungated = args.saved.ungated.data();
  p.saved_states = args.saved.states.data();
  p.final_state = args.final_state.data();
  p.channel_vectors = p.channel_vectors && RowsAreVectors<T>(p.y, p.inner, p.inner);
  return p;
}

template <typename T, typename Shape>
void Forward(const Device& device, Tensor<uint8_t> scratch, const SelectiveScanArgs<T>& args) {
  const int64_t batch = args.x.dim(0), time = args.x.dim(1), inner = args.x.dim(2);
  const int64_t states = args.a_log.dim(1);
  const int64_t channel_blocks = CeilDiv<int64_t>(inner, kForwardBlockChannels);
  Scratch taken(scratch.data());
  const CutScratch cut(taken, batch, time, inner, states, channel_blocks);
  ForwardOperands<T> p = ReadForwardOperands<T, Shape>(args, cut);
  LaunchShape shape = {.blocks = dim3(static_cast<unsigned>(p.channel_blocks * batch * p.segments)),
                       .threads = dim3(Shape::kThreads),
                       .shared_bytes = sizeof(ForwardTile<T, Shape>)};
  if (cut.is_chained) p.chain.counters = device.counters();
  if (cut.parallel.count > 1) {
    Launch(device, shape, SelectiveScanForwardKernel<T, Shape, true>, p);
    CombineSegments(device, {.effects = p.effects,
                             .a_log = p.a_log,
                             .start = p.initial_state,
                             .segments = p.segments,
                             .batch = batch,
                             .inner = inner,
                             .states = states,
                             .backward = false});
    p.initial_state = p.effects.states;
    shape.programmatic_launch = true;  // after CombineSegments
  }
  Launch(device, shape, SelectiveScanForwardKernel<T, Shape, false>, p);
}

}  // namespace

template <typename T>
int64_t SelectiveScanForwardScratchBytes(const SelectiveScanArgs<T>& args) {
  const int64_t inner = args.x.dim(2);
  Scratch counted(nullptr);
  CutScratch(counted, args.x.dim(0), args.x.dim(1), inner, args.a_log.dim(1),
             CeilDiv<int64_t>(inner, kForwardBlockChannels));
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
