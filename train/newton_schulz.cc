// Newton-Schulz as three batched products a step.
#include "train/newton_schulz.h"

#include <utility>

#include "core/check.h"
#include "core/dtype.h"
#include "ops/matmul.h"

namespace hm11 {

template <typename T>
Tensor<T> NewtonSchulz(Arena& arena, Tensor<T> x, int64_t steps) {
  constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;
  HM_CHECK_EQ(x.rank(), 3);
  const int64_t count = x.dim(0), small = x.dim(1);
  Tensor<T> y = arena.New<T>(x.shape());
  const Tensor<T> gram = arena.New<T>({count, small, small});
  const Tensor<T> polynomial = arena.New<T>({count, small, small});
  for (int64_t step = 0; step < steps; ++step) {
    BatchedMatmul<T>(arena, {.a = x, .b = x, .transpose_b = true, .c = gram});
    BatchedMatmul<T>(arena, {.a = gram, .b = gram, .c = polynomial, .alpha = kC, .beta = kB, .added = gram});
    BatchedMatmul<T>(arena, {.a = polynomial, .b = x, .c = y, .beta = kA, .added = x});
    std::swap(x, y);
  }
  return x;
}

template Tensor<float> NewtonSchulz<float>(Arena&, Tensor<float>, int64_t);
template Tensor<Bf16> NewtonSchulz<Bf16>(Arena&, Tensor<Bf16>, int64_t);

}  // namespace hm11
