// Embedding on a GPU. The gradient: a stable counting sort of row numbers by id, then sums along the sorted
// rows.
//
// Counting and summing are cut by row numbers alone and every sum has one owner, so nothing depends on which
// block runs when. Only the summing reads dy; the five other kernels see ids, counts and the ends of runs.
#include "core/launch.cuh"
#include "ops/embedding.h"
#include "ops/packs.cuh"

namespace hm11::cuda {
namespace {

constexpr int kWarps = 8;  // a block, where warps work by themselves
constexpr int kCountThreads = 256;
constexpr int kScanThreads = 1024;
constexpr int kSegmentWarps = 4;
constexpr int kGroup = 4;  // rows fetched at once
constexpr int64_t kMaxSharedCounts = 48 * 1024 / static_cast<int64_t>(sizeof(int32_t));

// A warp has 32 neighbouring packs of a row, a block kWarps rows.
template <typename T, int N>
__global__ void __launch_bounds__(32 * kWarps)
    GatherKernel(int64_t rows, int dim, const int32_t* ids, const T* table, T* y) {
  const int column = (blockIdx.y * 32 + threadIdx.x) * N;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y;
  if (row >= rows || column >= dim) return;
  const Pack<T, N> pack = Fetch<N>(table + static_cast<int64_t>(ids[row]) * dim + column);
  *reinterpret_cast<Pack<T, N>*>(y + row * dim + column) = pack;
}

// counts[chunk, v]: rows of the chunk whose id is v. A block a chunk; whole numbers, so the order of the
// atomic adds does not show. Counts are kept in shared memory where they fit, else in place.
__global__ void __launch_bounds__(kCountThreads)
    CountKernel(int64_t rows, int64_t chunk_rows, int vocab, bool in_shared, const int32_t* ids,
                int32_t* counts) {
  extern __shared__ int32_t shared_counts[];
  int32_t* const out = counts + static_cast<int64_t>(blockIdx.x) * vocab;
  int32_t* const here = in_shared ? shared_counts : out;
  for (int v = threadIdx.x; v < vocab; v += kCountThreads) here[v] = 0;
  __syncthreads();
  const int64_t begin = blockIdx.x * chunk_rows;
  const int64_t end = min(begin + chunk_rows, rows);
  for (int64_t r = begin + threadIdx.x; r < end; r += kCountThreads) atomicAdd(&here[ids[r]], 1);
  __syncthreads();
  if (!in_shared) return;
  for (int v = threadIdx.x; v < vocab; v += kCountThreads) out[v] = here[v];
}

// Replaces the counts of each id by the sums over the chunks before, and leaves the id's total in starts[v +
// 1].
__global__ void __launch_bounds__(kCountThreads)
    PrefixKernel(int chunks, int vocab, int32_t* counts, int32_t* starts) {
  const int v = blockIdx.x * kCountThreads + threadIdx.x;
  if (v >= vocab) return;
  int32_t sum = 0;
#pragma unroll 16
  for (int chunk = 0; chunk < chunks; ++chunk) {
    int32_t* const at = counts + static_cast<int64_t>(chunk) * vocab + v;
    const int32_t count = *at;
    *at = sum;
    sum += count;
  }
  starts[v + 1] = sum;
}

// Running sums of starts[1], ..., starts[vocab], in one block, a tile of one number a thread after the other.
__global__ void __launch_bounds__(kScanThreads) StartsKernel(int vocab, int32_t* starts) {
  __shared__ int32_t warp_sums[32];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  int32_t before = 0;
  if (threadIdx.x == 0) starts[0] = 0;
  for (int base = 0; base < vocab; base += kScanThreads) {
    const int v = base + threadIdx.x;
    int32_t sum = v < vocab ? starts[v + 1] : 0;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int32_t other = __shfl_up_sync(0xffffffffu, sum, offset);
      if (lane >= offset) sum += other;
    }
    if (lane == 31) warp_sums[warp] = sum;
    __syncthreads();
    int32_t tile = 0;
    for (int w = 0; w < 32; ++w) {
      if (w < warp) sum += warp_sums[w];
      tile += warp_sums[w];
    }
    if (v < vocab) starts[v + 1] = before + sum;
    before += tile;
    __syncthreads();
  }
}

// Puts the chunk's rows where they belong: after those of smaller ids, of the same id in chunks before, and
// of the same id in the chunk before. One warp a chunk, 32 rows a step; among lanes of one id the lowest
// counts for all.
__global__ void __launch_bounds__(32)
    PlaceKernel(int64_t rows, int64_t chunk_rows, int vocab, bool in_shared, const int32_t* ids,
                int32_t* counts, const int32_t* starts, int32_t* order, int32_t* keys) {
  extern __shared__ int32_t shared_counts[];
  int32_t* const chunk_counts = counts + static_cast<int64_t>(blockIdx.x) * vocab;
  int32_t* const next = in_shared ? shared_counts : chunk_counts;
  for (int v = threadIdx.x; v < vocab; v += 32) next[v] = chunk_counts[v] + starts[v];
  __syncwarp();
  const int64_t begin = blockIdx.x * chunk_rows;
  const int64_t end = min(begin + chunk_rows, rows);
  int32_t ahead = begin + threadIdx.x < end ? ids[begin + threadIdx.x] : -1;
  for (int64_t base = begin; base < end; base += 32) {
    const int64_t row = base + threadIdx.x;
    const int32_t id = ahead;
    ahead = row + 32 < end ? ids[row + 32] : -1;
    const unsigned same = __match_any_sync(0xffffffffu, id);
    const int rank = __popc(same & ((1u << threadIdx.x) - 1));
    int32_t at = 0;
    if (id >= 0) {
      at = next[id] + rank;
      order[at] = static_cast<int32_t>(row);
      keys[at] = id;
    }
    __syncwarp();
    if (id >= 0 && rank == 0) next[id] = at + __popc(same);
    __syncwarp();
  }
}

template <typename T>
struct SumOperands {
  int rows;
  int dim;
  const int32_t* order;
  const int32_t* keys;
  const int32_t* starts;
  const T* dy;
  float* dtable;
  float* edges;
};

template <int N>
__device__ __forceinline__ void AddAt(const float (&sum)[N], float* to) {
  float values[N];
  Load<N>(to, values);
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] += sum[i];
  Store<N>(values, to);
}

