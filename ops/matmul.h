// Matrix products: y = x w^T with its two gradients, and batched products for the optimizer.
//
//   y[row, o]       = sum_i x[row, i] weight[o, i]
//   dx[row, i]      = sum_o dy[row, o] weight[o, i]         (dx += with add_to_dx)
//   dweight[o, i]  += sum_row dy[row, o] x[row, i]
//
// Of one row MatmulForward is a product of ops/matvec.h, whose weights may be of another type.
//
// On the CPU OpenBLAS, in T (float or double), on its own threads. On a GPU cuBLASLt, in float throughout for
// float (never TF32), and for Bf16 with float accumulation and one rounding where the result is Bf16; dweight
// is accumulated in float without rounding to Bf16 first.
//
// Properties:
//   1. y, dx and dweight are the sums above; operands may be column ranges of wider matrices, whose other
//      columns are neither read nor written.
//   2. dweight adds to what was there; dx overwrites unless add_to_dx.
//   3. Tuning changes speed only: results stay within rounding, and the choices survive a trip through text.
//
// Determinism: the same bits every run for the same shapes on the same machine. The GPU uses no split-K by
// atomics: parts are added from workspace in order. With tuning the choice of kernel depends on measured
// time, so runs repeat to the bit only when they start from the same MatmulTuning text.
//
// Cost: 2 rows in out operations each way.
#ifndef HM11_OPS_MATMUL_H_
#define HM11_OPS_MATMUL_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/arena.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "ops/fp8.h"

namespace hm11 {

template <typename T, typename W = T>
struct MatmulArgs {
  Columns<const T> x;      // [rows, in]; one row where W is not T
  Tensor<const W> weight;  // [out, in]
  Columns<T> y;            // [rows, out]; out
  Fp8Operands in8 = {};    // the product may be of these, x times kNormedFactor; of Bf16 on a GPU alone
};

template <typename T>
struct MatmulGradArgs {
  Columns<const T> dy;            // [rows, out]
  Columns<const T> x = {};        // [rows, in]; needed with dweight
  Tensor<const T> weight = {};    // [out, in]; needed with dx
  Columns<T> dx = {};             // [rows, in], may be absent
  bool add_to_dx = false;         // dx += instead of dx =: for inputs that several products share
  Tensor<Accum<T>> dweight = {};  // [out, in], may be absent
  bool add_to_dweight = true;     // false: dweight = instead of dweight +=
  Fp8Transposed in8 = {};         // dweight is of these, then without dx, dy and x; on a GPU alone
};

template <typename T, typename W = T>
void MatmulForward(Arena& arena, const MatmulArgs<T, W>& args);
template <typename T>
void MatmulBackward(Arena& arena, const MatmulGradArgs<T>& args);

// c = alpha a b (or a b^T) + beta c for each matrix of a batch; with beta 0 the old c is not read. Given
// `added`, c = alpha a b + beta added instead.
template <typename T>
struct BatchedMatmulArgs {
  Tensor<const T> a;  // [batch, rows, inner]
  Tensor<const T> b;  // [batch, inner, cols], or [batch, cols, inner] when transpose_b
  bool transpose_b = false;
  Tensor<T> c;  // [batch, rows, cols]; out; other memory than a and b
  float alpha = 1;
  float beta = 0;
  Tensor<const T> added = {};  // [batch, rows, cols], may be absent, may be a or b
};

template <typename T>
void BatchedMatmul(Arena& arena, const BatchedMatmulArgs<T>& args);

// Which of cuBLASLt's kernels runs a product is the library's first guess, unless the device's tuning is on
// when the product's shape is first met outside a graph capture: then its best guesses are timed on the spot,
// on the operands given, and the fastest is kept with the device. Off by default. Nothing here matters on a
// CPU, whose text is empty.
void TuneMatmuls(const Device& device, bool on);

// What multiplies on the CPU, "OpenBLAS SkylakeX".
std::string CpuMatmulKernels();

// All choices of a device as text, and back: one line a shape, for a kind of GPU and one version of cuBLASLt.
// SetMatmulTuning refuses text that is malformed or of another version (the message says which); choices for
// another kind of GPU than the device are kept, and unused; empty text is none. Call it while no captured
// graph is being made.
std::string MatmulTuning(const Device& device);
absl::Status SetMatmulTuning(const Device& device, absl::string_view text);

}  // namespace hm11

#endif  // HM11_OPS_MATMUL_H_
