// The glue between ops: doors and CPU paths.
#include "ops/elementwise.h"

#include "ops/door.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

constexpr int64_t kMinPiece = 1 << 14;

// The sum of function(i): partial sums of fixed pieces, then those in order.
template <typename A, typename F>
A PieceSum(int64_t count, Tensor<A> partials, F&& function) {
  ForPieces(count, kMinPiece, [&](int64_t piece, int64_t begin, int64_t end) {
    partials[piece] = LaneSum<A>(end - begin, [&](int64_t i) { return function(begin + i); });
  });
  A sum = 0;
  for (int64_t p = 0; p < PieceCount(count, kMinPiece) && count > 0; ++p) sum += partials[p];
  return sum;
}

}  // namespace

template <typename T>
void AddTo(Arena& arena, Tensor<const T> x, Accum<T> scale, Tensor<T> y) {
  HM_CHECK_EQ(x.size(), y.size());
  const Device& device = arena.device();
  if (device.is_plan() || x.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::AddTo<T>(device, x, scale, y);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) {
      return ParallelFor(x.size(), kMinPiece, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) y[i] += scale * x[i];
      });
    }
  }
  FailNoHalf<T>("AddTo", device);
}

template <typename From, typename To>
void Cast(Arena& arena, Tensor<const From> x, Tensor<To> y) {
  HM_CHECK_EQ(x.size(), y.size());
  const Device& device = arena.device();
  if (device.is_plan() || x.empty()) return;
#if HM11_HAVE_CUDA
  if (device.is_cuda()) return cuda::Cast<From, To>(device, x, y);
#endif
  if (!device.is_cpu()) FailNoHalf<To>("Cast", device);
  ParallelFor(x.size(), kMinPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = static_cast<To>(static_cast<float>(x[i]));
  });
}

template <typename A>
void Sum(Arena& arena, Tensor<const A> x, A factor, Tensor<A> sum) {
  HM_CHECK_EQ(sum.size(), 1);
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<A> partials = arena.New<A>({kMaxPartials});
  if (device.is_plan()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<A>) {
    if (device.is_cuda()) return cuda::Sum(device, x, factor, /*squared=*/false, partials, sum);
  }
#endif
  if (!device.is_cpu()) FailNoHalf<A>("Sum", device);
  sum[0] = factor * PieceSum<A>(x.size(), partials, [&](int64_t i) { return x[i]; });
}

template <typename A>
void SumOfSquares(Arena& arena, Tensor<const A> x, Tensor<A> sum) {
  HM_CHECK_EQ(sum.size(), 1);
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<A> partials = arena.New<A>({kMaxPartials});
  if (device.is_plan()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<A>) {
    if (device.is_cuda()) return cuda::Sum(device, x, A{1}, /*squared=*/true, partials, sum);
  }
#endif
  if (!device.is_cpu()) FailNoHalf<A>("SumOfSquares", device);
  sum[0] = PieceSum<A>(x.size(), partials, [&](int64_t i) { return x[i] * x[i]; });
}

template void AddTo<double>(Arena&, Tensor<const double>, double, Tensor<double>);
template void AddTo<float>(Arena&, Tensor<const float>, float, Tensor<float>);
template void AddTo<Bf16>(Arena&, Tensor<const Bf16>, float, Tensor<Bf16>);
template void Cast<float, Bf16>(Arena&, Tensor<const float>, Tensor<Bf16>);
template void Cast<Bf16, float>(Arena&, Tensor<const Bf16>, Tensor<float>);
template void Sum<double>(Arena&, Tensor<const double>, double, Tensor<double>);
template void Sum<float>(Arena&, Tensor<const float>, float, Tensor<float>);
template void SumOfSquares<double>(Arena&, Tensor<const double>, Tensor<double>);
template void SumOfSquares<float>(Arena&, Tensor<const float>, Tensor<float>);

}  // namespace hm11
