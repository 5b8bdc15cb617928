// Gradients of thin products on compute capability 9.0.
#include <algorithm>

#include "core/launch.cuh"
#include "ops/packs.cuh"
#include "ops/thin_product.cuh"
#include "ops/thin_product.h"

namespace hm11::cuda {

namespace thin {

// Where ToThin's dx goes.
struct ThinResult {
  Bf16* dx;
  int64_t stride;
  bool add;
};

// reads_result: a stage's room for results is filled too.
template <typename Kind>
__device__ void Produce(const Sizes& sizes, const Work& work, const Shared<Kind>& shared, const Maps& maps,
                        bool reads_result) {
  constexpr bool kToWide = Kind::kResultTiles > 0;
  const int parts = kToWide ? 1 : sizes.parts();
  const int weight_tiles = parts * kTiles;
  ArriveAndExpect(shared.WeightFull(), weight_tiles * Kind::kWeightTileBytes);
#pragma unroll 1
  for (int tile = 0; tile < weight_tiles; ++tile) {
    const int wide = work.part * kStageCols + tile * kTileCols;
    CopyBox(shared.Weight(tile), maps.weight, shared.WeightFull(), kToWide ? wide : 0, kToWide ? 0 : wide);
  }
  const uint32_t tiles = reads_result ? 2 * kTiles : kTiles;
  Place<Kind> place;
#pragma unroll 1
  for (int tile = 0; work.Row(tile) < sizes.rows; ++tile) {
#pragma unroll 1
    for (int part = work.part; part < work.part + parts; ++part, ++place.index) {
      const int stage = place.stage(), row = work.Row(tile);
      const uint32_t full = shared.Full(stage);
      WaitBarrier(shared.Empty(stage), place.parity() ^ 1);
      ArriveAndExpect(full, tiles * kTileBytes + Kind::kStrips * kStripBytes);
      for (int strip = 0; strip < Kind::kStrips; ++strip) {
        CopyBox(shared.Thin(stage, strip), maps.thin, full, strip * kStripCols, row);
      }
      for (int t = 0; t < kTiles; ++t) {
        const int col = part * kStageCols + t * kTileCols;
        CopyBox(shared.Wide(stage, t), maps.wide, full, col, row);
        if (reads_result) CopyBox(shared.Result(stage, t), maps.added, full, col, row);
      }
    }
  }
}

// The warp has read what it needs of a stage.
template <typename Kind>
__device__ __forceinline__ void Release(const Shared<Kind>& shared, const Lane& lane, int stage) {
  __syncwarp();
  if (lane.lane == 0) Arrive(shared.Empty(stage));
}

// ---- To wide.

// The sums of a warp's 16 rows and 64 columns replace, or with kAdds are added to, what is in `slab`.
template <bool kAdds>
__device__ __forceinline__ void PutSums(const Lane& lane, uint32_t slab, const Sums<64>& c) {
#pragma unroll
  for (int n = 0; n < 8; n += 2) {
    const int row = lane.lane % 16, chunk = n + lane.lane / 16;
    const uint32_t address = slab + row * 128 + (chunk ^ (row & 7)) * 16;
    uint32_t pairs[4];
    if constexpr (kAdds) LoadMatrices(pairs, address);
#pragma unroll
    for (int m = 0; m < 4; ++m) {  // halves of the rows within columns
      float low = c[n + m / 2][m % 2 * 2], high = c[n + m / 2][m % 2 * 2 + 1];
      if constexpr (kAdds) {
        low += __uint_as_float(pairs[m] << 16);
        high += __uint_as_float(pairs[m] & 0xffff0000u);
      }
      pairs[m] = PackBf16(low, high);
    }
    StoreMatrices(address, pairs);
  }
}

// Asks for the products of a stage's rows, a group each: dx = dy weight, and dweight += x^T dy. `first_tile`: of the
// warpgroup's columns.
__device__ __forceinline__ void MultiplyToWide(const Shared<ToWide>& shared, int stage, int first_tile,
                                               Sums<kTileCols> (&dx)[kGroupTiles],
                                               Sums<ToWide::kMaxThin> (&dweight)[kGroupTiles]) {
  FenceProducts();
#pragma unroll
  for (int t = 0; t < kGroupTiles; ++t) {
#pragma unroll
    for (int step = 0; step < ToWide::kMaxThin / 16; ++step) {
      Multiply16<false, true>(StripRowsAt(shared.Thin(stage, 0), step),
                              TileColsAt(shared.Weight(first_tile + t), step), step > 0, dx[t]);
    }
  }
  CommitProducts();
#pragma unroll
  for (int t = 0; t < kGroupTiles; ++t) {
#pragma unroll
    for (int step = 0; step < kTileRows / 16; ++step) {
      Multiply16<true, true>(TileColsAt(shared.Wide(stage, first_tile + t), step),
                             StripColsAt(shared.Thin(stage, 0), step), true, dweight[t]);
    }
  }
  CommitProducts();
}

template <bool kAdds>
__device__ void ConsumeToWide(const Sizes& sizes, const Work& work, const Shared<ToWide>& shared,
                              const Maps& maps, float* partials) {
  const Lane lane;
  const int first_tile = lane.group * kGroupTiles,
            first_col = work.part * kStageCols + first_tile * kTileCols;
  Sums<ToWide::kMaxThin> dweight[kGroupTiles] = {};
  WaitBarrier(shared.WeightFull(), 0);
  Place<ToWide> place;
#pragma unroll 1
  for (; work.Row(place.index) < sizes.rows; ++place.index) {
    const int stage = place.stage();
    WaitBarrier(shared.Full(stage), place.parity());
    Sums<kTileCols> dx[kGroupTiles];
    MultiplyToWide(shared, stage, first_tile, dx, dweight);
    WaitForProducts<1>(dx[0], dx[1]);
    const auto slab = [&](int t) { return shared.Result(stage, first_tile + t) + lane.first_row * 128; };
#pragma unroll
    for (int t = 0; t < kGroupTiles; ++t) PutSums<kAdds>(lane, slab(t), dx[t]);
    FenceForUnits();
    __syncwarp();
    if (lane.lane == 0) {
      for (int t = 0; t < kGroupTiles; ++t) {
        StoreBox(maps.result, slab(t), first_col + t * kTileCols, work.Row(place.index) + lane.first_row);
      }
      CommitStores();
    }
    WaitForProducts<0>(dweight[0], dweight[1]);
    if (lane.lane == 0) WaitForStores<0>();
    Release(shared, lane, stage);
  }
  float* const to = partials + int64_t{work.first} * sizes.thin * sizes.wide;
#pragma unroll
  for (int t = 0; t < kGroupTiles; ++t) {
    StorePartial(sizes, lane, dweight[t], first_col + t * kTileCols, to, 1, sizes.wide);
  }
}

template <bool kAdds>
__global__ void __launch_bounds__(kThreads, 1)
    ToWideKernel(const __grid_constant__ Maps maps, const Sizes sizes, float* partials) {
  if constexpr (kIsHopper) {
    const Shared<ToWide> shared;
    const Work work(sizes, ToWide());
    shared.Init();
    if (threadIdx.x / 32 < kWarps) {
      GrowRegisters<kRegisters>();
      ConsumeToWide<kAdds>(sizes, work, shared, maps, partials);
    } else {
      ShrinkRegisters<kProducerRegisters>();
      if (threadIdx.x == kWarps * 32) Produce(sizes, work, shared, maps, kAdds);
    }
  }
}

// ---- To thin.

// Adds up what the warpgroups have of 64 rows of dx. All their threads call it.
__device__ __forceinline__ void StoreThin(const Sizes& sizes, const Lane& lane, const Shared<ToThin>& shared,
                                          const ThinResult& result, int first_row,
                                          const Sums<ToThin::kMaxThin>& dx) {
  if (lane.group == 1) {
#pragma unroll
    for (int i = 0; i < 16; ++i) StoreShared(shared.Exchange(i), dx[i / 4][i % 4]);
  }
  SyncThreads(1, kWarps * 32);
  if (lane.group == 0) {
#pragma unroll
    for (int i = 0; i < 16; i += 2) {
      const int row = first_row + lane.row + i % 4 * 4, col = i / 4 * 8 + lane.col;
      if (row >= sizes.rows || col >= sizes.thin) continue;
      uint32_t* const to = reinterpret_cast<uint32_t*>(result.dx + row * result.stride + col);
      const uint32_t old = result.add ? *to : 0;
      *to = PackBf16(
          dx[i / 4][i % 4] + LoadShared(shared.Exchange(i)) + __uint_as_float(old << 16),
          dx[i / 4][i % 4 + 1] + LoadShared(shared.Exchange(i + 1)) + __uint_as_float(old & 0xffff0000u));
    }
  }
  SyncThreads(1, kWarps * 32);
}

__device__ __forceinline__ void ConsumeToThin(const Sizes& sizes, const Work& work,
                                              const Shared<ToThin>& shared, const ThinResult& result,
                                              float* partials) {
  const Lane lane;
  const int first_tile = lane.group * kGroupTiles;
  Sums<ToThin::kMaxThin> dweight[ToThin::kMaxParts][kGroupTiles] = {};
  WaitBarrier(shared.WeightFull(), 0);
  Place<ToThin> place;
#pragma unroll 1
  for (int tile = 0; work.Row(tile) < sizes.rows; ++tile) {
    Sums<ToThin::kMaxThin> dx = {};
#pragma unroll
    for (int part = 0; part < ToThin::kMaxParts; ++part) {
      if (part * kStageCols >= sizes.wide) break;
      const int stage = place.stage();
      WaitBarrier(shared.Full(stage), place.parity());
      FenceProducts();
#pragma unroll
      for (int t = 0; t < kGroupTiles; ++t) {
        const uint32_t dy = shared.Wide(stage, first_tile + t);
        const uint32_t weight = shared.Weight(part * kTiles + first_tile + t);
#pragma unroll
        for (int step = 0; step < 4; ++step) {
          Multiply16<false, true>(TileRowsAt(dy, step), StripColsAt(weight, step), true, dx);
          Multiply16<true, true>(TileColsAt(dy, step), StripColsAt(shared.Thin(stage, 0), step), true,
                                 dweight[part][t]);
        }
      }
      CommitProducts();
      WaitForProducts<0>(dx, dweight[part][0], dweight[part][1]);
      Release(shared, lane, stage);
      ++place.index;
    }
    StoreThin(sizes, lane, shared, result, work.Row(tile), dx);
  }
  float* const to = partials + int64_t{work.first} * sizes.thin * sizes.wide;
#pragma unroll
  for (int tile = 0; tile < ToThin::kMaxParts * kGroupTiles; ++tile) {
    const int part = tile / kGroupTiles, t = tile % kGroupTiles;
    StorePartial(sizes, lane, dweight[part][t], part * kStageCols + (first_tile + t) * kTileCols, to,
                 sizes.thin, 1);
  }
}

template <typename Kind>
__global__ void __launch_bounds__(kThreads, 1)
    ToThinKernel(const __grid_constant__ Maps maps, const Sizes sizes, const ThinResult result,
                 float* partials) {
  if constexpr (kIsHopper) {
    const Shared<Kind> shared;
    const Work work(sizes, Kind());
    shared.Init();
    if (threadIdx.x / 32 < kWarps) {
      GrowRegisters<kRegisters>();
      ConsumeToThin(sizes, work, shared, result, partials);
    } else {
      ShrinkRegisters<kProducerRegisters>();
      if (threadIdx.x == kWarps * 32) Produce(sizes, work, shared, maps, false);
    }
  }
}

}  // namespace thin

namespace {

using thin::Maps;
using thin::Sizes;
using thin::ToThin;
using thin::ToWide;

constexpr int kMaxBlocks = 160;

// ---- The second stage of dweight: a block has 256 neighbouring numbers, four a thread, and its slices of
// threads take every eighth partial sum each; the slices' sums are added in order.

constexpr int kColumnThreads = 64;
constexpr int kSlices = 8;

__global__ void __launch_bounds__(kColumnThreads* kSlices)
    AddPartialsKernel(const float4* partials, int count, int columns, float4* to) {
  __shared__ float4 slices[kSlices][kColumnThreads];
  const int column = blockIdx.x * kColumnThreads + threadIdx.x;
  const auto add = [](float4& sum, const float4& term) {
    sum = {sum.x + term.x, sum.y + term.y, sum.z + term.z, sum.w + term.w};
  };
  float4 sum = {};
  if (column < columns) {
#pragma unroll 8
    for (int p = threadIdx.y; p < count; p += kSlices) add(sum, partials[int64_t{p} * columns + column]);
  }
  slices[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= columns) return;
#pragma unroll
  for (int slice = 1; slice < kSlices; ++slice) add(sum, slices[slice][threadIdx.x]);
  float4 total = to[column];
  add(total, sum);
  to[column] = total;
}

void AddPartials(const Device& device, Tensor<const float> partials, int count, Tensor<float> dweight) {
  const int columns = static_cast<int>(dweight.size() / 4);
  Launch(device,
         {.blocks = static_cast<unsigned>(CeilDiv(columns, kColumnThreads)),
          .threads = dim3(kColumnThreads, kSlices)},
         AddPartialsKernel, reinterpret_cast<const float4*>(partials.data()), count, columns,
         reinterpret_cast<float4*>(dweight.data()));
}

// ---- Which kernel, with which operands.

bool IsToWide(int64_t out, int64_t in) {
  return out <= ToWide::kMaxThin && in >= out && in <= kMaxBlocks * thin::kStageCols;
}
bool IsToThin(int64_t out, int64_t in) { return in <= ToThin::kMaxThin && out <= ToThin::kMaxWide; }

TileMap MapOf(Columns<const Bf16> matrix, int box_rows, int box_cols) {
  const cuuint64_t extents[] = {static_cast<cuuint64_t>(matrix.cols()),
                                static_cast<cuuint64_t>(matrix.rows())};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(2 * matrix.stride())};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_cols), static_cast<cuuint32_t>(box_rows)};
  return EncodeTileMap(matrix.data(), 2, extents, strides, box);
}

