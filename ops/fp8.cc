// Matrices in 8 bits: room for them.
#include "ops/fp8.h"

#include "core/check.h"
#include "core/dispatch.h"

namespace hm11 {
namespace {

// Dispatch never calls it: the CPU has no Bf16.
constexpr auto kNotOnCpu = []<typename T>() {};

}  // namespace

std::vector<Fp8Weight> WeightsToFp8(Arena& arena, std::span<const ScaledWeight> weights) {
  int64_t numbers = 0;
  for (const ScaledWeight& w : weights) numbers += (w.forward_only ? 1 : 2) * w.weight.size();
  const Tensor<E4m3> room = arena.New<E4m3>({numbers});
  const OpScope op("WeightsToFp8", room, room);  // As many bytes are read as are written.
  std::vector<Fp8Weight> results;
  int64_t taken = 0;
  const auto take = [&](Shape shape) {
    const Tensor<E4m3> matrix = room.Slice(taken, shape[0] * shape[1]).Reshaped(shape);
    taken += matrix.size();
    return matrix;
  };
  for (const auto& [weight, scale, forward_only] : weights) {
    HM_CHECK(weight.dim(0) % 64 == 0 && weight.dim(1) % 64 == 0);
    HM_CHECK_SHAPE_IF_THERE(scale, (Shape{weight.dim(0)}));
    results.push_back({.plain = take(weight.shape())});
    if (!forward_only) results.back().transposed = take({weight.dim(1), weight.dim(0)});
  }
  const Device& device = arena.device();
  Dispatch<Bf16>("WeightsToFp8", device, kNotOnCpu,
                 [&]<typename T>() { cuda::WeightsToFp8(device, weights, results); });
  return results;
}

template <typename To>
void ToFp8(const Device& device, Tensor<const Bf16> from, float factor, Tensor<To> to) {
  HM_CHECK(from.dim(1) % 64 == 0);
  HM_CHECK_EQ(to.shape(), from.shape());
  const OpScope op("ToFp8", from, to);
  Dispatch<Bf16>("ToFp8", device, kNotOnCpu, [&]<typename T>() { cuda::ToFp8(device, from, factor, to); });
}
template void ToFp8(const Device&, Tensor<const Bf16>, float, Tensor<E4m3>);
template void ToFp8(const Device&, Tensor<const Bf16>, float, Tensor<E5m2>);

template <typename N>
Tensor<N> TransposedFp8(Arena& arena, Tensor<const N> from) {
  const int64_t rows = from.dim(0), cols = from.dim(1);
  HM_CHECK(rows % 16 == 0 && cols % 64 == 0);
  const Tensor<N> result = arena.New<N>({cols, rows});
  const OpScope op("TransposedFp8", from, result);
  const Device& device = arena.device();
  Dispatch<Bf16>("TransposedFp8", device, kNotOnCpu,
                 [&]<typename T>() { cuda::TransposeFp8(device, rows, cols, from.data(), result.data()); });
  return result;
}
template Tensor<E4m3> TransposedFp8(Arena&, Tensor<const E4m3>);
template Tensor<E5m2> TransposedFp8(Arena&, Tensor<const E5m2>);

}  // namespace hm11
