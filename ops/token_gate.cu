// Token gate on a GPU, a team of warps a row; rows that do not fit teams go to a block each.
#include "core/launch.cuh"
#include "core/special_functions.cuh"
#include "ops/packs.cuh"
#include "ops/row_teams.cuh"
#include "ops/sums.h"
#include "ops/token_gate.h"

namespace hm11::cuda {
namespace {

constexpr int kWideThreads = 256;
constexpr int kBackwardBlocks = 6;  // on each multiprocessor

template <typename T>
struct Operands {
  int64_t rows;
  int dim;
  const T* u;
  const T* x;
  const float* weight;
  const float* bias;
  const T* dy;
  T* y;
  T* du;
  T* dx;
  float* partials;  // [blocks, dim], then [blocks]
};

template <typename T, int kWarps>
__global__ void __launch_bounds__(kTeamThreads) ForwardKernel(Operands<T> p) {
  using Team = Team<T, kWarps>;
  constexpr int N = Team::kSize;
  __shared__ float shared[kTeamThreads / 32];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * Team::kTeams + Team::Index();
  const bool active = row < p.rows;
  Pack<T, N> u[Team::kPacks] = {}, x[Team::kPacks] = {};
  float dot = 0;
#pragma unroll
  for (int k = 0; k < Team::kPacks; ++k) {
    const int column = Team::Column(k);
    if (!active || column >= p.dim) continue;
    u[k] = Fetch<N>(p.u + row * p.dim + column);
    x[k] = Fetch<N>(p.x + row * p.dim + column);
  }
#pragma unroll
  for (int k = 0; k < Team::kPacks; ++k) {
    const int column = Team::Column(k);
    if (!active || column >= p.dim) continue;
    float values[N], weight[N];
    Unpack(u[k], values);
    Load<N>(p.weight + column, weight);
#pragma unroll
    for (int i = 0; i < N; ++i) dot = fmaf(weight[i], values[i], dot);
  }
  const float g = Sigmoid(Team::Sum(dot, shared) + p.bias[0]);
#pragma unroll
  for (int k = 0; k < Team::kPacks; ++k) {
    const int column = Team::Column(k);
    if (!active || column >= p.dim) continue;
    float out[N], values[N];
    Unpack(u[k], out);
    Unpack(x[k], values);
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = fmaf(g, values[i] - out[i], out[i]);
    Store<N>(out, p.y + row * p.dim + column);
  }
}

// A thread's part of a row of the backward pass.
template <typename T, int kWarps>
struct HeldRow {
  using Team = Team<T, kWarps>;
  static constexpr int N = Team::kSize;
  Pack<T, N> u[Team::kPacks] = {}, x[Team::kPacks] = {}, dy[Team::kPacks] = {};

  __device__ __forceinline__ HeldRow(const Operands<T>& p, int64_t row, bool active) {
#pragma unroll
    for (int k = 0; k < Team::kPacks; ++k) {
      const int column = Team::Column(k);
      if (!active || column >= p.dim) continue;
      u[k] = Fetch<N>(p.u + row * p.dim + column);
      x[k] = Fetch<N>(p.x + row * p.dim + column);
      dy[k] = Fetch<N>(p.dy + row * p.dim + column);
    }
  }

  // Its terms of the gate's product and of the gate's gradient.
  __device__ __forceinline__ void AddTerms(const Operands<T>& p, bool active, float& dot, float& grad) const {
#pragma unroll
    for (int k = 0; k < Team::kPacks; ++k) {
      const int column = Team::Column(k);
      if (!active || column >= p.dim) continue;
      float u_values[N], x_values[N], dy_values[N], weight[N];
      Unpack(u[k], u_values);
      Unpack(x[k], x_values);
      Unpack(dy[k], dy_values);
      Load<N>(p.weight + column, weight);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        dot = fmaf(weight[i], u_values[i], dot);
        grad = fmaf(dy_values[i], x_values[i] - u_values[i], grad);
      }
    }
  }

