// Smear gate: the choice of a device and the CPU path.
#include "ops/smear.h"

#include <algorithm>

#include "core/dispatch.h"
#include "core/fast_math.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

// scratch: [dim], for the gates.
template <typename T>
void CpuForward(const SmearArgs<T>& a, Tensor<T> scratch) {
  const int64_t time = a.x.dim(1);
  const int64_t dim = a.x.dim(2);
  T* const g = scratch.data();
  for (int64_t d = 0; d < dim; ++d) g[d] = FastSigmoid(a.gate[d]);
  ParallelFor(a.x.dim(0) * time, MinRows(dim), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* x = a.x.data() + r * dim;
      T* y = a.y.data() + r * dim;
      const T* before = x - dim;
      if (r % time == 0) before = a.previous.empty() ? nullptr : a.previous.data() + r / time * dim;
      if (before != nullptr) {
        for (int64_t d = 0; d < dim; ++d) y[d] = x[d] + g[d] * (before[d] - x[d]);
      } else {
        for (int64_t d = 0; d < dim; ++d) y[d] = x[d] - g[d] * x[d];
      }
    }
  });
}

template <typename T>
void CpuBackward(const SmearGradArgs<T>& a, Tensor<T> scratch, Tensor<T> partials) {
  const int64_t rows = a.x.dim(0) * a.x.dim(1);
  const int64_t time = a.x.dim(1);
  const int64_t dim = a.x.dim(2);
  T* const g = scratch.data();
  for (int64_t d = 0; d < dim; ++d) g[d] = FastSigmoid(a.gate[d]);
  ForChunks(rows, MinRows(dim), [&](int64_t chunk, int64_t begin, int64_t end) {
    T* const sums = partials.data() + chunk * dim;
    std::fill(sums, sums + dim, T{0});
    for (int64_t r = begin; r < end; ++r) {
      const T* x = a.x.data() + r * dim;
      const T* dy = a.dy.data() + r * dim;
      T* dx = a.dx.data() + r * dim;
      for (int64_t d = 0; d < dim; ++d) dx[d] = dy[d] - g[d] * dy[d];
      for (int64_t d = 0; d < dim; ++d) sums[d] -= dy[d] * x[d];
      if (r % time + 1 < time) {
        const T* dy_next = dy + dim;
        for (int64_t d = 0; d < dim; ++d) dx[d] += g[d] * dy_next[d];
      }
      if (r % time > 0) {
        const T* before = x - dim;
        for (int64_t d = 0; d < dim; ++d) sums[d] += dy[d] * before[d];
      }
    }
    for (int64_t d = 0; d < dim; ++d) sums[d] *= g[d] * (1 - g[d]);
  });
  AddPartials(partials.data(), ChunkCount(rows, MinRows(dim)), dim, dim, a.dgate.data());
}

}  // namespace

template <typename T>
void SmearForward(Arena& arena, const SmearArgs<T>& args) {
  const OpScope op("SmearForward", args.x, args.gate, args.previous, args.y);
  HM_CHECK_EQ(args.x.rank(), 3);
  HM_CHECK_EQ(args.y.shape(), args.x.shape());
  HM_CHECK_EQ(args.gate.shape(), Shape{args.x.dim(2)});
  HM_CHECK_SHAPE_IF_THERE(args.previous, (Shape{args.x.dim(0), args.x.dim(2)}));
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<Accum<T>> scratch = arena.New<Accum<T>>({args.x.dim(2)});
  if (args.x.empty()) return;
  Dispatch<T>(
      "SmearForward", device, [&]<typename U>() { CpuForward<U>(args, scratch); },
      [&]<typename U>() { cuda::SmearForward<U>(device, args); });
}

template <typename T>
void SmearBackward(Arena& arena, const SmearGradArgs<T>& args) {
  const OpScope op("SmearBackward", args.x, args.gate, args.dy, args.dx, args.dgate);
  HM_CHECK_EQ(args.x.rank(), 3);
  HM_CHECK_EQ(args.dy.shape(), args.x.shape());
  HM_CHECK_EQ(args.dx.shape(), args.x.shape());
  HM_CHECK_EQ(args.gate.shape(), Shape{args.x.dim(2)});
  HM_CHECK_EQ(args.dgate.shape(), args.gate.shape());
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const int64_t rows = args.x.dim(0) * args.x.dim(1);
  const Tensor<Accum<T>> scratch = arena.New<Accum<T>>({args.x.dim(2)});
  const Tensor<Accum<T>> partials = NewPartials<Accum<T>>(arena, rows, args.x.dim(2));
  if (args.x.empty()) return;
  Dispatch<T>(
      "SmearBackward", device, [&]<typename U>() { CpuBackward<U>(args, scratch, partials); },
      [&]<typename U>() { cuda::SmearBackward<U>(device, args, partials); });
}

template void SmearForward<double>(Arena&, const SmearArgs<double>&);
template void SmearForward<float>(Arena&, const SmearArgs<float>&);
template void SmearForward<Bf16>(Arena&, const SmearArgs<Bf16>&);
template void SmearBackward<double>(Arena&, const SmearGradArgs<double>&);
template void SmearBackward<float>(Arena&, const SmearGradArgs<float>&);
template void SmearBackward<Bf16>(Arena&, const SmearGradArgs<Bf16>&);

}  // namespace hm11
