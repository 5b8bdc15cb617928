// Attention forward by mma.sync.
#include "core/special_functions.cuh"
#include "ops/attention_mma.cuh"

namespace hm11::cuda {
namespace mma {
namespace {

template <int kHeadDim>
struct SoftmaxState {
  float maximum[kRowTiles<kHeadDim>][2];  // of the rows' raw scores, so far
  float sum[kRowTiles<kHeadDim>][2];      // of exp(score - maximum), this lane's columns only

  __device__ __forceinline__ SoftmaxState() {
#pragma unroll
    for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
      maximum[r][0] = maximum[r][1] = -INFINITY;
      sum[r][0] = sum[r][1] = 0;
    }
  }
};

// Replaces raw scores by exp(scale (score - maximum)) and brings state and result to the new maximum.
template <int kHeadDim, int kTiles>
__device__ __forceinline__ void Softmax(Scores<kHeadDim, kTiles>& scores, float scale_log2,
                                        SoftmaxState<kHeadDim>& state, Result<kHeadDim>& result) {
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float old = state.maximum[r][half];
      float maximum = old;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        maximum = fmaxf(maximum, fmaxf(scores[r][n][2 * half], scores[r][n][2 * half + 1]));
      }
      maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 1));
      maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 2));
      state.maximum[r][half] = maximum;  // Finite from the first tile on: every row sees key 0.
      const float shift = maximum * scale_log2;
      const float correction = Exp2(old * scale_log2 - shift);
      float sum = state.sum[r][half] * correction;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          scores[r][n][i] = Exp2(scores[r][n][i] * scale_log2 - shift);
          sum += scores[r][n][i];
        }
      }
      state.sum[r][half] = sum;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        result[r][n][2 * half] *= correction;
        result[r][n][2 * half + 1] *= correction;
      }
    }
  }
}

// Writes log_sum_exp of the warp's rows, from `query`, among the head's; `factor`: what results of this lane's rows
// are yet to be multiplied by.
template <int kHeadDim>
__device__ __forceinline__ void FinishSoftmax(const SoftmaxState<kHeadDim>& state, const Sizes& sizes,
                                              int lane, int query, float* log_sum_exp,
                                              float (&factor)[kRowTiles<kHeadDim>][2]) {
#pragma unroll
  for (int r = 0; r < kRowTiles<kHeadDim>; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = state.sum[r][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      factor[r][half] = 1.0f / sum;
      const int row = query + 16 * r + 8 * half + lane / 4;
      if (lane % 4 == 0 && row < sizes.time) {
        log_sum_exp[row] = state.maximum[r][half] * sizes.scale + __logf(sum);
      }
    }
  }
}

// Block (query tile, last first: they take longest; head; batch row).
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 2)
    MmaForwardKernel(const Bf16* q, const Bf16* k, const Bf16* v, Bf16* y, float* log_sum_exp,
                     const Sizes sizes) {
  constexpr int kTiles = kMoving / 8;
  const int b = blockIdx.z, h = blockIdx.y,
            first = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kFixed<kHeadDim>;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * kRowTiles<kHeadDim>;
  const int64_t stride = int64_t{sizes.heads} * kHeadDim;
  const MovingKeys<kHeadDim> moving(k, v, sizes, b, h / (sizes.heads / sizes.kv_heads));

  char* shared = DynamicShared();
  const uint32_t q_tile = SharedAddress(shared);
  const uint32_t stages = q_tile + TileBytes<kHeadDim>(kFixed<kHeadDim>);
  CopyTile<kHeadDim, kFixed<kHeadDim>>(q + sizes.Query<kHeadDim>(b, h), stride, first, sizes.time, q_tile);
  moving.Copy(0, stages);

  Fragments<kHeadDim> q_fragments;
  Result<kHeadDim> result = {};
  SoftmaxState<kHeadDim> state;
  const float scale_log2 = sizes.scale * kLog2E;
  const int keys = min(first + kFixed<kHeadDim>, sizes.time);
  const int query = first + warp_row;  // the warp's first
  for (int key = 0; key < keys; key += kMoving) {
    const uint32_t stage = moving.Stage(stages, key);
    WaitForCopies<0>();
    __syncthreads();  // This stage is there, and the other one has been read by all warps.
    if (key == 0) LoadFragments<kHeadDim>(q_fragments, q_tile, warp_row);
    if (key + kMoving < keys) moving.Copy(key + kMoving, moving.NextStage(stages, key));
    if (key > query + 16 * kRowTiles<kHeadDim> - 1) continue;  // Behind all of the warp's queries.
    Scores<kHeadDim, kTiles> scores;
    MultiplyByColumns<kHeadDim, kTiles>(q_fragments, stage, 0, scores);
    if (key + kMoving - 1 > query) MaskKeys<kHeadDim, kTiles>(scores, query, key, -INFINITY);
    Softmax<kHeadDim, kTiles>(scores, scale_log2, state, result);
    AddProduct<kHeadDim, kTiles>(scores, stage + MovingKeys<kHeadDim>::kTile, 0, result);
  }
  float factor[kRowTiles<kHeadDim>][2];
  FinishSoftmax<kHeadDim>(state, sizes, lane, query,
                          log_sum_exp + (int64_t{b} * sizes.heads + h) * sizes.time, factor);
  StoreResult<kHeadDim>(result, factor, shared, warp_row, y + sizes.Query<kHeadDim>(b, h), stride, first,
                        sizes.time);
}

template <int kHeadDim>
void Forward(const Device& device, const AttentionArgs<Bf16>& args) {
  const Sizes sizes = SizesOf(args);
  Launch(device,
         {.blocks = Blocks<kHeadDim>(sizes.time, sizes.heads, args.q.dim(0)),
          .threads = kThreads,
          .shared_bytes = TileBytes<kHeadDim>(kFixed<kHeadDim>) + 2 * MovingKeys<kHeadDim>::kStage},
         MmaForwardKernel<kHeadDim>, args.q.data(), args.k.data(), args.v.data(), args.y.data(),
         args.log_sum_exp.data(), sizes);
}

}  // namespace
}  // namespace mma

void MmaAttentionForward(const Device& device, const AttentionArgs<Bf16>& args) {
  const int64_t head_dim = args.q.dim(3);
  (head_dim == 32 ? mma::Forward<32> : head_dim == 64 ? mma::Forward<64> : mma::Forward<128>)(device, args);
}

}  // namespace hm11::cuda
