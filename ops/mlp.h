// The model's MLP: y = down a with a = leaky_relu(up x)^2, slope 0.5 below zero.
//
//   h[row, j] = sum_i x[row, i] up[j, i]
//   a         = h^2 where h > 0, h^2 / 4 elsewhere; da/dh = 2 h and h / 2, both 0 at 0
//   y[row, o] = sum_j a[row, j] down[o, j]
//
// h is not kept: |h| is sqrt(a) or 2 sqrt(a), and its sign is a bit. On a GPU of compute capability 9.0 a and
// the bits are made from the sums of the first product, and dh from those of the gradient's, before these
// leave the registers (Bf16, shapes that ops/resident_product.cuh supports); elsewhere by a pass of their
// own.
//
// Properties
//   1. a is never negative; rows depend on their own row of x alone.
//   2. Backward is the gradient of forward and a factor a column behind it (ops/scaled_matmul.h); dup and
//      ddown add, where the input's gradient goes is the caller's choice (ops/residual_product.h).
// Determinism: that of matrix products (ops/matmul.h).
// Cost: 4 rows dim width operations forward, 8 backward.
// Source: So et al. 2021 (Primer, arXiv 2109.08668) with ReLU; the leaky one is this model's.
#ifndef HM11_OPS_MLP_H_
#define HM11_OPS_MLP_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "ops/fp8.h"
#include "ops/residual_product.h"
#include "ops/scaled_matmul.h"

namespace hm11 {

// Words that hold the signs of a row of `width` numbers: four for every 128 columns begun. Of these, word q
// has column 8 n + 2 q at bit 31 - n and column 8 n + 2 q + 1 at bit 15 - n: a lane's share of a product's
// sums.
inline constexpr int64_t SignWords(int64_t width) { return (width + 127) / 128 * 4; }

template <typename T, typename W = T>
struct MlpArgs {
  Tensor<const T> x;     // [rows, dim]; one row where W is not T; with activated8t its shape alone counts
  Tensor<const W> up;    // [width, dim]
  Tensor<const W> down;  // [out, width]
  Tensor<T> activated;   // [rows, width]; out: a; absent with activated8t
  Tensor<uint32_t> negative;  // [rows, SignWords(width)]; out: set where h < 0; absent without a backward
  Tensor<T> y;                // [rows, out]; out; absent: the last product is the caller's
  // In 8 bits (ops/fp8.h), of Bf16 alone: given x8 and the weights, products that lead to activations and their
  // gradients may be of such numbers.
  Tensor<const E4m3> x8 = {};  // [rows, dim]; x times kNormedFactor
  Fp8Weight up8 = {}, down8 = {};
  Tensor<E4m3> activated8 = {};  // [rows, width]; out; may be absent; a times kActivatedFactor
  // Out: the same transposed (ops/fp8.h). With it, where Fp8MlpServes, a is kept in 8 bits alone, and backward is of
  // 8-bit products alone; then with activated8 forward, and without y.
  Tensor<E4m3> activated8t = {};  // [width, rows]
};

template <typename T>
struct MlpGradArgs {
  MlpArgs<T> forward;           // operands, activated and negative; y is not read
  OutputScale<T> columns;       // what y is multiplied by, and that factor's gradient
  Tensor<const T> dy;           // [rows, out]: the gradient of scale * y
  Tensor<const E5m2> dy8 = {};  // in 8 bits, with forward.down8; absent only without activated8t
  InputGradient<T> input;       // dx: [rows, dim]; with activated8t, the step that normed x alone
  Tensor<Accum<T>> dup, ddown;  // the shapes of up and down; add
};

// Whether there can be activated8t, on this device.
bool Fp8MlpServes(const Device& device, int64_t rows, int64_t dim, int64_t width);

template <typename T, typename W = T>
void MlpForward(Arena& arena, const MlpArgs<T, W>& args);
template <typename T>
void MlpBackward(Arena& arena, const MlpGradArgs<T>& args);

}  // namespace hm11

#endif  // HM11_OPS_MLP_H_
