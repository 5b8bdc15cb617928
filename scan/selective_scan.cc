// The selective scan: the contract, checked once for every device, and the choice of one.
#include "scan/selective_scan.h"

#include "core/check.h"
#include "core/dispatch.h"
#include "scan/selective_scan_cpu.h"
#include "scan/selective_scan_cuda.h"

namespace hm11 {
namespace {

template <typename N>
Shape ShapeOf(const Columns<N>& columns) {
  return {columns.rows(), columns.cols()};
}

template <typename T>
void CheckOperands(const SelectiveScanArgs<T>& args) {
  HM_CHECK_EQ(args.x.rank(), 3);
  HM_CHECK_EQ(args.a_log.rank(), 2);
  const int64_t batch = args.x.dim(0), time = args.x.dim(1), inner = args.x.dim(2);
  const int64_t state = args.a_log.dim(1);
  HM_CHECK_EQ(args.delta.shape(), args.x.shape());
  HM_CHECK_EQ(args.a_log.shape(), (Shape{inner, state}));
  HM_CHECK_SHAPE_IF_THERE(args.delta_bias, (Shape{inner}));
  HM_CHECK_SHAPE_IF_THERE(args.d, (Shape{inner}));
  HM_CHECK_EQ(ShapeOf(args.b), (Shape{batch * time, state}));
  HM_CHECK_EQ(ShapeOf(args.c), (Shape{batch * time, state}));
  if (!args.z.empty()) HM_CHECK_EQ(ShapeOf(args.z), (Shape{batch * time, inner}));
  HM_CHECK_SHAPE_IF_THERE(args.reset, (Shape{batch, time}));
  HM_CHECK_SHAPE_IF_THERE(args.initial_state, (Shape{batch, inner, state}));
}

template <typename T>
Shape SavedStatesShape(const Device& device, const SelectiveScanArgs<T>& args) {
  const int64_t spacing = device.is_for_cpu() ? kSelectiveScanChunk : kSelectiveScanGpuSpacing;
  return {args.x.dim(0), (args.x.dim(1) + spacing - 1) / spacing, args.x.dim(2), args.a_log.dim(1)};
}

template <typename T>
void CheckSaved(const Device& device, const SelectiveScanArgs<T>& args) {
  HM_CHECK_SHAPE_IF_THERE(args.saved.states, SavedStatesShape(device, args));
  HM_CHECK_SHAPE_IF_THERE(args.saved.ungated, args.x.shape());
}

template <typename T>
void CheckForward(const Device& device, const SelectiveScanArgs<T>& args) {
  CheckOperands(args);
  CheckSaved(device, args);
  HM_CHECK_EQ(args.y.shape(), args.x.shape());
  HM_CHECK_SHAPE_IF_THERE(args.final_state, (Shape{args.x.dim(0), args.x.dim(2), args.a_log.dim(1)}));
}

template <typename T>
void CheckBackward(const Device& device, const SelectiveScanGradArgs<T>& args) {
  const SelectiveScanArgs<T>& forward = args.forward;
  CheckOperands(forward);
  CheckSaved(device, forward);
  const int64_t rows = forward.x.dim(0) * forward.x.dim(1), inner = forward.x.dim(2);
  const Shape states = {forward.x.dim(0), inner, forward.a_log.dim(1)};
  HM_CHECK(!forward.saved.states.empty() || forward.x.empty());
  HM_CHECK(!forward.saved.ungated.empty() || forward.z.empty() || device.is_for_cpu());
  HM_CHECK_EQ(args.dy.shape(), forward.x.shape());
  HM_CHECK_EQ(args.dx.shape(), forward.x.shape());
  HM_CHECK_EQ(args.ddelta.shape(), forward.x.shape());
  HM_CHECK_EQ(ShapeOf(args.db), (Shape{rows, states[2]}));
  HM_CHECK_EQ(ShapeOf(args.dc), (Shape{rows, states[2]}));
  HM_CHECK_EQ(args.dz.empty(), forward.z.empty());
  if (!args.dz.empty()) HM_CHECK_EQ(ShapeOf(args.dz), (Shape{rows, inner}));
  HM_CHECK_EQ(args.da_log.shape(), forward.a_log.shape());
  HM_CHECK_EQ(args.dd.empty(), forward.d.empty());
  HM_CHECK_EQ(args.ddelta_bias.empty(), forward.delta_bias.empty());
  HM_CHECK_SHAPE_IF_THERE(args.dd, (Shape{inner}));
  HM_CHECK_SHAPE_IF_THERE(args.ddelta_bias, (Shape{inner}));
  HM_CHECK_SHAPE_IF_THERE(args.dfinal_state, states);
  HM_CHECK_SHAPE_IF_THERE(args.dinitial_state, states);
}

}  // namespace

template <typename T>
SelectiveScanSaved<T> NewSelectiveScanSaved(Arena& arena, const SelectiveScanArgs<T>& args) {
  SelectiveScanSaved<T> saved;
  saved.states = arena.New<T>(SavedStatesShape(arena.device(), args));
  if (!arena.device().is_for_cpu() && !args.z.empty()) saved.ungated = arena.New<T>(args.x.shape());
  return saved;
}

template <typename T>
void SelectiveScanForward(Arena& arena, const SelectiveScanArgs<T>& args) {
  const OpScope op({"SelectiveScanForward", OpKind::kScan}, args.x, args.delta, args.delta_bias, args.a_log,
                   args.b, args.c, args.d, args.z, args.y);
  const Device& device = arena.device();
  CheckForward(device, args);
  if (args.x.empty()) return;
  Arena::Scope scope(arena);
  DispatchWithPlan<T>(
      "SelectiveScanForward", device,
      [&]<typename U>() {
        const auto scratch = arena.New<uint8_t>({cpu::SelectiveScanForwardScratchBytes<U>(args)});
        if (!device.is_plan()) cpu::SelectiveScanForward(scratch, args);
      },
      [&]<typename U>() {
        const auto scratch = arena.New<uint8_t>({cuda::SelectiveScanForwardScratchBytes<U>(args)});
        if (!device.is_plan()) cuda::SelectiveScanForward(device, scratch, args);
      });
}

template <typename T>
void SelectiveScanBackward(Arena& arena, const SelectiveScanGradArgs<T>& args) {
  const SelectiveScanArgs<T>& forward = args.forward;
  const OpScope op({"SelectiveScanBackward", OpKind::kScan}, forward.x, forward.delta, forward.delta_bias,
                   forward.a_log, forward.b, forward.c, forward.d, forward.z, args.dy, args.dx, args.ddelta,
                   args.db, args.dc, args.dz);
  const Device& device = arena.device();
  CheckBackward(device, args);
  if (args.forward.x.empty()) return;
  Arena::Scope scope(arena);
  DispatchWithPlan<T>(
      "SelectiveScanBackward", device,
      [&]<typename U>() {
        const auto scratch = arena.New<uint8_t>({cpu::SelectiveScanBackwardScratchBytes<U>(args)});
        if (!device.is_plan()) cpu::SelectiveScanBackward(scratch, args);
      },
      [&]<typename U>() {
        const auto scratch = arena.New<uint8_t>({cuda::SelectiveScanBackwardScratchBytes<U>(args)});
        if (!device.is_plan()) cuda::SelectiveScanBackward(device, scratch, args);
      });
}

#define HM_INSTANTIATE(T)                                                                    \
  template SelectiveScanSaved<T> NewSelectiveScanSaved(Arena&, const SelectiveScanArgs<T>&); \
  template void SelectiveScanForward(Arena&, const SelectiveScanArgs<T>&);                   \
  template void SelectiveScanBackward(Arena&, const SelectiveScanGradArgs<T>&);
HM_INSTANTIATE(double)
HM_INSTANTIATE(float)
HM_INSTANTIATE(Bf16)
#undef HM_INSTANTIATE

}  // namespace hm11
