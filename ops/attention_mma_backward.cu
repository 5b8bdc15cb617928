// Attention backward by mma.sync.
//
// Scores are computed again in steps of 32 columns, which leaves registers for two results.
#include "ops/attention_mma.cuh"

namespace hm11::cuda {
namespace mma {
namespace {

constexpr int kStep = 32;
constexpr int kStepTiles = kStep / 8;

// Block (key tile, kv head, batch row): the fixed side are keys, the moving side queries of all heads that
// read the kv head, so that scores are transposed: rows keys, columns queries. A row of log_sum_exp or delta
// is then a number a column. Queries from `time` on have q = dy = 0 and, by that, no effect.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, kHeadDim <= 64 ? 2 : 1)
    MmaKeyGradientKernel(const Bf16* q, const Bf16* k, const Bf16* v, const Bf16* dy,
                         const float* log_sum_exp, const float* delta, Bf16* dk, Bf16* dv,
                         const Sizes sizes) {
  const int b = blockIdx.z, kv_head = blockIdx.y, first = blockIdx.x * kFixed<kHeadDim>;
  const int group = sizes.heads / sizes.kv_heads;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * kRowTiles<kHeadDim>;
  const int64_t q_stride = int64_t{sizes.heads} * kHeadDim, kv_stride = int64_t{sizes.kv_heads} * kHeadDim;

  char* shared = DynamicShared();
  constexpr uint32_t kFixedTile = TileBytes<kHeadDim>(kFixed<kHeadDim>),
                     kOneTile = TileBytes<kHeadDim>(kMoving);
  constexpr uint32_t kStage = 2 * kOneTile + 2 * kMoving * sizeof(float);  // q, dy, log_sum_exp, delta
  const uint32_t k_tile = SharedAddress(shared), v_tile = k_tile + kFixedTile;

  const int key = first + warp_row;  // the warp's first
  const int first_query = first / kMoving * kMoving;
  const int tiles_a_head = (sizes.time - first_query + kMoving - 1) / kMoving;
  const auto copy_stage = [&](int index, uint32_t stage) {
    const int h = kv_head * group + index / tiles_a_head;
    const int query = first_query + index % tiles_a_head * kMoving;
    const int64_t row = (int64_t{b} * sizes.heads + h) * sizes.time;
    CopyTile<kHeadDim, kMoving>(q + sizes.Query<kHeadDim>(b, h), q_stride, query, sizes.time, stage);
    CopyTile<kHeadDim, kMoving>(dy + sizes.Query<kHeadDim>(b, h), q_stride, query, sizes.time,
                                stage + kOneTile);
    CopyNumbers(log_sum_exp + row, query, sizes.time, stage + 2 * kOneTile);
    CopyNumbers(delta + row, query, sizes.time, stage + 2 * kOneTile + kMoving * 4);
  };
  CopyTile<kHeadDim, kFixed<kHeadDim>>(k + sizes.Key<kHeadDim>(b, kv_head), kv_stride, first, sizes.time,
                                       k_tile);
  CopyTile<kHeadDim, kFixed<kHeadDim>>(v + sizes.Key<kHeadDim>(b, kv_head), kv_stride, first, sizes.time,
                                       v_tile);
  copy_stage(0, v_tile + kFixedTile);
  CommitCopies();

  Result<kHeadDim> dk_result = {}, dv_result = {};
  const float scale_log2 = sizes.scale * kLog2E;
  for (int index = 0; index < group * tiles_a_head; ++index) {
    const uint32_t stage_offset = 2 * kFixedTile + index % 2 * kStage, stage = k_tile + stage_offset;
    const float* stage_log_sum_exp = reinterpret_cast<const float*>(shared + stage_offset + 2 * kOneTile);
    const float* stage_delta = stage_log_sum_exp + kMoving;
    WaitForCopies<0>();
    __syncthreads();
    if (index + 1 < group * tiles_a_head) {
      copy_stage(index + 1, v_tile + kFixedTile + (index + 1) % 2 * kStage);
      CommitCopies();
    }
    const int stage_query = first_query + index % tiles_a_head * kMoving;
#pragma unroll 1
    for (int step = 0; step < kMoving; step += kStep) {
      const int query = stage_query + step;
      if (query + kStep - 1 < key) continue;  // Before all of the warp's keys.
      Scores<kHeadDim, kStepTiles> p, ds;
      {
        Fragments<kHeadDim> fragments;
        LoadFragments<kHeadDim>(fragments, k_tile, warp_row);
        MultiplyByColumns<kHeadDim, kStepTiles>(fragments, stage, step, p);
        LoadFragments<kHeadDim>(fragments, v_tile, warp_row);
        MultiplyByColumns<kHeadDim, kStepTiles>(fragments, stage + kOneTile, step, ds);
      }
      const bool diagonal = query < key + 16 * kRowTiles<kHeadDim> - 1;
#pragma unroll
      for (int n = 0; n < kStepTiles; ++n) {
        const int column = step + 8 * n + 2 * (lane % 4);
        const float2 shift = *reinterpret_cast<const float2*>(stage_log_sum_exp + column);
        const float2 column_delta = *reinterpret_cast<const float2*>(stage_delta + column);
#pragma unroll
        for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float p_i = Exp2(p[r][n][i] * scale_log2 - (i % 2 ? shift.y : shift.x) * kLog2E);
            const int row = key + 16 * r + 8 * (i / 2) + lane / 4;
            p[r][n][i] = diagonal && row > stage_query + column + i % 2 ? 0.0f : p_i;
            ds[r][n][i] = p[r][n][i] * (ds[r][n][i] - (i % 2 ? column_delta.y : column_delta.x));
          }
        }
      }
      AddProduct<kHeadDim, kStepTiles>(p, stage + kOneTile, step, dv_result);
      AddProduct<kHeadDim, kStepTiles>(ds, stage, step, dk_result);
    }
  }