// A warp has a segment of sorted rows and 32 packs of columns, a pack a lane, and adds rows up while the id
// stays. A run of one id that lies inside the segment is added to the table; one that crosses the segment's
// begin goes to the first of its two edges, one that only crosses its end to the second.
template <typename T, int N>
__global__ void __launch_bounds__(32 * kSegmentWarps) SegmentKernel(SumOperands<T> p) {
  constexpr int kRows = static_cast<int>(EmbeddingSort::kSegmentRows);
  const int column = (blockIdx.y * 32 + threadIdx.x) * N;
  const int segment = blockIdx.x * kSegmentWarps + threadIdx.y;
  const int begin = segment * kRows;
  if (begin >= p.rows || column >= p.dim) return;
  const int end = min(begin + kRows, p.rows);
  float* const edges = p.edges + static_cast<int64_t>(segment) * 2 * p.dim + column;
  bool crosses_begin = begin > 0 && p.keys[begin - 1] == p.keys[begin];
  int32_t key = p.keys[begin];
  float sum[N] = {};
  for (int base = begin; base < end; base += kGroup) {
    Pack<T, N> packs[kGroup] = {};
    int32_t keys[kGroup];
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      if (base + k >= end) continue;
      keys[k] = p.keys[base + k];
      packs[k] = Fetch<N>(p.dy + static_cast<int64_t>(p.order[base + k]) * p.dim + column);
    }
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
      if (base + k >= end) continue;
      if (keys[k] != key) {
        if (crosses_begin) {
          Store<N>(sum, edges);
        } else {
          AddAt<N>(sum, p.dtable + static_cast<int64_t>(key) * p.dim + column);
        }
        crosses_begin = false;
        key = keys[k];
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] = 0;
      }
      float values[N];
      Unpack(packs[k], values);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += values[i];
    }
  }
  if (crosses_begin) {
    Store<N>(sum, edges);
  } else if (end < p.rows && p.keys[end] == key) {
    Store<N>(sum, edges + p.dim);
  } else {
    AddAt<N>(sum, p.dtable + static_cast<int64_t>(key) * p.dim + column);
  }
}

// The segment in which a run that crosses segments begins adds its edges up, in order, and owns the table's
// row.
template <typename T, int N>
__global__ void __launch_bounds__(32 * kSegmentWarps) EdgeKernel(SumOperands<T> p) {
  constexpr int kRows = static_cast<int>(EmbeddingSort::kSegmentRows);
  const int column = (blockIdx.y * 32 + threadIdx.x) * N;
  const int segment = blockIdx.x * kSegmentWarps + threadIdx.y;
  const int begin = segment * kRows;
  const int64_t end = static_cast<int64_t>(begin) + kRows;
  if (end >= p.rows || column >= p.dim) return;
  const int32_t key = p.keys[end];
  const int run_begin = p.starts[key];
  if (run_begin < begin || run_begin >= end) return;  // It begins elsewhere, or with the next segment.
  const int last = (p.starts[key + 1] - 1) / kRows;
  float sum[N];
  Load<N>(p.edges + (static_cast<int64_t>(segment) * 2 + 1) * p.dim + column, sum);
#pragma unroll 8
  for (int s = segment + 1; s <= last; ++s) {
    float values[N];
    Load<N>(p.edges + static_cast<int64_t>(s) * 2 * p.dim + column, values);
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] += values[i];
  }
  AddAt<N>(sum, p.dtable + static_cast<int64_t>(key) * p.dim + column);
}

