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

// One hash, on the host.
int32_t BigramHashOf(int32_t id, int32_t previous, int64_t table_rows);

// What backward needs on a GPU to sum in a fixed order: rows are sorted by id, stably, in chunks that count
// first; the rows of an id are summed in pieces, and the pieces in order.
inline constexpr int64_t kEmbeddingChunk = 1024;  // rows that one block sorts
inline constexpr int64_t kEmbeddingPiece = 256;   // rows that one block sums
struct EmbeddingScratch {
  Tensor<int32_t> counts;       // [chunks, vocab]: rows of the id in the chunk, then in chunks before it
  Tensor<int32_t> order;        // [rows]: rows sorted by id
  Tensor<int32_t> first_row;    // [vocab + 1]: where an id's rows begin in order
  Tensor<int32_t> first_piece;  // [vocab + 1]
  Tensor<float> pieces;         // [at most one piece a row, dim]
};
EmbeddingScratch NewEmbeddingScratch(Arena& arena, int64_t rows, int64_t vocab, int64_t dim);

#if HM11_HAVE_CUDA
namespace cuda {
template <typename T>
void EmbeddingForward(const Device& device, const EmbeddingArgs<T>& args);
template <typename T>
void EmbeddingBackward(const Device& device, const EmbeddingGradArgs<T>& args,
                       const EmbeddingScratch& scratch);
void BigramHash(const Device& device, Tensor<const int32_t> ids, int64_t table_rows, Tensor<int32_t> hash);
}  // namespace cuda
#endif

}  // namespace hm11

#endif  // HM11_OPS_EMBEDDING_H_
