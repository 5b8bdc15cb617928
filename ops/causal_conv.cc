// Causal convolution: the choice of a device and the CPU path.
#include "ops/causal_conv.h"

#include <algorithm>

#include "core/dispatch.h"
#include "core/fast_math.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

template <typename T>
void Check(const CausalConvArgs<T>& a) {
  const int64_t channels = a.x.cols();
  HM_CHECK_EQ(a.x.rows(), a.batch * a.time);
  HM_CHECK_EQ(a.weight.rank(), 2);
  HM_CHECK_EQ(a.weight.dim(0), channels);
  HM_CHECK_GE(a.weight.dim(1), 1);
  HM_CHECK_LE(a.weight.dim(1), kMaxConvWidth);
  HM_CHECK_EQ(a.bias.shape(), Shape{channels});
}

// The input `back` steps before row r (a row of step t): of x, or of the tail; null for zeros.
template <typename T>
const T* InputBefore(const CausalConvArgs<T>& a, int64_t r, int64_t back) {
  const int64_t t = r % a.time;
  if (t >= back) return a.x.row(r - back);
  if (a.tail.empty()) return nullptr;
  const int64_t before = a.weight.dim(1) - 1;  // steps in the tail
  return a.tail.data() + (r / a.time * before + before + t - back) * a.x.cols();
}

// sum = bias + sum over k of w[k] x_{t-width+1+k}, for all channels of row r. taps: the weights, [width,
// channels].
template <typename T>
void Convolve(const CausalConvArgs<T>& a, const T* taps, int64_t r, T* sum) {
  const int64_t channels = a.x.cols();
  const int64_t width = a.weight.dim(1);
  std::copy(a.bias.begin(), a.bias.end(), sum);
  for (int64_t k = 0; k < width; ++k) {
    const T* x = InputBefore(a, r, width - 1 - k);
    const T* w = taps + k * channels;
    if (x == nullptr) continue;
    for (int64_t c = 0; c < channels; ++c) sum[c] += w[c] * x[c];
  }
}

template <typename T>
void Transpose(Tensor<const T> weight, T* taps) {
  const int64_t channels = weight.dim(0);
  const int64_t width = weight.dim(1);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t k = 0; k < width; ++k) taps[k * channels + c] = weight[c * width + k];
  }
}

// scratch: [kMaxConvWidth, channels], for the weights.
template <typename T>
void CpuForward(const CausalConvArgs<T>& a, Tensor<T> scratch) {
  const int64_t channels = a.x.cols();
  Transpose<T>(a.weight, scratch.data());
  ParallelFor(a.batch * a.time, MinRows(channels), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      T* y = a.y.data() + r * channels;
      Convolve(a, scratch.data(), r, y);
      for (int64_t c = 0; c < channels; ++c) y[c] *= FastSigmoid(y[c]);
    }
  });
  if (a.final_tail.empty()) return;
  const int64_t before = a.weight.dim(1) - 1;
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t j = 0; j < before; ++j) {
      const T* x = InputBefore(a, (b + 1) * a.time - 1, before - 1 - j);
      T* to = a.final_tail.data() + (b * before + j) * channels;
      if (x != nullptr) {
        std::copy(x, x + channels, to);
      } else {
        std::fill(to, to + channels, T{0});
      }
    }
  }
}

// One chunk of rows of backward. sums: [kMaxConvWidth + 1, channels], gradients of the taps and of the bias.
// scratch: [kMaxConvWidth + 1, channels]: a ring of the gradients of the convolution's results of the rows r,
// ..., r + width - 1, row r at r modulo kMaxConvWidth, and a row of sigmoids. A chunk computes the gradients
// of the few rows past its end for itself.
template <typename T>
void BackwardChunk(const CausalConvGradArgs<T>& g, const T* taps, int64_t begin, int64_t end, T* scratch,
                   T* sums) {
  const CausalConvArgs<T>& a = g.forward;
  const int64_t channels = a.x.cols();
  const int64_t width = a.weight.dim(1);
  T* const ring = scratch;
  T* const sigmoid = scratch + kMaxConvWidth * channels;
  int64_t known = begin;  // Rows before this one are in the ring.
  for (int64_t r = begin; r < end; ++r) {
    const int64_t last = std::min(r + width, (r / a.time + 1) * a.time);
    for (; known < last; ++known) {
      T* ds = ring + known % kMaxConvWidth * channels;
      const T* dy = g.dy.data() + known * channels;
      Convolve(a, taps, known, ds);
      for (int64_t c = 0; c < channels; ++c) sigmoid[c] = FastSigmoid(ds[c]);
      for (int64_t c = 0; c < channels; ++c) ds[c] = dy[c] * sigmoid[c] * (1 + ds[c] * (1 - sigmoid[c]));
    }
    T* dx = g.dx.row(r);
    const T* ds = ring + r % kMaxConvWidth * channels;
    const T* last_tap = taps + (width - 1) * channels;
    for (int64_t c = 0; c < channels; ++c) dx[c] = last_tap[c] * ds[c];
    for (int64_t q = r + 1; q < last; ++q) {
      const T* later = ring + q % kMaxConvWidth * channels;
      const T* w = taps + (width - 1 - (q - r)) * channels;
      for (int64_t c = 0; c < channels; ++c) dx[c] += w[c] * later[c];
    }
    for (int64_t k = 0; k < width; ++k) {
      const T* x = InputBefore(a, r, width - 1 - k);
      if (x == nullptr) continue;
      T* to = sums + k * channels;
      for (int64_t c = 0; c < channels; ++c) to[c] += ds[c] * x[c];
    }
    T* to = sums + kMaxConvWidth * channels;
    for (int64_t c = 0; c < channels; ++c) to[c] += ds[c];
  }
}

