// One step of the residual stream, fused: add a scaled branch and a U-Net skip, mix with x0, then RMS norm.
//
//   y      = x + branch_scale * branch + skip_weight * skip       (per channel; absent terms are left out)
//   u      = mix[0] * y + mix[1] * x0                             (u = y without x0)
//   rstd   = 1 / sqrt(mean(u^2) + 1e-6)
//   normed = norm_scale * u * rstd
//
// Properties
//   1. A row's results depend on that row alone.
//   2. Every row of normed has root mean square norm_scale (rows of u far above 1e-3, that is).
//   3. Scaling u by a positive number leaves normed as it is (for the same rows).
//   4. Absent terms are the same as zero ones: branch, skip and du, dy; and mix = (1, 0) is the same as no
//      x0.
//   5. Forward's outputs share no memory with its inputs. Backward's dx may be du or dy.
//   6. Where x0 is x its gradient may be dx, and where skip is x (then not x0 too): dx holds the sum.
// Determinism: bits repeat; on a GPU, those of the gradients that add are for one model of GPU.
// Cost: each operand is read once and each result written once, in both directions; backward reads y and x0
// where x0 is there, and u otherwise. About 10 operations an element forward, 25 backward.
// Source: Zhang & Sennrich 2019 (arXiv 1910.07467), without a weight.
#ifndef HM11_OPS_RESIDUAL_NORM_H_
#define HM11_OPS_RESIDUAL_NORM_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "ops/fp8.h"

namespace hm11 {

template <typename T>
struct ResidualNormArgs {
  Tensor<const T> x;                    // [rows, dim]
  Tensor<const T> branch;               // [rows, dim], may be absent
  Tensor<const Accum<T>> branch_scale;  // [dim], or [1] for one scalar; present with branch
  Tensor<const T> skip;                 // [rows, dim], may be absent
  Tensor<const Accum<T>> skip_weight;   // [dim], present with skip
  Tensor<const T> x0;                   // [rows, dim], may be absent
  Tensor<const Accum<T>> mix;           // [2, dim], present with x0
  Accum<T> norm_scale = 1;

  Tensor<T> y;                // [rows, dim]; out; may be absent, but backward needs it when x0 is there
  Tensor<T> u;                // [rows, dim]; out; may be absent when x0 is (then y holds it)
  Tensor<T> normed;           // [rows, dim]; out; may be absent: then nothing is normed
  Tensor<Accum<T>> rstd;      // [rows]; out; present with normed
  Tensor<E4m3> normed8 = {};  // [rows, dim]; out; normed in 8 bits (ops/fp8.h), may be absent; of Bf16 alone
};

template <typename T>
struct ResidualNormGradArgs {
  ResidualNormArgs<T> forward;     // forward's operands and results (x is read only where it is u, unkept)
  Tensor<const T> dnormed;         // [rows, dim], absent with normed
  Tensor<const T> du;              // [rows, dim]: what reaches u past the norm; may be absent
  Tensor<const T> dy;              // [rows, dim]: what reaches y past u; may be absent
  Tensor<T> dx;                    // [rows, dim]; may be the same memory as du or dy
  Tensor<E5m2> dx8 = {};           // [rows, dim]; dx in 8 bits, may be absent; of Bf16 alone
  Tensor<T> dbranch;               // [rows, dim], absent with branch
  Tensor<T> dskip;                 // [rows, dim], absent with skip
  Tensor<T> dx0;                   // [rows, dim], absent with x0; ADDS, as every layer reaches x0
  bool begins_dx0 = false;         // dx0 is overwritten: nothing has reached x0 before
  Tensor<Accum<T>> dbranch_scale;  // the shape of branch_scale; adds
  Tensor<Accum<T>> dskip_weight;   // [dim]; adds
  Tensor<Accum<T>> dmix;           // [2, dim]; adds
};

template <typename T>
void ResidualNormForward(Arena& arena, const ResidualNormArgs<T>& args);
template <typename T>
void ResidualNormBackward(Arena& arena, const ResidualNormGradArgs<T>& args);

inline constexpr double kNormEpsilon = 1e-6;

// What backward sums over rows, each [dim]: the order of partial sums.
enum ResidualNormGroup { kBranchScaleGroup, kSkipWeightGroup, kMix0Group, kMix1Group, kResidualNormGroups };

namespace cuda {
template <typename T>
void ResidualNormForward(const Device& device, const ResidualNormArgs<T>& args);
// partials: NewPartials(rows, kResidualNormGroups * dim).
template <typename T>
void ResidualNormBackward(const Device& device, const ResidualNormGradArgs<T>& args, Tensor<float> partials);
}  // namespace cuda

}  // namespace hm11

#endif  // HM11_OPS_RESIDUAL_NORM_H_
