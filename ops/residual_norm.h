// One step of the residual stream, fused: add a scaled branch and a U-Net skip, mix with x0, then RMS norm.
//
//   y      = x + branch_scale * branch + skip_weight * skip       (per channel; absent terms are left out)
//   u      = mix[0] * y + mix[1] * x0                             (u = y without x0)
//   rstd   = 1 / sqrt(mean(u^2) + 1e-6)
//   normed = norm_scale * u * rstd
#ifndef HM11_OPS_RESIDUAL_NORM_H_
#define HM11_OPS_RESIDUAL_NORM_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"

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

  Tensor<T> y;            // [rows, dim]; out; may be absent, but backward needs it when x0 is there
  Tensor<T> u;            // [rows, dim]; out; may be absent when x0 is (then y holds it)
  Tensor<T> normed;       // [rows, dim]; out; may be absent: then nothing is normed
  Tensor<Accum<T>> rstd;  // [rows]; out; present with normed
};

template <typename T>
struct ResidualNormGradArgs {
  ResidualNormArgs<T> forward;     // forward's operands and results (x itself is not read)
  Tensor<const T> dnormed;         // [rows, dim], absent with normed
  Tensor<const T> du;              // [rows, dim]: what reaches u past the norm; may be absent
  Tensor<const T> dy;              // [rows, dim]: what reaches y past u; may be absent
  Tensor<T> dx;                    // [rows, dim]; may be the same memory as du or dy
  Tensor<T> dbranch;               // [rows, dim], absent with branch
  Tensor<T> dskip;                 // [rows, dim], absent with skip
  Tensor<T> dx0;                   // [rows, dim], absent with x0; ADDS, as every layer reaches x0
  Tensor<Accum<T>> dbranch_scale;  // adds
  Tensor<Accum<T>> dskip_weight;   // adds
  Tensor<Accum<T>> dmix;           // adds
};

template <typename T>
void ResidualNormForward(Arena& arena, const ResidualNormArgs<T>& args);
template <typename T>
void ResidualNormBackward(Arena& arena, const ResidualNormGradArgs<T>& args);

}  // namespace hm11

#endif  // HM11_OPS_RESIDUAL_NORM_H_
