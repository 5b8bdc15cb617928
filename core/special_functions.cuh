// What the special-function units of a GPU give, at a quarter of the rate of an addition, and what is made of it.
#ifndef HM11_CORE_SPECIAL_FUNCTIONS_CUH_
#define HM11_CORE_SPECIAL_FUNCTIONS_CUH_

namespace hm11::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;

// 2^x, about two units of the last place off. Results under 2^-126 are 0, that of minus infinity too.
__device__ __forceinline__ float Exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// tanh within 2^-11 of itself.
__device__ __forceinline__ float CoarseTanh(float x) {
  float result;
  asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

__device__ __forceinline__ float Reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// 1 / (1 + exp(-x)) to a few units of float's last place. Four instructions: where exp(-x) is too small or too
// large for a float the result is 1 or 0 as well, so that nothing looks for that.
__device__ __forceinline__ float Sigmoid(float x) { return Reciprocal(1.0f + Exp2(-kLog2E * x)); }

}  // namespace hm11::cuda

#endif  // HM11_CORE_SPECIAL_FUNCTIONS_CUH_
