// The linear recurrence: the contract, checked once for every device, and the choice of one.
#include "scan/linear_recurrence.h"

#include "core/check.h"
#include "scan/linear_recurrence_cpu.h"
#include "scan/linear_recurrence_cuda.h"

namespace hm11 {
namespace {

cpu::ScanGeometry GeometryOf(const ScanOptions& options, const Shape& shape) {
  HM_CHECK_EQ(shape.rank(), 3);
  const bool time_major = options.layout == ScanLayout::kTimeMajor;
  cpu::ScanGeometry geometry;
  geometry.batch = shape[0];
  geometry.length = time_major ? shape[1] : shape[2];
  geometry.channels = time_major ? shape[2] : shape[1];
  HM_CHECK_GE(geometry.length, 1);
  geometry.batch_stride = geometry.length * geometry.channels;
  geometry.time_stride = time_major ? geometry.channels : 1;
  geometry.channel_stride = time_major ? 1 : geometry.length;
  geometry.reversed = options.reversed;
  return geometry;
}

template <typename T>
int64_t CpuScratchBytes(const ScanOptions& options, const cpu::ScanGeometry& geometry) {
  if (options.algorithm != ScanAlgorithm::kHillisSteele) return 0;
  return 2 * geometry.size() * static_cast<int64_t>(sizeof(Accum<T>));
}

template <typename A>
Tensor<A> AsPairs(const Tensor<uint8_t>& scratch) {
  return Tensor<A>(reinterpret_cast<A*>(scratch.data()), {scratch.size() / static_cast<int64_t>(sizeof(A))});
}

// Calls the function for the device with scratch of as many bytes as that needs; of a plan only the bytes are
// taken.
template <typename T, typename CudaBytes, typename OnCuda, typename OnCpu>
void RunWithScratch(Arena& arena, int64_t cpu_bytes, const OnCpu& on_cpu, const CudaBytes& cuda_bytes,
                    const OnCuda& on_cuda) {
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  if constexpr (kOnCuda<T>) {
    if (!device.is_for_cpu()) {
      const auto scratch = arena.New<uint8_t>({cuda_bytes.template operator()<T>()});
      if (!device.is_plan()) on_cuda.template operator()<T>(scratch);
      return;
    }
  }
  const auto scratch = arena.New<uint8_t>({cpu_bytes});
  if (device.is_plan()) return;
  HM_CHECK(device.is_cpu());
  on_cpu(scratch);
}

}  // namespace

template <typename T>
void LinearRecurrenceForward(Arena& arena, const ScanOptions& options, const LinearRecurrenceArgs<T>& args) {
  const cpu::ScanGeometry geometry = GeometryOf(options, args.gates.shape());
  HM_CHECK_EQ(args.values.shape(), args.gates.shape());
  HM_CHECK_EQ(args.states.shape(), args.gates.shape());
  const Shape state = {geometry.batch, geometry.channels};
  HM_CHECK_SHAPE_IF_THERE(args.initial_state, state);
  HM_CHECK_SHAPE_IF_THERE(args.final_state, state);
  if (geometry.size() == 0) return;

  const auto on_cpu = [&](const Tensor<uint8_t>& scratch) {
    switch (options.algorithm) {
      case ScanAlgorithm::kSequential:
        return cpu::SequentialForward(geometry, args);
      case ScanAlgorithm::kHillisSteele:
        return cpu::HillisSteeleForward(geometry, AsPairs<Accum<T>>(scratch), args);
      case ScanAlgorithm::kChunked:
        return cpu::ChunkedForward(geometry, args);
    }
  };
  RunWithScratch<T>(
      arena, CpuScratchBytes<T>(options, geometry), on_cpu,
      [&]<typename U>() { return cuda::LinearRecurrenceForwardScratchBytes<U>(options, args); },
      [&]<typename U>(const Tensor<uint8_t>& scratch) {
        cuda::LinearRecurrenceForward<U>(arena.device(), scratch, options, args);
      });
}

template <typename T>
void LinearRecurrenceBackward(Arena& arena, const ScanOptions& options,
                              const LinearRecurrenceGradArgs<T>& args) {
  const cpu::ScanGeometry geometry = GeometryOf(options, args.gates.shape());
  HM_CHECK_EQ(args.states.shape(), args.gates.shape());
  HM_CHECK_EQ(args.dstates.shape(), args.gates.shape());
  HM_CHECK_EQ(args.dgates.shape(), args.gates.shape());
  HM_CHECK_EQ(args.dvalues.shape(), args.gates.shape());
  const Shape state = {geometry.batch, geometry.channels};
  HM_CHECK_SHAPE_IF_THERE(args.initial_state, state);
  HM_CHECK_SHAPE_IF_THERE(args.dfinal_state, state);
  HM_CHECK_SHAPE_IF_THERE(args.dinitial_state, state);
  if (geometry.size() == 0) return;

  const auto on_cpu = [&](const Tensor<uint8_t>& scratch) {
    switch (options.algorithm) {
      case ScanAlgorithm::kSequential:
        return cpu::SequentialBackward(geometry, args);
      case ScanAlgorithm::kHillisSteele:
        return cpu::HillisSteeleBackward(geometry, AsPairs<Accum<T>>(scratch), args);
      case ScanAlgorithm::kChunked:
        return cpu::ChunkedBackward(geometry, args);
    }
  };
  RunWithScratch<T>(
      arena, CpuScratchBytes<T>(options, geometry), on_cpu,
      [&]<typename U>() { return cuda::LinearRecurrenceBackwardScratchBytes<U>(options, args); },
      [&]<typename U>(const Tensor<uint8_t>& scratch) {
        cuda::LinearRecurrenceBackward<U>(arena.device(), scratch, options, args);
      });
}

#define HM_INSTANTIATE(T)                                                                            \
  template void LinearRecurrenceForward(Arena&, const ScanOptions&, const LinearRecurrenceArgs<T>&); \
  template void LinearRecurrenceBackward(Arena&, const ScanOptions&, const LinearRecurrenceGradArgs<T>&);
HM_INSTANTIATE(double)
HM_INSTANTIATE(float)
HM_INSTANTIATE(Bf16)
HM_INSTANTIATE(Fp16)
#undef HM_INSTANTIATE

}  // namespace hm11
