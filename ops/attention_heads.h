// From one projection to heads: split q, k, v; RMS norm and RoPE on q and k; gain on q; value embedding and
// residual.
//
//   q = gain[head] * rope(rms(q)), k = rope(rms(k)); rms over the channels of a head, with 1e-6
//   v = v + ve_layer_scale * ve_scale * value_embedding, then v = residual[0] * first_v + residual[1] * v
//   rope: on the first rope_dims channels of each head, pairs (i, i + rope_dims/2), by the angle
//         t * base^(-2i/rope_dims): (x1 cos + x2 sin, -x1 sin + x2 cos)
//
// Any sizes; on a GPU head_dim <= 128. Angles, their cosines and sines are computed in double and rounded
// once, so that rotations are as exact at position 65536 as at 1.
//
// Properties:
//   1. Without gain, each q and k has root mean square 1 (but for the 1e-6), whatever its position.
//   2. q . k depends on the positions' difference only.
//   3. At position 0, and on channels from rope_dims on, RoPE changes nothing.
//   4. Without value embedding and first_v, v is a copy.
//   5. Backward is the gradient of forward; dfirst_v and the gradients of gains and scales add.
//
// Determinism: the same bits every run; the gains' and scales' gradients are summed in a fixed order.
//
// Cost: one read of each operand and one write of each result, forward and backward.
//
// Source: RoPE, Su et al. 2021, arXiv 2104.09864; its base stretched with the length, "NTK-aware" scaling.
#ifndef HM11_OPS_ATTENTION_HEADS_H_
#define HM11_OPS_ATTENTION_HEADS_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T>
struct AttentionHeadsArgs {
  int64_t batch = 0;
  int64_t time = 0;
  int64_t rope_dims = 0;                 // even, <= head_dim
  double rope_base = 10000;              // the base in effect (see EffectiveRopeBase)
  Tensor<const int32_t> place = {};      // [1]: the first position, forward only; 0 when absent
  Tensor<const T> qkv;                   // [batch*time, (heads + 2 kv_heads) * head_dim]: q, then k, then v
  Tensor<const Accum<T>> q_gain;         // [heads]
  Tensor<const T> value_embedding = {};  // [batch*time, kv_heads * head_dim], may be absent
  Tensor<const Accum<T>> ve_layer_scale = {};  // [1], present with value_embedding
  Tensor<const Accum<T>> ve_scale = {};        // [1], present with value_embedding
  Tensor<const T> first_v = {};                // [batch, time, kv_heads, head_dim], may be absent
  Tensor<const Accum<T>> residual = {};        // [2], present with first_v
  Tensor<T> q;                                 // [batch, time, heads, head_dim]; out
  Tensor<T> k;                                 // [batch, time, kv_heads, head_dim]; out
  Tensor<T> v;                                 // [batch, time, kv_heads, head_dim]; out
};

template <typename T>
struct AttentionHeadsGradArgs {
  AttentionHeadsArgs<T> forward;          // forward's operands; q, k, v are not read (norms are recomputed)
  Tensor<const T> dq;                     // [batch, time, heads, head_dim]
  Tensor<const T> dk;                     // [batch, time, kv_heads, head_dim]
  Tensor<const T> dv;                     // [batch, time, kv_heads, head_dim]
  Tensor<T> dqkv;                         // [batch*time, (heads + 2 kv_heads) * head_dim]
  Tensor<Accum<T>> dq_gain;               // [heads]; adds
  Tensor<T> dvalue_embedding = {};        // absent with value_embedding
  Tensor<Accum<T>> dve_layer_scale = {};  // [1]; adds
  Tensor<Accum<T>> dve_scale = {};        // [1]; adds
  Tensor<T> dfirst_v = {};                // absent with first_v; ADDS, as several layers reach it
  Tensor<Accum<T>> dresidual = {};        // [2]; adds
};

// base, or base * (time / length)^(rope_dims / (rope_dims - 2)) when time > length.
double EffectiveRopeBase(double base, int64_t rope_dims, int64_t length, int64_t time);

template <typename T>
void AttentionHeadsForward(Arena& arena, const AttentionHeadsArgs<T>& args);
template <typename T>
void AttentionHeadsBackward(Arena& arena, const AttentionHeadsGradArgs<T>& args);

namespace cuda {
// Cosines, then sines, of the positions from args.place on. `table`: [2, time, rope_dims / 2].
template <typename T>
void FillAngles(const Device& device, const AttentionHeadsArgs<T>& args, Tensor<float> table);
// `table`: scratch for FillAngles. `partials`: NewPartials for heads + 3
// sums.
template <typename T>
void AttentionHeadsForward(const Device& device, const AttentionHeadsArgs<T>& args, Tensor<float> table);
template <typename T>
void AttentionHeadsBackward(const Device& device, const AttentionHeadsGradArgs<T>& args, Tensor<float> table,
                            Tensor<float> partials);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_ATTENTION_HEADS_H_
