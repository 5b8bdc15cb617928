// The two gradients of a matrix product one side of which is thin, as a Mamba mixer's step size and its B and C
// are: dx (+)= dy weight and dweight += dy^T x at once (ops/matmul.h has the sums).
//
// Such products take as long as their memory traffic. On a GPU of compute capability 9.0 one kernel reads the
// wide operand once for both (Bf16, rows enough for all multiprocessors, shapes of cuda::ThinPartials).
// Elsewhere, and where one of the two is not wanted, by MatmulBackward.
//
// Properties
//   1. The results are those of MatmulBackward: each is a sum in float, rounded once.
// Determinism: that of matrix products; the kernel's bits repeat on one model of GPU (its multiprocessors set
// the number of partial sums).
// Cost: 4 rows in out operations, and each operand once.
#ifndef HM11_OPS_THIN_PRODUCT_H_
#define HM11_OPS_THIN_PRODUCT_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "ops/matmul.h"

namespace hm11 {

template <typename T>
void ThinMatmulBackward(Arena& arena, const MatmulGradArgs<T>& args);

namespace cuda {
// Partial sums of dweight that the kernel keeps at most; 0 for shapes that it has not: out up to 96, or in up to
// 32 and out up to 1024, and both multiples of 8.
int64_t ThinPartials(int64_t out, int64_t in);
// Of any number of rows; false, with nothing done, where this GPU or these operands do not allow it. partials:
// [up to ThinPartials(), out * in], scratch.
bool TryThinMatmulBackward(const Device& device, const MatmulGradArgs<Bf16>& args, Tensor<float> partials);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_THIN_PRODUCT_H_
