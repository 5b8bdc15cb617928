// The CUDA side of the MLP: the work between its products, with one of them or by itself.
#ifndef HM11_OPS_MLP_CUDA_H_
#define HM11_OPS_MLP_CUDA_H_

#include "core/device.h"
#include "ops/mlp.h"

namespace hm11::cuda {

// In place: activated = leaky_relu(activated)^2, and the signs if there is room for them.
template <typename T>
void SquareLeaky(const Device& device, Tensor<T> activated, Tensor<uint32_t> negative);

// In place: dh = da/dh dh.
template <typename T>
void TimesDerivative(const Device& device, Tensor<const T> activated, Tensor<const uint32_t> negative,
                     Tensor<T> dh);

// The product before and the above in one; false, with nothing done, where this GPU or these operands do not
// allow that.
bool TryProductThenSquare(const Device& device, const MlpArgs<Bf16>& args);
// activated8 and activated8t, or without the latter activated.
bool TryFp8ThenSquare(const Device& device, const MlpArgs<Bf16>& args);
// dh = da/dh (dy down), of another down than forward's; dh8 may be absent.
bool TryProductTimesDerivative(const Device& device, const MlpGradArgs<Bf16>& args, Tensor<const Bf16> down,
                               Tensor<Bf16> dh, Tensor<E5m2> dh8);
// Of dy8 and down8.
bool TryFp8TimesDerivative(const Device& device, const MlpGradArgs<Bf16>& args, Tensor<Bf16> dh,
                           Tensor<E5m2> dh8);
// Of dy8, down8 and activated8t; dh8t is transposed.
bool TryFp8TimesDerivative(const Device& device, const MlpGradArgs<Bf16>& args, Tensor<E5m2> dh8t,
                           Tensor<E5m2> dh8);

// Whether these kernels and the steps beside them (ops/residual_product.h) have such an MLP in 8 bits alone.
bool Fp8MlpServes(const Device& device, int64_t rows, int64_t dim, int64_t width);

}  // namespace hm11::cuda

#endif  // HM11_OPS_MLP_CUDA_H_
