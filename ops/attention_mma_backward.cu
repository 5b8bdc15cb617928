// Attention backward by mma.sync.
//
// Scores are computed again in steps of 32 columns, which leaves registers for two results.
#include "core/special_functions.cuh"
#include "ops/attention_mma.cuh"

namespace hm11::cuda {
namespace mma {
namespace {

constexpr int kStep = 32;
constexpr int kStepTiles = kStep / 8;
template <int kHeadDim>
inline constexpr uint32_t kFixedBytes = TileBytes<kHeadDim>(kFixed<kHeadDim>);
template <int kHeadDim>
inline constexpr uint32_t kMovingBytes = TileBytes<kHeadDim>(kMoving);

template <int kHeadDim>
using StepScores = Scores<kHeadDim, kStepTiles>;
template <int kHeadDim>
using RowFactors = float[kRowTiles<kHeadDim>][2];  // of a lane's rows

struct Operands {
  const Bf16 *q, *k, *v, *dy;
  const float *log_sum_exp, *delta;
};

// The scores of a step and, in ds, the gradients of their probabilities. `fixed`: the tile of q or k, behind it that
// of dy or v; `stage` has the two of the other side in the same order, of which the step's rows begin at `step`.
template <int kHeadDim>
__device__ __forceinline__ void MultiplyStep(uint32_t fixed, int warp_row, uint32_t stage, int step,
                                             StepScores<kHeadDim>& scores, StepScores<kHeadDim>& ds) {
  Fragments<kHeadDim> fragments;
  LoadFragments<kHeadDim>(fragments, fixed, warp_row);
  MultiplyByColumns<kHeadDim, kStepTiles>(fragments, stage, step, scores);
  LoadFragments<kHeadDim>(fragments, fixed + kFixedBytes<kHeadDim>, warp_row);
  MultiplyByColumns<kHeadDim, kStepTiles>(fragments, stage + kMovingBytes<kHeadDim>, step, ds);
}

// ---- Gradients of keys and values.
//
// Block (key tile, kv head, batch row): the fixed side are keys, the moving side queries of all heads that
// read the kv head, so that scores are transposed: rows keys, columns queries. A row of log_sum_exp or delta
// is then a number a column. Queries from `time` on have q = dy = 0 and, by that, no effect.

// The moving side. A stage is the tiles of q and dy, then log_sum_exp and delta.
template <int kHeadDim>
struct MovingQueries {
  static constexpr uint32_t kNumbers = 2 * kMovingBytes<kHeadDim>;
  static constexpr uint32_t kStage = kNumbers + 2 * kMoving * sizeof(float);

  const Operands& operands;
  const Sizes& sizes;
  int b, kv_head, group;  // heads that read it
  int first_query, tiles_a_head;
  int64_t stride = int64_t{sizes.heads} * kHeadDim;  // of rows

