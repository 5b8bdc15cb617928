// Attention of one query on a GPU: a block a query head. Scores of all keys into shared memory, a thread a
// key; their softmax; then values summed by channel, strips of keys side by side and added in order.
#include <cmath>

#include "core/check.h"
#include "core/launch.cuh"
#include "ops/attention_step.h"
#include "ops/packs.cuh"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kMaxHeadDim = 128;

template <typename T>
struct Operands {
  const T* q;
  const T* k;
  const T* v;
  const int32_t* place;
  T* keys;
  T* values;
  T* y;
  int window, heads, kv_heads, head_dim;
};

// The slot of the newest token; the kernel of attention runs after it.
template <typename T>
__global__ void AppendKernel(const Operands<T> o) {
  const int width = o.kv_heads * o.head_dim;
  const int64_t at = int64_t{*o.place % o.window} * width;
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    o.keys[at + i] = o.k[i];
    o.values[at + i] = o.v[i];
  }
}

// The largest over the block; every thread must call it. `scratch` is 32 floats of shared memory.
__device__ inline float BlockMaximum(float value, float* scratch) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = scratch[0];
  for (int warp = 1; warp < kThreads / 32; ++warp) value = fmaxf(value, scratch[warp]);
  return value;
}

// N numbers of a key at once.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) ForwardKernel(const Operands<T> o) {
  extern __shared__ float scores[];  // [min(place + 1, window)]
  __shared__ float q[kMaxHeadDim];
  __shared__ float strips[kThreads];
  __shared__ float scratch[32];
  const int head = blockIdx.x, place = *o.place;
  const int count = place + 1 < o.window ? place + 1 : o.window;
  const int from = head / (o.heads / o.kv_heads) * o.head_dim;
  const int64_t stride = int64_t{o.kv_heads} * o.head_dim;
  const float scale = rsqrtf(static_cast<float>(o.head_dim));
  for (int d = threadIdx.x; d < o.head_dim; d += kThreads) {
    q[d] = scale * static_cast<float>(o.q[head * o.head_dim + d]);
  }
  __syncthreads();
  float largest = -INFINITY;
  for (int j = threadIdx.x; j < count; j += kThreads) {
    const T* key = o.keys + j * stride + from;
    float score = 0;
    for (int d = 0; d < o.head_dim; d += N) {
      float numbers[N];
      Load(key + d, numbers);
#pragma unroll
      for (int i = 0; i < N; ++i) score = fmaf(q[d + i], numbers[i], score);
    }
    scores[j] = score;
    largest = fmaxf(largest, score);
  }
  largest = BlockMaximum(largest, scratch);
  float sum = 0;
  for (int j = threadIdx.x; j < count; j += kThreads) {
    scores[j] = __expf(scores[j] - largest);
    sum += scores[j];
  }
  sum = BlockSum<kThreads>(sum, scratch);  // Ends with all scores written.
  const int strip_count = kThreads / o.head_dim;
  const int strip = threadIdx.x / o.head_dim, channel = threadIdx.x % o.head_dim;
  if (strip < strip_count) {
    float y = 0;
    const T* value = o.values + from + channel;
#pragma unroll 8
    for (int j = strip; j < count; j += strip_count) {
      y = fmaf(scores[j], static_cast<float>(value[j * stride]), y);
    }
    strips[threadIdx.x] = y;
  }
  __syncthreads();
  if (threadIdx.x >= o.head_dim) return;
  float y = 0;
  for (int s = 0; s < strip_count; ++s) y += strips[s * o.head_dim + threadIdx.x];
  o.y[head * o.head_dim + threadIdx.x] = static_cast<T>(y / sum);
}

__global__ void AdvanceKernel(int32_t* place) { ++*place; }

}  // namespace

template <typename T>
void AttentionStepForward(const Device& device, const AttentionStepArgs<T>& args) {
  const int64_t window = args.keys.dim(0), head_dim = args.q.dim(1);
  HM_CHECK_LE(window, kMaxStepWindow);
  HM_CHECK_LE(head_dim, int64_t{kMaxHeadDim});
  const Operands<T> operands = {.q = args.q.data(),
                                .k = args.k.data(),
                                .v = args.v.data(),
                                .place = args.place.data(),
                                .keys = args.keys.data(),
                                .values = args.values.data(),
                                .y = args.y.data(),
                                .window = static_cast<int>(window),
                                .heads = static_cast<int>(args.q.dim(0)),
                                .kv_heads = static_cast<int>(args.k.dim(0)),
                                .head_dim = static_cast<int>(head_dim)};
  Launch(device, {.blocks = 1, .threads = 256}, AppendKernel<T>, operands);
  const LaunchShape shape = {.blocks = dim3(static_cast<unsigned>(args.q.dim(0))),
                             .threads = kThreads,
                             .shared_bytes = window * static_cast<int64_t>(sizeof(float))};
  const bool packed = head_dim % kPackSize<T> == 0 && IsAligned(args.keys.data());
  Launch(device, shape, packed ? ForwardKernel<T, kPackSize<T>> : ForwardKernel<T, 1>, operands);
}

void AdvancePlace(const Device& device, Tensor<int32_t> place) {
  Launch(device, {.blocks = 1, .threads = 1}, AdvanceKernel, place.data());
}

template void AttentionStepForward<float>(const Device&, const AttentionStepArgs<float>&);
template void AttentionStepForward<Bf16>(const Device&, const AttentionStepArgs<Bf16>&);

}  // namespace hm11::cuda
