// Table lookup: y[row] = table[ids[row]]; its gradient is summed in a fixed order. And the bigram hash.
//
// Properties
//   1. y's rows are rows of the table, to the bit; of a table of Fp16, widened.
//   2. Rows of the table that no id names keep their gradient to the bit.
//   3. dtable grows by as much in all as dy holds in all.
//   4. The hash of a position depends on its id and the one before alone; past time 0 it is below
//      table_rows - 1.
// Determinism: bits repeat, on every GPU the same: sums are cut by the ids alone.
// Cost: forward reads and writes rows * dim numbers, the table staying in the cache; backward reads as many,
// and adds to the rows of dtable that occur. On a GPU backward first sorts the row numbers by id: 16 bytes a
// row, and 64 counts an id.
// Source: the bigram hash is that of the reference model.
#ifndef HM11_OPS_EMBEDDING_H_
#define HM11_OPS_EMBEDDING_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

template <typename T, typename W = T>
struct EmbeddingArgs {
  Tensor<const int32_t> ids;  // [rows], each in [0, vocab)
  Tensor<const W> table;      // [vocab, dim]; Fp16 on the CPU only, for T float
  Tensor<T> y;                // [rows, dim]; out
};

template <typename T>
struct EmbeddingGradArgs {
  Tensor<const int32_t> ids;  // [rows], rows < 2^31
  Tensor<const T> dy;         // [rows, dim]
  Tensor<Accum<T>> dtable;    // [vocab, dim]; adds
};

template <typename T, typename W = T>
void EmbeddingForward(Arena& arena, const EmbeddingArgs<T, W>& args);
template <typename T>
void EmbeddingBackward(Arena& arena, const EmbeddingGradArgs<T>& args);

// hash[b, 0] = table_rows - 1; hash[b, t] = ((36313 id_t) xor (27191 id_{t-1})) mod (table_rows - 1), in
// 32-bit signed arithmetic, the remainder non-negative. ids and hash: [batch, time].
void BigramHash(Arena& arena, Tensor<const int32_t> ids, int64_t table_rows, Tensor<int32_t> hash);

// The hash of one position but the first.
HM_HOST_DEVICE inline int32_t BigramHashOf(int32_t id, int32_t id_before, int32_t modulus) {
  const uint32_t bits = (36313u * static_cast<uint32_t>(id)) ^ (27191u * static_cast<uint32_t>(id_before));
  const int32_t remainder = static_cast<int32_t>(bits) % modulus;
  return remainder < 0 ? remainder + modulus : remainder;
}

// Scratch of backward on a GPU.
struct EmbeddingSort {
  static constexpr int64_t kMaxChunks = 64;    // of rows, for counting
  static constexpr int64_t kSegmentRows = 64;  // of sorted rows, for summing

  EmbeddingSort(Arena& arena, int64_t rows, int64_t vocab, int64_t dim);

  int64_t chunk_rows;      // a multiple of 32
  int64_t chunks;          // at most kMaxChunks
  Tensor<int32_t> counts;  // [chunks, vocab]: rows of each id in a chunk, then those in chunks before it
  Tensor<int32_t> starts;  // [vocab + 1]: where each id's rows begin, sorted
  Tensor<int32_t> order;   // [rows]: row numbers, sorted by id and then by number
  Tensor<int32_t> keys;    // [rows]: the ids of these
  Tensor<float> edges;     // [segments, 2, dim]: sums of runs of one id that cross a segment's begin, or end
};

namespace cuda {
template <typename T>
void EmbeddingForward(const Device& device, const EmbeddingArgs<T>& args);
template <typename T>
void EmbeddingBackward(const Device& device, const EmbeddingGradArgs<T>& args, const EmbeddingSort& sort);
void BigramHash(const Device& device, Tensor<const int32_t> ids, int64_t table_rows, Tensor<int32_t> hash);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_EMBEDDING_H_
