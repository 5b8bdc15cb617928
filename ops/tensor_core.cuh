// The instructions that attention's kernels are made of: asynchronous copies into shared memory, 8x8 matrix
// loads, and 16x8x16 bf16 matrix products of one warp. All sm_80.
//
// Fragments of a 16x8x16 product c += a b, lane = 4 g + t of the warp:
//   a[0] rows g, k 2t, 2t+1; a[1] row g+8; a[2] row g, k 2t+8, 2t+9; a[3] row g+8, the same k
//   b[0] k 2t, 2t+1, column g; b[1] k 2t+8, 2t+9
//   c[0], c[1] row g, columns 2t, 2t+1; c[2], c[3] row g+8
// Accumulators of two neighbouring 16x8 tiles, rounded to pairs, are thus the a of a product over their 16
// columns: how probabilities go from one product into the next without leaving registers.
#ifndef HM11_OPS_TENSOR_CORE_CUH_
#define HM11_OPS_TENSOR_CORE_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace hm11::cuda {

// The block's dynamic shared memory, from its start.
__device__ __forceinline__ char* DynamicShared() {
  extern __shared__ __align__(1024) char memory[];
  return memory;
}

__device__ __forceinline__ uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// 16 (or 4) bytes from global memory, or zeros when not `valid` (the address must be one that exists all the
// same).
__device__ __forceinline__ void CopyAsync16(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0));
}
__device__ __forceinline__ void CopyAsync4(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid ? 4 : 0));
}
__device__ __forceinline__ void CommitCopies() { asm volatile("cp.async.commit_group;"); }
// Until at most `kPending` of this thread's latest groups of copies are under way.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8x8 matrices of 16-bit numbers; lanes 8i..8i+7 give the addresses of the rows of matrix i. A lane gets
// two neighbours of row g (of column g when transposed) of each.
__device__ __forceinline__ void LoadMatrices(uint32_t (&to)[4], uint32_t row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row_address));
}
__device__ __forceinline__ void LoadMatricesTransposed(uint32_t (&to)[4], uint32_t row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row_address));
}

__device__ __forceinline__ void MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two numbers rounded to bf16, the first in the low half.
__device__ __forceinline__ uint32_t PackBf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ float LowOf(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float HighOf(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

}  // namespace hm11::cuda

#endif  // HM11_OPS_TENSOR_CORE_CUH_
