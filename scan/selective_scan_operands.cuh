// What kernels of the selective scan know of their operands when they are compiled, and what they have to
// ask.
#ifndef HM11_SCAN_SELECTIVE_SCAN_OPERANDS_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_OPERANDS_CUH_

#include <cstdint>

#include "core/launch.cuh"
#include "scan/scan_math.cuh"
#include "scan/selective_scan.h"

namespace hm11::cuda {

template <typename T>
bool RowsAreVectors(const void* base, int64_t stride, int64_t count) {
  return reinterpret_cast<uintptr_t>(base) % 16 == 0 && stride % kVectorSize<T> == 0 &&
         count % kVectorSize<T> == 0;
}

// Whether every operand is there, channels and states fill their blocks, nothing is reset and all rows move
// as vectors, so that the kernels of training will do. Tensors begin at multiples of Arena::kAlignment,
// slices of them at rows.
template <typename T>
bool ScanIsWhole(const SelectiveScanArgs<T>& args) {
  const int64_t inner = args.x.dim(2), states = args.a_log.dim(1);
  bool vectors = true;
  for (const T* rows : {args.x.data(), args.delta.data(), static_cast<const T*>(args.y.data()),
                        static_cast<const T*>(args.saved.ungated.data())}) {
    vectors = vectors && RowsAreVectors<T>(rows, inner, inner);
  }
  return vectors && !args.z.empty() && args.reset.empty() && args.softplus && inner % 64 == 0 &&
         (states == 8 || states == 16 || states == 32 || states == 64) &&
         RowsAreVectors<T>(args.z.data(), args.z.stride(), inner) &&
         RowsAreVectors<T>(args.b.data(), args.b.stride(), states) &&
         RowsAreVectors<T>(args.c.data(), args.c.stride(), states);
}

// What a thread has to ask of a kernel's operands `p`. Where they are whole, as in training (ScanIsWhole),
// the answers are known when the kernel is compiled, and nothing is asked.
template <bool kWholeOperands>
struct OperandPolicy {
  static constexpr bool kWhole = kWholeOperands;

  // Whether rows move as 16-byte vectors: those of channels, of b and c, of a thread's states of a channel.
  template <typename Operands>
  static __device__ __forceinline__ bool ChannelVectors(const Operands& p) {
    return kWhole || p.channel_vectors;
  }
  template <typename Operands>
  static __device__ __forceinline__ bool ColumnVectors(const Operands& p) {
    return kWhole || p.column_vectors;
  }
  template <typename Operands>
  static __device__ __forceinline__ bool StateVectors(const Operands& p) {
    return kWhole || p.state_vectors;
  }

  // The host asks too.
  template <typename Operands>
  static __host__ __device__ __forceinline__ bool HasGate(const Operands& p) {
    return kWhole || p.z != nullptr;
  }
  template <typename Operands>
  static __device__ __forceinline__ bool HasSoftplus(const Operands& p) {
    return kWhole || p.softplus;
  }
  // `states`, or 0 for a channel past the end.
  template <typename Operands>
  static __device__ __forceinline__ int StatesOf(const Operands& p, int channel, int states) {
    return kWhole || channel < p.inner ? states : 0;
  }
  // `resets` has bit t for the tile's token t.
  static __device__ __forceinline__ bool IsReset(unsigned resets, int t) {
    return !kWhole && (resets >> t & 1u) != 0;
  }
};

}  // namespace hm11::cuda

#endif  // HM11_SCAN_SELECTIVE_SCAN_OPERANDS_CUH_
