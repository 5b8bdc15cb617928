// Newton-Schulz: makes the singular values of matrices nearly 1, by matrix products alone.
//
//   A = X X^T;  X = a X + (b A + c A A) X,   `steps` times
//
// with (a, b, c) = (3.4445, -4.7750, 2.0315) throughout (Jordan et al. 2024,
// kellerjordan.github.io/posts/muon) or the polynomials of Polar Express (Amsel et al. 2025, arXiv
// 2505.16932), one for each of five steps, the last again in any after them.
//
// Properties:
//   1. With 5 steps singular values between about 0.01 and 1 come out between about 0.65 and 1.25; those of
//      Polar Express between 0.003 and 1 within 0.15 of 1. Singular vectors stay what they were. A zero
//      matrix stays zero.
//   2. Each matrix of a batch is worked on by itself.
//
// Determinism: as ops/matmul.h. Cost: 4 small^2 large + 2 small^3 operations a matrix and step.
#ifndef HM11_TRAIN_NEWTON_SCHULZ_H_
#define HM11_TRAIN_NEWTON_SCHULZ_H_

#include <cstdint>

#include "core/arena.h"
#include "core/tensor.h"

namespace hm11 {

enum class NewtonSchulzPolynomials { kJordan, kPolarExpress };

struct NewtonSchulzPolynomial {
  float a, b, c;
};
NewtonSchulzPolynomial PolynomialOfStep(NewtonSchulzPolynomials polynomials, int64_t step);

// x [count, small, large], small <= large best; each matrix's largest singular value at most 1, its Frobenius
// norm being 1 for instance. Overwritten; the result is in x or in memory from the arena.
template <typename T>
Tensor<T> NewtonSchulz(Arena& arena, Tensor<T> x, int64_t steps,
                       NewtonSchulzPolynomials polynomials = NewtonSchulzPolynomials::kJordan);

}  // namespace hm11

#endif  // HM11_TRAIN_NEWTON_SCHULZ_H_
