// Dynamic token gating: the door and the CPU path.
#include "ops/token_gate.h"

#include <algorithm>

#include "ops/door.h"
#include "ops/sums.h"
#include "ops/vector_math.h"

namespace hm11 {
namespace {

template <typename T>
T Gate(const T* u, Tensor<const T> weight, Tensor<const T> bias) {
  return Sigmoid(bias[0] + LaneSum<T>(weight.size(), [&](int64_t d) { return weight[d] * u[d]; }));
}

template <typename T>
void CpuForward(const TokenGateArgs<T>& a) {
  const int64_t dim = a.u.dim(1);
  ParallelFor(a.u.dim(0), MinRows(dim), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* u = a.u.data() + r * dim;
      const T* x = a.x.data() + r * dim;
      const T g = Gate<T>(u, a.weight, a.bias);
      for (int64_t d = 0; d < dim; ++d) a.y[r * dim + d] = u[d] + g * (x[d] - u[d]);
    }
  });
}

// partials: [pieces, dim + 1], the last column for the bias.
template <typename T>
void CpuBackward(const TokenGateGradArgs<T>& a, Tensor<T> partials) {
  const int64_t rows = a.u.dim(0), dim = a.u.dim(1);
  ForPieces(rows, MinRows(dim), [&](int64_t piece, int64_t begin, int64_t end) {
    T* const sums = partials.data() + piece * (dim + 1);
    std::fill(sums, sums + dim + 1, T{0});
    for (int64_t r = begin; r < end; ++r) {
      const T* u = a.u.data() + r * dim;
      const T* x = a.x.data() + r * dim;
      const T* dy = a.dy.data() + r * dim;
      const T g = Gate<T>(u, a.weight, a.bias);
      const T dlogit = g * (1 - g) * LaneSum<T>(dim, [&](int64_t d) { return dy[d] * (x[d] - u[d]); });
      for (int64_t d = 0; d < dim; ++d) {
        sums[d] += dlogit * u[d];
        a.du[r * dim + d] = (1 - g) * dy[d];
        a.dx[r * dim + d] = g * dy[d];
      }
      sums[dim] += dlogit;
    }
  });
  const int64_t pieces = PieceCount(rows, MinRows(dim));
  AddPartials(partials.data(), pieces, dim + 1, dim, a.dweight.data());
  AddPartials(partials.data() + dim, pieces, dim + 1, 1, a.dbias.data());
}

template <typename Args>
void CheckOperands(const Args& args) {
  HM_CHECK_EQ(args.u.rank(), 2);
  HM_CHECK_EQ(args.x.shape(), args.u.shape());
  HM_CHECK_EQ(args.weight.shape(), Shape{args.u.dim(1)});
  HM_CHECK_EQ(args.bias.size(), 1);
}

}  // namespace

template <typename T>
void TokenGateForward(Arena& arena, const TokenGateArgs<T>& args) {
  CheckOperands(args);
  HM_CHECK_EQ(args.y.shape(), args.u.shape());
  const Device& device = arena.device();
  if (device.is_plan() || args.u.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::TokenGateForward(device, args);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuForward(args);
  }
  FailNoHalf<T>("TokenGateForward", device);
}

template <typename T>
void TokenGateBackward(Arena& arena, const TokenGateGradArgs<T>& args) {
  CheckOperands(args);
  HM_CHECK_EQ(args.dy.shape(), args.u.shape());
  HM_CHECK_EQ(args.du.shape(), args.u.shape());
  HM_CHECK_EQ(args.dx.shape(), args.u.shape());
  HM_CHECK_EQ(args.dweight.shape(), args.weight.shape());
  HM_CHECK_EQ(args.dbias.size(), 1);
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<Accum<T>> partials = NewPartials<Accum<T>>(arena, args.u.dim(0), args.u.dim(1) + 1);
  if (device.is_plan() || args.u.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::TokenGateBackward(device, args, partials);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuBackward(args, partials);
  }
  FailNoHalf<T>("TokenGateBackward", device);
}

template void TokenGateForward<double>(Arena&, const TokenGateArgs<double>&);
template void TokenGateForward<float>(Arena&, const TokenGateArgs<float>&);
template void TokenGateForward<Bf16>(Arena&, const TokenGateArgs<Bf16>&);
template void TokenGateBackward<double>(Arena&, const TokenGateGradArgs<double>&);
template void TokenGateBackward<float>(Arena&, const TokenGateGradArgs<float>&);
template void TokenGateBackward<Bf16>(Arena&, const TokenGateGradArgs<Bf16>&);

}  // namespace hm11