  __device__ __forceinline__ int Query(int index) const {
    return first_query + index % tiles_a_head * kMoving;
  }
  // Starts copying the `index`th tile of all heads.
  __device__ __forceinline__ void Copy(int index, uint32_t stage) const {
    const int h = kv_head * group + index / tiles_a_head, query = Query(index);
    const int64_t row = (int64_t{b} * sizes.heads + h) * sizes.time, head = sizes.Query<kHeadDim>(b, h);
    CopyTile<kHeadDim, kMoving>(operands.q + head, stride, query, sizes.time, stage);
    CopyTile<kHeadDim, kMoving>(operands.dy + head, stride, query, sizes.time,
                                stage + kMovingBytes<kHeadDim>);
    CopyNumbers(operands.log_sum_exp + row, query, sizes.time, stage + kNumbers);
    CopyNumbers(operands.delta + row, query, sizes.time, stage + kNumbers + kMoving * 4);
    CommitCopies();
  }
};

// Makes scores probabilities and ds their gradients. Rows are keys from `key`, columns a stage's queries from
// `step` on; the first of the stage is `query`, `numbers` its log_sum_exp and delta. Where `diagonal`, queries
// before a key have 0.
template <int kHeadDim>
__device__ __forceinline__ void KeyStepGradient(StepScores<kHeadDim>& p, StepScores<kHeadDim>& ds,
                                                const float* numbers, int step, float scale_log2,
                                                bool diagonal, int lane, int key, int query) {
#pragma unroll
  for (int n = 0; n < kStepTiles; ++n) {
    const int column = step + 8 * n + 2 * (lane % 4);
    const float2 shift = *reinterpret_cast<const float2*>(numbers + column);
    const float2 delta = *reinterpret_cast<const float2*>(numbers + kMoving + column);
#pragma unroll
    for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float p_i = Exp2(p[r][n][i] * scale_log2 - (i % 2 ? shift.y : shift.x) * kLog2E);
        const int row = key + 16 * r + 8 * (i / 2) + lane / 4;
        p[r][n][i] = diagonal && row > query + column + i % 2 ? 0.0f : p_i;
        ds[r][n][i] = p[r][n][i] * (ds[r][n][i] - (i % 2 ? delta.y : delta.x));
      }
    }
  }
}

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, kHeadDim <= 64 ? 2 : 1)
    MmaKeyGradientKernel(const Operands operands, Bf16* dk, Bf16* dv, const Sizes sizes) {
  using Queries = MovingQueries<kHeadDim>;
  const int b = blockIdx.z, kv_head = blockIdx.y, first = blockIdx.x * kFixed<kHeadDim>;
  const int group = sizes.heads / sizes.kv_heads;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * kRowTiles<kHeadDim>;
  const int key = first + warp_row;  // the warp's first
  const int first_query = first / kMoving * kMoving;
  const int tiles_a_head = (sizes.time - first_query + kMoving - 1) / kMoving;
  const Queries queries = {operands, sizes, b, kv_head, group, first_query, tiles_a_head};
  const int64_t head = sizes.Key<kHeadDim>(b, kv_head), stride = int64_t{sizes.kv_heads} * kHeadDim;

  char* shared = DynamicShared();
  const uint32_t k_tile = SharedAddress(shared), v_tile = k_tile + kFixedBytes<kHeadDim>;
  constexpr uint32_t kStages = 2 * kFixedBytes<kHeadDim>;  // where they begin
  CopyTile<kHeadDim, kFixed<kHeadDim>>(operands.k + head, stride, first, sizes.time, k_tile);
  CopyTile<kHeadDim, kFixed<kHeadDim>>(operands.v + head, stride, first, sizes.time, v_tile);
  queries.Copy(0, k_tile + kStages);

  Result<kHeadDim> dk_result = {}, dv_result = {};
  const float scale_log2 = sizes.scale * kLog2E;
  for (int index = 0; index < group * tiles_a_head; ++index) {
    const uint32_t stage_offset = kStages + index % 2 * Queries::kStage, stage = k_tile + stage_offset;
    const float* numbers = reinterpret_cast<const float*>(shared + stage_offset + Queries::kNumbers);
    WaitForCopies<0>();
    __syncthreads();
    if (index + 1 < group * tiles_a_head) {
      queries.Copy(index + 1, k_tile + kStages + (index + 1) % 2 * Queries::kStage);
    }
    const int stage_query = queries.Query(index);
#pragma unroll 1
    for (int step = 0; step < kMoving; step += kStep) {
      const int query = stage_query + step;
      if (query + kStep - 1 < key) continue;  // Before all of the warp's keys.
      StepScores<kHeadDim> p, ds;
      MultiplyStep<kHeadDim>(k_tile, warp_row, stage, step, p, ds);
      const bool diagonal = query < key + 16 * kRowTiles<kHeadDim> - 1;
      KeyStepGradient<kHeadDim>(p, ds, numbers, step, scale_log2, diagonal, lane, key, stage_query);
      AddProduct<kHeadDim, kStepTiles>(p, stage + kMovingBytes<kHeadDim>, step, dv_result);
      AddProduct<kHeadDim, kStepTiles>(ds, stage, step, dk_result);
    }
  }
  StoreScaled<kHeadDim>(dk_result, sizes.scale, shared, warp_row, dk + head, stride, first, sizes.time);
  StoreScaled<kHeadDim>(dv_result, 1.0f, shared, warp_row, dv + head, stride, first, sizes.time);
}

// ---- Gradients of queries.
//
// Block (query tile, last first; head; batch row): the fixed side are queries, the moving side keys.

// log_sum_exp times log2(e) and delta of this lane's rows, the warp's from `query`; 0 from `time` on.
template <int kHeadDim>
__device__ __forceinline__ void LoadRowNumbers(const Operands& p, const Sizes& sizes, int b, int h, int lane,
                                               int query, RowFactors<kHeadDim>& shift,
                                               RowFactors<kHeadDim>& delta) {
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = query + 16 * r + 8 * half + lane / 4;
      const int64_t at = (int64_t{b} * sizes.heads + h) * sizes.time + row;
      shift[r][half] = row < sizes.time ? p.log_sum_exp[at] * kLog2E : 0.0f;
      delta[r][half] = row < sizes.time ? p.delta[at] : 0.0f;
    }
  }
}

