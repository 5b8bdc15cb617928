// Table lookup on a GPU. Backward sorts rows by id (a counting sort, stable) and sums each id's rows in
// pieces, so that common tokens keep many blocks busy and the order of every sum is fixed.
#include "core/launch.cuh"
#include "ops/embedding.h"
#include "ops/packs.cuh"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChunk = static_cast<int>(kEmbeddingChunk);
constexpr int kPiece = static_cast<int>(kEmbeddingPiece);

// One pack a thread.
template <typename T, int N>
__global__ void ForwardKernel(const int32_t* ids, const T* table, int64_t rows, int64_t packs, T* y) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows * packs) return;
  const int64_t row = i / packs, pack = i % packs;
  float values[N];
  Load<N>(table + (static_cast<int64_t>(ids[row]) * packs + pack) * N, values);
  Store<N>(values, y + i * N);
}

// counts[chunk, id], for one chunk a block. Whole numbers: atomics add up to the same in any order.
__global__ void CountKernel(const int32_t* ids, int64_t rows, int64_t vocab, int32_t* counts) {
  int32_t* mine = counts + static_cast<int64_t>(blockIdx.x) * vocab;
  for (int64_t v = threadIdx.x; v < vocab; v += blockDim.x) mine[v] = 0;
  __syncthreads();
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kChunk;
  for (int64_t r = begin + threadIdx.x; r < begin + kChunk && r < rows; r += blockDim.x)
    atomicAdd(mine + ids[r], 1);
}

// counts[chunk, id] becomes the rows of the id in chunks before; totals[id] all of them.
__global__ void ChunkOffsetsKernel(int64_t chunks, int64_t vocab, int32_t* counts, int32_t* totals) {
  const int64_t v = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (v >= vocab) return;
  int32_t before = 0;
  for (int64_t c = 0; c < chunks; ++c) {
    const int32_t count = counts[c * vocab + v];
    counts[c * vocab + v] = before;
    before += count;
  }
  totals[v] = before;
}

// Exclusive sums over ids of rows (in place of the totals) and of pieces; one block of 1024 threads, each
// with a run of neighbouring ids.
__global__ void IdOffsetsKernel(int64_t vocab, int32_t* first_row, int32_t* first_piece) {
  __shared__ int32_t rows_before[1024], pieces_before[1024];
  const int64_t run = CeilDiv<int64_t>(vocab, 1024), begin = threadIdx.x * run, end = min(vocab, begin + run);
  int32_t rows = 0, pieces = 0;
  for (int64_t v = begin; v < end; ++v) {
    rows += first_row[v];
    pieces += CeilDiv(first_row[v], kPiece);
  }
  rows_before[threadIdx.x] = rows;
  pieces_before[threadIdx.x] = pieces;
  __syncthreads();
  for (int offset = 1; offset < 1024; offset *= 2) {
    const int from = static_cast<int>(threadIdx.x) - offset;
    const int32_t r = from >= 0 ? rows_before[from] : 0, p = from >= 0 ? pieces_before[from] : 0;
    __syncthreads();
    rows_before[threadIdx.x] += r;
    pieces_before[threadIdx.x] += p;
    __syncthreads();
  }
  int32_t row = rows_before[threadIdx.x] - rows, piece = pieces_before[threadIdx.x] - pieces;
  for (int64_t v = begin; v < end; ++v) {
    const int32_t count = first_row[v];
    first_row[v] = row;
    first_piece[v] = piece;
    row += count;
    piece += CeilDiv(count, kPiece);
  }
  if (threadIdx.x == 1023) {
    first_row[vocab] = row;
    first_piece[vocab] = piece;
  }
}

// Places the rows of one chunk: a row comes after those of the chunk before it that have its id.
__global__ void OrderKernel(const int32_t* ids, int64_t rows, int64_t vocab, const int32_t* counts,
                            const int32_t* first_row, int32_t* order) {
  __shared__ int32_t chunk[kChunk];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kChunk + threadIdx.x;
  const int32_t id = row < rows ? ids[row] : -1;
  chunk[threadIdx.x] = id;
  __syncthreads();
  if (id < 0) return;
  int32_t rank = 0;
  for (int i = 0; i < static_cast<int>(threadIdx.x); ++i) rank += chunk[i] == id;
  order[first_row[id] + counts[static_cast<int64_t>(blockIdx.x) * vocab + id] + rank] =
      static_cast<int32_t>(row);
}

// The last id whose first piece is at most `piece`: the id the piece belongs to.
__device__ int64_t IdOfPiece(const int32_t* first_piece, int64_t vocab, int32_t piece) {
  int64_t low = 0, high = vocab;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (first_piece[middle] <= piece ? low : high) = middle;
  }
  return low;
}

