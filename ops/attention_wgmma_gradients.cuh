// Where the gradients that attention's backward kernels for compute capability 9.0 make go: to tensors of their
// own, or on through the backward pass of ops/attention_heads.h to packed rows.
//
// A warpgroup has 64 whole rows of a head in its accumulators, 16 a warp; four lanes have a row between them, so
// its sums take two shuffles, and a channel's partner in RoPE is in the same lane, a few groups of 8 columns on.
// The rows that q and k were made of come by the copy unit with the tiles that stay (Shared::Source), so that they
// are there when the sums are.
#ifndef HM11_OPS_ATTENTION_WGMMA_GRADIENTS_CUH_
#define HM11_OPS_ATTENTION_WGMMA_GRADIENTS_CUH_

#include "ops/attention_wgmma.cuh"
#include "ops/packs.cuh"

namespace hm11::cuda::wgmma {

// As WarpTiles().
__device__ __forceinline__ int64_t WarpTilesOf(const Sizes& sizes) {
  return int64_t{sizes.batch} * sizes.tiles() * 4;
}

struct SeparateGradients {
  static constexpr int kSources = 0;

  Bf16 *dq, *dk, *dv;

  __device__ __forceinline__ const TileMap* source_map() const { return nullptr; }

  // By a warpgroup that is done with its fixed tiles, which become staging.
  __device__ __forceinline__ void StoreQueries(const Sizes& sizes, const TilePlace& place, uint32_t q_tile,
                                               uint32_t, Product64& sums) const {
    StoreHead(sums, {sizes.scale, sizes.scale}, q_tile, dq, sizes.heads, place, sizes.time);
  }
  __device__ __forceinline__ void StoreKeys(const Sizes& sizes, const TilePlace& place, uint32_t k_tile,
                                            uint32_t v_tile, uint32_t, Product64& dk_sums,
                                            Product64& dv_sums) const {
    StoreHead(dk_sums, {sizes.scale, sizes.scale}, k_tile, dk, sizes.kv_heads, place, sizes.time);
    StoreHead(dv_sums, {1, 1}, v_tile, dv, sizes.kv_heads, place, sizes.time);
  }
};

__device__ __forceinline__ float RowSum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

// One lane's two neighbouring channels of group n and of its row `half`.
__device__ __forceinline__ int LaneRow(int half) { return WarpRow() + 8 * half + threadIdx.x % 32 / 4; }
__device__ __forceinline__ int LaneColumn(int n) { return 8 * n + threadIdx.x % 4 * 2; }

// Turns rows back by their positions' angles; RoPE turns 8 kPairs pairs.
template <int kPairs>
__device__ __forceinline__ void TurnBack(const float* cosines, const float* sines, int first, int time,
                                         Product64& c) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t at = int64_t{min(first + LaneRow(half), time - 1)} * (8 * kPairs);
#pragma unroll
    for (int n = 0; n < kPairs; ++n) {
      const float2 cosine = __ldg(reinterpret_cast<const float2*>(cosines + at + LaneColumn(n)));
      const float2 sine = __ldg(reinterpret_cast<const float2*>(sines + at + LaneColumn(n)));
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float &one = c[n][2 * half + i], &two = c[n + kPairs][2 * half + i];
        const float turned = one, partner = two, cos = i ? cosine.y : cosine.x, sin = i ? sine.y : sine.x;
        one = turned * cos - partner * sin;
        two = partner * cos + turned * sin;
      }
    }
  }
}

// c, the gradient of gain rms(x) without its factor `scale`, becomes that of x, a tile in shared memory. Returns
// the gain's gradient from the lane's two rows, the same in the four lanes of a row; zero where x is.
__device__ __forceinline__ float NormBackward(uint32_t x_tile, float scale, float gain, Product64& c) {
  constexpr float kEpsilon = 1e-6f, kInverseDim = 1.0f / kTileCols;
  float gain_gradient = 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = LaneRow(half);
    uint32_t x[8];
    float squares = 0, dot = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      x[n] = *reinterpret_cast<const uint32_t*>(ChunkOf(x_tile, row, n) + threadIdx.x % 4 * 4);
      squares = fmaf(LowOf(x[n]), LowOf(x[n]), fmaf(HighOf(x[n]), HighOf(x[n]), squares));
      dot = fmaf(c[n][2 * half], LowOf(x[n]), fmaf(c[n][2 * half + 1], HighOf(x[n]), dot));
    }
    const float inverse_rms = rsqrtf(RowSum(squares) * kInverseDim + kEpsilon);
    const float here = scale * inverse_rms * RowSum(dot), factor = inverse_rms * gain;
    const float of_gradient = scale * factor, along = inverse_rms * factor * here * kInverseDim;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      c[n][2 * half] = of_gradient * c[n][2 * half] - along * LowOf(x[n]);
      c[n][2 * half + 1] = of_gradient * c[n][2 * half + 1] - along * HighOf(x[n]);
    }
    gain_gradient += here;
  }
  return gain_gradient;
}

