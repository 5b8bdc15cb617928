// Orthogonalize: the orthonormal factor of a random matrix, for initial weights. CPU only.
#ifndef HM11_OPS_ORTHOGONAL_H_
#define HM11_OPS_ORTHOGONAL_H_

#include <cstdint>

namespace hm11 {

// Replaces matrix [rows, cols] (row-major) by Q of its QR factorization, signs chosen so that R's diagonal is
// positive: of a Gaussian matrix that is uniformly distributed (Mezzadri 2007, math-ph/0609050). With rows <
// cols the rows become orthonormal, else the columns. Computed in double.
void Orthogonalize(int64_t rows, int64_t cols, float* matrix);

}  // namespace hm11

#endif  // HM11_OPS_ORTHOGONAL_H_
