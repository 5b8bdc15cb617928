// One matrix product as the BLAS libraries want it: c = alpha op(a) op(b) + beta c, row-major, rows any
// stride.
//
// What matmul and attention are made of; models use ops/matmul.h.
#ifndef HM11_OPS_PRODUCT_H_
#define HM11_OPS_PRODUCT_H_

#include <cstdint>

#include "core/dtype.h"

namespace hm11 {

// op(a) is [rows, inner], op(b) [inner, cols], c [rows, cols]; strides count elements from one stored row to
// the next. A batch repeats the product, operands `step` elements apart. With beta 0 the old c is not read.
template <typename T, typename C = T, typename B = T>
struct Product {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t inner = 0;
  const T* a = nullptr;  // [rows, inner], or [inner, rows] with transpose_a
  int64_t a_stride = 0;
  bool transpose_a = false;
  const B* b = nullptr;  // [inner, cols], or [cols, inner] with transpose_b
  int64_t b_stride = 0;
  bool transpose_b = false;
  C* c = nullptr;
  int64_t c_stride = 0;
  const C* added = nullptr;  // laid out as c: what beta multiplies instead of c itself
  Accum<C> alpha = 1;
  Accum<C> beta = 0;
  int64_t batch = 1;
  int64_t a_step = 0;
  int64_t b_step = 0;
  int64_t c_step = 0;
};

// On the CPU by OpenBLAS, T being float or double.
template <typename T>
void Multiply(const Product<T>& product);

// What OpenBLAS computes with: the name it has for the kernels it chose.
const char* BlasKernels();

// While it lives OpenBLAS uses only the thread that calls it: for loops that spread products over threads
// themselves. Made and ended by one thread, while no other uses OpenBLAS.
class OneThreadPerProduct {
 public:
  OneThreadPerProduct();
  ~OneThreadPerProduct();
  OneThreadPerProduct(const OneThreadPerProduct&) = delete;
  OneThreadPerProduct& operator=(const OneThreadPerProduct&) = delete;

 private:
  int threads_;
};

}  // namespace hm11

#endif  // HM11_OPS_PRODUCT_H_
