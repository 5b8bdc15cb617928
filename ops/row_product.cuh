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

#include <algorithm>
#include <type_traits>

#include "ops/hopper.cuh"
#include "ops/tensor_core.cuh"

namespace hm11::cuda::rows {

inline constexpr int kGroups = 2;                       // warpgroups that multiply
inline constexpr int kWarps = kGroups * 4;              // that multiply
inline constexpr int kThreads = (kWarps + 1) * 32;      // with the producer's warp
inline constexpr int kBlockRows = kGroups * kTileRows;  // of a block
inline constexpr int kBlockCols = 256;
inline constexpr int kColTiles = kBlockCols / kTileCols;
inline constexpr int kStages = 4;
inline constexpr int kWarpRows = 16;
inline constexpr uint32_t kSlabBytes = kWarpRows * kTileCols * 2;  // a warp's rows of a tile
inline constexpr int kMinBlocks = 2, kMaxBlocks = 4;               // that have a row
inline constexpr int kMaxReads = 3;
inline constexpr int kMaxResults = 3;
// Terms from which on a warp's product of the next tile cannot be over while another one of the cluster has
// not read its rows' sums: their places are used anew in every tile.
inline constexpr int kMinInner = (kStages + 1) * kTileCols;

// Sums of a warpgroup's 64 rows and 256 columns: c[n][i] as in hopper.cuh, n up to 32.
using Sums = float[32][4];

struct Sizes {
  int rows, cols, inner;
};

// Blocks of a cluster, which are side by side in a row.
__host__ __device__ constexpr int BlocksOf(const Sizes& sizes) { return sizes.cols / kBlockCols; }

// Where matrices are: of reads and results as many as the epilogue has.
struct Maps {
  TileMap a, b;
  TileMap reads[kMaxReads];      // boxes of 64 rows
  TileMap results[kMaxResults];  // boxes of a warp's rows
};

// ---- Shared memory.

struct Shared {
  static constexpr uint32_t kStageBytes = (kGroups + kColTiles) * kTileBytes;
  static constexpr uint32_t kSlabs = kStages * kStageBytes;
  static constexpr uint32_t kRowSums = kSlabs + kWarps * 2 * kSlabBytes;
  static constexpr uint32_t kBarriers = kRowSums + (kMaxBlocks - 1) * kBlockRows * 4;
  static constexpr uint32_t kBytes = kBarriers + 8 * (2 * kStages + kWarps);

  uint32_t base = SharedAddress(DynamicShared());

  __device__ uint32_t Tile(int stage, int tile) const {
    return base + stage * kStageBytes + tile * kTileBytes;
  }
  __device__ uint32_t A(int stage, int group) const { return Tile(stage, group); }
  __device__ uint32_t B(int stage) const { return Tile(stage, kGroups); }
  // Of the stage's `read`, 64 columns.
  __device__ uint32_t Read(int stage, int read, int group) const {
    return Tile(stage, read * kGroups + group);
  }
  // Two for each warp.
  __device__ uint32_t Slab(int warp, int which) const {
    return base + kSlabs + (warp * 2 + which) * kSlabBytes;
  }
  // Sums over the columns of the cluster's other blocks, `which` of three.
  __device__ uint32_t RowSum(int which, int row) const {
    return base + kRowSums + (which * kBlockRows + row) * 4;
  }
  __device__ uint32_t Full(int stage) const { return base + kBarriers + 8 * stage; }
  __device__ uint32_t Empty(int stage) const { return base + kBarriers + 8 * (kStages + stage); }
  __device__ uint32_t RowSumsHere(int warp) const { return base + kBarriers + 8 * (2 * kStages + warp); }

  __device__ void Init(int blocks) const {
    if (threadIdx.x != 0) return;
    for (int stage = 0; stage < kStages; ++stage) {
      InitBarrier(Full(stage), 1);
      InitBarrier(Empty(stage), blocks * kWarps);
    }
    for (int warp = 0; warp < kWarps; ++warp) InitBarrier(RowSumsHere(warp), 1);
    FenceBarrierInit();
  }
};

// Where the ring is: a stage, and the parity of its phase.
struct Place {
  int index = 0;
  __device__ int stage() const { return index % kStages; }
  __device__ uint32_t parity() const { return index / kStages & 1; }
};

// ---- Instructions.

// To `address` in block `rank`, where its 4 bytes count for `barrier`.
__device__ __forceinline__ void SendTo(int rank, uint32_t address, uint32_t barrier, float value) {
  asm volatile(
      "{\n"
      ".reg .b32 there, counted;\n"
      "mapa.shared::cluster.u32 there, %0, %2;\n"
      "mapa.shared::cluster.u32 counted, %1, %2;\n"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [there], %3, [counted];\n"
      "}" ::"r"(address),
      "r"(barrier), "r"(rank), "r"(__float_as_uint(value))
      : "memory");
}
__device__ __forceinline__ float LoadShared(uint32_t address) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}

// ---- Products.

#define HM_SUMS(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])

