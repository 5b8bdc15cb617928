// Attention of one query on a GPU, in two kernels. A block of the first has one query head and kSplitKeys slots
// of the ring: softmax of their scores, values added by it. The second joins a head's splits in the order of
// slots (Dao et al. 2023, Flash-Decoding).
#include <cmath>

#include "core/check.h"
#include "core/launch.cuh"
#include "ops/attention_step.h"
#include "ops/packs.cuh"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxHeadDim = 128;
constexpr int kRun = static_cast<int>(kSplitKeys);
constexpr int kKeyThreads = kThreads / kRun;  // that share a key; neighbouring lanes
constexpr int kMaxSplits = static_cast<int>(kMaxStepWindow) / kRun;
static_assert(kRun == 64, "a lane has two scores");

template <typename T>
struct Operands {
  const T* q;
  const T* k;
  const T* v;
  const int32_t* place;
  T* keys;
  T* values;
  T* y;
  float* part_values;  // as in AttentionStepParts
  float* part_sums;
  float* part_largest;
  int window, heads, kv_heads, head_dim;

  // Slots that hold a token when that at `place` has come.
  __device__ int Count() const { return *place + 1 < window ? *place + 1 : window; }
};

__device__ __forceinline__ float WarpMaximum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  return value;
}

// q . key, N numbers at once; the same bits in all threads of the key.
template <int N, typename T>
__device__ __forceinline__ float Score(const float* q, const T* key, int head_dim) {
  float score = 0;
#pragma unroll
  for (int step = 0; step < kMaxHeadDim / (N * kKeyThreads); ++step) {
    const int d = (step * kKeyThreads + static_cast<int>(threadIdx.x) % kKeyThreads) * N;
    if (d >= head_dim) break;
    float numbers[N];
    Load(key + d, numbers);
#pragma unroll
    for (int i = 0; i < N; ++i) score = fmaf(q[d + i], numbers[i], score);
  }
#pragma unroll
  for (int offset = 1; offset < kKeyThreads; offset *= 2) {
    score += __shfl_xor_sync(0xffffffffu, score, offset);
  }
  return score;
}

// The run's scores, in shared memory, become exp(score - largest). All threads get the largest and the sum.
__device__ __forceinline__ void ExponentiateScores(float* scores, float& largest, float& sum) {
  const int lane = threadIdx.x % 32;
  largest = WarpMaximum(fmaxf(scores[lane], scores[lane + 32]));
  const float low = __expf(scores[lane] - largest), high = __expf(scores[lane + 32] - largest);
  sum = WarpSum(low + high);
  __syncthreads();  // Every warp has read the scores.
  if (threadIdx.x < 32) {
    scores[lane] = low;
    scores[lane + 32] = high;
  }
  __syncthreads();
}

// The newest token is read from k and v; of the blocks of its slot, one a kv head writes it to the ring.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) SplitKernel(const Operands<T> o) {
  __shared__ float q[kMaxHeadDim];
  __shared__ float scores[kRun];
  __shared__ float strips[kThreads];
  const int split = blockIdx.x, head = blockIdx.y, group = o.heads / o.kv_heads;
  const int newest = *o.place % o.window, first = split * kRun;
  const int count = min(o.Count() - first, kRun);
  if (count <= 0) return;
  const int from = head / group * o.head_dim;
  const int64_t stride = int64_t{o.kv_heads} * o.head_dim;
  const float scale = rsqrtf(static_cast<float>(o.head_dim));
  if (threadIdx.x < o.head_dim) {
    q[threadIdx.x] = scale * static_cast<float>(o.q[head * o.head_dim + threadIdx.x]);
    if (head % group == 0 && newest / kRun == split) {
      o.keys[newest * stride + from + threadIdx.x] = o.k[from + threadIdx.x];
      o.values[newest * stride + from + threadIdx.x] = o.v[from + threadIdx.x];
    }
  }
  // Values are asked for before the scores that they wait for.
  constexpr int kMost = kRun * kMaxHeadDim / kThreads;
  const int strip_count = kThreads / o.head_dim;
  const int strip = threadIdx.x / o.head_dim, channel = threadIdx.x % o.head_dim;
  float values[kMost];
#pragma unroll
  for (int i = 0; i < kMost; ++i) {
    const int j = strip + i * strip_count;
    if (j >= count || strip >= strip_count) break;
    const T* value = first + j == newest ? o.v : o.values + (first + j) * stride;
    values[i] = static_cast<float>(value[from + channel]);
  }
  __syncthreads();
  const int own = threadIdx.x / kKeyThreads, slot = first + min(own, count - 1);
  const float score = Score<N>(q, (slot == newest ? o.k : o.keys + slot * stride) + from, o.head_dim);
  if (threadIdx.x % kKeyThreads == 0) scores[own] = own < count ? score : -INFINITY;
  __syncthreads();
  float largest, sum;
  ExponentiateScores(scores, largest, sum);
  float y = 0;