  float factor[kRowTiles<kHeadDim>][2];
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) factor[r][0] = factor[r][1] = sizes.scale;
  const int64_t head = sizes.Key<kHeadDim>(b, kv_head);
  StoreResult<kHeadDim>(dk_result, factor, shared, warp_row, dk + head, kv_stride, first, sizes.time);
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) factor[r][0] = factor[r][1] = 1.0f;
  StoreResult<kHeadDim>(dv_result, factor, shared, warp_row, dv + head, kv_stride, first, sizes.time);
}

// Block (query tile, last first; head; batch row).
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, kHeadDim <= 64 ? 2 : 1)
    MmaQueryGradientKernel(const Bf16* q, const Bf16* k, const Bf16* v, const Bf16* dy,
                           const float* log_sum_exp, const float* delta, Bf16* dq, const Sizes sizes) {
  const int b = blockIdx.z, h = blockIdx.y,
            first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kFixed<kHeadDim>;
  const int kv_head = h / (sizes.heads / sizes.kv_heads);
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * kRowTiles<kHeadDim>;
  const int64_t q_stride = int64_t{sizes.heads} * kHeadDim, kv_stride = int64_t{sizes.kv_heads} * kHeadDim;
  k += sizes.Key<kHeadDim>(b, kv_head);
  v += sizes.Key<kHeadDim>(b, kv_head);

  char* shared = DynamicShared();
  constexpr uint32_t kFixedTile = TileBytes<kHeadDim>(kFixed<kHeadDim>),
                     kOneTile = TileBytes<kHeadDim>(kMoving);
  constexpr uint32_t kStage = 2 * kOneTile;
  const uint32_t q_tile = SharedAddress(shared), dy_tile = q_tile + kFixedTile, stages = dy_tile + kFixedTile;
  const int64_t head = sizes.Query<kHeadDim>(b, h);
  CopyTile<kHeadDim, kFixed<kHeadDim>>(q + head, q_stride, first, sizes.time, q_tile);
  CopyTile<kHeadDim, kFixed<kHeadDim>>(dy + head, q_stride, first, sizes.time, dy_tile);
  CopyTile<kHeadDim, kMoving>(k, kv_stride, 0, sizes.time, stages);
  CopyTile<kHeadDim, kMoving>(v, kv_stride, 0, sizes.time, stages + kOneTile);
  CommitCopies();

  const int query = first + warp_row;  // the warp's first
  float shift[kRowTiles<kHeadDim>][2], row_delta[kRowTiles<kHeadDim>][2];
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = query + 16 * r + 8 * half + lane / 4;
      const int64_t at = (int64_t{b} * sizes.heads + h) * sizes.time + row;
      shift[r][half] = row < sizes.time ? log_sum_exp[at] * kLog2E : 0.0f;
      row_delta[r][half] = row < sizes.time ? delta[at] : 0.0f;
    }
  }
  Result<kHeadDim> result = {};
  const float scale_log2 = sizes.scale * kLog2E;
  const int keys = min(first + kFixed<kHeadDim>, sizes.time);
  for (int stage_key = 0; stage_key < keys; stage_key += kMoving) {
    const uint32_t stage = stages + stage_key / kMoving % 2 * kStage;
    WaitForCopies<0>();
    __syncthreads();
    if (stage_key + kMoving < keys) {
      const uint32_t next = stages + (stage_key / kMoving + 1) % 2 * kStage;
      CopyTile<kHeadDim, kMoving>(k, kv_stride, stage_key + kMoving, sizes.time, next);
      CopyTile<kHeadDim, kMoving>(v, kv_stride, stage_key + kMoving, sizes.time, next + kOneTile);
      CommitCopies();
    }
#pragma unroll 1
    for (int step = 0; step < kMoving; step += kStep) {
      const int key = stage_key + step;
      if (key > query + 16 * kRowTiles<kHeadDim> - 1) break;  // Behind all of the warp's queries.
      Scores<kHeadDim, kStepTiles> p, ds;
      {
        Fragments<kHeadDim> fragments;
        LoadFragments<kHeadDim>(fragments, q_tile, warp_row);
        MultiplyByColumns<kHeadDim, kStepTiles>(fragments, stage, step, p);
        LoadFragments<kHeadDim>(fragments, dy_tile, warp_row);
        MultiplyByColumns<kHeadDim, kStepTiles>(fragments, stage + kOneTile, step, ds);
      }
      if (key + kStep - 1 > query) MaskKeys<kHeadDim, kStepTiles>(p, query, key, -INFINITY);
#pragma unroll
      for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
        for (int n = 0; n < kStepTiles; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            ds[r][n][i] =
                Exp2(p[r][n][i] * scale_log2 - shift[r][i / 2]) * (ds[r][n][i] - row_delta[r][i / 2]);
          }
        }
      }
      AddProduct<kHeadDim, kStepTiles>(ds, stage, step, result);
    }
  }
  float factor[kRowTiles<kHeadDim>][2];
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) factor[r][0] = factor[r][1] = sizes.scale;
  StoreResult<kHeadDim>(result, factor, shared, warp_row, dq + head, q_stride, first, sizes.time);
}

