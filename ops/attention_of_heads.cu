// Backward of attention and its heads on compute capability 9.0: whether, and with which operands.
#include "core/launch.cuh"
#include "ops/attention_of_heads.h"
#include "ops/packs.cuh"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 256;

// gradient[head] += the sum of sums[head, ...]. A block a head.
__global__ void __launch_bounds__(kThreads)
    AddGainSumsKernel(const float* sums, int64_t count, float* gradient) {
  __shared__ float scratch[32];
  float sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += sums[blockIdx.x * count + i];
  sum = BlockSum<kThreads>(sum, scratch);
  if (threadIdx.x == 0) gradient[blockIdx.x] += sum;
}

bool Takes(const Device& device, const AttentionOfHeadsGradArgs<Bf16>& args) {
  const AttentionArgs<Bf16>& x = args.attention;
  const int64_t rope_dims = args.heads.forward.rope_dims;
  return Supports<Bf16>(device, AttentionKernel::kWarpgroup, args.dy.dim(3)) &&
         (rope_dims == 16 || rope_dims == 32 || rope_dims == 64) &&
         AllAligned(x.q.data(), x.k.data(), x.v.data(), x.y.data(), args.dy.data(),
                    args.heads.forward.qkv.data(), args.heads.dqkv.data(), Data(args.dv_from_outside[0]),
                    Data(args.dv_from_outside[1]));
}

}  // namespace

bool TryAttentionOfHeadsBackward(const Device& device, const AttentionOfHeadsGradArgs<Bf16>& args,
                                 const AttentionOfHeadsScratch& scratch) {
  if (!Takes(device, args)) return false;
  const AttentionHeadsArgs<Bf16>& forward = args.heads.forward;
  FillAngles(device, forward, scratch.angles);
  PackedAttentionBackward(device,
                          {.forward = args.attention, .dy = args.dy, .dq = {}, .dk = {}, .dv = scratch.dv},
                          {.qkv = forward.qkv,
                           .q_gain = forward.q_gain,
                           .angles = scratch.angles,
                           .dv_from_outside = args.dv_from_outside,
                           .dqkv = args.heads.dqkv,
                           .gain_sums = scratch.gain_sums},
                          scratch.attention);
  Launch(device, {.blocks = static_cast<unsigned>(scratch.gain_sums.dim(0)), .threads = kThreads},
         AddGainSumsKernel, scratch.gain_sums.data(), scratch.gain_sums.dim(1), args.heads.dq_gain.data());
  if (!scratch.dv.empty()) {
    AttentionHeadsGradArgs<Bf16> values = args.heads;
    values.dv = scratch.dv;
    AttentionHeadsBackward(device, values, {}, scratch.partials);
  }
  return true;
}

}  // namespace hm11::cuda
