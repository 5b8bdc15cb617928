// The selective scan's kernels for vectors of kLanes channels.
#ifndef HM11_SCAN_SELECTIVE_SCAN_KERNELS_H_
#define HM11_SCAN_SELECTIVE_SCAN_KERNELS_H_

#include "scan/selective_scan_backward.h"
#include "scan/selective_scan_cpu.h"
#include "scan/selective_scan_forward.h"
#include "scan/selective_scan_vectors.h"

namespace hm11::cpu {
namespace {

template <typename T, int kLanes>
SelectiveScanKernels<T> KernelsOf() {
  SelectiveScanKernels<T> kernels;
  kernels.forward_scratch_bytes = ForwardScan<T, kLanes>::ScratchBytes;
  kernels.backward_scratch_bytes = BackwardScan<T, kLanes>::ScratchBytes;
  kernels.forward = [](const SelectiveScanArgs<T>& args, const ChannelGroup& group, void* scratch) {
    const FlushDenormals flush;
    ForwardScan<T, kLanes>(args, group, Carver(scratch)).Run();
  };
  kernels.backward = [](const SelectiveScanGradArgs<T>& args, const ChannelGroup& group,
                        const SelectiveScanPartials<T>& partials, void* scratch) {
    const FlushDenormals flush;
    BackwardScan<T, kLanes>(args, group, partials, Carver(scratch)).Run();
  };
  return kernels;
}

}  // namespace
}  // namespace hm11::cpu

#endif  // HM11_SCAN_SELECTIVE_SCAN_KERNELS_H_
