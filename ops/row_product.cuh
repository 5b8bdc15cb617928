// A matrix product for compute capability 9.0 whose rows are finished where they are summed: out =
// epilogue(a b), bf16, the epilogue knowing a sum over each whole row (a norm's) and reading tensors of the
// result's shape.
//
// A block has 128 rows and 256 columns of the sums in the registers of two warpgroups of 64 rows; the blocks
// of a cluster have whole rows between them, and each warp sends the sums over its part of its rows to the
// warps that have the other parts. One thread a block asks the copy unit for all that is read, through a ring
// of stages: 64 terms of a and b a stage, then, while products still run, what the epilogue reads, 64 columns
// a stage. The blocks of a cluster share a's tile: two of them ask for a half each, which goes to all. Results
// replace what was read, in the stage, and leave from there.
//
// Every element is one sum in a fixed order, and so is a row's: bits repeat.
#ifndef HM11_OPS_ROW_PRODUCT_CUH_
#define HM11_OPS_ROW_PRODUCT_CUH_

#include <cstdint>

#include "ops/fp8.cuh"
#include "ops/hopper.cuh"
#include "ops/hopper_products.cuh"
#include "ops/row_product_block.cuh"
#include "ops/tensor_core.cuh"

namespace hm11::cuda::rows {

template <typename In, bool kTransposed, typename Epilogue>
__device__ void Produce(const Sizes& sizes, const Shared& shared, const Maps& maps) {
  const Work work(sizes);
  const int col = work.Col();
  const uint16_t all_blocks = static_cast<uint16_t>((1 << work.blocks) - 1);
  Place place;
  // A stage to fill with `bytes`.
  const auto begin = [&](uint32_t bytes) {
    WaitBarrier(shared.Empty(place.stage()), place.parity() ^ 1);
    ArriveAndExpect(shared.Full(place.stage()), bytes);
  };
  const auto read = [&](int reads, int row) {
#pragma unroll 1
    for (int tile = 0; reads > 0 && tile < kColTiles; ++tile, ++place.index) {
      begin(static_cast<uint32_t>(reads) * kGroups * kTileBytes);
      const int stage = place.stage();
      for (int i = 0; i < reads; ++i) {
        for (int group = 0; group < kGroups; ++group) {
          CopyBox(shared.Read(stage, i, group), maps.reads[i], shared.Full(stage), col + tile * kTileCols,
                  row + group * kTileRows);
        }
      }
    }
  };
#pragma unroll 1
  for (int tile = 0; work.Row(tile) < sizes.rows; ++tile) {
    const int row = work.Row(tile);
#pragma unroll 1
    for (int k = 0; k < sizes.inner; k += kTileTerms<In>, ++place.index) {
      begin(Shared::kStageBytes);
      const int stage = place.stage();
      const uint32_t full = shared.Full(stage);
#pragma unroll 1
      for (int part = 0; part < kGroups; ++part) {
        if (part % work.blocks != work.across) continue;
        CopyBoxTo(all_blocks, shared.A(stage, part), maps.a, full, k, row + part * kTileRows);
      }
#pragma unroll 1
      for (int part = 0; part < kColTiles; ++part) {
        const int at = col + part * kTileCols;
        CopyBox(shared.B(stage) + part * kTileBytes, maps.b, full, kTransposed ? at : k,
                kTransposed ? k : at);
      }
    }
    read(Epilogue::template Pass<0>::kReads, row);
    read(Epilogue::template Pass<1>::kReads, row);
  }
}

// What a warp that multiplies knows of itself.
struct Warp {
  const Shared& shared;
  const Work& work;
  Place place;
  int lane = threadIdx.x % 32;
  int index = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);
  int group = index / 4;
  int first_row = index % 4 * kWarpRows;  // of the warpgroup's

  __device__ Warp(const Shared& block, const Work& of_block) : shared(block), work(of_block) {}

  __device__ __forceinline__ void Release(int stage) const {
    __syncwarp();
    if (lane < work.blocks) ArriveAt(shared.Empty(stage), lane);
  }
  __device__ __forceinline__ void WaitForStage() const {
    WaitBarrier(shared.Full(place.stage()), place.parity());
  }

  // From where this warp's 16 rows of a tile begin: this lane's row of 8 numbers, of columns 8 n .. 8 n + 15,
  // for LoadMatrices and StoreMatrices; n is even.
  __device__ __forceinline__ uint32_t MatrixRow(uint32_t slab, int n) const {
    const int row = lane % 16, chunk = n + lane / 16;
    return slab + row * 128 + (chunk ^ (row & 7)) * 16;
  }
  __device__ __forceinline__ uint32_t ReadSlab(int stage, int read) const {
    return shared.Read(stage, read, group) + first_row * 128;
  }
};

