// Weights in 8 bits: room for them.
#include "ops/fp8.h"

#include "core/check.h"
#include "core/op_scope.h"

namespace hm11 {

std::vector<Fp8Weight> WeightsToFp8(Arena& arena, std::span<const ScaledWeight> weights) {
  int64_t numbers = 0;
  for (const ScaledWeight& w : weights) numbers += w.weight.size();
  const Tensor<E4m3> room = arena.New<E4m3>({2 * numbers});
  const OpScope op("WeightsToFp8", room, room);  // As many bytes are read as are written.
  std::vector<Fp8Weight> results;
  int64_t taken = 0;
  const auto take = [&](Shape shape) {
    const Tensor<E4m3> matrix = room.Slice(taken, shape[0] * shape[1]).Reshaped(shape);
    taken += matrix.size();
    return matrix;
  };
  for (const auto& [weight, scale] : weights) {
    HM_CHECK(weight.dim(0) % 64 == 0 && weight.dim(1) % 64 == 0);
    HM_CHECK_SHAPE_IF_THERE(scale, (Shape{weight.dim(0)}));
    results.push_back({.plain = take(weight.shape()), .transposed = take({weight.dim(1), weight.dim(0)})});
  }
  const Device& device = arena.device();
  HM_CHECK(device.is_plan() || device.is_cuda());
  if constexpr (kHaveCuda) {
    if (device.is_cuda()) cuda::WeightsToFp8(device, weights, results);
  }
  return results;
}

}  // namespace hm11
