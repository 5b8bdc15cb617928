// What the kernels of residual norm read and write, and how they are started for rows of any size.
#ifndef HM11_OPS_RESIDUAL_NORM_KERNELS_CUH_
#define HM11_OPS_RESIDUAL_NORM_KERNELS_CUH_

#include <cstdint>

#include "core/device.h"
#include "ops/fp8.h"

namespace hm11::cuda {

// What both directions read. Pointers of absent operands are null, here and below.
template <typename T>
struct ResidualNormTerms {
  int64_t rows;
  int dim;
  float norm_scale;
  bool scalar_branch_scale;
  const T* x;  // backward: what was normed (u), or, with x0, y, of which u is computed again
  const T* branch;
  const T* skip;
  const T* x0;
  const float* branch_scale;
  const float* skip_weight;
  const float* mix0;
  const float* mix1;
};

template <typename T>
struct ResidualNormOperands : ResidualNormTerms<T> {
  T* y;
  T* u;
  T* normed;
  E4m3* normed8;
  float* rstd;
};

template <typename T>
struct ResidualNormGradOperands : ResidualNormTerms<T> {
  const float* rstd;
  const T* dnormed;
  const T* du;
  const T* dy;
  T* dx;
  E5m2* dx8;  // rows of factor8 * dx
  float factor8;
  T* dbranch;
  T* dskip;
  T* dx0;
  bool begins_dx0;
  float* partials;  // [blocks, kResidualNormGroups, dim]; of a scalar branch_scale: one number a group
};

// In residual_norm_wide.cu: rows of any size and alignment, a block each. Backward returns how many blocks
// left a partial sum.
template <typename T>
void WideResidualNormForward(const Device& device, const ResidualNormOperands<T>& operands);
template <typename T>
int64_t WideResidualNormBackward(const Device& device, const ResidualNormGradOperands<T>& operands);

}  // namespace hm11::cuda

#endif  // HM11_OPS_RESIDUAL_NORM_KERNELS_CUH_