bool IsMappable(Columns<const Bf16> matrix) { return IsAligned(matrix.data()) && matrix.stride() % 8 == 0; }

// Both return how many partial sums there are.
int ToWideBackward(const Device& device, const MatmulGradArgs<Bf16>& args, int64_t most, float* partials) {
  const Sizes sizes = {static_cast<int>(args.dy.rows()), static_cast<int>(args.x.cols()),
                       static_cast<int>(args.dy.cols())};
  const Maps maps = {.wide = MapOf(args.x, kTileRows, kTileCols),
                     .thin = MapOf(args.dy, kTileRows, thin::kStripCols),
                     .weight = MapOf(args.weight, ToWide::kMaxThin, kTileCols),
                     .added = MapOf(args.dx, kTileRows, kTileCols),
                     .result = MapOf(args.dx, thin::kWarpRows, kTileCols)};
  const int count = static_cast<int>(
      std::min<int64_t>({most, sizes.row_tiles(), std::max(device.multiprocessors() / sizes.parts(), 1)}));
  Launch(device,
         {.blocks = static_cast<unsigned>(count * sizes.parts()),
          .threads = thin::kThreads,
          .shared_bytes = thin::Shared<ToWide>::kBytes},
         args.add_to_dx ? thin::ToWideKernel<true> : thin::ToWideKernel<false>, maps, sizes, partials);
  return count;
}