// Adds the same rows of a head of [batch, time, heads, 64].
__device__ __forceinline__ void AddHead(const Bf16* from, int heads, const TilePlace& place, int time,
                                        Product64& c) {
  uint32_t pairs[2][8];  // all on their way at once
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = int64_t{place.b} * time + min(place.first + LaneRow(half), time - 1);
    const Bf16* const head = from + (row * heads + place.head) * kTileCols;
#pragma unroll
    for (int n = 0; n < 8; ++n)
      pairs[half][n] = __ldg(reinterpret_cast<const uint32_t*>(head + LaneColumn(n)));
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      c[n][2 * half] += LowOf(pairs[half][n]);
      c[n][2 * half + 1] += HighOf(pairs[half][n]);
    }
  }
}

// What was mixed into v, and where the gradients go; absent operands are null.
struct MixedValues {
  const Bf16* qkv;              // v's columns are read where there is first_v
  const Bf16* value_embedding;  // [batch, time, kv_heads, 64], as all that follow but scalars
  const float* ve_layer_scale;
  const float* ve_scale;
  const Bf16* first_v;
  const float* residual;   // [2]
  Bf16* dvalue_embedding;  // overwritten
  Bf16* dfirst_v;          // adds
  float* sums;             // [3, kv_heads, batch, tiles, 4]; null: nothing was mixed in

  __device__ __forceinline__ bool has_first() const { return first_v != nullptr; }
  __device__ __forceinline__ bool has_embedding() const { return value_embedding != nullptr; }
};

// What a lane reads of a row, eight channels of each operand, and where they lie in v and in qkv.
struct MixedRow {
  bool is_there;
  int64_t at, slot_at;
  cuda::Pack<Bf16, 8> embedding = {}, first = {}, own = {}, dfirst = {};

  // `row`: of its tile.
  __device__ __forceinline__ MixedRow(const MixedValues& mixed, const Sizes& sizes, const TilePlace& place,
                                      int row) {
    const int slots = sizes.heads + 2 * sizes.kv_heads, slot = sizes.heads + sizes.kv_heads + place.head;
    const int64_t position = int64_t{place.b} * sizes.time + place.first + row;
    is_there = place.first + row < sizes.time;
    at = (position * sizes.kv_heads + place.head) * kTileCols + threadIdx.x % 8 * 8;
    slot_at = (position * slots + slot) * kTileCols + threadIdx.x % 8 * 8;
    if (is_there && mixed.has_embedding()) embedding = Fetch<8>(mixed.value_embedding + at);
    if (is_there && mixed.has_first()) {
      first = Fetch<8>(mixed.first_v + at);
      own = Fetch<8>(mixed.qkv + slot_at);
      dfirst = Fetch<8>(mixed.dfirst_v + at);
    }
  }
};

struct MixedScales {
  float embedding = 0, first = 0, own = 1;

  __device__ __forceinline__ explicit MixedScales(const MixedValues& mixed) {
    if (mixed.has_embedding()) embedding = *mixed.ve_layer_scale * *mixed.ve_scale;
    if (mixed.has_first()) {
      first = mixed.residual[0];
      own = mixed.residual[1];
    }
  }
};

__device__ __forceinline__ float Dot(const float (&a)[8], const float (&b)[8]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(a[i], b[i], sum);
  return sum;
}

// From a row of dv; adds to the sums.
__device__ __forceinline__ void StoreMixedRow(const MixedValues& mixed, const MixedScales& scales,
                                              const MixedRow& row, float (&dv)[8], Bf16* dqkv,
                                              float (&sums)[3]) {
  float other[8], embedding[8];
  Unpack(row.embedding, embedding);
  if (mixed.has_first()) {
    Unpack(row.first, other);
    sums[1] += Dot(dv, other);
    Unpack(row.own, other);
#pragma unroll
    for (int i = 0; i < 8; ++i) other[i] += scales.embedding * embedding[i];
    sums[2] += Dot(dv, other);
    Unpack(row.dfirst, other);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      other[i] += scales.first * dv[i];
      dv[i] *= scales.own;
    }
    Store(other, mixed.dfirst_v + row.at);
  }
  Store(dv, dqkv + row.slot_at);
  if (mixed.has_embedding()) {
    sums[0] += Dot(dv, embedding);
#pragma unroll
    for (int i = 0; i < 8; ++i) dv[i] *= scales.embedding;
    Store(dv, mixed.dvalue_embedding + row.at);
  }
}

