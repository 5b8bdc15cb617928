// Gated attention: the door and the CPU path.
#include "ops/head_gate.h"

#include <algorithm>

#include "ops/door.h"
#include "ops/sums.h"
#include "ops/vector_math.h"

namespace hm11 {
namespace {

template <typename T>
void CpuForward(const HeadGateArgs<T>& a) {
  const int64_t heads = a.x.dim(1), width = a.x.dim(2);
  ParallelFor(a.x.dim(0), MinRows(heads * width), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin * heads; r < end * heads; ++r) {
      const T g = Sigmoid(a.gate[r] + a.bias[r % heads]);
      for (int64_t d = 0; d < width; ++d) a.y[r * width + d] = g * a.x[r * width + d];
    }
  });
}

template <typename T>
void CpuBackward(const HeadGateGradArgs<T>& a, Tensor<T> partials) {
  const int64_t rows = a.x.dim(0), heads = a.x.dim(1), width = a.x.dim(2);
  ForPieces(rows, MinRows(heads * width), [&](int64_t piece, int64_t begin, int64_t end) {
    T* const sums = partials.data() + piece * heads;
    std::fill(sums, sums + heads, T{0});
    for (int64_t r = begin * heads; r < end * heads; ++r) {
      const T* x = a.x.data() + r * width;
      const T* dy = a.dy.data() + r * width;
      T* dx = a.dx.data() + r * width;
      const T g = Sigmoid(a.gate[r] + a.bias[r % heads]);
      const T dot = LaneSum<T>(width, [&](int64_t d) { return dy[d] * x[d]; });
      for (int64_t d = 0; d < width; ++d) dx[d] = g * dy[d];
      a.dgate[r] = g * (1 - g) * dot;
      sums[r % heads] += a.dgate[r];
    }
  });
  AddPartials(partials.data(), PieceCount(rows, MinRows(heads * width)), heads, heads, a.dbias.data());
}

}  // namespace

template <typename T>
void HeadGateForward(Arena& arena, const HeadGateArgs<T>& args) {
  HM_CHECK_EQ(args.x.rank(), 3);
  HM_CHECK_EQ(args.y.shape(), args.x.shape());
  HM_CHECK_EQ(args.gate.shape(), (Shape{args.x.dim(0), args.x.dim(1)}));
  HM_CHECK_EQ(args.bias.shape(), Shape{args.x.dim(1)});
  const Device& device = arena.device();
  if (device.is_plan() || args.x.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::HeadGateForward(device, args);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuForward(args);
  }
  FailNoHalf<T>("HeadGateForward", device);
}

template <typename T>
void HeadGateBackward(Arena& arena, const HeadGateGradArgs<T>& args) {
  HM_CHECK_EQ(args.x.rank(), 3);
  HM_CHECK_EQ(args.dy.shape(), args.x.shape());
  HM_CHECK_EQ(args.dx.shape(), args.x.shape());
  HM_CHECK_EQ(args.gate.shape(), (Shape{args.x.dim(0), args.x.dim(1)}));
  HM_CHECK_EQ(args.dgate.shape(), args.gate.shape());
  HM_CHECK_EQ(args.bias.shape(), Shape{args.x.dim(1)});
  HM_CHECK_EQ(args.dbias.shape(), args.bias.shape());
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<Accum<T>> partials = NewPartials<Accum<T>>(arena, args.x.dim(0), args.x.dim(1));
  if (device.is_plan() || args.x.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::HeadGateBackward(device, args, partials);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuBackward(args, partials);
  }
  FailNoHalf<T>("HeadGateBackward", device);
}

template void HeadGateForward<double>(Arena&, const HeadGateArgs<double>&);
template void HeadGateForward<float>(Arena&, const HeadGateArgs<float>&);
template void HeadGateForward<Bf16>(Arena&, const HeadGateArgs<Bf16>&);
template void HeadGateBackward<double>(Arena&, const HeadGateGradArgs<double>&);
template void HeadGateBackward<float>(Arena&, const HeadGateGradArgs<float>&);
template void HeadGateBackward<Bf16>(Arena&, const HeadGateGradArgs<Bf16>&);

}  // namespace hm11