// Makes ds, gradients of probabilities, those of scores.
template <int kHeadDim>
__device__ __forceinline__ void QueryStepGradient(const StepScores<kHeadDim>& scores,
                                                  StepScores<kHeadDim>& ds, float scale_log2,
                                                  const RowFactors<kHeadDim>& shift,
                                                  const RowFactors<kHeadDim>& delta) {
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
    for (int n = 0; n < kStepTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        ds[r][n][i] = Exp2(scores[r][n][i] * scale_log2 - shift[r][i / 2]) * (ds[r][n][i] - delta[r][i / 2]);
      }
    }
  }
}

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, kHeadDim <= 64 ? 2 : 1)
    MmaQueryGradientKernel(const Operands operands, Bf16* dq, const Sizes sizes) {
  const int b = blockIdx.z, h = blockIdx.y,
            first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kFixed<kHeadDim>;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * kRowTiles<kHeadDim>;
  const int64_t stride = int64_t{sizes.heads} * kHeadDim;
  const MovingKeys<kHeadDim> moving(operands.k, operands.v, sizes, b, h / (sizes.heads / sizes.kv_heads));

  char* shared = DynamicShared();
  const uint32_t q_tile = SharedAddress(shared), dy_tile = q_tile + kFixedBytes<kHeadDim>,
                 stages = dy_tile + kFixedBytes<kHeadDim>;
  CopyTile<kHeadDim, kFixed<kHeadDim>>(operands.q + sizes.Query<kHeadDim>(b, h), stride, first, sizes.time,
                                       q_tile);
  CopyTile<kHeadDim, kFixed<kHeadDim>>(operands.dy + sizes.Query<kHeadDim>(b, h), stride, first, sizes.time,
                                       dy_tile);
  moving.Copy(0, stages);

  const int query = first + warp_row;  // the warp's first
  RowFactors<kHeadDim> shift, delta;
  LoadRowNumbers<kHeadDim>(operands, sizes, b, h, lane, query, shift, delta);
  Result<kHeadDim> result = {};
  const float scale_log2 = sizes.scale * kLog2E;
  const int keys = min(first + kFixed<kHeadDim>, sizes.time);
  for (int stage_key = 0; stage_key < keys; stage_key += kMoving) {
    const uint32_t stage = moving.Stage(stages, stage_key);
    WaitForCopies<0>();
    __syncthreads();
    if (stage_key + kMoving < keys) moving.Copy(stage_key + kMoving, moving.NextStage(stages, stage_key));
#pragma unroll 1
    for (int step = 0; step < kMoving; step += kStep) {
      const int key = stage_key + step;
      if (key > query + 16 * kRowTiles<kHeadDim> - 1) break;  // Behind all of the warp's queries.
      StepScores<kHeadDim> p, ds;
      MultiplyStep<kHeadDim>(q_tile, warp_row, stage, step, p, ds);
      if (key + kStep - 1 > query) MaskKeys<kHeadDim, kStepTiles>(p, query, key, -INFINITY);
      QueryStepGradient<kHeadDim>(p, ds, scale_log2, shift, delta);
      AddProduct<kHeadDim, kStepTiles>(ds, stage, step, result);
    }
  }
  StoreScaled<kHeadDim>(result, sizes.scale, shared, warp_row, dq + sizes.Query<kHeadDim>(b, h), stride,
                        first, sizes.time);
}

template <int kHeadDim>
void Backward(const Device& device, const AttentionGradArgs<Bf16>& args, Tensor<const float> delta) {
  const AttentionArgs<Bf16>& x = args.forward;
  const Operands operands = {x.q.data(),     x.k.data(),           x.v.data(),
                             args.dy.data(), x.log_sum_exp.data(), delta.data()};
  const Sizes sizes = SizesOf(x);
  const int64_t batch = x.q.dim(0);
  const int64_t fixed_bytes = 2 * kFixedBytes<kHeadDim>;
  Launch(device,
         {.blocks = Blocks<kHeadDim>(sizes.time, sizes.kv_heads, batch),
          .threads = kThreads,
          .shared_bytes = fixed_bytes + 2 * MovingQueries<kHeadDim>::kStage},
         MmaKeyGradientKernel<kHeadDim>, operands, args.dk.data(), args.dv.data(), sizes);
  Launch(device,
         {.blocks = Blocks<kHeadDim>(sizes.time, sizes.heads, batch),
          .threads = kThreads,
          .shared_bytes = fixed_bytes + 2 * MovingKeys<kHeadDim>::kStage},
         MmaQueryGradientKernel<kHeadDim>, operands, args.dq.data(), sizes);
}

}  // namespace
}  // namespace mma

void MmaAttentionBackward(const Device& device, const AttentionGradArgs<Bf16>& args,
                          Tensor<const float> delta) {
  const int64_t head_dim = args.dq.dim(3);
  (head_dim == 32   ? mma::Backward<32>
   : head_dim == 64 ? mma::Backward<64>
                    : mma::Backward<128>)(device, args, delta);
}

}  // namespace hm11::cuda
