// The linear recurrence in one pass over memory: how shapes are cut into tiles, scratch memory, launches.
//
// A block reads a tile of time into registers, knows from it the tile's effect (gain, sum), waits for the
// state that enters (linear_recurrence_lookback.cuh), and writes.
#include <algorithm>

#include "scan/linear_recurrence_channel_major.cuh"
#include "scan/linear_recurrence_kernels.cuh"
#include "scan/linear_recurrence_time_major.cuh"

namespace hm11::cuda {
namespace {

constexpr int kTimeMajorWarps = 8;
constexpr int kTimeMajorTokens = 8;
constexpr int kTimeMajorBackwardTokens = 4;
constexpr int kChannelMajorThreads = 256;
constexpr int kThreadTokens = 16;  // of a channel-major thread

// How tiles and lines cut a shape; `vector` is how many channels (time major) move at a time.
struct Cut {
  int64_t tiles;
  int64_t lines;
  int64_t line_size;
};

Cut CutTimeMajor(bool backward, int64_t batch, int64_t length, int64_t channels, int vector) {
  const int64_t tile = kTimeMajorWarps * (backward ? kTimeMajorBackwardTokens : kTimeMajorTokens);
  return {CeilDiv<int64_t>(length, tile), batch * CeilDiv<int64_t>(channels, 32 * vector), 32 * vector};
}

Cut CutChannelMajor(int64_t batch, int64_t length, int64_t channels) {
  return {CeilDiv<int64_t>(length, kChannelMajorThreads * kThreadTokens), batch * channels, 1};
}

template <typename T, int kChannels, bool kBackward>
void RunTimeMajor(const Device& device, Tensor<uint8_t> scratch, const RecurrenceOperands<T>& p) {
  constexpr int kTokens = kBackward ? kTimeMajorBackwardTokens : kTimeMajorTokens;
  const Cut cut = CutTimeMajor(kBackward, p.batch, p.length, p.channels, kChannels);
  TileDescriptors descriptors;
  if (cut.tiles > 1) descriptors = ClearTileDescriptors(device, scratch, cut.tiles, cut.lines, cut.line_size);
  Launch(
      device,
      {.blocks = dim3(static_cast<unsigned>(cut.tiles * cut.lines)), .threads = dim3(32 * kTimeMajorWarps)},
      TimeMajorKernel<T, kChannels, kTokens, kTimeMajorWarps, kBackward>, p, descriptors, cut.lines / p.batch,
      static_cast<int>(cut.tiles));
}

template <typename T, int kTokens, int kRowThreads, bool kBackward>
void RunChannelMajorRows(const Device& device, Tensor<uint8_t> scratch, const RecurrenceOperands<T>& p) {
  constexpr int kRows = kChannelMajorThreads / kRowThreads;
  const int64_t tiles = CeilDiv<int64_t>(p.length, kRowThreads * kThreadTokens);
  const int64_t rows = p.batch * p.channels;
  TileDescriptors descriptors;
  if (tiles > 1) descriptors = ClearTileDescriptors(device, scratch, tiles, rows, 1);
  Launch(
      device,
      {.blocks = dim3(static_cast<unsigned>(tiles * CeilDiv<int64_t>(rows, kRows))),
       .threads = dim3(kChannelMajorThreads)},
      ChannelMajorKernel<T, kTokens, kThreadTokens / kTokens, kRowThreads, kChannelMajorThreads, kBackward>,
      p, descriptors, static_cast<int>(tiles));
}

template <typename T, int kTokens, bool kBackward>
void RunChannelMajor(const Device& device, Tensor<uint8_t> scratch, const RecurrenceOperands<T>& p) {
  if (p.length <= 32 * kThreadTokens)
    return RunChannelMajorRows<T, kTokens, 32, kBackward>(device, scratch, p);
  if constexpr (kTokens > 1) {
    if (p.length <= 128 * kThreadTokens) {
      return RunChannelMajorRows<T, kTokens, 128, kBackward>(device, scratch, p);
    }
  }
  RunChannelMajorRows<T, kTokens, kChannelMajorThreads, kBackward>(device, scratch, p);
}

template <typename T, bool kBackward>
void RunInDirection(const Device& device, Tensor<uint8_t> scratch, const RecurrenceOperands<T>& p) {
  constexpr int kVector = kVectorSize<T>;
  bool vectors = (p.layout == ScanLayout::kTimeMajor ? p.channels : p.length) % kVector == 0;
  for (const void* data : {static_cast<const void*>(p.gates), static_cast<const void*>(p.values),
                           static_cast<const void*>(p.states), static_cast<const void*>(p.out),
                           static_cast<const void*>(p.dgates)}) {
    vectors = vectors && reinterpret_cast<uintptr_t>(data) % 16 == 0;
  }
  if (p.layout == ScanLayout::kTimeMajor) {
    if (vectors) {
      RunTimeMajor<T, kVector, kBackward>(device, scratch, p);
    } else {
      RunTimeMajor<T, 1, kBackward>(device, scratch, p);
    }
  } else if (vectors) {
    RunChannelMajor<T, kVector, kBackward>(device, scratch, p);
  } else {
    RunChannelMajor<T, 1, kBackward>(device, scratch, p);
  }
}

}  // namespace

int64_t TileDescriptorBytes(int64_t tiles, int64_t lines, int64_t line_size) {
  if (tiles <= 1) return 0;
  const int64_t status_bytes =
      CeilDiv<int64_t>((tiles * lines + 1) * sizeof(unsigned), Arena::kAlignment) * Arena::kAlignment;
  return status_bytes + 3 * tiles * lines * line_size * static_cast<int64_t>(sizeof(float));
}

TileDescriptors ClearTileDescriptors(const Device& device, Tensor<uint8_t> scratch, int64_t tiles,
                                     int64_t lines, int64_t line_size) {
  HM_CHECK_LE(TileDescriptorBytes(tiles, lines, line_size), scratch.size());
  const int64_t numbers = tiles * lines * line_size;
  const int64_t status_bytes =
      TileDescriptorBytes(tiles, lines, line_size) - 3 * numbers * static_cast<int64_t>(sizeof(float));
  device.Zero(scratch.data(), status_bytes);
  TileDescriptors descriptors;
  descriptors.ticket = reinterpret_cast<unsigned*>(scratch.data());
  descriptors.status = descriptors.ticket + 1;
  descriptors.gains = reinterpret_cast<float*>(scratch.data() + status_bytes);
  descriptors.sums = descriptors.gains + numbers;
  descriptors.carries = descriptors.sums + numbers;
  return descriptors;
}

template <typename T>
int64_t ChunkedScratchBytes(ScanLayout layout, bool backward, int64_t batch, int64_t length,
                            int64_t channels) {
  if (layout == ScanLayout::kChannelMajor) {
    const Cut cut = CutChannelMajor(batch, length, channels);
    return TileDescriptorBytes(cut.tiles, cut.lines, cut.line_size);
  }
  // Alignment of the operands is not known yet: the larger of both ways.
  const Cut vectors = CutTimeMajor(backward, batch, length, channels, kVectorSize<T>);
  const Cut scalars = CutTimeMajor(backward, batch, length, channels, 1);
  return std::max(TileDescriptorBytes(vectors.tiles, vectors.lines, vectors.line_size),
                  TileDescriptorBytes(scalars.tiles, scalars.lines, scalars.line_size));
}

template <typename T>
void RunChunked(const Device& device, Tensor<uint8_t> scratch, bool backward,
                const RecurrenceOperands<T>& operands) {
  if (backward) {
    RunInDirection<T, true>(device, scratch, operands);
  } else {
    RunInDirection<T, false>(device, scratch, operands);
  }
}

template int64_t ChunkedScratchBytes<float>(ScanLayout, bool, int64_t, int64_t, int64_t);
template int64_t ChunkedScratchBytes<Bf16>(ScanLayout, bool, int64_t, int64_t, int64_t);
template int64_t ChunkedScratchBytes<Fp16>(ScanLayout, bool, int64_t, int64_t, int64_t);
template void RunChunked<float>(const Device&, Tensor<uint8_t>, bool, const RecurrenceOperands<float>&);
template void RunChunked<Bf16>(const Device&, Tensor<uint8_t>, bool, const RecurrenceOperands<Bf16>&);
template void RunChunked<Fp16>(const Device&, Tensor<uint8_t>, bool, const RecurrenceOperands<Fp16>&);

}  // namespace hm11::cuda
