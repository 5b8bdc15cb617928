// Head gate on a GPU: a group of neighbouring lanes, a pack each, has one head of one row.
#include <algorithm>
#include <bit>
#include <numeric>

#include "core/launch.cuh"
#include "core/special_functions.cuh"
#include "ops/head_gate.h"
#include "ops/packs.cuh"
#include "ops/sums.h"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 8;  // on each multiprocessor

struct Layout {
  int64_t items;  // rows * heads
  int heads;
  int head_dim;
  int lanes;  // a group: a power of two, at most a warp
};

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    ForwardKernel(Layout layout, const T* x, const T* gate, const float* bias, T* y) {
  const int64_t item = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / layout.lanes;
  if (item >= layout.items) return;
  const float g = Sigmoid(static_cast<float>(gate[item]) + bias[item % layout.heads]);
  for (int d = threadIdx.x % layout.lanes * N; d < layout.head_dim; d += layout.lanes * N) {
    float values[N];
    Load<N>(x + item * layout.head_dim + d, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] *= g;
    Store<N>(values, y + item * layout.head_dim + d);
  }
}

// Blocks stay and stride over the items; the number of groups in the grid is a multiple of the heads, so that
// a group meets one head only and keeps its sum for dbias in a register. At the end the block's groups are
// added by head, in order, to the block's partial sums.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    BackwardKernel(Layout layout, const T* x, const T* gate, const float* bias, const T* dy, T* dx, T* dgate,
                   float* partials) {
  __shared__ float shared[kThreads];
  const int groups = kThreads / layout.lanes;
  const int group = threadIdx.x / layout.lanes;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * groups;
  const int head = static_cast<int>((first + group) % layout.heads);
  float sum = 0;
  for (int64_t base = first; base < layout.items; base += static_cast<int64_t>(gridDim.x) * groups) {
    const int64_t item = base + group;
    const bool active = item < layout.items;
    const float g = active ? Sigmoid(static_cast<float>(gate[item]) + bias[head]) : 0;
    float dot = 0;
    for (int d = threadIdx.x % layout.lanes * N; active && d < layout.head_dim; d += layout.lanes * N) {
      float values[N], grads[N];
      Load<N>(x + item * layout.head_dim + d, values);
      Load<N>(dy + item * layout.head_dim + d, grads);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        dot = fmaf(values[i], grads[i], dot);
        grads[i] *= g;
      }
      Store<N>(grads, dx + item * layout.head_dim + d);
    }
    for (int offset = layout.lanes / 2; offset > 0; offset /= 2)
      dot += __shfl_xor_sync(0xffffffffu, dot, offset);
    dot *= g * (1 - g);
    if (active && threadIdx.x % layout.lanes == 0) dgate[item] = static_cast<T>(dot);
    sum += dot;
  }
  if (threadIdx.x % layout.lanes == 0) shared[group] = sum;
  __syncthreads();
  for (int h = threadIdx.x; h < layout.heads; h += kThreads) {
    float total = 0;
    const int first_group = static_cast<int>((h + layout.heads - first % layout.heads) % layout.heads);
    for (int i = first_group; i < groups; i += layout.heads) total += shared[i];
    partials[static_cast<int64_t>(blockIdx.x) * layout.heads + h] = total;
  }
}

// Groups of as many lanes as a head has packs, where that is a power of two; else of whole warps. A lane may
// take several packs.
template <typename T>
Layout MakeLayout(const Tensor<const T>& x, int pack) {
  const auto packs = static_cast<unsigned>(std::max<int64_t>(1, x.dim(2) / pack));
  return {.items = x.dim(0) * x.dim(1),
          .heads = static_cast<int>(x.dim(1)),
          .head_dim = static_cast<int>(x.dim(2)),
          .lanes = packs <= 32 && std::has_single_bit(packs) ? static_cast<int>(packs) : 32};
}

}  // namespace

template <typename T>
void HeadGateForward(const Device& device, const HeadGateArgs<T>& a) {
  const bool packed = a.x.dim(2) % kPackSize<T> == 0 && AllAligned(a.x.data(), a.y.data());
  const Layout layout = MakeLayout(a.x, packed ? kPackSize<T> : 1);
  const int64_t blocks = CeilDiv<int64_t>(layout.items * layout.lanes, kThreads);
  Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kThreads},
         packed ? ForwardKernel<T, kPackSize<T>> : ForwardKernel<T, 1>, layout, a.x.data(), a.gate.data(),
         a.bias.data(), a.y.data());
}

template <typename T>
void HeadGateBackward(const Device& device, const HeadGateGradArgs<T>& a, Tensor<float> partials) {
  const bool packed = a.x.dim(2) % kPackSize<T> == 0 && AllAligned(a.x.data(), a.dy.data(), a.dx.data());
  const Layout layout = MakeLayout(a.x, packed ? kPackSize<T> : 1);
  const int64_t groups = kThreads / layout.lanes;
  const int64_t multiple = layout.heads / std::gcd<int64_t>(layout.heads, groups);
  const int64_t wanted = PartialBlocks(device, layout.items, groups, kBlocks);
  const int64_t blocks = std::min(CeilDiv(wanted, multiple), kMaxPartials / multiple) * multiple;
  Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kThreads},
         packed ? BackwardKernel<T, kPackSize<T>> : BackwardKernel<T, 1>, layout, a.x.data(), a.gate.data(),
         a.bias.data(), a.dy.data(), a.dx.data(), a.dgate.data(), partials.data());
  AddColumnSums(device, partials.data(), blocks, 1, layout.heads, {GroupDestination{a.dbias.data()}});
}

template void HeadGateForward<float>(const Device&, const HeadGateArgs<float>&);
template void HeadGateForward<Bf16>(const Device&, const HeadGateArgs<Bf16>&);
template void HeadGateBackward<float>(const Device&, const HeadGateGradArgs<float>&, Tensor<float>);
template void HeadGateBackward<Bf16>(const Device&, const HeadGateGradArgs<Bf16>&, Tensor<float>);

}  // namespace hm11::cuda
