// The linear recurrence in one pass over memory.
//
// Time is cut into tiles. A block reads a tile into registers, knows from it the tile's effect (gain, sum),
// waits for the state that enters, and writes. The state comes from the tile before by decoupled look-back
// (Merrill & Garland 2016, "Single-pass parallel prefix scan with decoupled look-back"): from the nearest
// tile before that has already published what leaves it, through the effects of those in between. What leaves
// tile k is always gain_k * (what leaves tile k - 1) + sum_k, in this order and rounding, whichever block
// computes it; so results do not depend on who was first. Tiles are handed out by a ticket, oldest first,
// which makes sure that whoever is waited for is running.
#include <algorithm>

#include "scan/linear_recurrence_kernels.cuh"

namespace hm11::cuda {
namespace {

__device__ __forceinline__ unsigned LoadStatus(const unsigned* status) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(status) : "memory");
  return value;
}

__device__ __forceinline__ void StoreStatus(unsigned* status, unsigned value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(status), "r"(value) : "memory");
}

// For kLanes lanes (1, or a whole warp) of kChannels neighbouring channels each: publishes the tile's effect,
// finds what enters the tile, publishes what leaves it. `lane` is the calling thread's among them.
template <int kLanes, int kChannels>
__device__ __forceinline__ void HandOver(const TileHandover& handover, int64_t lines, int64_t line, int tile,
                                         int lane, const float (&gain)[kChannels],
                                         const float (&sum)[kChannels], float (&entering)[kChannels]) {
  constexpr int kLine = kLanes * kChannels;
  const auto at = [&](int of_tile) { return (of_tile * lines + line) * kLine + lane * kChannels; };
  const auto status = [&](int of_tile) { return handover.status + of_tile * lines + line; };
  const auto sync = [] {
    if constexpr (kLanes == 32) __syncwarp();
  };
  const auto await = [&](int of_tile) {
    unsigned value = kNothing;
    if (lane == 0) {
      do {
        value = LoadStatus(status(of_tile));
      } while (value == kNothing);
    }
    if constexpr (kLanes == 32) value = __shfl_sync(0xffffffffu, value, 0);
    return value;
  };
  const auto publish = [&](unsigned value) {
    __threadfence();
    sync();
    if (lane == 0) StoreStatus(status(tile), value);
  };
  if (tile > 0) {
    unsigned before = 0;
    if (lane == 0) before = LoadStatus(status(tile - 1));
    if constexpr (kLanes == 32) before = __shfl_sync(0xffffffffu, before, 0);
    int from = tile - 1;
    if (before != kHasCarry) {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        handover.gains[at(tile) + i] = gain[i];
        handover.sums[at(tile) + i] = sum[i];
      }
      publish(kHasEffect);
      while (await(from) != kHasCarry) --from;
    }
    sync();
#pragma unroll
    for (int i = 0; i < kChannels; ++i) entering[i] = __ldcg(handover.carries + at(from) + i);
    for (int between = from + 1; between < tile; ++between) {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        entering[i] = fmaf(__ldcg(handover.gains + at(between) + i), entering[i],
                           __ldcg(handover.sums + at(between) + i));
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kChannels; ++i) handover.carries[at(tile) + i] = fmaf(gain[i], entering[i], sum[i]);
  publish(kHasCarry);
}

// The next tile of the whole grid.
__device__ __forceinline__ int64_t TakeTicket(const TileHandover& handover) {
  __shared__ unsigned ticket;
  if (threadIdx.x == 0) ticket = atomicAdd(handover.ticket, 1u);
  __syncthreads();
  return ticket;
}

// One token of the recurrence on a carry: forward returns the state, backward dh.
template <bool kBackward>
__device__ __forceinline__ float Advance(float gate, float value, float& carry) {
  if constexpr (kBackward) {
    const float dh = value + carry;
    carry = gate * dh;
    return dh;
  } else {
    carry = fmaf(gate, carry, value);
    return carry;
  }
}

