// The doors of the selective scan: the contract checked once for every device, then left or right.
#include "scan/selective_scan.h"

#include "core/check.h"
#include "scan/selective_scan_cpu.h"
#include "scan/selective_scan_cuda.h"

namespace hm11 {
namespace {

template <typename N>
void CheckShapeIfThere(const Tensor<N>& tensor, const Shape& shape) {
  if (!tensor.empty()) HM_CHECK_EQ(tensor.shape(), shape);
}

template <typename N>
void CheckColumns(const Columns<N>& columns, int64_t rows, int64_t cols) {
  HM_CHECK_EQ(columns.rows(), rows);
  HM_CHECK_EQ(columns.cols(), cols);
}

template <typename T>
void CheckOperands(const SelectiveScanArgs<T>& args) {
  HM_CHECK_EQ(args.x.rank(), 3);
  HM_CHECK_EQ(args.a_log.rank(), 2);
  const int64_t batch = args.x.dim(0), time = args.x.dim(1), inner = args.x.dim(2);
  const int64_t state = args.a_log.dim(1);
  HM_CHECK_EQ(args.delta.shape(), args.x.shape());
  HM_CHECK_EQ(args.a_log.shape(), (Shape{inner, state}));
  CheckShapeIfThere(args.delta_bias, {inner});
  CheckShapeIfThere(args.d, {inner});
  CheckColumns(args.b, batch * time, state);
  CheckColumns(args.c, batch * time, state);
  if (!args.z.empty()) CheckColumns(args.z, batch * time, inner);
  CheckShapeIfThere(args.reset, {batch, time});
  CheckShapeIfThere(args.initial_state, {batch, inner, state});
}

template <typename T>
Shape SavedStatesShape(const Device& device, const SelectiveScanArgs<T>& args) {
  const int64_t spacing = device.is_for_cpu() ? kSelectiveScanChunk : kSelectiveScanGpuSpacing;
  return {args.x.dim(0), (args.x.dim(1) + spacing - 1) / spacing, args.x.dim(2), args.a_log.dim(1)};
}

template <typename T>
void CheckSaved(const Device& device, const SelectiveScanArgs<T>& args) {
  CheckShapeIfThere(args.saved.states, SavedStatesShape(device, args));
  CheckShapeIfThere(args.saved.ungated, args.x.shape());
}

template <typename T>
void CheckForward(const Device& device, const SelectiveScanArgs<T>& args) {
  CheckOperands(args);
  CheckSaved(device, args);
  HM_CHECK_EQ(args.y.shape(), args.x.shape());
  CheckShapeIfThere(args.final_state, {args.x.dim(0), args.x.dim(2), args.a_log.dim(1)});
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
  for (const Shape& shape : {args.dy.shape(), args.dx.shape(), args.ddelta.shape()}) {
    HM_CHECK_EQ(shape, forward.x.shape());
  }
  CheckColumns(args.db, rows, states[2]);
  CheckColumns(args.dc, rows, states[2]);
  HM_CHECK_EQ(args.dz.empty(), forward.z.empty());
  if (!args.dz.empty()) CheckColumns(args.dz, rows, inner);
  HM_CHECK_EQ(args.da_log.shape(), forward.a_log.shape());
  HM_CHECK_EQ(args.dd.empty(), forward.d.empty());
  HM_CHECK_EQ(args.ddelta_bias.empty(), forward.delta_bias.empty());
  CheckShapeIfThere(args.dd, {inner});
  CheckShapeIfThere(args.ddelta_bias, {inner});
  CheckShapeIfThere(args.dfinal_state, states);
  CheckShapeIfThere(args.dinitial_state, states);
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
  const Device& device = arena.device();
  CheckForward(device, args);
  if (args.x.empty()) return;
  Arena::Scope scope(arena);
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (!device.is_for_cpu()) {
      const int64_t bytes = cuda::SelectiveScanForwardScratchBytes(args);
      const Tensor<uint8_t> scratch = arena.New<uint8_t>({bytes});
      if (!device.is_plan()) cuda::SelectiveScanForward(device, scratch, args);
      return;
    }
  }
#endif
  if constexpr (kOnCpu<T>) {
    const Tensor<uint8_t> scratch = arena.New<uint8_t>({cpu::SelectiveScanForwardScratchBytes(args)});
    if (device.is_plan()) return;
    HM_CHECK(device.is_cpu());
    cpu::SelectiveScanForward(scratch, args);
  } else {
    HM_CHECK(device.is_plan());  // Without CUDA nothing runs 16 bits, and nothing is there to plan for.
  }
}

template <typename T>
void SelectiveScanBackward(Arena& arena, const SelectiveScanGradArgs<T>& args) {
  const Device& device = arena.device();
  CheckBackward(device, args);
  if (args.forward.x.empty()) return;
  Arena::Scope scope(arena);
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (!device.is_for_cpu()) {
      const int64_t bytes = cuda::SelectiveScanBackwardScratchBytes(args);
      const Tensor<uint8_t> scratch = arena.New<uint8_t>({bytes});
      if (!device.is_plan()) cuda::SelectiveScanBackward(device, scratch, args);
      return;
    }
  }
#endif
  if constexpr (kOnCpu<T>) {
    const Tensor<uint8_t> scratch = arena.New<uint8_t>({cpu::SelectiveScanBackwardScratchBytes(args)});
    if (device.is_plan()) return;
    HM_CHECK(device.is_cpu());
    cpu::SelectiveScanBackward(scratch, args);
  } else {
    HM_CHECK(device.is_plan());
  }
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
