// Causal convolution on a GPU, laid out in time strips, with the last inputs and the weights of a thread's
// channels in its registers. Widths under 4 are width 4 with leading weights of zero.
#include "core/launch.cuh"
#include "ops/causal_conv.h"
#include "ops/packs.cuh"
#include "ops/sums.h"
#include "ops/time_strips.cuh"

namespace hm11::cuda {
namespace {

constexpr int kTaps = static_cast<int>(kMaxConvWidth);
constexpr int kGroups = kTaps + 1;  // sums over rows: of each tap, of the bias
constexpr int kBackwardPack = 4;    // channels a thread: what registers allow
constexpr int kBackwardBlocks = 8;  // on each multiprocessor, over all columns; two or more are there at once

template <typename T>
struct Operands {
  StripLayout layout;
  int width;
  int64_t x_stride;
  const T* x;
  const float* weight;
  const float* bias;
  const T* tail;
};

template <int N>
struct Weights {
  float taps[kTaps][N];
  float bias[N];
};

template <int N, typename T>
__device__ __forceinline__ Weights<N> LoadWeights(const Operands<T>& p, int channel) {
  Weights<N> w;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    w.bias[i] = p.bias[channel + i];
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      const int tap = k - (kTaps - p.width);
      w.taps[k][i] = tap < 0 ? 0.0f : p.weight[(channel + i) * p.width + tap];
    }
  }
  return w;
}

// The kTaps - 1 inputs before a strip: of x, of the tail, or zeros.
template <int N, typename T>
__device__ __forceinline__ void LoadWindow(const Operands<T>& p, const Strip& strip, int channel,
                                           float (&window)[kTaps][N]) {
#pragma unroll
  for (int k = 1; k < kTaps; ++k) {
    const int t = strip.begin + k - kTaps;
    const int in_tail = t + p.width - 1;
#pragma unroll
    for (int i = 0; i < N; ++i) window[k][i] = 0;
    if (t >= 0) {
      Load<N>(p.x + (strip.row + t) * p.x_stride + channel, window[k]);
    } else if (p.tail != nullptr && in_tail >= 0) {
      Load<N>(p.tail + (strip.sequence * (p.width - 1) + in_tail) * p.layout.channels + channel, window[k]);
    }
  }
}

// Moves the window one step on; `now` comes last.
template <int N>
__device__ __forceinline__ void Shift(float (&window)[kTaps][N], const float (&now)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int k = 0; k + 1 < kTaps; ++k) window[k][i] = window[k + 1][i];
    window[kTaps - 1][i] = now[i];
  }
}

template <int N>
__device__ __forceinline__ void Convolve(const Weights<N>& w, const float (&window)[kTaps][N],
                                         float (&sum)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    sum[i] = w.bias[i];
#pragma unroll
    for (int k = 0; k < kTaps; ++k) sum[i] = fmaf(w.taps[k][i], window[k][i], sum[i]);
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(32 * kStripsABlock) ForwardKernel(Operands<T> p, T* y, T* final_tail) {
  const int channel = (blockIdx.x * 32 + threadIdx.x) * N;
  const int channels = p.layout.channels;
  if (channel >= channels) return;
  const Weights<N> w = LoadWeights<N>(p, channel);
  for (int64_t index = static_cast<int64_t>(blockIdx.y) * kStripsABlock + threadIdx.y;
       index < p.layout.strips; index += static_cast<int64_t>(gridDim.y) * kStripsABlock) {
    const Strip strip = StripAt(p.layout, index);
    float window[kTaps][N];
    LoadWindow<N>(p, strip, channel, window);
    for (int t = strip.begin; t < strip.end; t += kStripGroup) {
      Pack<T, N> group[kStripGroup] = {};
#pragma unroll
      for (int k = 0; k < kStripGroup; ++k) {
        if (t + k < strip.end) group[k] = Fetch<N>(p.x + (strip.row + t + k) * p.x_stride + channel);
      }
#pragma unroll
      for (int k = 0; k < kStripGroup; ++k) {
        if (t + k >= strip.end) continue;
        float now[N], out[N];
        Unpack(group[k], now);
        Shift(window, now);
        Convolve(w, window, out);
#pragma unroll
        for (int i = 0; i < N; ++i) out[i] *= Sigmoid(out[i]);
        Store<N>(out, y + (strip.row + t + k) * channels + channel);
      }
    }
    if (final_tail == nullptr || strip.end != p.layout.time) continue;
#pragma unroll
    for (int k = 1; k < kTaps; ++k) {
      const int in_tail = k - (kTaps - p.width) - 1;
      if (in_tail < 0) continue;
      Store<N>(window[k], final_tail + (strip.sequence * (p.width - 1) + in_tail) * channels + channel);
    }
  }
}

// Walks kTaps - 1 steps past the strip's end, for what these say about the inputs inside. After step t the
// gradient of input t - 3 is whole: it is the sum of the last four results' gradients times the taps.
// Gradients of taps and bias take the steps inside the strip only.
template <typename T, int N>
__global__ void __launch_bounds__(32 * kStripsABlock, 2)
    BackwardKernel(Operands<T> p, const T* dy, T* dx, int64_t dx_stride, float* partials) {
  const int channel = (blockIdx.x * 32 + threadIdx.x) * N;
  const int channels = p.layout.channels;
  const bool inside = channel < channels;
  Weights<N> w = {};
  if (inside) w = LoadWeights<N>(p, channel);
  float tap_sums[kTaps][N] = {}, bias_sums[N] = {};
  for (int64_t index = static_cast<int64_t>(blockIdx.y) * kStripsABlock + threadIdx.y;
       inside && index < p.layout.strips; index += static_cast<int64_t>(gridDim.y) * kStripsABlock) {
    const Strip strip = StripAt(p.layout, index);
    float window[kTaps][N], grads[kTaps][N] = {};
    LoadWindow<N>(p, strip, channel, window);
    for (int t = strip.begin; t < strip.end + kTaps - 1; t += kStripGroup) {
      Pack<T, N> x_group[kStripGroup] = {}, dy_group[kStripGroup] = {};
#pragma unroll
      for (int k = 0; k < kStripGroup; ++k) {
        if (t + k >= min(strip.end + kTaps - 1, p.layout.time)) continue;
        x_group[k] = Fetch<N>(p.x + (strip.row + t + k) * p.x_stride + channel);
        dy_group[k] = Fetch<N>(dy + (strip.row + t + k) * channels + channel);
      }
#pragma unroll
      for (int k = 0; k < kStripGroup; ++k) {
        const int step = t + k;
        if (step >= strip.end + kTaps - 1) continue;
        float now[N], grad[N], out[N];
        Unpack(x_group[k], now);
        Unpack(dy_group[k], grad);  // Zero past the end of the sequence.
        Shift(window, now);
        Convolve(w, window, out);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          const float sigmoid = Sigmoid(out[i]);
          grad[i] *= sigmoid * fmaf(out[i], 1 - sigmoid, 1.0f);
        }
        Shift(grads, grad);
        if (step < strip.end) {
#pragma unroll
          for (int i = 0; i < N; ++i) {
            bias_sums[i] += grad[i];
#pragma unroll
            for (int j = 0; j < kTaps; ++j) tap_sums[j][i] = fmaf(grad[i], window[j][i], tap_sums[j][i]);
          }
        }
        if (step - (kTaps - 1) < strip.begin) continue;
#pragma unroll
        for (int i = 0; i < N; ++i) {
          out[i] = 0;
#pragma unroll
          for (int j = 0; j < kTaps; ++j) out[i] = fmaf(w.taps[kTaps - 1 - j][i], grads[j][i], out[i]);
        }
        Store<N>(out, dx + (strip.row + step - (kTaps - 1)) * dx_stride + channel);
      }
    }
  }
  float* const to = partials + static_cast<int64_t>(blockIdx.y) * kGroups * channels;
#pragma unroll
  for (int j = 0; j < kTaps; ++j) StoreStripSums<N>(tap_sums[j], channel, channels, to + j * channels);
  StoreStripSums<N>(bias_sums, channel, channels, to + kTaps * channels);
}

