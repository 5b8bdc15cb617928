// Head gate: the choice of a device and the CPU path.
#include "ops/head_gate.h"

#include <algorithm>

#include "core/dispatch.h"
#include "core/fast_math.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

template <typename Args>
void Check(const Args& a) {
  HM_CHECK_EQ(a.x.rank(), 3);
  HM_CHECK_LE(a.x.dim(1), kMaxGatedHeads);
  HM_CHECK_EQ(a.gate.shape(), (Shape{a.x.dim(0), a.x.dim(1)}));
  HM_CHECK_EQ(a.bias.shape(), Shape{a.x.dim(1)});
}

template <typename T>
void CpuForward(const HeadGateArgs<T>& a) {
  const int64_t heads = a.x.dim(1);
  const int64_t head_dim = a.x.dim(2);
  ParallelFor(a.x.dim(0) * heads, MinRows(head_dim), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T g = FastSigmoid(a.gate[i] + a.bias[i % heads]);
      const T* x = a.x.data() + i * head_dim;
      T* y = a.y.data() + i * head_dim;
      for (int64_t d = 0; d < head_dim; ++d) y[d] = g * x[d];
    }
  });
}

template <typename T>
void CpuBackward(const HeadGateGradArgs<T>& a, Tensor<T> partials) {
  const int64_t rows = a.x.dim(0);
  const int64_t heads = a.x.dim(1);
  const int64_t head_dim = a.x.dim(2);
  ForChunks(rows, MinRows(heads * head_dim), [&](int64_t chunk, int64_t begin, int64_t end) {
    T* const sums = partials.data() + chunk * heads;
    std::fill(sums, sums + heads, T{0});
    for (int64_t i = begin * heads; i < end * heads; ++i) {
      const T g = FastSigmoid(a.gate[i] + a.bias[i % heads]);
      const T* x = a.x.data() + i * head_dim;
      const T* dy = a.dy.data() + i * head_dim;
      T* dx = a.dx.data() + i * head_dim;
      const T dot = LaneSum<T>(head_dim, [&](int64_t d) { return x[d] * dy[d]; });
      for (int64_t d = 0; d < head_dim; ++d) dx[d] = g * dy[d];
      a.dgate[i] = dot * g * (1 - g);
      sums[i % heads] += a.dgate[i];
    }
  });
  AddPartials(partials.data(), ChunkCount(rows, MinRows(heads * head_dim)), heads, heads, a.dbias.data());
}

}  // namespace

template <typename T>
void HeadGateForward(Arena& arena, const HeadGateArgs<T>& args) {
  const OpScope op("HeadGateForward", args.x, args.gate, args.bias, args.y);
  Check(args);
  HM_CHECK_EQ(args.y.shape(), args.x.shape());
  const Device& device = arena.device();
  if (args.x.empty()) return;
  Dispatch<T>(
      "HeadGateForward", device, [&]<typename U>() { CpuForward<U>(args); },
      [&]<typename U>() { cuda::HeadGateForward<U>(device, args); });
}

template <typename T>
void HeadGateBackward(Arena& arena, const HeadGateGradArgs<T>& args) {
  const OpScope op("HeadGateBackward", args.x, args.gate, args.bias, args.dy, args.dx, args.dgate,
                   args.dbias);
  Check(args);
  HM_CHECK_EQ(args.dy.shape(), args.x.shape());
  HM_CHECK_EQ(args.dx.shape(), args.x.shape());
  HM_CHECK_EQ(args.dgate.shape(), args.gate.shape());
  HM_CHECK_EQ(args.dbias.shape(), args.bias.shape());
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<Accum<T>> partials = arena.New<Accum<T>>({kMaxPartials, args.x.dim(1)});
  if (args.x.empty()) return;
  Dispatch<T>(
      "HeadGateBackward", device, [&]<typename U>() { CpuBackward<U>(args, partials); },
      [&]<typename U>() { cuda::HeadGateBackward<U>(device, args, partials); });
}

template void HeadGateForward<double>(Arena&, const HeadGateArgs<double>&);
template void HeadGateForward<float>(Arena&, const HeadGateArgs<float>&);
template void HeadGateForward<Bf16>(Arena&, const HeadGateArgs<Bf16>&);
template void HeadGateBackward<double>(Arena&, const HeadGateGradArgs<double>&);
template void HeadGateBackward<float>(Arena&, const HeadGateGradArgs<float>&);
template void HeadGateBackward<Bf16>(Arena&, const HeadGateGradArgs<Bf16>&);

}  // namespace hm11