// [batch, length, channels]. A block has kWarps x kTokens tokens of one batch row and 32 x kChannels channels
// (512 bytes of a row). A thread reads its kChannels channels of kTokens tokens, all at once, so that an SM
// has some 100 KB on their way, which is what hides the latency of memory; the warps' effects are put in
// order in shared memory, warp 0 hands the block's over, and every thread runs its tokens once more, from
// registers, and writes. Bytes: each input once, each output once.
template <typename T, int kChannels, int kTokens, int kWarps, bool kBackward>
__global__ void __launch_bounds__(32 * kWarps)
    TimeMajorKernel(const __grid_constant__ RecurrenceOperands<T> p, TileHandover handover,
                    int64_t lines_per_row, int tiles) {
  using Vector = RowVector<T, kChannels>;
  constexpr int kLine = 32 * kChannels;
  __shared__ float effects[2][kWarps][kLine];
  __shared__ float carries[kLine];
  const int64_t lines = lines_per_row * p.batch;
  const int64_t place = tiles > 1 ? TakeTicket(handover) : int64_t{blockIdx.x};
  const int tile = static_cast<int>(place / lines);
  const int64_t line = place % lines;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t row = line / lines_per_row;
  const int64_t channel = line % lines_per_row * kLine + lane * kChannels;
  const bool inside = channel < p.channels;
  const int64_t first = int64_t{tile} * (kWarps * kTokens) + warp * kTokens;  // in the order of the scan
  const auto offset = [&](int64_t index) {
    return (row * p.length + (p.descending ? p.length - 1 - index : index)) * p.channels + channel;
  };

  Vector gates[kTokens], values[kTokens], states[kBackward ? kTokens : 1];
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    if (inside && first + i < p.length) {
      gates[i] = Vector::Load(p.gates + offset(first + i));
      values[i] = Vector::Load(p.values + offset(first + i));
      if constexpr (kBackward) {
        if (first + i + 1 < p.length) states[i] = Vector::Load(p.states + offset(first + i + 1));
      }
    } else {  // Changes nothing.
      gates[i] = Vector::Filled(1.0f);
      values[i] = Vector::Filled(0.0f);
    }
  }

  float gain[kChannels], sum[kChannels], carry[kChannels];
#pragma unroll
  for (int k = 0; k < kChannels; ++k) {
    gain[k] = 1.0f;
    sum[k] = 0.0f;
    carry[k] = inside && tile == 0 && p.first_carry != nullptr ? p.first_carry[row * p.channels + channel + k]
                                                               : 0.0f;
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      gain[k] *= gates[i][k];
      Advance<kBackward>(gates[i][k], values[i][k], sum[k]);
    }
    effects[0][warp][lane * kChannels + k] = gain[k];
    effects[1][warp][lane * kChannels + k] = sum[k];
  }
  __syncthreads();
  if (warp == 0) {
    if (tiles > 1) {
#pragma unroll
      for (int k = 0; k < kChannels; ++k) {
#pragma unroll
        for (int w = 1; w < kWarps; ++w) {
          const float next = effects[0][w][lane * kChannels + k];
          gain[k] *= next;
          sum[k] = fmaf(next, sum[k], effects[1][w][lane * kChannels + k]);
        }
      }
      HandOver<32>(handover, lines, line, tile, lane, gain, sum, carry);
    }
#pragma unroll
    for (int k = 0; k < kChannels; ++k) carries[lane * kChannels + k] = carry[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kChannels; ++k) {
    carry[k] = carries[lane * kChannels + k];
    for (int w = 0; w < warp; ++w) {
      carry[k] = fmaf(effects[0][w][lane * kChannels + k], carry[k], effects[1][w][lane * kChannels + k]);
    }
  }
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    Vector out = {}, dgates = {};
#pragma unroll
    for (int k = 0; k < kChannels; ++k) {
      const float result = Advance<kBackward>(gates[i][k], values[i][k], carry[k]);
      out.Set(k, Storable<T>(result));
      if constexpr (kBackward) {
        float before = states[i][k];
        if (first + i + 1 >= p.length) {
          before = inside && p.initial_state != nullptr && first + i < p.length
                       ? p.initial_state[row * p.channels + channel + k]
                       : 0.0f;
        }
        dgates.Set(k, Storable<T>(result * before));
      }
    }
    if (inside && first + i < p.length) {
      out.Store(p.out + offset(first + i));
      if constexpr (kBackward) dgates.Store(p.dgates + offset(first + i));
    }
  }
  if (inside && p.last_carry != nullptr && tile == tiles - 1 && warp == kWarps - 1) {
#pragma unroll
    for (int k = 0; k < kChannels; ++k) p.last_carry[row * p.channels + channel + k] = carry[k];
  }
}

