// The projection and its heads: the choice between one kernel and two ops.
#include "ops/heads_product.h"

#include <type_traits>

#include "core/check.h"
#include "core/dispatch.h"
#include "ops/matmul.h"

namespace hm11 {
namespace {

// Whether multiprocessors have four tiles of 64 x 128 numbers each: all keep their share of the weights first.
bool FillsGpu(const Device& device, int64_t rows, int64_t width) {
  return device.is_cuda() && rows * width >= int64_t{4 * 64 * 128} * device.multiprocessors();
}

}  // namespace

template <typename T, typename W>
void MatmulThenAttentionHeads(Arena& arena, const MatmulThenAttentionHeadsArgs<T, W>& args) {
  AttentionHeadsArgs<T> heads = args.heads;
  heads.qkv = args.qkv;
  const int64_t rows = args.x.dim(0), width = args.qkv.dim(1);
  const bool fp8 = !args.in8.x.empty();
  const double operations =
      2.0 * static_cast<double>(rows) * static_cast<double>(args.weight.size()) * (fp8 ? kFp8Cost : 1);
  const OpScope op({"MatmulThenAttentionHeads", OpKind::kMatrixProduct, operations},
                   fp8 ? Tensor<const T>() : args.x, args.in8.x, args.weight, args.qkv, heads.q_gain,
                   heads.value_embedding, heads.ve_layer_scale, heads.first_v, heads.residual, heads.q,
                   heads.k, heads.v);
  HM_CHECK_EQ(rows, heads.batch * heads.time);
  HM_CHECK_EQ(args.weight.shape(), (Shape{width, args.x.dim(1)}));
  HM_CHECK_EQ(args.qkv.shape(), (Shape{rows, (heads.q.dim(2) + 2 * heads.k.dim(2)) * heads.q.dim(3)}));
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16> && std::is_same_v<W, Bf16>) {
    if (FillsGpu(arena.device(), rows, width)) {
      const Arena::Scope scope(arena);
      const Tensor<float> table = arena.New<float>({2, heads.time, heads.rope_dims / 2});
      if (fp8 && cuda::TryFp8ThenAttentionHeads(arena.device(), args, table)) return;
      if (cuda::TryMatmulThenAttentionHeads(arena.device(), args, table)) return;
    }
  }
  MatmulForward<T, W>(arena, {.x = args.x, .weight = args.weight, .y = args.qkv, .in8 = args.in8});
  AttentionHeadsForward<T>(arena, heads);
}

#define HM11_INSTANTIATE(T, W) \
  template void MatmulThenAttentionHeads<T, W>(Arena&, const MatmulThenAttentionHeadsArgs<T, W>&)
HM11_INSTANTIATE(double, double);
HM11_INSTANTIATE(float, float);
HM11_INSTANTIATE(Bf16, Bf16);
HM11_INSTANTIATE(float, Fp16);
#undef HM11_INSTANTIATE

}  // namespace hm11