// Rows in a chunk of backward: more than MinRows, as each chunk does a few rows of the next one too.
int64_t MinBackwardRows(int64_t channels) { return 8 * MinRows(channels); }

// scratch: [kMaxChunks + 1, kMaxConvWidth + 1, channels], for the chunks and for the weights.
template <typename T>
void CpuBackward(const CausalConvGradArgs<T>& g, Tensor<T> scratch, Tensor<T> partials) {
  CausalConvGradArgs<T> args = g;
  args.forward.tail = {};
  const int64_t rows = g.dx.rows();
  const int64_t channels = g.dx.cols();
  const int64_t width = g.forward.weight.dim(1);
  const int64_t stride = (kMaxConvWidth + 1) * channels;
  T* const taps = scratch.data() + kMaxChunks * stride;
  Transpose<T>(g.forward.weight, taps);
  ForChunks(rows, MinBackwardRows(channels), [&](int64_t chunk, int64_t begin, int64_t end) {
    T* const sums = partials.data() + chunk * stride;
    std::fill(sums, sums + stride, T{0});
    BackwardChunk(args, taps, begin, end, scratch.data() + chunk * stride, sums);
  });
  const int64_t chunks = ChunkCount(rows, MinBackwardRows(channels));
  for (int64_t p = 0; p < chunks; ++p) {
    const T* sums = partials.data() + p * stride;
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t k = 0; k < width; ++k) g.dweight[c * width + k] += sums[k * channels + c];
      g.dbias[c] += sums[kMaxConvWidth * channels + c];
    }
  }
}

}  // namespace

template <typename T>
void CausalConvForward(Arena& arena, const CausalConvArgs<T>& args) {
  const OpScope op("CausalConvForward", args.x, args.weight, args.bias, args.tail, args.y, args.final_tail);
  Check(args);
  const int64_t channels = args.x.cols();
  const Shape tail = {args.batch, args.weight.dim(1) - 1, channels};
  HM_CHECK_SHAPE_IF_THERE(args.tail, tail);
  HM_CHECK_SHAPE_IF_THERE(args.final_tail, tail);
  HM_CHECK_EQ(args.y.shape(), (Shape{args.batch, args.time, channels}));
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<Accum<T>> scratch = arena.New<Accum<T>>({kMaxConvWidth, channels});
  if (args.x.empty()) return;
  Dispatch<T>(
      "CausalConvForward", device, [&]<typename U>() { CpuForward<U>(args, scratch); },
      [&]<typename U>() { cuda::CausalConvForward<U>(device, args); });
}

template <typename T>
void CausalConvBackward(Arena& arena, const CausalConvGradArgs<T>& args) {
  const OpScope op("CausalConvBackward", args.forward.x, args.forward.weight, args.forward.bias, args.dy,
                   args.dx, args.dweight, args.dbias);
  Check(args.forward);
  const int64_t rows = args.forward.x.rows();
  const int64_t channels = args.forward.x.cols();
  HM_CHECK_EQ(args.dy.shape(), (Shape{args.forward.batch, args.forward.time, channels}));
  HM_CHECK_EQ(args.dx.rows(), rows);
  HM_CHECK_EQ(args.dx.cols(), channels);
  HM_CHECK_EQ(args.dweight.shape(), args.forward.weight.shape());
  HM_CHECK_EQ(args.dbias.shape(), args.forward.bias.shape());
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<Accum<T>> scratch = arena.New<Accum<T>>({kMaxChunks + 1, kMaxConvWidth + 1, channels});
  const Tensor<Accum<T>> partials = NewPartials<Accum<T>>(arena, rows, (kMaxConvWidth + 1) * channels);
  if (args.dx.empty()) return;
  Dispatch<T>(
      "CausalConvBackward", device, [&]<typename U>() { CpuBackward<U>(args, scratch, partials); },
      [&]<typename U>() { cuda::CausalConvBackward<U>(device, args, partials); });
}

template void CausalConvForward<double>(Arena&, const CausalConvArgs<double>&);
template void CausalConvForward<float>(Arena&, const CausalConvArgs<float>&);
template void CausalConvForward<Bf16>(Arena&, const CausalConvArgs<Bf16>&);
template void CausalConvBackward<double>(Arena&, const CausalConvGradArgs<double>&);
template void CausalConvBackward<float>(Arena&, const CausalConvGradArgs<float>&);
template void CausalConvBackward<Bf16>(Arena&, const CausalConvGradArgs<Bf16>&);

}  // namespace hm11