#pragma unroll
  for (int i = 0; i < kMost; ++i) {
    const int j = strip + i * strip_count;
    if (j >= count || strip >= strip_count) break;
    y = fmaf(scores[j], values[i], y);
  }
  strips[threadIdx.x] = y;
  __syncthreads();
  if (threadIdx.x >= o.head_dim) return;
  y = 0;
  for (int s = 0; s < strip_count; ++s) y += strips[s * o.head_dim + threadIdx.x];
  const int64_t part = int64_t{head} * gridDim.x + split;
  o.part_values[part * o.head_dim + threadIdx.x] = y;
  if (threadIdx.x == 0) {
    o.part_sums[part] = sum;
    o.part_largest[part] = largest;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) JoinKernel(const Operands<T> o, int splits) {
  __shared__ float weights[kMaxSplits];
  __shared__ float strips[kThreads];
  const int head = blockIdx.x, used = (o.Count() + kRun - 1) / kRun;
  const float* largest = o.part_largest + int64_t{head} * splits;
  const float* sums = o.part_sums + int64_t{head} * splits;
  const float* values = o.part_values + int64_t{head} * splits * o.head_dim;
  const int lane = threadIdx.x % 32;
  // Every warp on its own: the largest and the sum of all.
  float most = -INFINITY, sum = 0;
  for (int s = lane; s < used; s += 32) most = fmaxf(most, largest[s]);
  most = WarpMaximum(most);
  for (int s = lane; s < used; s += 32) {
    const float weight = __expf(largest[s] - most);
    if (threadIdx.x < 32) weights[s] = weight;
    sum = fmaf(weight, sums[s], sum);
  }
  sum = WarpSum(sum);
  __syncthreads();
  const int strip_count = kThreads / o.head_dim;
  const int strip = threadIdx.x / o.head_dim, channel = threadIdx.x % o.head_dim;
  float y = 0;
  if (strip < strip_count) {
#pragma unroll 8
    for (int s = strip; s < used; s += strip_count) y = fmaf(weights[s], values[s * o.head_dim + channel], y);
  }
  strips[threadIdx.x] = y;
  __syncthreads();
  if (threadIdx.x >= o.head_dim) return;
  y = 0;
  for (int s = 0; s < strip_count; ++s) y += strips[s * o.head_dim + threadIdx.x];
  o.y[head * o.head_dim + threadIdx.x] = static_cast<T>(y / sum);
}

__global__ void AdvanceKernel(int32_t* place) { ++*place; }

}  // namespace

template <typename T>
void AttentionStepForward(const Device& device, const AttentionStepArgs<T>& args,
                          const AttentionStepParts& parts) {
  const int64_t window = args.keys.dim(0), heads = args.q.dim(0), head_dim = args.q.dim(1);
  HM_CHECK_LE(window, kMaxStepWindow);
  HM_CHECK_LE(head_dim, int64_t{kMaxHeadDim});
  const Operands<T> operands = {.q = args.q.data(),
                                .k = args.k.data(),
                                .v = args.v.data(),
                                .place = args.place.data(),
                                .keys = args.keys.data(),
                                .values = args.values.data(),
                                .y = args.y.data(),
                                .part_values = parts.values.data(),
                                .part_sums = parts.sums.data(),
                                .part_largest = parts.largest.data(),
                                .window = static_cast<int>(window),
                                .heads = static_cast<int>(heads),
                                .kv_heads = static_cast<int>(args.k.dim(0)),
                                .head_dim = static_cast<int>(head_dim)};
  const int splits = static_cast<int>(parts.sums.dim(1));
  const LaunchShape shape = {.blocks = dim3(static_cast<unsigned>(splits), static_cast<unsigned>(heads)),
                             .threads = kThreads};
  const bool packed = head_dim % kPackSize<T> == 0 && AllAligned(args.keys.data(), args.k.data());
  Launch(device, shape, packed ? SplitKernel<T, kPackSize<T>> : SplitKernel<T, 1>, operands);
  Launch(device, {.blocks = dim3(static_cast<unsigned>(heads)), .threads = kThreads}, JoinKernel<T>, operands,
         splits);
}

void AdvancePlace(const Device& device, Tensor<int32_t> place) {
  Launch(device, {.blocks = 1, .threads = 1}, AdvanceKernel, place.data());
}

template void AttentionStepForward<float>(const Device&, const AttentionStepArgs<float>&,
                                          const AttentionStepParts&);
template void AttentionStepForward<Bf16>(const Device&, const AttentionStepArgs<Bf16>&,
                                         const AttentionStepParts&);

}  // namespace hm11::cuda