int ToThinBackward(const Device& device, const MatmulGradArgs<Bf16>& args, int64_t most, float* partials) {
  const Sizes sizes = {static_cast<int>(args.dy.rows()), static_cast<int>(args.dy.cols()),
                       static_cast<int>(args.x.cols())};
  const Maps maps = {.wide = MapOf(args.dy, kTileRows, kTileCols),
                     .thin = MapOf(args.x, kTileRows, thin::kStripCols),
                     .weight = MapOf(args.weight, kTileRows, thin::kStripCols)};
  const int count = static_cast<int>(std::min<int64_t>({most, sizes.row_tiles(), device.multiprocessors()}));
  Launch(device,
         {.blocks = static_cast<unsigned>(count),
          .threads = thin::kThreads,
          .shared_bytes = thin::Shared<ToThin>::kBytes},
         thin::ToThinKernel<ToThin>, maps, sizes,
         thin::ThinResult{.dx = args.dx.data(), .stride = args.dx.stride(), .add = args.add_to_dx}, partials);
  return count;
}

}  // namespace

int64_t ThinPartials(int64_t out, int64_t in) {
  if (out % 8 != 0 || in % 8 != 0 || out <= 0 || in <= 0) return 0;
  if (IsToThin(out, in)) return kMaxBlocks;
  return IsToWide(out, in) ? std::max<int64_t>(kMaxBlocks / CeilDiv<int64_t>(in, thin::kStageCols), 1) : 0;
}

bool TryThinMatmulBackward(const Device& device, const MatmulGradArgs<Bf16>& args, Tensor<float> partials) {
  const int64_t rows = args.dy.rows(), out = args.dy.cols(), in = args.x.cols();
  if (device.compute_capability() != 90 || rows <= 0 || rows >= 1 << 30) return false;
  if (args.dx.empty() || args.dweight.empty() || ThinPartials(out, in) == 0) return false;
  if (!IsMappable(args.dy) || !IsMappable(args.x) || !IsMappable(args.dx)) return false;
  if (!AllAligned(args.weight.data(), args.dweight.data(), partials.data())) return false;
  const auto run = IsToThin(out, in) ? ToThinBackward : ToWideBackward;
  const int count = run(device, args, partials.dim(0), partials.data());
  AddPartials(device, partials, count, args.dweight);
  return true;
}

}  // namespace hm11::cuda