__global__ void __launch_bounds__(kCountThreads)
    HashKernel(int64_t size, int64_t time, int32_t modulus, const int32_t* ids, int32_t* hash) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kCountThreads + threadIdx.x;
  if (i >= size) return;
  hash[i] = i % time == 0 ? modulus : BigramHashOf(ids[i], ids[i - 1], modulus);
}

unsigned Blocks(int64_t items, int64_t items_a_block) {
  return static_cast<unsigned>(CeilDiv(items, items_a_block));
}

void SortByIds(const Device& device, Tensor<const int32_t> ids, int64_t vocab, const EmbeddingSort& sort) {
  const int64_t rows = ids.dim(0);
  const bool in_shared = vocab <= kMaxSharedCounts;
  const int64_t shared_bytes = in_shared ? vocab * static_cast<int64_t>(sizeof(int32_t)) : 0;
  const auto chunks = static_cast<unsigned>(sort.chunks);
  Launch(device, {.blocks = chunks, .threads = kCountThreads, .shared_bytes = shared_bytes}, CountKernel,
         rows, sort.chunk_rows, vocab, in_shared, ids.data(), sort.counts.data());
  Launch(device, {.blocks = Blocks(vocab, kCountThreads), .threads = kCountThreads}, PrefixKernel,
         sort.chunks, vocab, sort.counts.data(), sort.starts.data());
  Launch(device, {.blocks = 1, .threads = kScanThreads}, StartsKernel, vocab, sort.starts.data());
  Launch(device, {.blocks = chunks, .threads = 32, .shared_bytes = shared_bytes}, PlaceKernel, rows,
         sort.chunk_rows, vocab, in_shared, ids.data(), sort.counts.data(), sort.starts.data(),
         sort.order.data(), sort.keys.data());
}

}  // namespace

template <typename T>
void EmbeddingForward(const Device& device, const EmbeddingArgs<T>& a) {
  const int64_t rows = a.y.dim(0), dim = a.y.dim(1);
  const bool packed = dim % kPackSize<T> == 0 && AllAligned(a.table.data(), a.y.data());
  const dim3 blocks(Blocks(rows, kWarps), Blocks(dim, 32 * (packed ? kPackSize<T> : 1)));
  Launch(device, {.blocks = blocks, .threads = dim3(32, kWarps)},
         packed ? GatherKernel<T, kPackSize<T>> : GatherKernel<T, 1>, rows, dim, a.ids.data(), a.table.data(),
         a.y.data());
}

template <typename T>
void EmbeddingBackward(const Device& device, const EmbeddingGradArgs<T>& a, const EmbeddingSort& sort) {
  const int64_t rows = a.dy.dim(0), vocab = a.dtable.dim(0), dim = a.dtable.dim(1);
  SortByIds(device, a.ids, vocab, sort);
  const SumOperands<T> p = {.rows = static_cast<int>(rows),
                            .dim = static_cast<int>(dim),
                            .order = sort.order.data(),
                            .keys = sort.keys.data(),
                            .starts = sort.starts.data(),
                            .dy = a.dy.data(),
                            .dtable = a.dtable.data(),
                            .edges = sort.edges.data()};
  const bool packed = dim % kPackSize<T> == 0 && AllAligned(a.dy.data(), a.dtable.data());
  const dim3 blocks(Blocks(sort.edges.dim(0), kSegmentWarps), Blocks(dim, 32 * (packed ? kPackSize<T> : 1)));
  const LaunchShape shape = {.blocks = blocks, .threads = dim3(32, kSegmentWarps)};
  Launch(device, shape, packed ? SegmentKernel<T, kPackSize<T>> : SegmentKernel<T, 1>, p);
  Launch(device, shape, packed ? EdgeKernel<T, kPackSize<T>> : EdgeKernel<T, 1>, p);
}

void BigramHash(const Device& device, Tensor<const int32_t> ids, int64_t table_rows, Tensor<int32_t> hash) {
  Launch(device, {.blocks = Blocks(ids.size(), kCountThreads), .threads = kCountThreads}, HashKernel,
         ids.size(), ids.dim(1), table_rows - 1, ids.data(), hash.data());
}

template void EmbeddingForward<float>(const Device&, const EmbeddingArgs<float>&);
template void EmbeddingForward<Bf16>(const Device&, const EmbeddingArgs<Bf16>&);
template void EmbeddingBackward<float>(const Device&, const EmbeddingGradArgs<float>&, const EmbeddingSort&);
template void EmbeddingBackward<Bf16>(const Device&, const EmbeddingGradArgs<Bf16>&, const EmbeddingSort&);

}  // namespace hm11::cuda
