// The CUDA side of matmul: products by cuBLASLt, and the choice of its kernels.
#ifndef HM11_OPS_MATMUL_CUDA_H_
#define HM11_OPS_MATMUL_CUDA_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/device.h"
#include "ops/fp8.h"
#include "ops/product.h"

namespace hm11::cuda {

// (T, C) is (float, float), (Bf16, Bf16), (Bf16, float), (E4m3, Bf16), or (E5m2, float) with a b of E4m3. Products of 8
// bits are of a transposed b and of sizes that are multiples of 16. Sums are float.
template <typename T, typename C, typename B>
void Multiply(const Device& device, const Product<T, C, B>& product);

void TuneMatmuls(const Device& device, bool on);
std::string MatmulTuning(const Device& device);
absl::Status SetMatmulTuning(const Device& device, absl::string_view text);

}  // namespace hm11::cuda

#endif  // HM11_OPS_MATMUL_CUDA_H_
