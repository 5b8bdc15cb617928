// The residual stream's elementwise work inside the products beside it: what ops/row_product.cuh is given.
#ifndef HM11_OPS_RESIDUAL_PRODUCT_CUH_
#define HM11_OPS_RESIDUAL_PRODUCT_CUH_

#include <type_traits>

#include "ops/fp8.cuh"
#include "ops/residual_norm.h"
#include "ops/row_product.cuh"

namespace hm11::cuda::rows {

__device__ __forceinline__ float2 TwoFrom(const float* from) {
  return __ldg(reinterpret_cast<const float2*>(from));
}

// The sums are the branch of a residual step. Reads x, skip (with kSkip), x0 (with kMix); results y, u (with
// kMix), normed (with kNorm).
template <bool kSkip, bool kMix, bool kNorm>
struct ResidualStep {
  static constexpr bool kSumsRows = kNorm;
  const float* branch_scale;
  const float* skip_weight;
  const float* mix0;
  const float* mix1;
  float norm_scale;
  float* rstd;
  E4m3* normed8;  // in 8 bits too, unless null
  int rows, cols;
  float sums[2];
  float scale[2];

  __device__ __forceinline__ void Begin(const Sizes&, int) { sums[0] = sums[1] = 0; }
  __device__ __forceinline__ void Between(const Sizes& sizes, int row, bool stores) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float r = rsqrtf(sums[half] / static_cast<float>(sizes.cols) + static_cast<float>(kNormEpsilon));
      if (stores && row + 8 * half < sizes.rows) rstd[row + 8 * half] = r;
      scale[half] = norm_scale * r;
    }
  }
  __device__ __forceinline__ void End(int row, int col, const Sums& c) const {
    if (normed8 == nullptr) return;
    const float factors[2] = {kNormedFactor * scale[0], kNormedFactor * scale[1]};
    StoreSumsFp8<kColTiles>(c, factors, row, rows, col, cols, normed8);
  }

  // Sums become u.
  struct AddUp {
    static constexpr int kReads = 1 + kSkip + kMix, kResults = 1 + kMix, kFirstResult = 0;
    static constexpr int PlaceOf(int result) { return result == 0 ? 0 : kReads - 1; }

    float2 branch, skip, mix0, mix1;
    __device__ __forceinline__ static AddUp Factors(const ResidualStep& e, int col) {
      AddUp factors = {};
      factors.branch = TwoFrom(e.branch_scale + col);
      if constexpr (kSkip) factors.skip = TwoFrom(e.skip_weight + col);
      if constexpr (kMix) factors.mix0 = TwoFrom(e.mix0 + col);
      if constexpr (kMix) factors.mix1 = TwoFrom(e.mix1 + col);
      return factors;
    }
    __device__ __forceinline__ static void Apply(ResidualStep& e, const AddUp& factors, int half, float& a,
                                                 float& b, uint32_t (&reads)[kMaxReads]) {
      a = fmaf(factors.branch.x, a, LowOf(reads[0]));
      b = fmaf(factors.branch.y, b, HighOf(reads[0]));
      if constexpr (kSkip) {
        a = fmaf(factors.skip.x, LowOf(reads[1]), a);
        b = fmaf(factors.skip.y, HighOf(reads[1]), b);
      }
      reads[0] = PackBf16(a, b);
      if constexpr (kMix) {
        a = fmaf(factors.mix1.x, LowOf(reads[kReads - 1]), factors.mix0.x * a);
        b = fmaf(factors.mix1.y, HighOf(reads[kReads - 1]), factors.mix0.y * b);
        reads[kReads - 1] = PackBf16(a, b);
      }
      e.sums[half] = fmaf(a, a, fmaf(b, b, e.sums[half]));
    }
  };
  struct Norm {
    static constexpr int kReads = 0, kResults = 1, kFirstResult = 1 + kMix;
    static constexpr int PlaceOf(int) { return 0; }
    __device__ __forceinline__ static Norm Factors(const ResidualStep&, int) { return {}; }
    __device__ __forceinline__ static void Apply(const ResidualStep& e, const Norm&, int half, float a,
                                                 float b, uint32_t (&reads)[kMaxReads]) {
      reads[0] = PackBf16(e.scale[half] * a, e.scale[half] * b);
    }
  };
  template <int kPass>
  using Pass = std::conditional_t<kPass == 0, AddUp, Norm>;
};

// The sums are the gradient g of what a step of x alone normed. Reads u and du; the result is
// dx = du + norm_scale rstd (g - shrink u).
struct NormGradient {
  static constexpr bool kSumsRows = true;
  float norm_scale;
  const float* rstd;
  float sums[2];    // of g u
  float scale[2];   // norm_scale rstd
  float shrink[2];  // rstd; then what multiplies u

  __device__ __forceinline__ void Begin(const Sizes& sizes, int row) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sums[half] = 0;
      shrink[half] = row + 8 * half < sizes.rows ? rstd[row + 8 * half] : 0;
      scale[half] = norm_scale * shrink[half];
    }
  }
  __device__ __forceinline__ void Between(const Sizes& sizes, int, bool) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      shrink[half] *= scale[half] * shrink[half] * sums[half] / static_cast<float>(sizes.cols);
    }
  }
  __device__ __forceinline__ void End(int, int, const Sums&) const {}

  struct First {
    static constexpr int kReads = 2, kResults = 0, kFirstResult = 0;
    static constexpr int PlaceOf(int) { return 0; }
    __device__ __forceinline__ static First Factors(const NormGradient&, int) { return {}; }
    __device__ __forceinline__ static void Apply(NormGradient& e, const First&, int half, float& a, float& b,
                                                 uint32_t (&reads)[kMaxReads]) {
      e.sums[half] = fmaf(a, LowOf(reads[0]), fmaf(b, HighOf(reads[0]), e.sums[half]));
      a = fmaf(e.scale[half], a, LowOf(reads[1]));
      b = fmaf(e.scale[half], b, HighOf(reads[1]));
    }
  };
  struct Second {
    static constexpr int kReads = 1, kResults = 1, kFirstResult = 0;
    static constexpr int PlaceOf(int) { return 0; }
    __device__ __forceinline__ static Second Factors(const NormGradient&, int) { return {}; }
    __device__ __forceinline__ static void Apply(const NormGradient& e, const Second&, int half, float a,
                                                 float b, uint32_t (&reads)[kMaxReads]) {
      reads[0] =
          PackBf16(fmaf(-e.shrink[half], LowOf(reads[0]), a), fmaf(-e.shrink[half], HighOf(reads[0]), b));
    }
  };
  template <int kPass>
  using Pass = std::conditional_t<kPass == 0, First, Second>;
};

}  // namespace hm11::cuda::rows

#endif  // HM11_OPS_RESIDUAL_PRODUCT_CUH_
