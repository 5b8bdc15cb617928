// The CPU side of the selective scan: groups of channels, and the kernels that scan one, compiled for
// two CPUs.
#ifndef HM11_SCAN_SELECTIVE_SCAN_CPU_H_
#define HM11_SCAN_SELECTIVE_SCAN_CPU_H_

#include <cstdint>

#include "core/dtype.h"
#include "core/tensor.h"
#include "scan/selective_scan.h"

namespace hm11::cpu {

// Channels [first, first + count) of batch row `b`, all of time, on one thread. `index` numbers the groups of
// a row.
struct ChannelGroup {
  int64_t b, index, first, count;
};

// Sums over one group's channels, or over its batch row's time, that are added up when all groups are done.
template <typename A>
struct SelectiveScanPartials {
  Tensor<A> db;           // [batch, groups, time, state]
  Tensor<A> dc;           // [batch, groups, time, state]
  Tensor<A> da_log;       // [batch, inner, state]
  Tensor<A> dd;           // [batch, inner]
  Tensor<A> ddelta_bias;  // [batch, inner]
};

// T is double or float. `scratch`, aligned to 64 bytes, holds ScratchBytes and is the calling thread's own.
template <typename T>
struct SelectiveScanKernels {
  int64_t (*forward_scratch_bytes)(int64_t channels, int64_t state);
  int64_t (*backward_scratch_bytes)(int64_t channels, int64_t state);
  void (*forward)(const SelectiveScanArgs<T>& args, const ChannelGroup& group, void* scratch);
  void (*backward)(const SelectiveScanGradArgs<T>& args, const ChannelGroup& group,
                   const SelectiveScanPartials<T>& partials, void* scratch);
};

// For any CPU that runs this program.
template <typename T>
SelectiveScanKernels<T> BaselineKernels();
// For CPUs with AVX-512; float only.
SelectiveScanKernels<float> Avx512Kernels();

// All groups, on all threads. Memory comes from `scratch`, of at least the bytes that
// SelectiveScanScratchBytes says.
template <typename T>
int64_t SelectiveScanForwardScratchBytes(const SelectiveScanArgs<T>& args);
template <typename T>
int64_t SelectiveScanBackwardScratchBytes(const SelectiveScanGradArgs<T>& args);
template <typename T>
void SelectiveScanForward(Tensor<uint8_t> scratch, const SelectiveScanArgs<T>& args);
template <typename T>
void SelectiveScanBackward(Tensor<uint8_t> scratch, const SelectiveScanGradArgs<T>& args);

}  // namespace hm11::cpu

#endif  // HM11_SCAN_SELECTIVE_SCAN_CPU_H_
