// Backward of attention and its heads on compute capability 9.0: whether, and with which operands.
#include "core/launch.cuh"
#include "ops/attention_of_heads.h"
#include "ops/head_totals.cuh"
#include "ops/packs.cuh"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 1024;

// Sums of a row of [rows, count] each; absent operands are null.
struct Sums {
  const float* gains;  // [heads, gain_count]
  int heads;
  int64_t gain_count;
  const float* values;  // [3, value_count]
  int64_t value_count;
};

// A block a row, those of gains first.
__global__ void __launch_bounds__(kThreads) AddSumsKernel(const Sums sums, const HeadTotals totals) {
  __shared__ float scratch[32];
  const int row = blockIdx.x, value = row - sums.heads;
  const int64_t count = value < 0 ? sums.gain_count : sums.value_count;
  const float* const from = value < 0 ? sums.gains + row * count : sums.values + value * count;
  float sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += from[i];
  sum = BlockSum<kThreads>(sum, scratch);
  if (threadIdx.x == 0) totals.Add(row, sums.heads, sum);
}

void AddSums(const Device& device, const AttentionHeadsGradArgs<Bf16>& heads,
             const AttentionOfHeadsScratch& scratch) {
  const Tensor<float> gains = scratch.gain_sums, values = scratch.value_sums;
  const Sums sums = {.gains = gains.data(),
                     .heads = static_cast<int>(gains.dim(0)),
                     .gain_count = gains.dim(1),
                     .values = values.data(),
                     .value_count = values.size() / 3};
  const int rows = sums.heads + (values.empty() ? 0 : 3);
  Launch(device, {.blocks = static_cast<unsigned>(rows), .threads = kThreads}, AddSumsKernel, sums,
         HeadTotalsOf(heads));
}

bool Takes(const Device& device, const AttentionOfHeadsGradArgs<Bf16>& args) {
  const AttentionArgs<Bf16>& x = args.attention;
  const AttentionHeadsGradArgs<Bf16>& heads = args.heads;
  const int64_t rope_dims = heads.forward.rope_dims;
  return Supports<Bf16>(device, AttentionKernel::kWarpgroup, args.dy.dim(3)) &&
         (rope_dims == 16 || rope_dims == 32 || rope_dims == 64) &&
         AllAligned(x.q.data(), x.k.data(), x.v.data(), x.y.data(), args.dy.data(),
                    args.dv_from_outside[0].data(), args.dv_from_outside[1].data(), heads.forward.qkv.data(),
                    heads.forward.value_embedding.data(), heads.forward.first_v.data(), heads.dqkv.data(),
                    heads.dvalue_embedding.data(), heads.dfirst_v.data());
}

}  // namespace

bool TryAttentionOfHeadsBackward(const Device& device, const AttentionOfHeadsGradArgs<Bf16>& args,
                                 const AttentionOfHeadsScratch& scratch) {
  if (!Takes(device, args)) return false;
  FillAngles(device, args.heads.forward, scratch.angles);
  WgmmaPackedAttentionBackward(device,
                               {.forward = args.attention, .dy = args.dy, .dq = {}, .dk = {}, .dv = {}},
                               {.heads = args.heads,
                                .dv_from_outside = args.dv_from_outside,
                                .angles = scratch.angles,
                                .gain_sums = scratch.gain_sums,
                                .value_sums = scratch.value_sums},
                               scratch.delta);
  AddSums(device, args.heads, scratch);
  return true;
}

}  // namespace hm11::cuda
