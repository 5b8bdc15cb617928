// The projection of attention and its split into heads (ops/attention_heads.h), one after the other:
//
//   qkv = x weight^T;  q, k, v = heads(qkv)
//
// On a GPU of compute capability 9.0 heads are made of the product's sums before these leave the registers, which
// saves reading them again (Bf16, heads of 64 channels, shapes that ops/resident_product.cuh has, RoPE on 16, 32 or
// 64 channels, rows enough for all multiprocessors). Elsewhere by the two ops.
//
// Properties
//   1. The results are those of the two ops; in one kernel they come from sums that are not rounded to Bf16.
//   2. qkv is what backward of the heads reads; without first_v that is not its columns of v, which may be left as
//      they were.
// Determinism: that of the two ops.
// Cost: 2 rows in width operations, each operand and result once.
#ifndef HM11_OPS_HEADS_PRODUCT_H_
#define HM11_OPS_HEADS_PRODUCT_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "ops/attention_heads.h"
#include "ops/fp8.h"

namespace hm11 {

template <typename T, typename W = T>
struct MatmulThenAttentionHeadsArgs {
  Tensor<const T> x;            // [rows, in]; one row where W is not T
  Tensor<const W> weight;       // [width, in], width being (heads + 2 kv_heads) head_dim
  Tensor<T> qkv;                // [rows, width]; out
  AttentionHeadsArgs<T> heads;  // qkv is the one above
  Fp8Operands in8 = {};         // as in MatmulArgs
};

template <typename T, typename W = T>
void MatmulThenAttentionHeads(Arena& arena, const MatmulThenAttentionHeadsArgs<T, W>& args);

namespace cuda {
// Of any number of rows; false, with nothing done, where this GPU or these operands do not allow it. `table`:
// scratch for FillAngles.
bool TryMatmulThenAttentionHeads(const Device& device, const MatmulThenAttentionHeadsArgs<Bf16>& args,
                                 Tensor<float> table);
bool TryFp8ThenAttentionHeads(const Device& device, const MatmulThenAttentionHeadsArgs<Bf16>& args,
                              Tensor<float> table);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_HEADS_PRODUCT_H_
