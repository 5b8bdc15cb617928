// Newton-Schulz as three batched products a step.
#include "train/newton_schulz.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "core/dtype.h"
#include "ops/matmul.h"

namespace hm11 {

NewtonSchulzPolynomial PolynomialOfStep(NewtonSchulzPolynomials polynomials, int64_t step) {
  if (polynomials == NewtonSchulzPolynomials::kJordan) return {3.4445f, -4.7750f, 2.0315f};
  // The paper's greedy minimax polynomials from the interval [0.001, 1] on, its cushion 0.0241; all but the
  // last for singular values up to 1.02, for rounding.
  constexpr NewtonSchulzPolynomial kPolarExpress[] = {{8.1247179f, -22.2349329f, 15.6694955f},
                                                      {4.0215676f, -2.7766074f, 0.4936569f},
                                                      {3.8359524f, -2.7332292f, 0.5014996f},
                                                      {3.1268649f, -2.2536905f, 0.4520429f},
                                                      {2.1997357f, -1.5767878f, 0.4089084f}};
  return kPolarExpress[std::min<int64_t>(step, 4)];
}

template <typename T>
Tensor<T> NewtonSchulz(Arena& arena, Tensor<T> x, int64_t steps, NewtonSchulzPolynomials polynomials) {
  HM_CHECK_EQ(x.rank(), 3);
  const int64_t count = x.dim(0), small = x.dim(1);
  Tensor<T> y = arena.New<T>(x.shape());
  const Tensor<T> gram = arena.New<T>({count, small, small});
  const Tensor<T> polynomial = arena.New<T>({count, small, small});
  for (int64_t step = 0; step < steps; ++step) {
    const auto [a, b, c] = PolynomialOfStep(polynomials, step);
    BatchedMatmul<T>(arena, {.a = x, .b = x, .transpose_b = true, .c = gram});
    BatchedMatmul<T>(arena, {.a = gram, .b = gram, .c = polynomial, .alpha = c, .beta = b, .added = gram});
    BatchedMatmul<T>(arena, {.a = polynomial, .b = x, .c = y, .beta = a, .added = x});
    std::swap(x, y);
  }
  return x;
}

template Tensor<float> NewtonSchulz<float>(Arena&, Tensor<float>, int64_t, NewtonSchulzPolynomials);
template Tensor<Bf16> NewtonSchulz<Bf16>(Arena&, Tensor<Bf16>, int64_t, NewtonSchulzPolynomials);

}  // namespace hm11