  // Stores du and dx for gate g, and adds the weight's gradient, `grad` times u.
  __device__ __forceinline__ void Finish(const Operands<T>& p, int64_t row, bool active, float g, float grad,
                                         float (&weight_sums)[Team::kPacks][N]) const {
#pragma unroll
    for (int k = 0; k < Team::kPacks; ++k) {
      const int column = Team::Column(k);
      if (!active || column >= p.dim) continue;
      float values[N], du[N];
      Unpack(u[k], values);
#pragma unroll
      for (int i = 0; i < N; ++i) weight_sums[k][i] = fmaf(grad, values[i], weight_sums[k][i]);
      Unpack(dy[k], values);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        du[i] = (1 - g) * values[i];
        values[i] *= g;
      }
      Store<N>(du, p.du + row * p.dim + column);
      Store<N>(values, p.dx + row * p.dim + column);
    }
  }
};

// Blocks stay and stride over the rows; two sums over the row, one of the gate and one of its gradient.
template <typename T, int kWarps>
__global__ void __launch_bounds__(kTeamThreads) BackwardKernel(Operands<T> p) {
  using Team = Team<T, kWarps>;
  __shared__ __align__(16) float shared[Team::kTeams * Team::kColumns];
  float weight_sums[Team::kPacks][Team::kSize] = {};
  float bias_sum = 0;
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * Team::kTeams; base < p.rows;
       base += static_cast<int64_t>(gridDim.x) * Team::kTeams) {
    const int64_t row = base + Team::Index();
    const bool active = row < p.rows;
    const HeldRow<T, kWarps> held(p, row, active);
    float dot = 0, grad = 0;
    held.AddTerms(p, active, dot, grad);
    const float g = Sigmoid(Team::Sum(dot, shared) + p.bias[0]);
    grad = Team::Sum(grad, shared) * g * (1 - g);
    bias_sum += grad;
    held.Finish(p, row, active, g, grad, weight_sums);
  }
  Team::StoreSums(weight_sums, shared, p.dim, p.partials + static_cast<int64_t>(blockIdx.x) * p.dim);
  __syncthreads();
  if (Team::Lane() == 0) shared[Team::Index()] = bias_sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  float sum = 0;
  for (int team = 0; team < Team::kTeams; ++team) sum += shared[team];
  p.partials[static_cast<int64_t>(gridDim.x) * p.dim + blockIdx.x] = sum;
}

// Any dim, any alignment: a block a row.
template <typename T>
__device__ float WideGate(const Operands<T>& p, int64_t start, float* shared) {
  float dot = 0;
  for (int column = threadIdx.x; column < p.dim; column += kWideThreads) {
    dot = fmaf(p.weight[column], static_cast<float>(p.u[start + column]), dot);
  }
  return Sigmoid(BlockSum<kWideThreads>(dot, shared) + p.bias[0]);
}

template <typename T>
__global__ void __launch_bounds__(kWideThreads) WideForwardKernel(Operands<T> p) {
  __shared__ float shared[32];
  const int64_t start = static_cast<int64_t>(blockIdx.x) * p.dim;
  const float g = WideGate(p, start, shared);
  for (int column = threadIdx.x; column < p.dim; column += kWideThreads) {
    const float u = static_cast<float>(p.u[start + column]);
    p.y[start + column] = static_cast<T>(fmaf(g, static_cast<float>(p.x[start + column]) - u, u));
  }
}