// [batch, channels, length]: a row a channel. kRowThreads threads share a tile of one row, kPieces times
// kTokens neighbouring tokens each, so that a warp reads 512 bytes at a time. Effects are scanned over lanes
// by shuffles and over warps and pieces in shared memory. Rows that fit one tile need no hand-over.
template <typename T, int kTokens, int kPieces, int kRowThreads, int kThreads, bool kBackward>
__global__ void __launch_bounds__(kThreads)
    ChannelMajorKernel(const __grid_constant__ RecurrenceOperands<T> p, TileHandover handover, int tiles) {
  using Vector = RowVector<T, kTokens>;
  constexpr int kRows = kThreads / kRowThreads;
  constexpr int kRowWarps = kRowThreads / 32;
  __shared__ float2 effects[kRows][kPieces][kRowWarps];
  __shared__ float carries[kRows];
  const int64_t rows = p.batch * p.channels;
  const int64_t row_blocks = (rows + kRows - 1) / kRows;
  const int64_t place = tiles > 1 ? TakeTicket(handover) : int64_t{blockIdx.x};
  const int tile = static_cast<int>(place / row_blocks);
  const int block_row = static_cast<int>(threadIdx.x) / kRowThreads;
  const int64_t row = place % row_blocks * kRows + block_row;
  const int thread = static_cast<int>(threadIdx.x) % kRowThreads;
  const int warp = thread / 32;
  const int lane = thread % 32;
  const bool inside = row < rows;
  // Pieces lie in memory in their order, or, when descending, in the opposite one; tokens inside them too.
  const auto begin = [&](int piece) {
    const int64_t index = (int64_t{tile} * kPieces + piece) * kRowThreads + thread;
    return (p.descending ? int64_t{tiles} * kPieces * kRowThreads - 1 - index : index) * kTokens;
  };

  Vector gates[kPieces], values[kPieces], states[kBackward ? kPieces : 1];
  float outside_state[kBackward ? kPieces : 1];  // The token before the piece, in forward's order.
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    gates[piece] = Vector::Filled(1.0f);  // Changes nothing.
    values[piece] = Vector::Filled(0.0f);
    const int64_t token = begin(piece);
    if (inside && token < p.length) {
      const int64_t offset = row * p.length + token;
      gates[piece] = Vector::Load(p.gates + offset);
      values[piece] = Vector::Load(p.values + offset);
      if constexpr (kBackward) {
        states[piece] = Vector::Load(p.states + offset);
        const int64_t neighbour = p.descending ? token - 1 : token + kTokens;
        outside_state[piece] = neighbour >= 0 && neighbour < p.length
                                   ? ToFloat(p.states[row * p.length + neighbour])
                                   : (p.initial_state != nullptr ? p.initial_state[row] : 0.0f);
      }
    }
  }

  float lane_gain[kPieces], lane_sum[kPieces];  // of the warp's lanes before this one
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    float gain = 1.0f, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const float gate = p.descending ? gates[piece][kTokens - 1 - i] : gates[piece][i];
      const float value = p.descending ? values[piece][kTokens - 1 - i] : values[piece][i];
      gain *= gate;
      Advance<kBackward>(gate, value, sum);
    }
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const float gain_before = __shfl_up_sync(0xffffffffu, gain, distance);
      const float sum_before = __shfl_up_sync(0xffffffffu, sum, distance);
      if (lane >= distance) {
        sum = fmaf(gain, sum_before, sum);
        gain *= gain_before;
      }
    }
    if (lane == 31) effects[block_row][piece][warp] = make_float2(gain, sum);
    lane_gain[piece] = __shfl_up_sync(0xffffffffu, gain, 1);
    lane_sum[piece] = __shfl_up_sync(0xffffffffu, sum, 1);
    if (lane == 0) {
      lane_gain[piece] = 1.0f;
      lane_sum[piece] = 0.0f;
    }
  }
  __syncthreads();
  if (thread == 0) {
    float entering[1] = {inside && tile == 0 && p.first_carry != nullptr ? p.first_carry[row] : 0.0f};
    if (tiles > 1 && inside) {
      float gain[1] = {1.0f}, sum[1] = {0.0f};
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        for (int w = 0; w < kRowWarps; ++w) {
          const float2 effect = effects[block_row][piece][w];
          gain[0] *= effect.x;
          sum[0] = fmaf(effect.x, sum[0], effect.y);
        }
      }
      HandOver<1>(handover, rows, row, tile, 0, gain, sum, entering);
    }
    carries[block_row] = entering[0];
  }
  __syncthreads();
  float carry = carries[block_row];
  float last = 0.0f;
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    float mine = 0.0f;
#pragma unroll
    for (int w = 0; w < kRowWarps; ++w) {
      if (w == warp) mine = fmaf(lane_gain[piece], carry, lane_sum[piece]);
      const float2 effect = effects[block_row][piece][w];
      carry = fmaf(effect.x, carry, effect.y);
    }
    Vector out = {}, dgates = {};
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const float gate = p.descending ? gates[piece][kTokens - 1 - i] : gates[piece][i];
      const float value = p.descending ? values[piece][kTokens - 1 - i] : values[piece][i];
      const float result = Advance<kBackward>(gate, value, mine);
      float dgate = 0.0f;
      if constexpr (kBackward) {
        const float before = i + 1 == kTokens ? outside_state[piece]
                             : p.descending   ? states[piece][kTokens - 2 - i]
                                              : states[piece][i + 1];
        dgate = result * before;
      }
      if (p.descending) {
        out.Set(kTokens - 1 - i, Storable<T>(result));
        if constexpr (kBackward) dgates.Set(kTokens - 1 - i, Storable<T>(dgate));
      } else {
        out.Set(i, Storable<T>(result));
        if constexpr (kBackward) dgates.Set(i, Storable<T>(dgate));
      }
    }
    last = mine;
    const int64_t token = begin(piece);
    if (inside && token < p.length) {
      out.Store(p.out + row * p.length + token);
      if constexpr (kBackward) dgates.Store(p.dgates + row * p.length + token);
    }
  }
  if (inside && p.last_carry != nullptr && tile == tiles - 1 && thread == kRowThreads - 1) {
    p.last_carry[row] = last;
  }
}

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
  TileHandover handover;
  if (cut.tiles > 1) handover = StartHandover(device, scratch, cut.tiles, cut.lines, cut.line_size);
  Launch(
      device,
      {.blocks = dim3(static_cast<unsigned>(cut.tiles * cut.lines)), .threads = dim3(32 * kTimeMajorWarps)},
      TimeMajorKernel<T, kChannels, kTokens, kTimeMajorWarps, kBackward>, p, handover, cut.lines / p.batch,
      static_cast<int>(cut.tiles));
}

