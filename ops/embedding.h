// Table lookup: y[row] = table[ids[row]]; its gradient is summed in a fixed order. And the bigram hash.
#ifndef HM11_OPS_EMBEDDING_H_
#define HM11_OPS_EMBEDDING_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T>
struct EmbeddingArgs {
  Tensor<const int32_t> ids;  // [rows], each in [0, vocab)
  Tensor<const T> table;      // [vocab, dim]
  Tensor<T> y;                // [rows, dim]; out
};

template <typename T>
struct EmbeddingGradArgs {
  Tensor<const int32_t> ids;  // [rows]
  Tensor<const T> dy;         // [rows, dim]
  Tensor<Accum<T>> dtable;    // [vocab, dim]; adds
};

template <typename T>
void EmbeddingForward(Arena& arena, const EmbeddingArgs<T>& args);
template <typename T>
void EmbeddingBackward(Arena& arena, const EmbeddingGradArgs<T>& args);

// hash[b, 0] = table_rows - 1; hash[b, t] = ((36313 id_t) xor (27191 id_{t-1})) mod (table_rows - 1), in
// 32-bit signed arithmetic, the remainder non-negative. ids and hash: [batch, time].
void BigramHash(Arena& arena, Tensor<const int32_t> ids, int64_t table_rows, Tensor<int32_t> hash);

}  // namespace hm11

#endif  // HM11_OPS_EMBEDDING_H_
