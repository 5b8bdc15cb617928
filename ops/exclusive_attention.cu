// XSA on a GPU: a warp a row and kv head. Its value, and the sums of its gradient, stay in registers while
// the warp goes through the query heads of the group; every tensor is read once and written once.
#include "core/launch.cuh"
#include "ops/exclusive_attention.h"
#include "ops/packs.cuh"

namespace hm11::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kMaxWidth = 128;
constexpr float kMinNorm = 1e-12f;

// A lane's share of one head: packs of N numbers, kPacks of them, zero past the width.
template <int N>
struct Share {
  static constexpr int kPacks = kMaxWidth / (32 * N);
  float values[kPacks][N];

  __device__ static int Column(int pack) { return (pack * 32 + static_cast<int>(threadIdx.x % 32)) * N; }
  template <typename T>
  __device__ void Read(const T* from, int width) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int i = 0; i < N; ++i) values[p][i] = 0;
      if (Column(p) < width) Load<N>(from + Column(p), values[p]);
    }
  }
  template <typename T>
  __device__ void Write(T* to, int width) const {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      if (Column(p) < width) Store<N>(values[p], to + Column(p));
    }
  }
  // this += factor * other
  __device__ void Add(float factor, const Share& other) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int i = 0; i < N; ++i) values[p][i] = fmaf(factor, other.values[p][i], values[p][i]);
    }
  }
  __device__ void Scale(float factor) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int i = 0; i < N; ++i) values[p][i] *= factor;
    }
  }
  // Over the whole head.
  __device__ float Dot(const Share& other) const {
    float sum = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int i = 0; i < N; ++i) sum = fmaf(values[p][i], other.values[p][i], sum);
    }
    return WarpSum(sum);
  }
};

template <typename T, int N>
__global__ void ForwardKernel(const T* x, const T* v, int64_t items, int group, int width, T* y) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (item >= items) return;
  Share<N> n;
  n.Read(v + item * width, width);
  n.Scale(1 / fmaxf(sqrtf(n.Dot(n)), kMinNorm));
  for (int64_t head = item * group; head < (item + 1) * group; ++head) {
    Share<N> values;
    values.Read(x + head * width, width);
    values.Add(-values.Dot(n), n);
    values.Write(y + head * width, width);
  }
}

template <typename T, int N>
__global__ void BackwardKernel(const T* x, const T* v, const T* dy, int64_t items, int group, int width,
                               T* dx, T* dv) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (item >= items) return;
  Share<N> n, dn;
  n.Read(v + item * width, width);
  const float norm = sqrtf(n.Dot(n));
  const float inverse = 1 / fmaxf(norm, kMinNorm);
  n.Scale(inverse);
#pragma unroll
  for (int p = 0; p < Share<N>::kPacks; ++p) {
#pragma unroll
    for (int i = 0; i < N; ++i) dn.values[p][i] = 0;
  }
  for (int64_t head = item * group; head < (item + 1) * group; ++head) {
    Share<N> values, upstream;
    values.Read(x + head * width, width);
    upstream.Read(dy + head * width, width);
    const float along_x = values.Dot(n), along_dy = upstream.Dot(n);
    dn.Add(-along_x, upstream);
    dn.Add(-along_dy, values);
    upstream.Add(-along_dy, n);
    upstream.Write(dx + head * width, width);
  }
  if (norm > kMinNorm) dn.Add(-dn.Dot(n), n);
  dn.Scale(inverse);
  dn.Write(dv + item * width, width);
}

template <typename T>
bool Paired(int64_t width, const void* a, const void* b, const void* c) {
  const int64_t bytes = 2 * static_cast<int64_t>(sizeof(T));
  return width % 2 == 0 && IsAligned(a, bytes) && IsAligned(b, bytes) && IsAligned(c, bytes);
}

}  // namespace

template <typename T>
void ExclusiveAttentionForward(const Device& device, const ExclusiveAttentionArgs<T>& args) {
  const int64_t items = args.v.dim(0) * args.v.dim(1) * args.v.dim(2), width = args.x.dim(3);
  const int group = static_cast<int>(args.x.dim(2) / args.v.dim(2));
  const LaunchShape shape = {.blocks = static_cast<unsigned>(CeilDiv<int64_t>(items, kWarps)),
                             .threads = kWarps * 32};
  const auto kernel = Paired<T>(width, args.x.data(), args.v.data(), args.y.data()) ? ForwardKernel<T, 2>
                                                                                    : ForwardKernel<T, 1>;
  Launch(device, shape, kernel, args.x.data(), args.v.data(), items, group, static_cast<int>(width),
         args.y.data());
}

template <typename T>
void ExclusiveAttentionBackward(const Device& device, const ExclusiveAttentionGradArgs<T>& args) {
  const int64_t items = args.v.dim(0) * args.v.dim(1) * args.v.dim(2), width = args.x.dim(3);
  const int group = static_cast<int>(args.x.dim(2) / args.v.dim(2));
  const LaunchShape shape = {.blocks = static_cast<unsigned>(CeilDiv<int64_t>(items, kWarps)),
                             .threads = kWarps * 32};
  const bool paired = Paired<T>(width, args.x.data(), args.v.data(), args.dy.data()) &&
                      Paired<T>(width, args.dx.data(), args.dv.data(), args.dx.data());
  const auto kernel = paired ? BackwardKernel<T, 2> : BackwardKernel<T, 1>;
  Launch(device, shape, kernel, args.x.data(), args.v.data(), args.dy.data(), items, group,
         static_cast<int>(width), args.dx.data(), args.dv.data());
}

template void ExclusiveAttentionForward<float>(const Device&, const ExclusiveAttentionArgs<float>&);
template void ExclusiveAttentionForward<Bf16>(const Device&, const ExclusiveAttentionArgs<Bf16>&);
template void ExclusiveAttentionBackward<float>(const Device&, const ExclusiveAttentionGradArgs<float>&);
template void ExclusiveAttentionBackward<Bf16>(const Device&, const ExclusiveAttentionGradArgs<Bf16>&);

}  // namespace hm11::cuda
