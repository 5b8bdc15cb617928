// Causal convolution on a GPU, laid out in time strips, with the last inputs and the weights of a thread's
// channels in its registers. Widths under 4 are width 4 with leading weights of zero.
#include "core/launch.cuh"
#include "core/special_functions.cuh"
#include "ops/causal_conv.h"
#include "ops/packs.cuh"
#include "ops/sums.h"
#include "ops/time_strips.cuh"

namespace hm11::cuda {
namespace {

constexpr int kTaps = static_cast<int>(kMaxConvWidth);
constexpr int kSums = kTaps + 1;  // over rows: of each tap, of the bias
// A thread has a pack of this many bytes of neighbouring channels, and kGroup steps on their way at once.
constexpr int kPackBytes = 8;
constexpr int kGroup = 4;
constexpr int kForwardBlocks = 3;   // on a multiprocessor at once: this sets the registers
constexpr int kBackwardBlocks = 2;  // the same
constexpr int kPartialBlocks = 8;   // of backward, on each multiprocessor, over all columns

template <typename T>
constexpr int kConvPack = kPackBytes / static_cast<int>(sizeof(T));

__device__ __forceinline__ float Silu(float x) { return x * Sigmoid(x); }

// The gradient of x, from that of Silu(x).
__device__ __forceinline__ float SiluGradient(float x, float grad) {
  const float sigmoid = Sigmoid(x);
  const float passed = grad * sigmoid;
  return fmaf(passed, fmaf(-x, sigmoid, x), passed);
}

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
__device__ __forceinline__ void ForwardStep(const Weights<N>& w, const Pack<T, N>& x,
                                            float (&window)[kTaps][N], T* y) {
  float now[N], out[N];
  Unpack(x, now);
  Shift(window, now);
  Convolve(w, window, out);
#pragma unroll
  for (int i = 0; i < N; ++i) out[i] = Silu(out[i]);
  Store<N>(out, y);
}

// Every step fetches the input of the step a group later into the registers that its own leaves: a thread has
// kGroup packs on their way at all times.
template <typename T, int N>
__device__ __forceinline__ void ForwardStrip(const Operands<T>& p, const Weights<N>& w, const Strip& strip,
                                             int channel, T* y, float (&window)[kTaps][N]) {
  const int channels = p.layout.channels;
  const T* from = p.x + (strip.row + strip.begin) * p.x_stride + channel;
  T* to = y + (strip.row + strip.begin) * channels + channel;
  int left = strip.end - strip.begin;
  Pack<T, N> ahead[kGroup] = {};
#pragma unroll
  for (int k = 0; k < kGroup; ++k, from += p.x_stride) {
    if (k < left) ahead[k] = Fetch<N>(from);
  }
  LoadWindow<N>(p, strip, channel, window);
  for (; left >= 2 * kGroup; left -= kGroup) {
#pragma unroll
    for (int k = 0; k < kGroup; ++k, from += p.x_stride, to += channels) {
      ForwardStep<T, N>(w, ahead[k], window, to);
      ahead[k] = Fetch<N>(from);
    }
  }
  for (; left > 0; left -= kGroup) {
#pragma unroll
    for (int k = 0; k < kGroup; ++k, from += p.x_stride, to += channels) {
      if (k >= left) break;
      ForwardStep<T, N>(w, ahead[k], window, to);
      if (k + kGroup < left) ahead[k] = Fetch<N>(from);
    }
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(32 * kStripsABlock, kForwardBlocks)
    ForwardKernel(Operands<T> p, T* y, T* final_tail) {
  const int channel = (blockIdx.x * 32 + threadIdx.x) * N;
  const int channels = p.layout.channels;
  if (channel >= channels) return;
  const Weights<N> w = LoadWeights<N>(p, channel);
  for (int index = blockIdx.y * kStripsABlock + threadIdx.y; index < p.layout.strips;
       index += gridDim.y * kStripsABlock) {
    const Strip strip = StripAt(p.layout, index);
    float window[kTaps][N];
    ForwardStrip<T, N>(p, w, strip, channel, y, window);
    if (final_tail == nullptr || strip.end != p.layout.time) continue;
#pragma unroll
    for (int k = 1; k < kTaps; ++k) {
      const int in_tail = k - (kTaps - p.width) - 1;
      if (in_tail < 0) continue;
      Store<N>(window[k], final_tail + (strip.sequence * (p.width - 1) + in_tail) * channels + channel);
    }
  }
}

// What a thread carries along its strip, from its end to its begin, and its sums.
template <int N>
struct BackwardState {
  float window[kTaps][N];  // inputs, up to that of the step
  float grads[kTaps][N];   // of the results before SiLU, from that of the step on
  float sums[kSums][N];
};

// Goes a step back: `x` is the input kTaps - 1 steps before it, `dy` the gradient of its result.
template <typename T, int N>
__device__ __forceinline__ void StepBack(const Weights<N>& w, const Pack<T, N>& x, const Pack<T, N>& dy,
                                         BackwardState<N>& state) {
  float grad[N], out[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int k = kTaps - 1; k > 0; --k) {
      state.window[k][i] = state.window[k - 1][i];
      state.grads[k][i] = state.grads[k - 1][i];
    }
  }
  Unpack(x, state.window[0]);
  Unpack(dy, grad);
  Convolve(w, state.window, out);
#pragma unroll
  for (int i = 0; i < N; ++i) state.grads[0][i] = SiluGradient(out[i], grad[i]);
}

// What a step inside the strip adds to the sums, and its input's gradient: the sum of the gradients of the
// results that the input is part of, times its taps in these.
template <typename T, int N>
__device__ __forceinline__ void FinishStep(const Weights<N>& w, BackwardState<N>& state, T* dx) {
  float out[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    state.sums[kTaps][i] += state.grads[0][i];
    out[i] = w.taps[0][i] * state.grads[kTaps - 1][i];
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      state.sums[k][i] = fmaf(state.grads[0][i], state.window[k][i], state.sums[k][i]);
      if (k > 0) out[i] = fmaf(w.taps[k][i], state.grads[kTaps - 1 - k][i], out[i]);
    }
  }
  Store<N>(out, dx);
}

// The state before a strip's last step: of the kTaps - 1 steps behind the strip.
template <typename T, int N>
__device__ __forceinline__ void BeginBehind(const Operands<T>& p, const Weights<N>& w, const Strip& strip,
                                            int channel, const T* dy, BackwardState<N>& state) {
  constexpr int kBehind = kTaps - 1;
  Pack<T, N> x[2 * kBehind] = {}, grads[kBehind] = {};
#pragma unroll
  for (int k = 0; k < 2 * kBehind; ++k) {
    const int t = strip.end - kBehind + k;
    if (t < 0 || t >= p.layout.time) continue;
    x[k] = Fetch<N>(p.x + (strip.row + t) * p.x_stride + channel);
    if (k >= kBehind) grads[k - kBehind] = Fetch<N>(dy + (strip.row + t) * p.layout.channels + channel);
  }
#pragma unroll
  for (int k = 0; k < kBehind; ++k) Unpack(x[kBehind + k], state.window[k]);
#pragma unroll
  for (int k = kBehind - 1; k >= 0; --k) StepBack<T, N>(w, x[k], grads[k], state);
}

// Walks a strip from its end to its begin, so that what follows an input is known when it is met. Fetches a
// group of steps ahead, as forward.
template <typename T, int N>
__device__ __forceinline__ void BackwardStrip(const Operands<T>& p, const Weights<N>& w, const Strip& strip,
                                              int channel, const T* dy, T* dx, int64_t dx_stride,
                                              BackwardState<N>& state) {
  const int channels = p.layout.channels;
  const int64_t last = strip.row + strip.end - 1;
  const T* x_from = p.x + (last - (kTaps - 1)) * p.x_stride + channel;
  const T* dy_from = dy + last * channels + channel;
  T* to = dx + last * dx_stride + channel;
  int left = strip.end - strip.begin;
  // Inputs that are there: none before the sequence.
  const int before = min(strip.begin, kTaps - 1) - (kTaps - 1);
  Pack<T, N> x_ahead[kGroup], dy_ahead[kGroup];
  const auto fetch = [&](int k, bool x_there, bool dy_there) {
    x_ahead[k] = x_there ? Fetch<N>(x_from) : ZeroPack<T, N>();
    dy_ahead[k] = dy_there ? Fetch<N>(dy_from) : ZeroPack<T, N>();
    x_from -= p.x_stride;
    dy_from -= channels;
  };
#pragma unroll
  for (int k = 0; k < kGroup; ++k) fetch(k, k < left + before, k < left);
  BeginBehind<T, N>(p, w, strip, channel, dy, state);
  for (; left + before >= 2 * kGroup; left -= kGroup) {
#pragma unroll
    for (int k = 0; k < kGroup; ++k, to -= dx_stride) {
      StepBack<T, N>(w, x_ahead[k], dy_ahead[k], state);
      fetch(k, true, true);
      FinishStep<T, N>(w, state, to);
    }
  }
  for (; left > 0; left -= kGroup) {
#pragma unroll
    for (int k = 0; k < kGroup; ++k, to -= dx_stride) {
      if (k >= left) break;
      StepBack<T, N>(w, x_ahead[k], dy_ahead[k], state);
      fetch(k, k + kGroup < left + before, k + kGroup < left);
      FinishStep<T, N>(w, state, to);
    }
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(32 * kStripsABlock, kBackwardBlocks)
    BackwardKernel(Operands<T> p, const T* dy, T* dx, int64_t dx_stride, float* partials) {
  const int channel = (blockIdx.x * 32 + threadIdx.x) * N;
  const bool inside = channel < p.layout.channels;
  Weights<N> w = {};
  if (inside) w = LoadWeights<N>(p, channel);
  BackwardState<N> state = {};
  for (int index = blockIdx.y * kStripsABlock + threadIdx.y; inside && index < p.layout.strips;
       index += gridDim.y * kStripsABlock) {
    BackwardStrip<T, N>(p, w, StripAt(p.layout, index), channel, dy, dx, dx_stride, state);
  }
  StoreStripSums(state.sums, p.layout.channels,
                 partials + static_cast<int64_t>(blockIdx.y) * kSums * p.layout.channels);
}

template <typename T>
Operands<T> MakeOperands(const CausalConvArgs<T>& a, const StripLayout& layout) {
  return {.layout = layout,
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
  constexpr int kPack = kConvPack<T>;
  const int64_t channels = a.x.cols();
  const bool packed = channels % kPack == 0 && Packed(a.x.data(), a.x.stride(), kPack) &&
                      AllAligned(Data(a.tail), a.y.data(), Data(a.final_tail));
  const int pack = packed ? kPack : 1;
  const StripLayout layout = LongStripLayout(device, a.batch, a.time, channels, pack, kForwardBlocks);
  Launch(device, StripShape(layout, pack, AllStripBlocks(layout)),
         packed ? ForwardKernel<T, kPack> : ForwardKernel<T, 1>, MakeOperands(a, layout), a.y.data(),
         Data(a.final_tail));
}

template <typename T>
void CausalConvBackward(const Device& device, const CausalConvGradArgs<T>& g, Tensor<float> partials) {
  const CausalConvArgs<T>& f = g.forward;
  constexpr int kPack = kConvPack<T>;
  const int64_t channels = f.x.cols();
  const bool packed = channels % kPack == 0 && Packed(f.x.data(), f.x.stride(), kPack) &&
                      Packed(g.dx.data(), g.dx.stride(), kPack) && Packed(g.dy.data(), channels, kPack);
  const int pack = packed ? kPack : 1;
  Operands<T> p = MakeOperands(f, LongStripLayout(device, f.batch, f.time, channels, pack, kBackwardBlocks));
  p.tail = nullptr;
  const int64_t column_blocks = CeilDiv<int64_t>(channels, 32 * pack);
  const int64_t blocks =
      PartialBlocks(device, p.layout.strips, kStripsABlock, CeilDiv<int64_t>(kPartialBlocks, column_blocks));
  Launch(device, StripShape(p.layout, pack, blocks), packed ? BackwardKernel<T, kPack> : BackwardKernel<T, 1>,
         p, g.dy.data(), g.dx.data(), g.dx.stride(), partials.data());
  GroupDestinations to = {};
  for (int tap = kTaps - p.width; tap < kTaps; ++tap) {
    to[tap] = {.to = g.dweight.data() + tap - (kTaps - p.width), .stride = p.width};
  }
  to[kTaps].to = g.dbias.data();
  AddColumnSums(device, partials.data(), blocks, kSums, channels, to);
}

template void CausalConvForward<float>(const Device&, const CausalConvArgs<float>&);
template void CausalConvForward<Bf16>(const Device&, const CausalConvArgs<Bf16>&);
template void CausalConvBackward<float>(const Device&, const CausalConvGradArgs<float>&, Tensor<float>);
template void CausalConvBackward<Bf16>(const Device&, const CausalConvGradArgs<Bf16>&, Tensor<float>);

}  // namespace hm11::cuda