template <typename T, int kTokens, int kRowThreads, bool kBackward>
void RunChannelMajorRows(const Device& device, Tensor<uint8_t> scratch, const RecurrenceOperands<T>& p) {
  constexpr int kRows = kChannelMajorThreads / kRowThreads;
  const int64_t tiles = CeilDiv<int64_t>(p.length, kRowThreads * kThreadTokens);
  const int64_t rows = p.batch * p.channels;
  TileHandover handover;
  if (tiles > 1) handover = StartHandover(device, scratch, tiles, rows, 1);
  Launch(
      device,
      {.blocks = dim3(static_cast<unsigned>(tiles * CeilDiv<int64_t>(rows, kRows))),
       .threads = dim3(kChannelMajorThreads)},
      ChannelMajorKernel<T, kTokens, kThreadTokens / kTokens, kRowThreads, kChannelMajorThreads, kBackward>,
      p, handover, static_cast<int>(tiles));
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

int64_t HandoverBytes(int64_t tiles, int64_t lines, int64_t line_size) {
  if (tiles <= 1) return 0;
  const int64_t status_bytes =
      CeilDiv<int64_t>((tiles * lines + 1) * sizeof(unsigned), Arena::kAlignment) * Arena::kAlignment;
  return status_bytes + 3 * tiles * lines * line_size * static_cast<int64_t>(sizeof(float));
}

TileHandover StartHandover(const Device& device, Tensor<uint8_t> scratch, int64_t tiles, int64_t lines,
                           int64_t line_size) {
  HM_CHECK_LE(HandoverBytes(tiles, lines, line_size), scratch.size());
  const int64_t numbers = tiles * lines * line_size;
  const int64_t status_bytes =
      HandoverBytes(tiles, lines, line_size) - 3 * numbers * static_cast<int64_t>(sizeof(float));
  device.Zero(scratch.data(), status_bytes);
  TileHandover handover;
  handover.ticket = reinterpret_cast<unsigned*>(scratch.data());
  handover.status = handover.ticket + 1;
  handover.gains = reinterpret_cast<float*>(scratch.data() + status_bytes);
  handover.sums = handover.gains + numbers;
  handover.carries = handover.sums + numbers;
  return handover;
}

template <typename T>
int64_t ChunkedScratchBytes(ScanLayout layout, bool backward, int64_t batch, int64_t length,
                            int64_t channels) {
  if (layout == ScanLayout::kChannelMajor) {
    const Cut cut = CutChannelMajor(batch, length, channels);
    return HandoverBytes(cut.tiles, cut.lines, cut.line_size);
  }
  // Alignment of the operands is not known yet: the larger of both ways.
  const Cut vectors = CutTimeMajor(backward, batch, length, channels, kVectorSize<T>);
  const Cut scalars = CutTimeMajor(backward, batch, length, channels, 1);
  return std::max(HandoverBytes(vectors.tiles, vectors.lines, vectors.line_size),
                  HandoverBytes(scalars.tiles, scalars.lines, scalars.line_size));
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
