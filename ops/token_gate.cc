// Token gate: the choice of a device and the CPU path.
#include "ops/token_gate.h"

#include <algorithm>

#include "core/dispatch.h"
#include "core/fast_math.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

template <typename Args>
void Check(const Args& a) {
  HM_CHECK_EQ(a.u.rank(), 2);
  HM_CHECK_EQ(a.x.shape(), a.u.shape());
  HM_CHECK_EQ(a.weight.shape(), Shape{a.u.dim(1)});
  HM_CHECK_EQ(a.bias.shape(), Shape{1});
}

template <typename T, typename Args>
T Gate(const Args& a, const T* u) {
  const T* weight = a.weight.data();
  return FastSigmoid(a.bias[0] + LaneSum<T>(a.u.dim(1), [&](int64_t d) { return weight[d] * u[d]; }));
}

template <typename T>
void CpuForward(const TokenGateArgs<T>& a) {
  const int64_t dim = a.u.dim(1);
  ParallelFor(a.u.dim(0), MinRows(dim), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* u = a.u.data() + r * dim;
      const T* x = a.x.data() + r * dim;
      T* y = a.y.data() + r * dim;
      const T g = Gate(a, u);
      for (int64_t d = 0; d < dim; ++d) y[d] = u[d] + g * (x[d] - u[d]);
    }
  });
}

// partials: a row a chunk, of dweight's sums and then dbias's.
template <typename T>
void CpuBackward(const TokenGateGradArgs<T>& a, Tensor<T> partials) {
  const int64_t rows = a.u.dim(0);
  const int64_t dim = a.u.dim(1);
  ForChunks(rows, MinRows(dim), [&](int64_t chunk, int64_t begin, int64_t end) {
    T* const sums = partials.data() + chunk * (dim + 1);
    std::fill(sums, sums + dim + 1, T{0});
    for (int64_t r = begin; r < end; ++r) {
      const T* u = a.u.data() + r * dim;
      const T* x = a.x.data() + r * dim;
      const T* dy = a.dy.data() + r * dim;
      const T g = Gate(a, u);
      const T dgate = LaneSum<T>(dim, [&](int64_t d) { return dy[d] * (x[d] - u[d]); }) * g * (1 - g);
      for (int64_t d = 0; d < dim; ++d) sums[d] += dgate * u[d];
      sums[dim] += dgate;
      T* du = a.du.data() + r * dim;
      T* dx = a.dx.data() + r * dim;
      for (int64_t d = 0; d < dim; ++d) {
        const T grad = dy[d];
        du[d] = grad - g * grad;
        dx[d] = g * grad;
      }
    }
  });
  const int64_t chunks = ChunkCount(rows, MinRows(dim));
  AddPartials(partials.data(), chunks, dim + 1, dim, a.dweight.data());
  AddPartials(partials.data() + dim, chunks, dim + 1, 1, a.dbias.data());
}

}  // namespace

template <typename T>
void TokenGateForward(Arena& arena, const TokenGateArgs<T>& args) {
  const OpScope op("TokenGateForward", args.u, args.x, args.weight, args.bias, args.y);
  Check(args);
  HM_CHECK_EQ(args.y.shape(), args.u.shape());
  const Device& device = arena.device();
  if (args.u.empty()) return;
  Dispatch<T>(
      "TokenGateForward", device, [&]<typename U>() { CpuForward<U>(args); },
      [&]<typename U>() { cuda::TokenGateForward<U>(device, args); });
}

template <typename T>
void TokenGateBackward(Arena& arena, const TokenGateGradArgs<T>& args) {
  const OpScope op("TokenGateBackward", args.u, args.x, args.weight, args.bias, args.dy, args.du, args.dx,
                   args.dweight, args.dbias);
  Check(args);
  HM_CHECK_EQ(args.dy.shape(), args.u.shape());
  HM_CHECK_EQ(args.du.shape(), args.u.shape());
  HM_CHECK_EQ(args.dx.shape(), args.u.shape());
  HM_CHECK_EQ(args.dweight.shape(), args.weight.shape());
  HM_CHECK_EQ(args.dbias.shape(), args.bias.shape());
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<Accum<T>> partials = arena.New<Accum<T>>({kMaxPartials, args.u.dim(1) + 1});
  if (args.u.empty()) return;
  Dispatch<T>(
      "TokenGateBackward", device, [&]<typename U>() { CpuBackward<U>(args, partials); },
      [&]<typename U>() { cuda::TokenGateBackward<U>(device, args, partials); });
}

template void TokenGateForward<double>(Arena&, const TokenGateArgs<double>&);
template void TokenGateForward<float>(Arena&, const TokenGateArgs<float>&);
template void TokenGateForward<Bf16>(Arena&, const TokenGateArgs<Bf16>&);
template void TokenGateBackward<double>(Arena&, const TokenGateGradArgs<double>&);
template void TokenGateBackward<float>(Arena&, const TokenGateGradArgs<float>&);
template void TokenGateBackward<Bf16>(Arena&, const TokenGateGradArgs<Bf16>&);

}  // namespace hm11
