// MapElements: out[i] = f(a[i], b[i]) over flat arrays on a GPU, in 16-byte accesses where addresses allow.
//
// A thread has two packs of each input on their way before it uses the first, so that some 30 KB and more are
// in flight on each multiprocessor: enough for full bandwidth. The last few numbers go one by one, as do all
// those of arrays that begin inside a pack.
#ifndef HM11_OPS_ELEMENTWISE_CUH_
#define HM11_OPS_ELEMENTWISE_CUH_

#include <algorithm>
#include <cstdint>

#include "core/device.h"
#include "core/launch.cuh"
#include "ops/packs.cuh"

namespace hm11::cuda {

namespace elementwise_internal {

constexpr int kThreads = 256;
constexpr int kPacks = 2;

template <int N>
constexpr int64_t BlockSize() {
  return int64_t{kThreads} * kPacks * N;
}

template <int N, typename A, typename B, typename Out, typename F>
__global__ void __launch_bounds__(kThreads)
    MapKernel(int64_t size, F function, const A* a, const B* b, Out* out) {
  const int64_t begin = blockIdx.x * BlockSize<N>();
  if (begin + BlockSize<N>() > size) {
    for (int64_t i = begin + threadIdx.x; i < size; i += kThreads) {
      const float result = function(static_cast<float>(a[i]), b == nullptr ? 0.0f : static_cast<float>(b[i]));
      out[i] = static_cast<Out>(result);
    }
    return;
  }
  Pack<A, N> packs_a[kPacks];
  Pack<B, N> packs_b[kPacks] = {};
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int64_t at = begin + (k * kThreads + threadIdx.x) * N;
    packs_a[k] = Fetch<N>(a + at);
    if (b != nullptr) packs_b[k] = Fetch<N>(b + at);
  }
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    float values_a[N], values_b[N];
    Unpack(packs_a[k], values_a);
    Unpack(packs_b[k], values_b);
#pragma unroll
    for (int i = 0; i < N; ++i) values_a[i] = function(values_a[i], values_b[i]);
    Store<N>(values_a, out + begin + (k * kThreads + threadIdx.x) * N);
  }
}

}  // namespace elementwise_internal

// `function` is called with (a, b) in float on the GPU, with b = 0 where `b` is null. `out` may be the memory
// of `a` or `b` where the types are the same.
template <typename A, typename B, typename Out, typename F>
void MapElements(const Device& device, int64_t size, F function, const A* a, const B* b, Out* out) {
  using elementwise_internal::BlockSize;
  using elementwise_internal::kThreads;
  using elementwise_internal::MapKernel;
  constexpr int kPack = std::max({kPackSize<A>, kPackSize<B>, kPackSize<Out>});
  if (AllAligned(a, b, out)) {
    Launch(device, {.blocks = static_cast<unsigned>(CeilDiv(size, BlockSize<kPack>())), .threads = kThreads},
           MapKernel<kPack, A, B, Out, F>, size, function, a, b, out);
  } else {
    Launch(device, {.blocks = static_cast<unsigned>(CeilDiv(size, BlockSize<1>())), .threads = kThreads},
           MapKernel<1, A, B, Out, F>, size, function, a, b, out);
  }
}

}  // namespace hm11::cuda

#endif  // HM11_OPS_ELEMENTWISE_CUH_
