// The linear recurrence on a GPU: sequential, Hillis-Steele, and the way to the chunked one.
#include <algorithm>
#include <utility>

#include "scan/linear_recurrence_cuda.h"
#include "scan/linear_recurrence_kernels.cuh"

namespace hm11::cuda {
namespace {

// Where token `index` of the scan's order lies.
template <typename T>
__device__ __forceinline__ int64_t OffsetOf(const RecurrenceOperands<T>& p, int64_t row, int64_t index) {
  const int64_t token = p.descending ? p.length - 1 - index : index;
  return p.layout == ScanLayout::kTimeMajor
             ? (row / p.channels * p.length + token) * p.channels + row % p.channels
             : row * p.length + token;
}

// The state before token `index` of the scan's order, which runs against forward's.
template <typename T>
__device__ __forceinline__ float StateBefore(const RecurrenceOperands<T>& p, int64_t row, int64_t index) {
  if (index + 1 < p.length) return ToFloat(p.states[OffsetOf(p, row, index + 1)]);
  return p.initial_state == nullptr ? 0.0f : p.initial_state[row];
}

// The loop: a thread a channel.
template <typename T, bool kBackward>
__global__ void __launch_bounds__(128) SequentialKernel(const __grid_constant__ RecurrenceOperands<T> p) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (row >= p.batch * p.channels) return;
  float carry = p.first_carry == nullptr ? 0.0f : p.first_carry[row];
  for (int64_t index = 0; index < p.length; ++index) {
    const int64_t offset = OffsetOf(p, row, index);
    const float gate = ToFloat(p.gates[offset]);
    if constexpr (kBackward) {
      const float dh = ToFloat(p.values[offset]) + carry;
      p.out[offset] = FromFloat<T>(Storable<T>(dh));
      p.dgates[offset] = FromFloat<T>(Storable<T>(dh * StateBefore(p, row, index)));
      carry = gate * dh;
    } else {
      carry = fmaf(gate, carry, ToFloat(p.values[offset]));
      p.out[offset] = FromFloat<T>(Storable<T>(carry));
    }
  }
  if (p.last_carry != nullptr) p.last_carry[row] = carry;
}

// Hillis-Steele keeps, for every token and row, the effect (gain, sum) of the tokens up to it, [length, rows]
// in the scan's order.
struct Effects {
  float* gains;
  float* sums;
};

template <typename T, bool kBackward>
__global__ void __launch_bounds__(256)
    HillisSteeleStartKernel(const __grid_constant__ RecurrenceOperands<T> p, Effects to) {
  const int64_t rows = p.batch * p.channels;
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= rows * p.length) return;
  const int64_t row = index % rows;
  const int64_t offset = OffsetOf(p, row, index / rows);
  const float gate = ToFloat(p.gates[offset]);
  float sum = ToFloat(p.values[offset]);
  if (kBackward) sum *= gate;
  if (index < rows && p.first_carry != nullptr) sum = fmaf(gate, p.first_carry[row], sum);
  to.gains[index] = gate;
  to.sums[index] = sum;
}

__global__ void __launch_bounds__(256)
    HillisSteeleSweepKernel(Effects from, Effects to, int64_t distance, int64_t size) {
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= size) return;
  float gain = from.gains[index];
  float sum = from.sums[index];
  if (index >= distance) {
    sum = fmaf(gain, from.sums[index - distance], sum);
    gain *= from.gains[index - distance];
  }
  to.gains[index] = gain;
  to.sums[index] = sum;
}

template <typename T, bool kBackward>
__global__ void __launch_bounds__(256)
    HillisSteeleFinishKernel(const __grid_constant__ RecurrenceOperands<T> p, Effects from) {
  const int64_t rows = p.batch * p.channels;
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= rows * p.length) return;
  const int64_t row = index % rows;
  const int64_t offset = OffsetOf(p, row, index / rows);
  if constexpr (kBackward) {
    const float first = p.first_carry == nullptr ? 0.0f : p.first_carry[row];
    const float dh = ToFloat(p.values[offset]) + (index < rows ? first : from.sums[index - rows]);
    p.out[offset] = FromFloat<T>(Storable<T>(dh));
    p.dgates[offset] = FromFloat<T>(Storable<T>(dh * StateBefore(p, row, index / rows)));
  } else {
    p.out[offset] = FromFloat<T>(Storable<T>(from.sums[index]));
  }
  if (p.last_carry != nullptr && index >= rows * (p.length - 1)) p.last_carry[row] = from.sums[index];
}

template <typename T, bool kBackward>
void RunHillisSteele(const Device& device, Tensor<uint8_t> scratch, const RecurrenceOperands<T>& p) {
  const int64_t rows = p.batch * p.channels;
  const int64_t size = rows * p.length;
  HM_CHECK_LE(4 * size * static_cast<int64_t>(sizeof(float)), scratch.size());
  float* numbers = reinterpret_cast<float*>(scratch.data());
  Effects from = {numbers, numbers + size};
  Effects to = {numbers + 2 * size, numbers + 3 * size};
  const LaunchShape shape = {.blocks = dim3(static_cast<unsigned>(CeilDiv<int64_t>(size, 256))),
                             .threads = dim3(256)};
  Launch(device, shape, HillisSteeleStartKernel<T, kBackward>, p, from);
  for (int64_t distance = 1; distance < p.length; distance *= 2) {
    Launch(device, shape, HillisSteeleSweepKernel, from, to, distance * rows, size);
    std::swap(from, to);
  }
  Launch(device, shape, HillisSteeleFinishKernel<T, kBackward>, p, from);
}

