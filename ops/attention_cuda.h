// The CUDA side of attention: which kernels there are, and the choice between them.
#ifndef HM11_OPS_ATTENTION_CUDA_H_
#define HM11_OPS_ATTENTION_CUDA_H_

#include <array>

#include "core/arena.h"
#include "core/device.h"
#include "core/tensor.h"
#include "ops/attention.h"
#include "ops/attention_heads.h"

namespace hm11::cuda {

enum class AttentionKernel {
  kBest,        // what the device runs fastest of those that follow
  kSimple,      // float arithmetic, any type, head_dim <= 128
  kTensorCore,  // mma.sync: Bf16, head_dim 32, 64 or 128, compute capability 8.0 or later
  kWarpgroup,   // wgmma: Bf16, head_dim 64, compute capability 9.0
};

// For those who compare them.
struct NamedAttentionKernel {
  const char* name;
  AttentionKernel kernel;
};
inline constexpr NamedAttentionKernel kAttentionKernels[] = {
    {"simple kernel", AttentionKernel::kSimple},
    {"tensor core kernel", AttentionKernel::kTensorCore},
    {"warpgroup kernel", AttentionKernel::kWarpgroup}};

// What backward keeps on a GPU besides its operands, counted on the plan device too: delta = dy . y,
// [batch, heads, time].
template <typename T>
Tensor<float> NewDelta(Arena& arena, const AttentionArgs<T>& args) {
  return arena.New<float>({args.q.dim(0), args.q.dim(2), args.q.dim(1)});
}

// How a backward pass takes the gradients of q, k and v on to the rows that these were made of.
struct PackedHeadsGrad {
  const AttentionHeadsGradArgs<Bf16>& heads;  // without dq, dk, dv; RoPE on 16, 32 or 64 channels of 64
  std::array<Tensor<const Bf16>, 2> dv_from_outside;  // as v, added to its gradient; may be absent
  Tensor<const float> angles;                         // FillAngles' table
  // Of 16 rows of a head each, for whoever adds them up:
  Tensor<float> gain_sums;   // [heads, WarpTiles()]; out: the gradient of a gain
  Tensor<float> value_sums;  // [3, kv_heads WarpTiles()]; out: of dv with the value embedding, first_v and v
                             // before it; absent where there is neither
};
// How often 16 rows there are of a head; those of a batch row begin anew, and fill whole tiles of 64.
inline int64_t WarpTiles(int64_t batch, int64_t time) { return batch * ((time + 63) / 64) * 4; }

// Whether `kernel` takes this type, head_dim and device.
template <typename T>
bool Supports(const Device& device, AttentionKernel kernel, int64_t head_dim);

template <typename T>
void AttentionForward(const Device& device, const AttentionArgs<T>& args,
                      AttentionKernel kernel = AttentionKernel::kBest);
template <typename T>
void AttentionBackward(const Device& device, const AttentionGradArgs<T>& args, Tensor<float> delta,
                       AttentionKernel kernel = AttentionKernel::kBest);

// The kernels, each in a file of its own: attention_simple.cu, attention_mma_*.cu, attention_wgmma_*.cu.
// Backward the first two find delta in place, and those of wgmma make it.
template <typename T>
void SimpleAttentionForward(const Device& device, const AttentionArgs<T>& args);
template <typename T>
void SimpleAttentionBackward(const Device& device, const AttentionGradArgs<T>& args,
                             Tensor<const float> delta);
void MmaAttentionForward(const Device& device, const AttentionArgs<Bf16>& args);
void MmaAttentionBackward(const Device& device, const AttentionGradArgs<Bf16>& args,
                          Tensor<const float> delta);
void WgmmaAttentionForward(const Device& device, const AttentionArgs<Bf16>& args);
void WgmmaAttentionBackward(const Device& device, const AttentionGradArgs<Bf16>& args, Tensor<float> delta);
// Where Supports() has it; without args.dq, dk and dv.
void WgmmaPackedAttentionBackward(const Device& device, const AttentionGradArgs<Bf16>& args,
                                  const PackedHeadsGrad& packed, Tensor<float> delta);

}  // namespace hm11::cuda

#endif  // HM11_OPS_ATTENTION_CUDA_H_
