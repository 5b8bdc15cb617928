// Smear gate on a GPU, laid out in time strips: every number is read from memory about once and written once.
#include "core/launch.cuh"
#include "core/special_functions.cuh"
#include "ops/packs.cuh"
#include "ops/smear.h"
#include "ops/sums.h"
#include "ops/time_strips.cuh"

namespace hm11::cuda {
namespace {

constexpr int kBackwardBlocks = 4;  // on each multiprocessor

template <int N>
__device__ __forceinline__ void LoadGates(const float* gate, float (&g)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) g[i] = Sigmoid(gate[i]);
}

// A thread keeps x_{t-1} of its N channels and fetches four steps at a time.
template <typename T, int N>
__global__ void __launch_bounds__(32 * kStripsABlock)
    ForwardKernel(StripLayout layout, const T* x, const float* gate, const T* previous, T* y) {
  const int channel = (blockIdx.x * 32 + threadIdx.x) * N;
  if (channel >= layout.channels) return;
  float g[N];
  LoadGates(gate + channel, g);
  for (int index = blockIdx.y * kStripsABlock + threadIdx.y; index < layout.strips;
       index += gridDim.y * kStripsABlock) {
    const Strip strip = StripAt(layout, index);
    const int64_t base = strip.row * layout.channels + channel;
    float before[N] = {};
    if (strip.begin > 0) {
      Load<N>(x + base + static_cast<int64_t>(strip.begin - 1) * layout.channels, before);
    } else if (previous != nullptr) {
      Load<N>(previous + strip.sequence * layout.channels + channel, before);
    }
    for (int t = strip.begin; t < strip.end; t += kStripGroup) {
      Pack<T, N> group[kStripGroup] = {};
#pragma unroll
      for (int k = 0; k < kStripGroup; ++k) {
        if (t + k < strip.end) group[k] = Fetch<N>(x + base + static_cast<int64_t>(t + k) * layout.channels);
      }
#pragma unroll
      for (int k = 0; k < kStripGroup; ++k) {
        if (t + k >= strip.end) continue;
        float now[N], out[N];
        Unpack(group[k], now);
#pragma unroll
        for (int i = 0; i < N; ++i) out[i] = fmaf(g[i], before[i] - now[i], now[i]);
#pragma unroll
        for (int i = 0; i < N; ++i) before[i] = now[i];
        Store<N>(out, y + base + static_cast<int64_t>(t + k) * layout.channels);
      }
    }
  }
}

// dx_t = (1 - g) dy_t + g dy_{t+1}; the thread keeps dy_t and x_{t-1}, and the sum of dy_t (x_{t-1} - x_t)
// over all the strips it visits.
template <typename T, int N>
__global__ void __launch_bounds__(32 * kStripsABlock)
    BackwardKernel(StripLayout layout, const T* x, const float* gate, const T* dy, T* dx, float* partials) {
  const int channel = (blockIdx.x * 32 + threadIdx.x) * N;
  const bool inside = channel < layout.channels;
  float g[N] = {}, sums[1][N] = {};
  if (inside) LoadGates(gate + channel, g);
  for (int index = blockIdx.y * kStripsABlock + threadIdx.y; inside && index < layout.strips;
       index += gridDim.y * kStripsABlock) {
    const Strip strip = StripAt(layout, index);
    const int64_t base = strip.row * layout.channels + channel;
    float before[N] = {}, dy_now[N];
    if (strip.begin > 0) Load<N>(x + base + static_cast<int64_t>(strip.begin - 1) * layout.channels, before);
    Load<N>(dy + base + static_cast<int64_t>(strip.begin) * layout.channels, dy_now);
    for (int t = strip.begin; t < strip.end; t += kStripGroup) {
      Pack<T, N> x_group[kStripGroup] = {}, dy_group[kStripGroup] = {};
#pragma unroll
      for (int k = 0; k < kStripGroup; ++k) {
        const int64_t at = base + static_cast<int64_t>(t + k) * layout.channels;
        if (t + k < strip.end) x_group[k] = Fetch<N>(x + at);
        if (t + k < strip.end && t + k + 1 < layout.time) dy_group[k] = Fetch<N>(dy + at + layout.channels);
      }
#pragma unroll
      for (int k = 0; k < kStripGroup; ++k) {
        if (t + k >= strip.end) continue;
        float now[N], dy_next[N], out[N];
        Unpack(x_group[k], now);
        Unpack(dy_group[k], dy_next);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          sums[0][i] = fmaf(dy_now[i], before[i] - now[i], sums[0][i]);
          out[i] = fmaf(g[i], dy_next[i] - dy_now[i], dy_now[i]);
          before[i] = now[i];
          dy_now[i] = dy_next[i];
        }
        Store<N>(out, dx + base + static_cast<int64_t>(t + k) * layout.channels);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) sums[0][i] *= g[i] * (1 - g[i]);
  StoreStripSums(sums, layout.channels, partials + static_cast<int64_t>(blockIdx.y) * layout.channels);
}

}  // namespace

template <typename T>
void SmearForward(const Device& device, const SmearArgs<T>& a) {
  const StripLayout layout = MakeStripLayout(a.x.dim(0), a.x.dim(1), a.x.dim(2));
  const bool packed =
      layout.channels % kPackSize<T> == 0 && AllAligned(a.x.data(), Data(a.previous), a.y.data());
  const LaunchShape shape = StripShape(layout, packed ? kPackSize<T> : 1, AllStripBlocks(layout));
  Launch(device, shape, packed ? ForwardKernel<T, kPackSize<T>> : ForwardKernel<T, 1>, layout, a.x.data(),
         a.gate.data(), Data(a.previous), a.y.data());
}

template <typename T>
void SmearBackward(const Device& device, const SmearGradArgs<T>& a, Tensor<float> partials) {
  const StripLayout layout = MakeStripLayout(a.x.dim(0), a.x.dim(1), a.x.dim(2));
  const bool packed = layout.channels % kPackSize<T> == 0 && AllAligned(a.x.data(), a.dy.data(), a.dx.data());
  const int pack = packed ? kPackSize<T> : 1;
  const int64_t column_blocks = CeilDiv<int64_t>(layout.channels, 32 * pack);
  const int64_t blocks =
      PartialBlocks(device, layout.strips, kStripsABlock, CeilDiv<int64_t>(kBackwardBlocks, column_blocks));
  Launch(device, StripShape(layout, pack, blocks),
         packed ? BackwardKernel<T, kPackSize<T>> : BackwardKernel<T, 1>, layout, a.x.data(), a.gate.data(),
         a.dy.data(), a.dx.data(), partials.data());
  AddColumnSums(device, partials.data(), blocks, 1, layout.channels, {GroupDestination{a.dgate.data()}});
}

template void SmearForward<float>(const Device&, const SmearArgs<float>&);
template void SmearForward<Bf16>(const Device&, const SmearArgs<Bf16>&);
template void SmearBackward<float>(const Device&, const SmearGradArgs<float>&, Tensor<float>);
template void SmearBackward<Bf16>(const Device&, const SmearGradArgs<Bf16>&, Tensor<float>);

}  // namespace hm11::cuda
