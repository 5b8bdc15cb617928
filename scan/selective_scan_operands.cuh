// What the kernels of both directions of the selective scan read, what they know of it when they are
// compiled, and what they have to ask.
#ifndef HM11_SCAN_SELECTIVE_SCAN_OPERANDS_CUH_
#define HM11_SCAN_SELECTIVE_SCAN_OPERANDS_CUH_

#include <cstdint>

#include "core/launch.cuh"
#include "scan/scan_math.cuh"
#include "scan/selective_scan.h"
#include "scan/selective_scan_chain.cuh"
#include "scan/selective_scan_plan.cuh"

namespace hm11::cuda {

template <typename T>
bool RowsAreVectors(const void* base, int64_t stride, int64_t count) {
  return reinterpret_cast<uintptr_t>(base) % 16 == 0 && stride % kVectorSize<T> == 0 &&
         count % kVectorSize<T> == 0;
}

// What both directions read. Pointers of absent operands are null.
template <typename T>
struct SelectiveScanOperands {
  const T* x;
  const T* delta;
  const T* b;
  const T* c;
  const T* z;
  const float* delta_bias;
  const float* a_log;
  const float* d;
  const uint8_t* reset;
  SegmentEffects effects;
  ChainedScan chain;
  int64_t b_stride;
  int64_t c_stride;
  int64_t z_stride;
  int batch;
  int time;
  int inner;
  int states;
  int channel_blocks;
  int segments;
  int segment_tokens;
  bool softplus;
  bool channel_vectors;  // x, delta, z and the direction's own rows of channels move as 16-byte vectors
  bool column_vectors;   // b and c
  bool state_vectors;    // a thread's states of a channel
};

// Of a direction whose blocks have `block_channels` and whose threads `thread_states`. For `channel_vectors`
// it has to look at its own rows yet.
template <typename T>
SelectiveScanOperands<T> ReadOperands(const SelectiveScanArgs<T>& args, const CutScratch& cut,
                                      int block_channels, int thread_states) {
  const int64_t inner = args.x.dim(2), states = args.a_log.dim(1);
  return {.x = args.x.data(),
          .delta = args.delta.data(),
          .b = args.b.data(),
          .c = args.c.data(),
          .z = args.z.data(),
          .delta_bias = args.delta_bias.data(),
          .a_log = args.a_log.data(),
          .d = args.d.data(),
          .reset = args.reset.data(),
          .effects = cut.effects,
          .chain = cut.chain,
          .b_stride = args.b.stride(),
          .c_stride = args.c.stride(),
          .z_stride = args.z.stride(),
          .batch = static_cast<int>(args.x.dim(0)),
          .time = static_cast<int>(args.x.dim(1)),
          .inner = static_cast<int>(inner),
          .states = static_cast<int>(states),
          .channel_blocks = static_cast<int>(CeilDiv<int64_t>(inner, block_channels)),
          .segments = cut.segments,
          .segment_tokens = cut.parallel.tokens,
          .softplus = args.softplus,
          .channel_vectors = RowsAreVectors<T>(args.x.data(), inner, inner) &&
                             RowsAreVectors<T>(args.delta.data(), inner, inner) &&
                             (args.z.empty() || RowsAreVectors<T>(args.z.data(), args.z.stride(), inner)),
          .column_vectors = RowsAreVectors<T>(args.b.data(), args.b.stride(), states) &&
                            RowsAreVectors<T>(args.c.data(), args.c.stride(), states),
          .state_vectors = states % thread_states == 0};
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