// c = a b (+ c if `add`) for 16 terms.
template <bool kTransposed>
__device__ __forceinline__ void Multiply16(uint64_t a, uint64_t b, bool add, Sums& c) {
  asm volatile(
      "{\n"
      ".reg .pred add;\n"
      "setp.ne.b32 add, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
      "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
      "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
      "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "
      "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, "
      "%102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, "
      "%119, %120, %121, %122, %123, %124, %125, %126, %127}, %128, %129, add, 1, 1, 0, %131;\n"
      "}"
      : HM_SUMS(0), HM_SUMS(1), HM_SUMS(2), HM_SUMS(3), HM_SUMS(4), HM_SUMS(5), HM_SUMS(6), HM_SUMS(7),
        HM_SUMS(8), HM_SUMS(9), HM_SUMS(10), HM_SUMS(11), HM_SUMS(12), HM_SUMS(13), HM_SUMS(14), HM_SUMS(15),
        HM_SUMS(16), HM_SUMS(17), HM_SUMS(18), HM_SUMS(19), HM_SUMS(20), HM_SUMS(21), HM_SUMS(22),
        HM_SUMS(23), HM_SUMS(24), HM_SUMS(25), HM_SUMS(26), HM_SUMS(27), HM_SUMS(28), HM_SUMS(29),
        HM_SUMS(30), HM_SUMS(31)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(kTransposed ? 1 : 0));
}
#undef HM_SUMS

template <int kPending>
__device__ __forceinline__ void WaitForSums(Sums& c) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#pragma unroll
  for (int n = 0; n < 32; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(c[n][i])::"memory");
  }
}

// ---- Work: clusters take tiles of rows in turn.

struct Work {
  int blocks, across;  // of the cluster, and which of them this is
  int first, step;

  __device__ explicit Work(const Sizes& sizes)
      : blocks(BlocksOf(sizes)),
        across(ClusterRank()),
        first(static_cast<int>(blockIdx.x) / blocks),
        step(static_cast<int>(gridDim.x) / blocks) {}
  __device__ int Row(int tile) const { return (first + tile * step) * kBlockRows; }
  __device__ int Col() const { return across * kBlockCols; }
};

template <bool kTransposed, typename Epilogue>
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
    for (int k = 0; k < sizes.inner; k += kTileCols, ++place.index) {
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

template <bool kTransposed>
__device__ __forceinline__ void Multiply(const Sizes& sizes, Warp& warp, Sums& c) {
#pragma unroll 1
  for (int k = 0; k < sizes.inner; k += kTileCols, ++warp.place.index) {
    warp.WaitForStage();
    const int stage = warp.place.stage();
    const uint32_t a = warp.shared.A(stage, warp.group), b = warp.shared.B(stage);
    FenceProducts();
#pragma unroll
    for (int step = 0; step < kTileCols / 16; ++step) {
      const uint64_t operand = kTransposed ? TransposedOperand(b, 128 * step) : Operand(b, 2 * step);
      Multiply16<kTransposed>(Operand(a, 2 * step), operand, k > 0 || step > 0, c);
    }
    CommitProducts();
    if (k > 0) {
      WaitForSums<1>(c);
      warp.Release((stage + kStages - 1) % kStages);
    }
  }
  WaitForSums<0>(c);
  warp.Release((warp.place.index - 1) % kStages);
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
#pragma unroll
      for (int right = 0; right < 2; ++right) {
        const auto factors =
            Pass::Factors(epilogue, col + tile * kTileCols + 8 * (n + right) + warp.lane % 4 * 2);
        float(&four)[4] = c[8 * tile + n + right];
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
//   sums: of this lane's two rows; after the first pass those of whole rows;
//   Begin(sizes, row): this lane has sums of rows row and row + 8;
//   Between(sizes, row, stores): between the passes; one lane a row is told to store what belongs to it;
//   Pass<0> and Pass<1>, the two passes over the sums:
//     kReads: how many of maps.reads it is given, from the first;
//     kResults, kFirstResult, PlaceOf(i): how many results it makes, the first of them in maps.results, and
//       which of its reads each replaces; a pass without reads makes one;
//     Factors(epilogue, col): what Apply is given for columns col and col + 1;
//     Apply(epilogue, factors, half, a, b, reads): for the two sums of row + 8 half, which it may change;
//       replaces the pairs of numbers in `reads` by results.
template <bool kTransposed, typename Epilogue>
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
    Multiply<kTransposed>(sizes, warp, c);
    GoOver<0>(warp, maps, warp_row, col, epilogue, c);
    AddOverRow(warp, tile, epilogue.sums);
    epilogue.Between(sizes, row, warp.lane % 4 == 0 && work.across == 0);
    GoOver<1>(warp, maps, warp_row, col, epilogue, c);
  }
  if (warp.lane == 0) WaitForStores<0>();
}

// In clusters of BlocksOf(sizes).
template <bool kTransposed, typename Epilogue>
__global__ void __launch_bounds__(kThreads, 1)
    ProductKernel(const __grid_constant__ Maps maps, const Sizes sizes, const Epilogue epilogue) {
  if constexpr (kIsHopper) {
    const Shared shared;
    shared.Init(BlocksOf(sizes));
    SyncCluster();
    if (threadIdx.x / 32 < kWarps) {
      Consume<kTransposed>(sizes, shared, maps, epilogue);
    } else if (threadIdx.x % 32 == 0) {
      Produce<kTransposed, Epilogue>(sizes, shared, maps);
    }
    __syncwarp();
    SyncCluster();  // Other blocks may still copy to this one, and arrive at its barriers.
  }
}

}  // namespace hm11::cuda::rows

#endif  // HM11_OPS_ROW_PRODUCT_CUH_