// Sums over rows stay in the block's partials in memory, where each thread has its columns.
template <typename T>
__global__ void __launch_bounds__(kWideThreads) WideBackwardKernel(Operands<T> p) {
  __shared__ float shared[32];
  float* const sums = p.partials + static_cast<int64_t>(blockIdx.x) * p.dim;
  for (int column = threadIdx.x; column < p.dim; column += kWideThreads) sums[column] = 0;
  float bias_sum = 0;
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const int64_t start = row * p.dim;
    const float g = WideGate(p, start, shared);
    float grad = 0;
    for (int column = threadIdx.x; column < p.dim; column += kWideThreads) {
      const float difference =
          static_cast<float>(p.x[start + column]) - static_cast<float>(p.u[start + column]);
      grad = fmaf(static_cast<float>(p.dy[start + column]), difference, grad);
    }
    grad = BlockSum<kWideThreads>(grad, shared) * g * (1 - g);
    bias_sum += grad;
    for (int column = threadIdx.x; column < p.dim; column += kWideThreads) {
      sums[column] = fmaf(grad, static_cast<float>(p.u[start + column]), sums[column]);
      const float dy = static_cast<float>(p.dy[start + column]);
      p.du[start + column] = static_cast<T>((1 - g) * dy);
      p.dx[start + column] = static_cast<T>(g * dy);
    }
  }
  if (threadIdx.x == 0) p.partials[static_cast<int64_t>(gridDim.x) * p.dim + blockIdx.x] = bias_sum;
}

template <typename T>
bool UsesTeams(const Operands<T>& p) {
  return FitsTeams<T>(p.dim) && AllAligned(p.u, p.x, p.weight, p.dy, p.y, p.du, p.dx);
}

}  // namespace

template <typename T>
void TokenGateForward(const Device& device, const TokenGateArgs<T>& a) {
  const Operands<T> p = {.rows = a.u.dim(0),
                         .dim = static_cast<int>(a.u.dim(1)),
                         .u = a.u.data(),
                         .x = a.x.data(),
                         .weight = a.weight.data(),
                         .bias = a.bias.data(),
                         .y = a.y.data()};
  if (!UsesTeams(p)) {
    return Launch(device, {.blocks = static_cast<unsigned>(p.rows), .threads = kWideThreads},
                  WideForwardKernel<T>, p);
  }
  WithTeamWarps(p.dim, [&](auto warps) {
    const int64_t blocks = CeilDiv<int64_t>(p.rows, 4 / warps);
    Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kTeamThreads},
           ForwardKernel<T, warps>, p);
  });
}

template <typename T>
void TokenGateBackward(const Device& device, const TokenGateGradArgs<T>& a, Tensor<float> partials) {
  const Operands<T> p = {.rows = a.u.dim(0),
                         .dim = static_cast<int>(a.u.dim(1)),
                         .u = a.u.data(),
                         .x = a.x.data(),
                         .weight = a.weight.data(),
                         .bias = a.bias.data(),
                         .dy = a.dy.data(),
                         .du = a.du.data(),
                         .dx = a.dx.data(),
                         .partials = partials.data()};
  int64_t blocks = 0;
  if (UsesTeams(p)) {
    WithTeamWarps(p.dim, [&](auto warps) {
      blocks = PartialBlocks(device, p.rows, 4 / warps, kBackwardBlocks);
      Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kTeamThreads},
             BackwardKernel<T, warps>, p);
    });
  } else {
    blocks = PartialBlocks(device, p.rows, 1, 4);
    Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kWideThreads}, WideBackwardKernel<T>,
           p);
  }
  AddColumnSums(device, p.partials, blocks, 1, p.dim, {GroupDestination{a.dweight.data()}});
  AddColumnSums(device, p.partials + blocks * p.dim, blocks, 1, 1, {GroupDestination{a.dbias.data()}});
}

template void TokenGateForward<float>(const Device&, const TokenGateArgs<float>&);
template void TokenGateForward<Bf16>(const Device&, const TokenGateArgs<Bf16>&);
template void TokenGateBackward<float>(const Device&, const TokenGateGradArgs<float>&, Tensor<float>);
template void TokenGateBackward<Bf16>(const Device&, const TokenGateGradArgs<Bf16>&, Tensor<float>);

}  // namespace hm11::cuda