template <int kHeadDim>
void Backward(const Device& device, const AttentionGradArgs<Bf16>& args, Tensor<const float> delta) {
  const AttentionArgs<Bf16>& x = args.forward;
  const Sizes sizes = SizesOf(x);
  const int64_t batch = x.q.dim(0);
  const int64_t shared_bytes = 2 * TileBytes<kHeadDim>(kFixed<kHeadDim>) + 4 * TileBytes<kHeadDim>(kMoving);
  Launch(device,
         {.blocks = Blocks<kHeadDim>(sizes.time, sizes.kv_heads, batch),
          .threads = kThreads,
          .shared_bytes = shared_bytes + 4 * kMoving * int64_t{sizeof(float)}},
         MmaKeyGradientKernel<kHeadDim>, x.q.data(), x.k.data(), x.v.data(), args.dy.data(),
         x.log_sum_exp.data(), delta.data(), args.dk.data(), args.dv.data(), sizes);
  Launch(device,
         {.blocks = Blocks<kHeadDim>(sizes.time, sizes.heads, batch),
          .threads = kThreads,
          .shared_bytes = shared_bytes},
         MmaQueryGradientKernel<kHeadDim>, x.q.data(), x.k.data(), x.v.data(), args.dy.data(),
         x.log_sum_exp.data(), delta.data(), args.dq.data(), sizes);
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
