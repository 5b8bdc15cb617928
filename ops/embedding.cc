// Embedding: the choice of a device and the CPU paths.
#include "ops/embedding.h"

#include <algorithm>
#include <type_traits>

#include "core/dispatch.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

// Columns that a thread is worth starting for.
constexpr int64_t kMinColumns = 32;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T, typename W>
void CpuForward(const EmbeddingArgs<T, W>& a) {
  const int64_t dim = a.table.dim(1);
  ParallelFor(a.ids.dim(0), MinRows(dim), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      HM_DCHECK(a.ids[r] >= 0 && a.ids[r] < a.table.dim(0));
      const W* from = a.table.data() + a.ids[r] * dim;
      std::transform(from, from + dim, a.y.data() + r * dim, [](W number) { return static_cast<T>(number); });
    }
  });
}

// A thread has some columns of all rows, so that each sum is in the order of the rows.
template <typename T>
void CpuBackward(const EmbeddingGradArgs<T>& a) {
  const int64_t dim = a.dtable.dim(1);
  ParallelFor(dim, kMinColumns, [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < a.ids.dim(0); ++r) {
      const T* dy = a.dy.data() + r * dim;
      T* to = a.dtable.data() + a.ids[r] * dim;
      for (int64_t d = begin; d < end; ++d) to[d] += dy[d];
    }
  });
}

void CpuBigramHash(Tensor<const int32_t> ids, int64_t table_rows, Tensor<int32_t> hash) {
  const auto modulus = static_cast<int32_t>(table_rows - 1);
  for (int64_t i = 0; i < ids.size(); ++i) {
    hash[i] = i % ids.dim(1) == 0 ? modulus : BigramHashOf(ids[i], ids[i - 1], modulus);
  }
}

}  // namespace

EmbeddingSort::EmbeddingSort(Arena& arena, int64_t rows, int64_t vocab, int64_t dim)
    : chunk_rows(CeilDiv(std::max<int64_t>(512, CeilDiv(rows, kMaxChunks)), 32) * 32),
      chunks(CeilDiv(rows, chunk_rows)),
      counts(arena.New<int32_t>({chunks, vocab})),
      starts(arena.New<int32_t>({vocab + 1})),
      order(arena.New<int32_t>({rows})),
      keys(arena.New<int32_t>({rows})),
      edges(arena.New<float>({CeilDiv(rows, kSegmentRows), 2, dim})) {}

template <typename T, typename W>
void EmbeddingForward(Arena& arena, const EmbeddingArgs<T, W>& args) {
  const OpScope op("EmbeddingForward", args.ids, args.table, args.y);
  HM_CHECK_EQ(args.ids.rank(), 1);
  HM_CHECK_EQ(args.table.rank(), 2);
  HM_CHECK_EQ(args.y.shape(), (Shape{args.ids.dim(0), args.table.dim(1)}));
  const Device& device = arena.device();
  if (args.y.empty()) return;
  Dispatch<T, W>(
      "EmbeddingForward", device, [&]<typename U>() { CpuForward<U>(args); },
      [&]<typename U>() { cuda::EmbeddingForward<U>(device, args); });
}

template <typename T>
void EmbeddingBackward(Arena& arena, const EmbeddingGradArgs<T>& args) {
  const OpScope op("EmbeddingBackward", args.ids, args.dy, args.dtable, args.dtable);
  HM_CHECK_EQ(args.ids.rank(), 1);
  HM_CHECK_EQ(args.dtable.rank(), 2);
  HM_CHECK_EQ(args.dy.shape(), (Shape{args.ids.dim(0), args.dtable.dim(1)}));
  HM_CHECK_LT(args.ids.dim(0), int64_t{1} << 31);
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const EmbeddingSort sort(arena, args.ids.dim(0), args.dtable.dim(0), args.dtable.dim(1));
  if (args.dy.empty()) return;
  Dispatch<T>(
      "EmbeddingBackward", device, [&]<typename U>() { CpuBackward<U>(args); },
      [&]<typename U>() { cuda::EmbeddingBackward<U>(device, args, sort); });
}

void BigramHash(Arena& arena, Tensor<const int32_t> ids, int64_t table_rows, Tensor<int32_t> hash) {
  HM_CHECK_EQ(ids.rank(), 2);
  HM_CHECK_EQ(hash.shape(), ids.shape());
  HM_CHECK_GE(table_rows, 2);
  HM_CHECK_LT(table_rows, int64_t{1} << 31);
  const Device& device = arena.device();
  const OpScope op("BigramHash", ids, hash);
  if (ids.empty()) return;
  Dispatch<float>(
      "BigramHash", device, [&]<typename>() { CpuBigramHash(ids, table_rows, hash); },
      [&]<typename>() { cuda::BigramHash(device, ids, table_rows, hash); });
}

template void EmbeddingForward<double, double>(Arena&, const EmbeddingArgs<double>&);
template void EmbeddingForward<float, float>(Arena&, const EmbeddingArgs<float>&);
template void EmbeddingForward<float, Fp16>(Arena&, const EmbeddingArgs<float, Fp16>&);
template void EmbeddingForward<Bf16, Bf16>(Arena&, const EmbeddingArgs<Bf16>&);
template void EmbeddingBackward<double>(Arena&, const EmbeddingGradArgs<double>&);
template void EmbeddingBackward<float>(Arena&, const EmbeddingGradArgs<float>&);
template void EmbeddingBackward<Bf16>(Arena&, const EmbeddingGradArgs<Bf16>&);

}  // namespace hm11
