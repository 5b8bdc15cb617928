// Table lookup and the bigram hash: doors and CPU paths.
#include "ops/embedding.h"

#include <algorithm>

#include "ops/door.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

template <typename T>
void CpuForward(const EmbeddingArgs<T>& a) {
  const int64_t dim = a.table.dim(1), vocab = a.table.dim(0);
  ParallelFor(a.ids.size(), MinRows(dim), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      HM_CHECK_LT(static_cast<uint32_t>(a.ids[r]), static_cast<uint64_t>(vocab));
      std::copy_n(a.table.data() + a.ids[r] * dim, dim, a.y.data() + r * dim);
    }
  });
}

// Threads share out the columns, so each sum goes over the rows in their order.
template <typename T>
void CpuBackward(const EmbeddingGradArgs<T>& a) {
  const int64_t rows = a.ids.size(), dim = a.dtable.dim(1);
  ParallelFor(dim, std::max<int64_t>(16, (1 << 16) / std::max<int64_t>(rows, 1)),
              [&](int64_t begin, int64_t end) {
                for (int64_t r = 0; r < rows; ++r) {
                  const T* dy = a.dy.data() + r * dim;
                  T* to = a.dtable.data() + a.ids[r] * dim;
                  for (int64_t d = begin; d < end; ++d) to[d] += dy[d];
                }
              });
}

}  // namespace

int32_t BigramHashOf(int32_t id, int32_t previous, int64_t table_rows) {
  // Unsigned products wrap as 32-bit signed ones do in the reference.
  const uint32_t mixed = (36313u * static_cast<uint32_t>(id)) ^ (27191u * static_cast<uint32_t>(previous));
  const int64_t remainder = static_cast<int32_t>(mixed) % (table_rows - 1);
  return static_cast<int32_t>(remainder < 0 ? remainder + table_rows - 1 : remainder);
}

EmbeddingScratch NewEmbeddingScratch(Arena& arena, int64_t rows, int64_t vocab, int64_t dim) {
  EmbeddingScratch scratch;
  if (arena.device().is_cpu()) return scratch;
  const int64_t chunks = (rows + kEmbeddingChunk - 1) / kEmbeddingChunk;
  scratch.counts = arena.New<int32_t>({chunks, vocab});
  scratch.order = arena.New<int32_t>({rows});
  scratch.first_row = arena.New<int32_t>({vocab + 1});
  scratch.first_piece = arena.New<int32_t>({vocab + 1});
  scratch.pieces = arena.New<float>({std::min(rows, vocab) + rows / kEmbeddingPiece, dim});
  return scratch;
}

template <typename T>
void EmbeddingForward(Arena& arena, const EmbeddingArgs<T>& args) {
  HM_CHECK_EQ(args.table.rank(), 2);
  HM_CHECK_EQ(args.y.size(), args.ids.size() * args.table.dim(1));
  const Device& device = arena.device();
  if (device.is_plan() || args.ids.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::EmbeddingForward(device, args);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuForward(args);
  }
  FailNoHalf<T>("EmbeddingForward", device);
}

template <typename T>
void EmbeddingBackward(Arena& arena, const EmbeddingGradArgs<T>& args) {
  HM_CHECK_EQ(args.dtable.rank(), 2);
  HM_CHECK_EQ(args.dy.size(), args.ids.size() * args.dtable.dim(1));
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const EmbeddingScratch scratch =
      NewEmbeddingScratch(arena, args.ids.size(), args.dtable.dim(0), args.dtable.dim(1));
  if (device.is_plan() || args.ids.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::EmbeddingBackward(device, args, scratch);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuBackward(args);
  }
  FailNoHalf<T>("EmbeddingBackward", device);
}

void BigramHash(Arena& arena, Tensor<const int32_t> ids, int64_t table_rows, Tensor<int32_t> hash) {
  HM_CHECK_EQ(ids.rank(), 2);
  HM_CHECK_EQ(hash.shape(), ids.shape());
  HM_CHECK_GE(table_rows, 2);
  const Device& device = arena.device();
  if (device.is_plan() || ids.empty()) return;
#if HM11_HAVE_CUDA
  if (device.is_cuda()) return cuda::BigramHash(device, ids, table_rows, hash);
#endif
  const int64_t time = ids.dim(1);
  for (int64_t i = 0; i < ids.size(); ++i) {
    hash[i] =
        i % time == 0 ? static_cast<int32_t>(table_rows - 1) : BigramHashOf(ids[i], ids[i - 1], table_rows);
  }
}

#define HM11_INSTANTIATE(T)                                           \
  template void EmbeddingForward<T>(Arena&, const EmbeddingArgs<T>&); \
  template void EmbeddingBackward<T>(Arena&, const EmbeddingGradArgs<T>&);
HM11_INSTANTIATE(double)
HM11_INSTANTIATE(float)
HM11_INSTANTIATE(Bf16)
#undef HM11_INSTANTIATE

}  // namespace hm11
