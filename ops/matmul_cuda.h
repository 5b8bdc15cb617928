// The CUDA side of matmul: products by cuBLASLt, and the choice of its kernels.
#ifndef HM11_OPS_MATMUL_CUDA_H_
#define HM11_OPS_MATMUL_CUDA_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/device.h"
#include "ops/product.h"

namespace hm11::cuda {

// (T, C) is (float, float), (Bf16, Bf16) or (Bf16, float); sums are float.
template <typename T, typename C>
void Multiply(const Device& device, const Product<T, C>& product);

void TuneMatmuls(const Device& device, bool on);
std::string MatmulTuning(const Device& device);
absl::Status SetMatmulTuning(const Device& device, absl::string_view text);

}  // namespace hm11::cuda

#endif  // HM11_OPS_MATMUL_CUDA_H_
