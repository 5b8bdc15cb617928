// Mamba's selective scan, fused: step size, discretization, recurrence, output product, skip and gate in one
// pass.
//
//   step_t[e]  = softplus(delta_t[e] + delta_bias[e])           (delta itself when softplus is off)
//   h_t[e,n]   = exp(-step_t[e] exp(a_log[e,n])) h_{t-1}[e,n] + step_t[e] b_t[n] x_t[e]
//   y_t[e]     = (sum_n c_t[n] h_t[e,n] + d[e] x_t[e]) * silu(z_t[e])
//
// Nothing of size [time, inner, state] is ever in memory: forward keeps the state before every so many
// tokens, backward recomputes those between.
//
// Properties
//  1. It is the formula above, every optional operand there or not.
//  2. Cutting a sequence anywhere and carrying the state changes nothing but rounding.
//  3. A reset is the beginning of a sequence: what follows does not know what was before, nor the gradient
//     the other way.
//  4. The future never reaches the past: y_t keeps its bits whatever comes after t.
//  5. Batch rows are independent to the bit, and so are channels, but for db and dc, which are sums over
//     them.
//  6. Backward is the gradient of forward.
//  7. Gradients of activations overwrite, those of a_log, d and delta_bias add; nothing else is written.
//  8. With float arithmetic every result is near the exact one relative to s, what the absolute values of its
//     terms add up to (u = 2^-24). A decay exp(-X) comes out of an argument with three roundings and an
//     exponential within 2u, so its relative error is at most (3 X + 2) u; of a term that has lived through k
//     steps whose X sum to Y at most (3 Y + 2 k) u e^-Y <= (2 + 2 k) u is lost. Products, sums over states
//     and a softplus within 5u add some 10 u: |error| <= (2 k + 12) u s with k <= t for what is remembered
//     all along, and 1e-6 s for the usual decays (A of order 1). 16-bit storage adds 2^-8 s for each stored
//     result, saved states among them, and on a GPU 2^-10 s for sums of products that tensor cores take and
//     2^-12 s for exponentials by shorter polynomials.
//     Steps from 1e-6 to 1e3, A from -1e-4 to -1e3, inputs up to 1e3 give no Inf or NaN at any length.
//  9. Devices agree within those bounds.
//
// Determinism: the same bits from run to run on one device; on the CPU whatever the number of threads. Sums
// over channels and batch rows are over groups cut by shapes alone, added in a fixed order. No number is the
// result of an atomic.
//
// Cost, an element of [time, inner]: forward reads x, delta, z and writes y, 8 bytes in Bf16; backward reads
// those and dy and writes dx, ddelta, dz: 14. What is kept for backward is written and read once. For each
// state one exponential and 5 operations forward, one exponential and 14 backward. Scratch is O(inner *
// state) and, backward, sums of [time, state] for each group of channels.
//
// Source: Gu & Dao 2023, arXiv 2312.00752, section 3 and algorithm 2; recomputation: section 3.3.2.
#ifndef HM11_SCAN_SELECTIVE_SCAN_H_
#define HM11_SCAN_SELECTIVE_SCAN_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace hm11 {

// What forward keeps for backward, as the device's backward pass wants it: see NewSelectiveScanSaved. T's
// rounding of it reaches gradients only.
template <typename T>
struct SelectiveScanSaved {
  Tensor<T>
      states;  // [batch, ceil(time / spacing), inner, state]: what tokens 0, spacing, 2 spacing... begin with
  Tensor<T> ungated;  // [batch, time, inner]: y before the gate; on a GPU, when there is one
};

template <typename T>
struct SelectiveScanArgs {
  Tensor<const T> x;                  // [batch, time, inner]
  Tensor<const T> delta;              // [batch, time, inner], before bias and softplus
  Tensor<const Accum<T>> delta_bias;  // [inner], zero when absent
  Tensor<const Accum<T>> a_log;       // [inner, state]; A = -exp(a_log)
  Columns<const T> b;                 // [batch*time, state]
  Columns<const T> c;                 // [batch*time, state]
  Tensor<const Accum<T>> d;           // [inner], no skip when absent
  Columns<const T> z;                 // [batch*time, inner], no gate when absent
  Tensor<const uint8_t> reset;        // [batch, time]: 1 zeroes the state before that token; none when absent
  Tensor<const Accum<T>> initial_state;  // [batch, inner, state], zero when absent
  bool softplus = true;

  Tensor<T> y;                   // [batch, time, inner]; out
  Tensor<Accum<T>> final_state;  // [batch, inner, state], may be absent; out
  SelectiveScanSaved<T> saved;   // may be absent when there is no backward; out
};

// Gradients of activations overwrite, those of a_log, d and delta_bias add.
template <typename T>
struct SelectiveScanGradArgs {
  SelectiveScanArgs<T> forward;         // forward's operands, with what it saved; y is not read
  Tensor<const T> dy;                   // [batch, time, inner]
  Tensor<const Accum<T>> dfinal_state;  // [batch, inner, state], zero when absent
  Tensor<T> dx;                         // [batch, time, inner]
  Tensor<T> ddelta;                     // [batch, time, inner]
  Columns<T> db;                        // [batch*time, state]
  Columns<T> dc;                        // [batch*time, state]
  Columns<T> dz;                        // [batch*time, inner], absent with z
  Tensor<Accum<T>> da_log;              // [inner, state]; adds
  Tensor<Accum<T>> dd;                  // [inner], absent with d; adds
  Tensor<Accum<T>> ddelta_bias;         // [inner], absent with delta_bias; adds
  Tensor<Accum<T>> dinitial_state;      // [batch, inner, state], may be absent
};

// Tokens between saved states. The CPU's backward pass recomputes chunk by chunk; a GPU's reads a state
// sooner than it comes to it again.
inline constexpr int64_t kSelectiveScanChunk = 64;
inline constexpr int64_t kSelectiveScanGpuSpacing = 4;

// Room for what forward saves of a scan like this one, on the arena's device; a plan counts a GPU's.
template <typename T>
SelectiveScanSaved<T> NewSelectiveScanSaved(Arena& arena, const SelectiveScanArgs<T>& args);

template <typename T>
void SelectiveScanForward(Arena& arena, const SelectiveScanArgs<T>& args);
template <typename T>
void SelectiveScanBackward(Arena& arena, const SelectiveScanGradArgs<T>& args);

}  // namespace hm11

#endif  // HM11_SCAN_SELECTIVE_SCAN_H_