template <typename T>
Operands<T> MakeOperands(const CausalConvArgs<T>& a) {
  return {.layout = MakeStripLayout(a.batch, a.time, a.x.cols()),
          .width = static_cast<int>(a.weight.dim(1)),
          .x_stride = a.x.stride(),
          .x = a.x.data(),
          .weight = a.weight.data(),
          .bias = a.bias.data(),
          .tail = Data(a.tail)};
}

// Whether rows of a matrix with this stride can be cut into packs of N.
template <typename T>
bool Packed(const T* data, int64_t stride, int64_t pack) {
  return IsAligned(data, std::min<int64_t>(16, pack * static_cast<int64_t>(sizeof(T)))) && stride % pack == 0;
}

}  // namespace

template <typename T>
void CausalConvForward(const Device& device, const CausalConvArgs<T>& a) {
  const Operands<T> p = MakeOperands(a);
  constexpr int kPack = kPackSize<T>;
  const int64_t channels = a.x.cols();
  const bool packed = channels % kPack == 0 && Packed(a.x.data(), a.x.stride(), kPack) &&
                      AllAligned(Data(a.tail), a.y.data(), Data(a.final_tail));
  const LaunchShape shape = StripShape(p.layout, packed ? kPack : 1, AllStripBlocks(p.layout));
  Launch(device, shape, packed ? ForwardKernel<T, kPack> : ForwardKernel<T, 1>, p, a.y.data(),
         Data(a.final_tail));
}

template <typename T>
void CausalConvBackward(const Device& device, const CausalConvGradArgs<T>& g, Tensor<float> partials) {
  Operands<T> p = MakeOperands(g.forward);
  p.tail = nullptr;
  constexpr int kPack = kBackwardPack;
  const int64_t channels = p.layout.channels;
  const bool packed = channels % kPack == 0 && Packed(p.x, p.x_stride, kPack) &&
                      Packed(g.dx.data(), g.dx.stride(), kPack) && Packed(g.dy.data(), channels, kPack);
  const int pack = packed ? kPack : 1;
  const int64_t column_blocks = CeilDiv<int64_t>(channels, 32 * pack);
  const int64_t blocks =
      PartialBlocks(device, p.layout.strips, kStripsABlock, CeilDiv<int64_t>(kBackwardBlocks, column_blocks));
  Launch(device, StripShape(p.layout, pack, blocks), packed ? BackwardKernel<T, kPack> : BackwardKernel<T, 1>,
         p, g.dy.data(), g.dx.data(), g.dx.stride(), partials.data());
  GroupDestinations to = {};
  for (int tap = kTaps - p.width; tap < kTaps; ++tap) {
    to[tap] = {.to = g.dweight.data() + tap - (kTaps - p.width), .stride = p.width};
  }
  to[kTaps].to = g.dbias.data();
  AddColumnSums(device, partials.data(), blocks, kGroups, channels, to);
}

template void CausalConvForward<float>(const Device&, const CausalConvArgs<float>&);
template void CausalConvForward<Bf16>(const Device&, const CausalConvArgs<Bf16>&);
template void CausalConvBackward<float>(const Device&, const CausalConvGradArgs<float>&, Tensor<float>);
template void CausalConvBackward<Bf16>(const Device&, const CausalConvGradArgs<Bf16>&, Tensor<float>);

}  // namespace hm11::cuda
