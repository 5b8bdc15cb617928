// Add, cast and sums: the choice of a device and the CPU paths.
#include "ops/elementwise.h"

#include <cstring>
#include <type_traits>

#include "core/dispatch.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

// Numbers in a chunk of a sum: fixed, so that the order is.
constexpr int64_t kSumChunk = 16384;

template <typename A, typename F>
A CpuSum(int64_t size, Tensor<A> partials, F&& term) {
  ForChunks(size, kSumChunk, [&](int64_t chunk, int64_t begin, int64_t end) {
    partials[chunk] = LaneSum<A>(end - begin, [&](int64_t i) { return term(begin + i); });
  });
  return size == 0 ? A{0} : LaneSum<A>(ChunkCount(size, kSumChunk), [&](int64_t p) { return partials[p]; });
}

template <typename T>
void CpuAddTo(Tensor<const T> x, T scale, Tensor<T> y) {
  ParallelFor(x.size(), MinRows(1), [from = x.data(), to = y.data(), scale](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] += scale * from[i];
  });
}

template <typename A>
void SumTerms(Arena& arena, const char* op, Tensor<const A> x, bool squares, A factor, Tensor<A> sum) {
  const OpScope scope_of_op(op, x, sum);
  HM_CHECK_EQ(sum.size(), 1);
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<A> partials = arena.New<A>({kMaxPartials});
  Dispatch<A>(
      op, device,
      [&]<typename U>() {
        const A* data = x.data();
        const A total = squares ? CpuSum<A>(x.size(), partials, [=](int64_t i) { return data[i] * data[i]; })
                                : CpuSum<A>(x.size(), partials, [=](int64_t i) { return data[i]; });
        sum[0] = factor * total;
      },
      [&]<typename U>() { cuda::Sum<U>(device, x, squares, factor, partials, sum.data()); });
}

}  // namespace

template <typename T>
void AddTo(Arena& arena, Tensor<const T> x, Accum<T> scale, Tensor<T> y) {
  const OpScope op("AddTo", x, y, y);
  HM_CHECK_EQ(x.size(), y.size());
  const Device& device = arena.device();
  if (x.empty()) return;
  Dispatch<T>(
      "AddTo", device, [&]<typename U>() { CpuAddTo<U>(x, scale, y); },
      [&]<typename U>() { cuda::AddTo<U>(device, x, scale, y); });
}

template <typename From, typename To>
void Cast(Arena& arena, Tensor<const From> x, Tensor<To> y) {
  const OpScope op("Cast", x, y);
  HM_CHECK_EQ(x.size(), y.size());
  const Device& device = arena.device();
  if (device.is_plan() || x.empty()) return;
  if constexpr (std::is_same_v<From, To>) return device.CopyOnDevice(y.data(), x.data(), x.size_bytes());
  if constexpr (kOnCuda<From> && kOnCuda<To> && !std::is_same_v<From, To> && !std::is_same_v<To, Fp16>) {
    if (device.is_cuda()) return cuda::Cast(device, x, y);
  }
  HM_CHECK(device.is_cpu());
  ParallelFor(x.size(), MinRows(1), [from = x.data(), to = y.data()](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = static_cast<To>(from[i]);
  });
}

template <typename A>
void Sum(Arena& arena, Tensor<const A> x, A factor, Tensor<A> sum) {
  SumTerms<A>(arena, "Sum", x, /*squares=*/false, factor, sum);
}

template <typename A>
void SumOfSquares(Arena& arena, Tensor<const A> x, Tensor<A> sum) {
  SumTerms<A>(arena, "SumOfSquares", x, /*squares=*/true, A{1}, sum);
}

template void AddTo<double>(Arena&, Tensor<const double>, double, Tensor<double>);
template void AddTo<float>(Arena&, Tensor<const float>, float, Tensor<float>);
template void AddTo<Bf16>(Arena&, Tensor<const Bf16>, float, Tensor<Bf16>);
template void Cast<double, double>(Arena&, Tensor<const double>, Tensor<double>);
template void Cast<double, float>(Arena&, Tensor<const double>, Tensor<float>);
template void Cast<float, double>(Arena&, Tensor<const float>, Tensor<double>);
template void Cast<float, float>(Arena&, Tensor<const float>, Tensor<float>);
template void Cast<float, Bf16>(Arena&, Tensor<const float>, Tensor<Bf16>);
template void Cast<float, Fp16>(Arena&, Tensor<const float>, Tensor<Fp16>);
template void Cast<Bf16, float>(Arena&, Tensor<const Bf16>, Tensor<float>);
template void Cast<Bf16, Bf16>(Arena&, Tensor<const Bf16>, Tensor<Bf16>);
template void Sum<double>(Arena&, Tensor<const double>, double, Tensor<double>);
template void Sum<float>(Arena&, Tensor<const float>, float, Tensor<float>);
template void SumOfSquares<double>(Arena&, Tensor<const double>, Tensor<double>);
template void SumOfSquares<float>(Arena&, Tensor<const float>, Tensor<float>);

}  // namespace hm11