template <typename In, bool kTransposed>
__device__ __forceinline__ void Multiply(const Sizes& sizes, Warp& warp, Sums& c) {
#pragma unroll 1
  for (int k = 0; k < sizes.inner; k += kTileTerms<In>, ++warp.place.index) {
    warp.WaitForStage();
    const int stage = warp.place.stage();
    FenceProducts();
    MultiplyTileRows<In, kTransposed>(warp.shared.A(stage, warp.group), warp.shared.B(stage), k > 0, c);
    CommitProducts();
    if (k > 0) {
      WaitForProducts<1>(c);
      warp.Release((stage + kStages - 1) % kStages);
    }
  }
  WaitForProducts<0>(c);
  warp.Release((warp.place.index - 1) % kStages);
}

// 16 columns of a pass, of which this lane has `col`, `col` + 1 and those 8 further on: their sums in c[0] and c[1].
// `reads`: what is read of them, replaced by results.
template <typename Pass, typename Epilogue>
__device__ __forceinline__ void Apply16(Epilogue& epilogue, int col, float (*c)[4],
                                        uint32_t (&reads)[kMaxReads][4]) {
#pragma unroll
  for (int right = 0; right < 2; ++right) {
    const auto factors = Pass::Factors(epilogue, col + 8 * right);
    float(&four)[4] = c[right];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int m = 2 * right + half;
      uint32_t pairs[kMaxReads];
#pragma unroll
      for (int i = 0; i < Pass::kReads; ++i) pairs[i] = reads[i][m];
      Pass::Apply(epilogue, factors, half, four[2 * half], four[2 * half + 1], pairs);
#pragma unroll
      for (int i = 0; i < Pass::kResults; ++i) reads[Pass::PlaceOf(i)][m] = pairs[Pass::PlaceOf(i)];
    }
  }
}

// One of the two passes over the sums, by tiles of 64 columns. `row`: the warp's first.
template <int kPass, typename Epilogue>
__device__ __forceinline__ void GoOver(Warp& warp, const Maps& maps, int row, int col, Epilogue& epilogue,
                                       Sums& c) {
  using Pass = typename Epilogue::template Pass<kPass>;
  constexpr bool kReads = Pass::kReads > 0;
#pragma unroll
  for (int tile = 0; tile < kColTiles; ++tile, warp.place.index += kReads) {
    const int stage = warp.place.stage();
    if constexpr (kReads) {
      warp.WaitForStage();
    } else {
      if (warp.lane == 0) WaitForStores<1>();
      __syncwarp();
    }
    // Where this warp's part of what is read is, and results replace it.
    const auto slab = [&](int i) {
      return kReads ? warp.ReadSlab(stage, i) : warp.shared.Slab(warp.index, tile % 2);
    };
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      uint32_t reads[kMaxReads][4];
#pragma unroll
      for (int i = 0; i < Pass::kReads; ++i) LoadMatrices(reads[i], warp.MatrixRow(slab(i), n));
      Apply16<Pass>(epilogue, col + tile * kTileCols + 8 * n + warp.lane % 4 * 2, &c[8 * tile + n], reads);
#pragma unroll
      for (int i = 0; i < Pass::kResults; ++i) {
        StoreMatrices(warp.MatrixRow(slab(Pass::PlaceOf(i)), n), reads[Pass::PlaceOf(i)]);
      }
    }
    if constexpr (Pass::kResults == 0) {
      warp.Release(stage);
      continue;
    }
    FenceForUnits();
    __syncwarp();
    if (warp.lane == 0) {
#pragma unroll
      for (int i = 0; i < Pass::kResults; ++i) {
        StoreBox(maps.results[Pass::kFirstResult + i], slab(Pass::PlaceOf(i)), col + tile * kTileCols, row);
      }
      CommitStores();
      if (kReads) WaitForStores<1>();
    }
    if (kReads && tile > 0) warp.Release((stage + kStages - 1) % kStages);
  }
  if constexpr (kReads && Pass::kResults > 0) {
    if (warp.lane == 0) WaitForStores<0>();
    warp.Release((warp.place.index - 1) % kStages);
  }
}

