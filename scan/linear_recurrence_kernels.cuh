// The linear recurrence on a GPU: operands of both directions in one form, and the hand-over of states
// between blocks.
//
// Backward is the same recurrence as forward, in the opposite direction. With dh_t = dstates_t + k_{t+1}, the
// gradient that crosses from token t + 1 to token t is k_{t+1} = a_{t+1} dh_{t+1}; so k_t = a_t (dstates_t +
// k_{t+1}): "values" dstates are multiplied by their gate, which forward does not. Outputs are dvalues_t =
// dh_t and dgates_t = dh_t h_{t-1}.
#ifndef HM11_SCAN_LINEAR_RECURRENCE_KERNELS_CUH_
#define HM11_SCAN_LINEAR_RECURRENCE_KERNELS_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "core/arena.h"
#include "core/launch.cuh"
#include "scan/linear_recurrence.h"
#include "scan/scan_math.cuh"

namespace hm11::cuda {

template <typename T>
struct RecurrenceOperands {
  const T* gates;
  const T* values;             // dstates when backward
  const T* states;             // forward's output; backward only
  const float* initial_state;  // forward's; null when absent, as all below
  const float* first_carry;    // what enters the scan: the initial state, or dfinal_state when backward
  T* out;                      // states, or dvalues when backward
  T* dgates;                   // backward only
  float* last_carry;           // what leaves the scan: the final state, or dinitial_state
  int64_t batch;
  int64_t length;
  int64_t channels;
  ScanLayout layout;
  bool descending;  // the scan goes from the last token to the first
};

// Tile descriptors of the decoupled look-back (linear_recurrence_lookback.cuh), a line of `channels` numbers
// each: a tile's aggregate, gain and sum of its own tokens (what enters, times gain, plus sum, leaves), and
// its inclusive prefix, the carry that leaves it.
struct TileDescriptors {
  unsigned* ticket = nullptr;  // the next tile to be worked on
  unsigned* status = nullptr;  // [tiles, lines]
  float* gains = nullptr;      // [tiles, lines, line size]
  float* sums = nullptr;
  float* carries = nullptr;
};

enum TileStatus : unsigned { kInvalid = 0, kAggregateAvailable = 1, kPrefixAvailable = 2 };

// Scratch of the chunked algorithm. `lines` x `line_size` channels in all, `tiles` tiles of time.
int64_t TileDescriptorBytes(int64_t tiles, int64_t lines, int64_t line_size);
// Queues the zeroing of ticket and status.
TileDescriptors ClearTileDescriptors(const Device& device, Tensor<uint8_t> scratch, int64_t tiles,
                                     int64_t lines, int64_t line_size);

template <typename T>
int64_t ChunkedScratchBytes(ScanLayout layout, bool backward, int64_t batch, int64_t length,
                            int64_t channels);
template <typename T>
void RunChunked(const Device& device, Tensor<uint8_t> scratch, bool backward,
                const RecurrenceOperands<T>& operands);

}  // namespace hm11::cuda

#endif  // HM11_SCAN_LINEAR_RECURRENCE_KERNELS_CUH_