template <typename T, bool kBackward>
void Run(const Device& device, Tensor<uint8_t> scratch, ScanAlgorithm algorithm,
         const RecurrenceOperands<T>& p) {
  switch (algorithm) {
    case ScanAlgorithm::kSequential:
      Launch(device,
             {.blocks = dim3(static_cast<unsigned>(CeilDiv<int64_t>(p.batch * p.channels, 128))),
              .threads = dim3(128)},
             SequentialKernel<T, kBackward>, p);
      break;
    case ScanAlgorithm::kHillisSteele:
      RunHillisSteele<T, kBackward>(device, scratch, p);
      break;
    case ScanAlgorithm::kChunked:
      RunChunked(device, scratch, kBackward, p);
      break;
  }
}

template <typename T>
int64_t ScratchBytes(const ScanOptions& options, const Shape& shape, bool backward) {
  const bool time_major = options.layout == ScanLayout::kTimeMajor;
  switch (options.algorithm) {
    case ScanAlgorithm::kSequential:
      return 0;
    case ScanAlgorithm::kHillisSteele:
      return 4 * shape.size() * static_cast<int64_t>(sizeof(float));
    case ScanAlgorithm::kChunked:
      return ChunkedScratchBytes<T>(options.layout, backward, shape[0], shape[time_major ? 1 : 2],
                                    shape[time_major ? 2 : 1]);
  }
  return 0;
}

template <typename T>
RecurrenceOperands<T> ReadShape(const ScanOptions& options, const Shape& shape) {
  const bool time_major = options.layout == ScanLayout::kTimeMajor;
  RecurrenceOperands<T> p = {};
  p.batch = shape[0];
  p.length = shape[time_major ? 1 : 2];
  p.channels = shape[time_major ? 2 : 1];
  p.layout = options.layout;
  p.descending = options.reversed;
  return p;
}

}  // namespace

template <typename T>
int64_t LinearRecurrenceForwardScratchBytes(const ScanOptions& options, const LinearRecurrenceArgs<T>& args) {
  return ScratchBytes<T>(options, args.gates.shape(), false);
}

template <typename T>
int64_t LinearRecurrenceBackwardScratchBytes(const ScanOptions& options,
                                             const LinearRecurrenceGradArgs<T>& args) {
  return ScratchBytes<T>(options, args.gates.shape(), true);
}

template <typename T>
void LinearRecurrenceForward(const Device& device, Tensor<uint8_t> scratch, const ScanOptions& options,
                             const LinearRecurrenceArgs<T>& args) {
  if (args.gates.empty()) return;
  RecurrenceOperands<T> p = ReadShape<T>(options, args.gates.shape());
  p.gates = args.gates.data();
  p.values = args.values.data();
  p.first_carry = args.initial_state.data();
  p.out = args.states.data();
  p.last_carry = args.final_state.data();
  Run<T, false>(device, scratch, options.algorithm, p);
}

template <typename T>
void LinearRecurrenceBackward(const Device& device, Tensor<uint8_t> scratch, const ScanOptions& options,
                              const LinearRecurrenceGradArgs<T>& args) {
  if (args.gates.empty()) return;
  RecurrenceOperands<T> p = ReadShape<T>(options, args.gates.shape());
  p.descending = !options.reversed;
  p.gates = args.gates.data();
  p.values = args.dstates.data();
  p.states = args.states.data();
  p.initial_state = args.initial_state.data();
  p.first_carry = args.dfinal_state.data();
  p.out = args.dvalues.data();
  p.dgates = args.dgates.data();
  p.last_carry = args.dinitial_state.data();
  Run<T, true>(device, scratch, options.algorithm, p);
}

#define HM_INSTANTIATE(T)                                                                       \
  template int64_t LinearRecurrenceForwardScratchBytes<T>(const ScanOptions&,                   \
                                                          const LinearRecurrenceArgs<T>&);      \
  template int64_t LinearRecurrenceBackwardScratchBytes<T>(const ScanOptions&,                  \
                                                           const LinearRecurrenceGradArgs<T>&); \
  template void LinearRecurrenceForward<T>(const Device&, Tensor<uint8_t>, const ScanOptions&,  \
                                           const LinearRecurrenceArgs<T>&);                     \
  template void LinearRecurrenceBackward<T>(const Device&, Tensor<uint8_t>, const ScanOptions&, \
                                            const LinearRecurrenceGradArgs<T>&)
HM_INSTANTIATE(float);
HM_INSTANTIATE(Bf16);
HM_INSTANTIATE(Fp16);
#undef HM_INSTANTIATE

}  // namespace hm11::cuda
