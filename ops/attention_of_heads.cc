// Backward of attention and its heads: the choice between one kernel and the ops apart.
#include "ops/attention_of_heads.h"

#include <type_traits>

#include "core/check.h"
#include "core/dispatch.h"
#include "ops/elementwise.h"

namespace hm11 {
namespace {

template <typename T>
void Apart(Arena& arena, const AttentionOfHeadsGradArgs<T>& args) {
  AttentionHeadsGradArgs<T> heads = args.heads;
  const Tensor<T> dq = arena.New<T>(args.dy.shape()), dk = arena.New<T>(args.attention.k.shape()),
                  dv = arena.New<T>(args.attention.k.shape());
  AttentionBackward<T>(arena, {.forward = args.attention, .dy = args.dy, .dq = dq, .dk = dk, .dv = dv});
  for (const Tensor<const T>& from_outside : args.dv_from_outside) {
    if (!from_outside.empty()) AddTo<T>(arena, from_outside, 1, dv);
  }
  heads.dq = dq;
  heads.dk = dk;
  heads.dv = dv;
  AttentionHeadsBackward<T>(arena, heads);
}

[[maybe_unused]] bool TryKernel(Arena& arena, const AttentionOfHeadsGradArgs<Bf16>& args) {
  const Device& device = arena.device();
  if (device.is_for_cpu() || args.dy.empty()) return false;
  const Arena::Scope scope(arena);
  const cuda::AttentionOfHeadsScratch scratch = cuda::NewAttentionOfHeadsScratch(arena, args);
  return device.is_cuda() && cuda::TryAttentionOfHeadsBackward(device, args, scratch);
}

}  // namespace

template <typename T>
void AttentionOfHeadsBackward(Arena& arena, const AttentionOfHeadsGradArgs<T>& args) {
  const AttentionArgs<T>& x = args.attention;
  const AttentionHeadsGradArgs<T>& heads = args.heads;
  const AttentionHeadsArgs<T>& forward = heads.forward;
  // Five products, of which causal attention needs half.
  const double operations = 5.0 * static_cast<double>(x.q.size() * x.q.dim(1));
  const OpScope op({"AttentionOfHeadsBackward", OpKind::kAttention, operations}, x.q, x.k, x.v, x.y,
                   x.log_sum_exp, args.dy, args.dv_from_outside[0], args.dv_from_outside[1], forward.qkv,
                   forward.q_gain, forward.value_embedding, forward.ve_layer_scale, forward.first_v,
                   forward.residual, heads.dqkv, heads.dvalue_embedding, heads.dfirst_v, heads.dfirst_v);
  HM_CHECK_EQ(args.dy.shape(), x.q.shape());
  HM_CHECK_EQ(x.v.shape(), x.k.shape());
  HM_CHECK_EQ(forward.batch, x.q.dim(0));
  HM_CHECK_EQ(forward.time, x.q.dim(1));
  HM_CHECK_EQ(forward.qkv.shape(),
              (Shape{forward.batch * forward.time, (x.q.dim(2) + 2 * x.k.dim(2)) * x.q.dim(3)}));
  HM_CHECK_EQ(heads.dqkv.shape(), forward.qkv.shape());
  for (const Tensor<const T>& from_outside : args.dv_from_outside) {
    if (!from_outside.empty()) HM_CHECK_EQ(from_outside.shape(), x.v.shape());
  }
  const Arena::Scope scope(arena);
  if constexpr (kHaveCuda && std::is_same_v<T, Bf16>) {
    if (TryKernel(arena, args)) return;
  }
  Apart(arena, args);
}

#define HM11_INSTANTIATE(T) \
  template void AttentionOfHeadsBackward<T>(Arena&, const AttentionOfHeadsGradArgs<T>&)
HM11_INSTANTIATE(double);
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
#undef HM11_INSTANTIATE

namespace cuda {

AttentionOfHeadsScratch NewAttentionOfHeadsScratch(Arena& arena, const AttentionOfHeadsGradArgs<Bf16>& args) {
  const AttentionHeadsArgs<Bf16>& heads = args.heads.forward;
  const int64_t count = WarpTiles(heads.batch, heads.time);
  AttentionOfHeadsScratch scratch = {.delta = NewDelta(arena, args.attention),
                                     .angles = arena.New<float>({2, heads.time, heads.rope_dims / 2}),
                                     .gain_sums = arena.New<float>({args.dy.dim(2), count}),
                                     .value_sums = {}};
  if (!heads.value_embedding.empty() || !heads.first_v.empty()) {
    scratch.value_sums = arena.New<float>({3, args.attention.k.dim(2) * count});
  }
  return scratch;
}

}  // namespace cuda

}  // namespace hm11