// Makes sums[half], of this lane's rows over its columns, those over whole rows.
__device__ __forceinline__ void AddOverRow(const Warp& warp, int tile, float (&sums)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sums[half] += __shfl_xor_sync(0xffffffffu, sums[half], 1);
    sums[half] += __shfl_xor_sync(0xffffffffu, sums[half], 2);
  }
  const int count = warp.work.blocks, across = warp.work.across;
  const Shared& shared = warp.shared;
  const int row = warp.group * kTileRows + warp.first_row + warp.lane / 4;
  const uint32_t here = shared.RowSumsHere(warp.index);
  if (warp.lane == 0) ArriveAndExpect(here, static_cast<uint32_t>(count - 1) * kWarpRows * 4);
  if (warp.lane % 4 == 0) {
#pragma unroll 1
    for (int other = 0; other < count; ++other) {
      if (other == across) continue;
      const int which = across < other ? across : across - 1;  // among those that are not `other`
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        SendTo(other, shared.RowSum(which, row + 8 * half), here, sums[half]);
      }
    }
  }
  WaitBarrier(here, tile & 1);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = 0;
#pragma unroll 1
    for (int from = 0; from < count; ++from) {
      const int which = from < across ? from : from - 1;
      total += from == across ? sums[half] : LoadShared(shared.RowSum(which, row + 8 * half));
    }
    sums[half] = total;
  }
  __syncwarp();
}

// Epilogue is a struct of what the elementwise work needs beside the tensors that the copy unit brings:
//
//   kSumsRows: whether it has sums over rows, and a second pass that they are for;
//   sums: of this lane's two rows; after the first pass those of whole rows;
//   Begin(sizes, row): this lane has sums of rows row and row + 8;
//   Between(sizes, row, stores): between the passes; one lane a row is told to store what belongs to it;
//   Pass<0> and Pass<1>, the two passes over the sums:
//     kReads: how many of maps.reads it is given, from the first;
//     kResults, kFirstResult, PlaceOf(i): how many results it makes, the first of them in maps.results, and
//       which of its reads each replaces; a pass without reads makes one;
//     Factors(epilogue, col): what Apply is given for columns col and col + 1;
//     Apply(epilogue, factors, half, a, b, reads): for the two sums of row + 8 half, which it may change;
//       replaces the pairs of numbers in `reads` by results;
//   End(row, col, c), after both passes: of rows row and row + 8, c[n] being columns col + 8 n and up. Here, and
//     not between the copy unit's stores, whose fences would wait for it, an epilogue stores by itself.
template <typename In, bool kTransposed, typename Epilogue>
__device__ void Consume(const Sizes& sizes, const Shared& shared, const Maps& maps, Epilogue epilogue) {
  const Work work(sizes);
  Warp warp(shared, work);
  const int col = work.Col();
#pragma unroll 1
  for (int tile = 0; work.Row(tile) < sizes.rows; ++tile) {
    const int warp_row = work.Row(tile) + warp.group * kTileRows + warp.first_row;
    const int row = warp_row + warp.lane / 4;
    epilogue.Begin(sizes, row);
    Sums c;
    Multiply<In, kTransposed>(sizes, warp, c);
    if constexpr (sizeof(In) == 1) ScaleSums(sizes.factor, c);
    GoOver<0>(warp, maps, warp_row, col, epilogue, c);
    if constexpr (Epilogue::kSumsRows) {
      AddOverRow(warp, tile, epilogue.sums);
      epilogue.Between(sizes, row, warp.lane % 4 == 0 && work.across == 0);
      GoOver<1>(warp, maps, warp_row, col, epilogue, c);
    }
    epilogue.End(row, col, c);
  }
  if (warp.lane == 0) WaitForStores<0>();
}

// In clusters of BlocksOf(sizes).
template <typename In, bool kTransposed, typename Epilogue>
__global__ void __launch_bounds__(kThreads, 1)
    ProductKernel(const __grid_constant__ Maps maps, const Sizes sizes, const Epilogue epilogue) {
  if constexpr (kIsHopper) {
    const Shared shared;
    shared.Init(BlocksOf(sizes));
    SyncCluster();
    if (threadIdx.x / 32 < kWarps) {
      GrowRegisters<kRegisters>();
      Consume<In, kTransposed>(sizes, shared, maps, epilogue);
    } else {
      ShrinkRegisters<kProducerRegisters>();
      if (threadIdx.x == kWarps * 32) Produce<In, kTransposed, Epilogue>(sizes, shared, maps);
    }
    __syncwarp();
    SyncCluster();  // Other blocks may still copy to this one, and arrive at its barriers.
  }
}

}  // namespace hm11::cuda::rows

#endif  // HM11_OPS_ROW_PRODUCT_CUH_