// Sums one piece a block. Threads of one team hold neighbouring packs of columns; teams take every teams-th
// row, and their sums are added in order.
template <typename T, int N>
__global__ void PieceKernel(const int32_t* order, const int32_t* first_row, const int32_t* first_piece,
                            int64_t vocab, const T* dy, int dim, float* pieces) {
  __shared__ float sums[kThreads * N];
  const int32_t piece = blockIdx.x;
  if (piece >= first_piece[vocab]) return;
  const int64_t id = IdOfPiece(first_piece, vocab, piece);
  const int32_t begin = first_row[id] + (piece - first_piece[id]) * kPiece,
                end = min(first_row[id + 1], begin + kPiece);
  const int packs = dim / N, team_size = min(packs, kThreads), teams = kThreads / team_size;
  const int team = threadIdx.x / team_size, lane = threadIdx.x % team_size;
  for (int pack = lane; pack < CeilDiv(packs, team_size) * team_size; pack += team_size) {
    float sum[N] = {};
    if (team < teams && pack < packs) {
#pragma unroll 4
      for (int32_t i = begin + team; i < end; i += teams) {
        float values[N];
        Load<N>(dy + static_cast<int64_t>(order[i]) * dim + pack * N, values);
#pragma unroll
        for (int n = 0; n < N; ++n) sum[n] += values[n];
      }
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < N; ++n) sums[threadIdx.x * N + n] = sum[n];
    __syncthreads();
    if (team == 0 && pack < packs) {
      for (int t = 1; t < teams; ++t) {
#pragma unroll
        for (int n = 0; n < N; ++n) sum[n] += sums[(t * team_size + lane) * N + n];
      }
      Store<N>(sum, pieces + static_cast<int64_t>(piece) * dim + pack * N);
    }
  }
}

// dtable[id] += the sum of its pieces, in order; a thread a number.
__global__ void FinishKernel(const int32_t* first_piece, const float* pieces, int64_t vocab, int64_t dim,
                             float* dtable) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= vocab * dim) return;
  const int64_t id = i / dim;
  float sum = 0;
  for (int32_t p = first_piece[id]; p < first_piece[id + 1]; ++p) sum += pieces[p * dim + i % dim];
  dtable[i] += sum;
}

__global__ void BigramHashKernel(const int32_t* ids, int64_t size, int64_t time, int32_t table_rows,
                                 int32_t* hash) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size) return;
  if (i % time == 0) {
    hash[i] = table_rows - 1;
    return;
  }
  const uint32_t mixed =
      (36313u * static_cast<uint32_t>(ids[i])) ^ (27191u * static_cast<uint32_t>(ids[i - 1]));
  const int32_t remainder = static_cast<int32_t>(mixed) % (table_rows - 1);
  hash[i] = remainder < 0 ? remainder + table_rows - 1 : remainder;
}

LaunchShape ThreadEach(int64_t count) {
  return {.blocks = static_cast<unsigned>(CeilDiv<int64_t>(count, kThreads)), .threads = kThreads};
}

}  // namespace

template <typename T>
void EmbeddingForward(const Device& device, const EmbeddingArgs<T>& args) {
  constexpr int N = kPackSize<T>;
  const int64_t rows = args.ids.size(), dim = args.table.dim(1);
  if (dim % N == 0 && AllAligned(args.table.data(), args.y.data())) {
    Launch(device, ThreadEach(rows * (dim / N)), ForwardKernel<T, N>, args.ids.data(), args.table.data(),
           rows, dim / N, args.y.data());
  } else {
    Launch(device, ThreadEach(rows * dim), ForwardKernel<T, 1>, args.ids.data(), args.table.data(), rows, dim,
           args.y.data());
  }
}

template <typename T>
void EmbeddingBackward(const Device& device, const EmbeddingGradArgs<T>& args,
                       const EmbeddingScratch& scratch) {
  constexpr int N = kPackSize<T>;
  const int64_t rows = args.ids.size(), vocab = args.dtable.dim(0), dim = args.dtable.dim(1);
  const int64_t chunks = scratch.counts.dim(0);
  const LaunchShape chunk_each = {.blocks = static_cast<unsigned>(chunks), .threads = kChunk};
  Launch(device, chunk_each, CountKernel, args.ids.data(), rows, vocab, scratch.counts.data());
  Launch(device, ThreadEach(vocab), ChunkOffsetsKernel, chunks, vocab, scratch.counts.data(),
         scratch.first_row.data());
  Launch(device, {.blocks = 1, .threads = 1024}, IdOffsetsKernel, vocab, scratch.first_row.data(),
         scratch.first_piece.data());
  Launch(device, chunk_each, OrderKernel, args.ids.data(), rows, vocab, scratch.counts.data(),
         scratch.first_row.data(), scratch.order.data());
  const bool packed = dim % N == 0 && AllAligned(args.dy.data(), scratch.pieces.data());
  Launch(device, {.blocks = static_cast<unsigned>(scratch.pieces.dim(0)), .threads = kThreads},
         packed ? PieceKernel<T, N> : PieceKernel<T, 1>, scratch.order.data(), scratch.first_row.data(),
         scratch.first_piece.data(), vocab, args.dy.data(), static_cast<int>(dim), scratch.pieces.data());
  Launch(device, ThreadEach(vocab * dim), FinishKernel, scratch.first_piece.data(), scratch.pieces.data(),
         vocab, dim, args.dtable.data());
}

void BigramHash(const Device& device, Tensor<const int32_t> ids, int64_t table_rows, Tensor<int32_t> hash) {
  Launch(device, ThreadEach(ids.size()), BigramHashKernel, ids.data(), ids.size(), ids.dim(1),
         static_cast<int32_t>(table_rows), hash.data());
}

template void EmbeddingForward<float>(const Device&, const EmbeddingArgs<float>&);
template void EmbeddingForward<Bf16>(const Device&, const EmbeddingArgs<Bf16>&);
template void EmbeddingBackward<float>(const Device&, const EmbeddingGradArgs<float>&,
                                       const EmbeddingScratch&);
template void EmbeddingBackward<Bf16>(const Device&, const EmbeddingGradArgs<Bf16>&, const EmbeddingScratch&);

}  // namespace hm11::cuda