// Stores a tile of dv as the gradient of v's columns of qkv and of what was mixed in.
__device__ __forceinline__ void StoreMixedValues(const MixedValues& mixed, const Sizes& sizes,
                                                 const TilePlace& place, int64_t sums_at, uint32_t staging,
                                                 const Product64& dv_sums, Bf16* dqkv) {
  StageTile(dv_sums, {1, 1}, staging);
  const MixedRow rows[4] = {{mixed, sizes, place, StagedRow(0)},  // all on their way at once
                            {mixed, sizes, place, StagedRow(1)},
                            {mixed, sizes, place, StagedRow(2)},
                            {mixed, sizes, place, StagedRow(3)}};
  const MixedScales scales(mixed);
  float sums[3] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (!rows[i].is_there) continue;
    float dv[8];
    Load(reinterpret_cast<const Bf16*>(ChunkOf(staging, StagedRow(i), threadIdx.x % 8)), dv);
    StoreMixedRow(mixed, scales, rows[i], dv, dqkv, sums);
  }
#pragma unroll
  for (int which = 0; which < 3; ++which) {
    const float sum = WarpSum(sums[which]);
    if (threadIdx.x % 32 == 0) mixed.sums[sums_at + which * sizes.kv_heads * WarpTilesOf(sizes)] = sum;
  }
}

// kPairs: as TurnBack has it. No choice at run time: the branches would cost registers in the loop.
template <int kPairs>
struct PackedGradients {
  static constexpr int kSources = 1;  // rows that q or k were made of

  TileMap qkv;                     // [batch, time, heads + 2 kv_heads, 64]
  const float* q_gain;             // [heads]
  const float* cosines;            // [time, 8 kPairs]
  const float* sines;              // [time, 8 kPairs]
  const Bf16* dv_from_outside[2];  // [batch, time, kv_heads, 64], or null
  MixedValues mixed;
  Bf16* dqkv;        // as qkv
  float* gain_sums;  // [heads, batch, tiles, 4]: of the gain's gradient

  __device__ __forceinline__ const TileMap* source_map() const { return &qkv; }

  __device__ __forceinline__ void StoreQueries(const Sizes& sizes, const TilePlace& place, uint32_t q_tile,
                                               uint32_t source, Product64& sums) const {
    const float gain_sum = HeadBackward(sizes, place.first, source, __ldg(q_gain + place.head), sums);
    const float of_warp = WarpSum(threadIdx.x % 4 == 0 ? gain_sum : 0.0f);
    if (threadIdx.x % 32 == 0) gain_sums[SumsAt(sizes, place)] = of_warp;
    StoreHead(sums, {1, 1}, q_tile, dqkv, Slots(sizes), place, sizes.time);
  }
  __device__ __forceinline__ void StoreKeys(const Sizes& sizes, const TilePlace& place, uint32_t k_tile,
                                            uint32_t v_tile, uint32_t source, Product64& dk_sums,
                                            Product64& dv_sums) const {
    HeadBackward(sizes, place.first, source, 1, dk_sums);
    TilePlace slot = {place.b, sizes.heads + place.head, place.first};
    StoreHead(dk_sums, {1, 1}, k_tile, dqkv, Slots(sizes), slot, sizes.time);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (dv_from_outside[i] != nullptr) {
        AddHead(dv_from_outside[i], sizes.kv_heads, place, sizes.time, dv_sums);
      }
    }
    if (mixed.sums != nullptr) {
      return StoreMixedValues(mixed, sizes, place, SumsAt(sizes, place), v_tile, dv_sums, dqkv);
    }
    slot.head += sizes.kv_heads;
    StoreHead(dv_sums, {1, 1}, v_tile, dqkv, Slots(sizes), slot, sizes.time);
  }

 private:
  __device__ __forceinline__ static int Slots(const Sizes& sizes) { return sizes.heads + 2 * sizes.kv_heads; }

  // Where this warp's sums go.
  __device__ __forceinline__ static int64_t SumsAt(const Sizes& sizes, const TilePlace& place) {
    return place.head * WarpTilesOf(sizes) +
           (int64_t{place.b} * sizes.tiles() + place.first / kTileRows) * 4 + threadIdx.x / 32 % 4;
  }

  __device__ __forceinline__ float HeadBackward(const Sizes& sizes, int first, uint32_t source, float gain,
                                                Product64& c) const {
    TurnBack<kPairs>(cosines, sines, first, sizes.time, c);
    return NormBackward(source, sizes.scale, gain, c);
  }
};

}  // namespace hm11::cuda::wgmma

#endif  // HM11_OPS_ATTENTION_WGMMA_GRADIENTS_CUH_
