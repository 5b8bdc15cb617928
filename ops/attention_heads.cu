// From one projection to heads on a GPU: a warp a row and head; each row of the projection is read once, and
// each head written once.
//
// A pair of channels that is rotated lies in two lanes: the other channel is read again, from the first-level
// cache. Cosines and sines come from a table made by a kernel of its own, some hundred kilobytes that stay in
// the cache.
#include "core/launch.cuh"
#include "ops/attention_heads.h"
#include "ops/packs.cuh"
#include "ops/sums.h"

namespace hm11::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kMaxWidth = 128;
constexpr float kEpsilon = 1e-6f;

struct Sizes {
  int64_t rows;
  int64_t time;
  int heads, kv_heads, width, pairs;
  __device__ __host__ int slots() const { return heads + 2 * kv_heads; }
  __device__ __host__ int64_t stride() const { return static_cast<int64_t>(slots()) * width; }
};

__global__ void AnglesKernel(int64_t time, int pairs, double base, float* angles) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= time * pairs) return;
  // Rounded to float where the reference rounds: the frequency, and its product with the position.
  const float frequency = static_cast<float>(1.0 / pow(base, static_cast<double>(i % pairs) / pairs));
  const float angle = static_cast<float>(i / pairs) * frequency;
  angles[2 * i] = cosf(angle);
  angles[2 * i + 1] = sinf(angle);
}

// The rotation of channel `column`: own * value + other * the value of channel `partner`.
struct Rotation {
  float own = 1, other = 0;
  int partner = 0;

  __device__ Rotation(const float* angles, int64_t position, int pairs, int column) {
    if (column >= 2 * pairs) return;
    const bool first = column < pairs;
    const float* angle = angles + (position * pairs + (first ? column : column - pairs)) * 2;
    own = angle[0];
    other = first ? angle[1] : -angle[1];
    partner = first ? column + pairs : column - pairs;
  }
};

template <typename T>
struct ForwardOperands {
  Sizes n;
  const T* qkv;
  const float* q_gain;
  const float* angles;
  const T* value_embedding;
  const float* ve_layer_scale;
  const float* ve_scale;
  const T* first_v;
  const float* residual;
  T* q;
  T* k;
  T* v;
};

template <typename T, int N>
__global__ void ForwardKernel(ForwardOperands<T> p) {
  constexpr int kPacks = kMaxWidth / (32 * N);
  const Sizes& n = p.n;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (item >= n.rows * n.slots()) return;
  const int lane = threadIdx.x % 32, slot = static_cast<int>(item % n.slots());
  const int64_t row = item / n.slots();
  const T* x = p.qkv + item * n.width;  // Slots lie side by side in a row, rows one after the other.
  float values[kPacks][N];
  float squares = 0;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = (k * 32 + lane) * N;
    if (column >= n.width) continue;
    Load<N>(x + column, values[k]);
#pragma unroll
    for (int i = 0; i < N; ++i) squares = fmaf(values[k][i], values[k][i], squares);
  }
  if (slot < n.heads + n.kv_heads) {
    const bool query = slot < n.heads;
    const float scale = rsqrtf(WarpSum(squares) / n.width + kEpsilon) * (query ? p.q_gain[slot] : 1.0f);
    T* to =
        query ? p.q + (row * n.heads + slot) * n.width : p.k + (row * n.kv_heads + slot - n.heads) * n.width;
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int column = (k * 32 + lane) * N;
      if (column >= n.width) continue;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        float value = values[k][i];
        if (column + i < 2 * n.pairs) {
          const Rotation rotation(p.angles, row % n.time, n.pairs, column + i);
          value = rotation.own * value + rotation.other * static_cast<float>(x[rotation.partner]);
        }
        values[k][i] = scale * value;
      }
      Store<N>(values[k], to + column);
    }
    return;
  }
  const int64_t start = (row * n.kv_heads + slot - n.heads - n.kv_heads) * n.width;
  const float ve_scale = p.value_embedding ? p.ve_layer_scale[0] * p.ve_scale[0] : 0.0f;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = (k * 32 + lane) * N;
    if (column >= n.width) continue;
    float other[N];
    if (p.value_embedding) {
      Load<N>(p.value_embedding + start + column, other);
#pragma unroll
      for (int i = 0; i < N; ++i) values[k][i] = fmaf(ve_scale, other[i], values[k][i]);
    }
    if (p.first_v) {
      Load<N>(p.first_v + start + column, other);
#pragma unroll
      for (int i = 0; i < N; ++i) values[k][i] = p.residual[0] * other[i] + p.residual[1] * values[k][i];
    }
    Store<N>(values[k], p.v + start + column);
  }
}

template <typename T>
struct BackwardOperands {
  Sizes n;
  const T* qkv;
  const float* q_gain;
  const float* angles;
  const T* value_embedding;
  const float* ve_layer_scale;
  const float* ve_scale;
  const T* first_v;
  const float* residual;
  const T* dq;
  const T* dk;
  const T* dv;
  T* dqkv;
  T* dvalue_embedding;
  T* dfirst_v;
  float* partials;  // [blocks, heads + 3 kv_heads]
};

// Queries and keys: dx = gain * rstd * (d - n mean(d n)), d the gradient rotated back; returns dy . rope(n).
template <typename T, int N>
__device__ float NormBackward(const BackwardOperands<T>& p, const T* x, const T* dy, int64_t position,
                              float gain, T* dx) {
  constexpr int kPacks = kMaxWidth / (32 * N);
  const Sizes& n = p.n;
  const int lane = threadIdx.x % 32;
  float values[kPacks][N], back[kPacks][N];
  float squares = 0, dot = 0;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = (k * 32 + lane) * N;
    if (column >= n.width) continue;
    Load<N>(x + column, values[k]);
    Load<N>(dy + column, back[k]);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (column + i < 2 * n.pairs) {
        const Rotation rotation(p.angles, position, n.pairs, column + i);
        back[k][i] = rotation.own * back[k][i] - rotation.other * static_cast<float>(dy[rotation.partner]);
      }
      squares = fmaf(values[k][i], values[k][i], squares);
      dot = fmaf(values[k][i], back[k][i], dot);
    }
  }
  const float rstd = rsqrtf(WarpSum(squares) / n.width + kEpsilon);
  dot = rstd * WarpSum(dot);
  const float mean = dot * rstd / n.width;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = (k * 32 + lane) * N;
    if (column >= n.width) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) back[k][i] = gain * rstd * (back[k][i] - mean * values[k][i]);
    Store<N>(back[k], dx + column);
  }
  return dot;
}

// Values: sums[0] of the embedding's scale, sums[1] and [2] of the two residual weights, each lane its own
// share.
template <typename T, int N>
__device__ void ValueBackward(const BackwardOperands<T>& p, const T* raw, int64_t start, float ve_scale,
                              T* draw, float (&sums)[3]) {
  constexpr int kPacks = kMaxWidth / (32 * N);
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = (k * 32 + lane) * N;
    if (column >= p.n.width) continue;
    float d[N], embedding[N] = {};
    Load<N>(p.dv + start + column, d);
    if (p.value_embedding) Load<N>(p.value_embedding + start + column, embedding);
    if (p.first_v) {
      float own[N], first[N], dfirst[N];
      Load<N>(raw + column, own);
      Load<N>(p.first_v + start + column, first);
      Load<N>(p.dfirst_v + start + column, dfirst);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        sums[1] = fmaf(d[i], first[i], sums[1]);
        sums[2] = fmaf(d[i], fmaf(ve_scale, embedding[i], own[i]), sums[2]);
        dfirst[i] = fmaf(p.residual[0], d[i], dfirst[i]);
        d[i] *= p.residual[1];
      }
      Store<N>(dfirst, p.dfirst_v + start + column);
    }
    Store<N>(d, draw + column);
    if (!p.value_embedding) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sums[0] = fmaf(d[i], embedding[i], sums[0]);
      d[i] *= ve_scale;
    }
    Store<N>(d, p.dvalue_embedding + start + column);
  }
}

// Block b does rows b, b + blocks, ...; a warp keeps the sums of its slots.
template <typename T, int N>
__global__ void BackwardKernel(BackwardOperands<T> p) {
  const Sizes& n = p.n;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float* partials = p.partials + static_cast<int64_t>(blockIdx.x) * (n.heads + 3 * n.kv_heads);
  const float ve_scale = p.value_embedding ? p.ve_layer_scale[0] * p.ve_scale[0] : 0.0f;
  for (int slot = warp; slot < n.slots(); slot += kWarps) {
    float gain_sum = 0, sums[3] = {};
    for (int64_t row = blockIdx.x; row < n.rows; row += gridDim.x) {
      const int64_t at = row * n.stride() + static_cast<int64_t>(slot) * n.width;
      if (slot < n.heads) {
        gain_sum += NormBackward<T, N>(p, p.qkv + at, p.dq + (row * n.heads + slot) * n.width, row % n.time,
                                       p.q_gain[slot], p.dqkv + at);
      } else if (slot < n.heads + n.kv_heads) {
        NormBackward<T, N>(p, p.qkv + at, p.dk + (row * n.kv_heads + slot - n.heads) * n.width, row % n.time,
                           1.0f, p.dqkv + at);
      } else {
        const int64_t start = (row * n.kv_heads + slot - n.heads - n.kv_heads) * n.width;
        ValueBackward<T, N>(p, p.qkv + at, start, ve_scale, p.dqkv + at, sums);
      }
    }
    if (slot < n.heads) {
      if (lane == 0) partials[slot] = gain_sum;
    } else if (slot >= n.heads + n.kv_heads) {
      const int first = n.heads + 3 * (slot - n.heads - n.kv_heads);
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        const float sum = WarpSum(sums[i]);
        if (lane == 0) partials[first + i] = sum;
      }
    }
  }
}

// Sums of all blocks, in order; one warp a column.
__global__ void FinishKernel(const float* partials, int blocks, int heads, int kv_heads,
                             const float* ve_layer_scale, const float* ve_scale, float* dq_gain,
                             float* dve_layer_scale, float* dve_scale, float* dresidual) {
  __shared__ float totals[3];
  const int lane = threadIdx.x % 32, columns = heads + 3 * kv_heads;
  const auto column_sum = [&](int column) {
    float sum = 0;
    for (int b = lane; b < blocks; b += 32) sum += partials[static_cast<int64_t>(b) * columns + column];
    return WarpSum(sum);
  };
  for (int head = threadIdx.x / 32; head < heads; head += kWarps) {
    const float sum = column_sum(head);
    if (lane == 0) dq_gain[head] += sum;
  }
  for (int i = threadIdx.x / 32; i < 3; i += kWarps) {
    float sum = 0;
    for (int head = 0; head < kv_heads; ++head) sum += column_sum(heads + 3 * head + i);
    if (lane == 0) totals[i] = sum;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (dve_scale) {
    // The layer's own scale first: both products use values from before.
    dve_layer_scale[0] += totals[0] * ve_scale[0];
    dve_scale[0] += totals[0] * ve_layer_scale[0];
  }
  if (dresidual) {
    dresidual[0] += totals[1];
    dresidual[1] += totals[2];
  }
}

template <typename T>
Sizes SizesOf(const AttentionHeadsArgs<T>& args) {
  return {.rows = args.qkv.dim(0),
          .time = args.time,
          .heads = static_cast<int>(args.q_gain.dim(0)),
          .kv_heads = static_cast<int>(args.k.dim(2)),
          .width = static_cast<int>(args.k.dim(3)),
          .pairs = static_cast<int>(args.rope_dims / 2)};
}

template <typename T>
void FillAngles(const Device& device, const AttentionHeadsArgs<T>& args, Tensor<float> angles) {
  const int64_t count = args.time * (args.rope_dims / 2);
  Launch(device, {.blocks = static_cast<unsigned>(CeilDiv<int64_t>(count, 256)), .threads = 256},
         AnglesKernel, args.time, static_cast<int>(args.rope_dims / 2), args.rope_base, angles.data());
}

// Whether all operands allow two numbers an access.
template <typename T, typename... Pointers>
bool Paired(int width, Pointers... pointers) {
  return width % 2 == 0 && (IsAligned(pointers, 2 * static_cast<int64_t>(sizeof(T))) && ...);
}

}  // namespace

template <typename T>
void AttentionHeadsForward(const Device& device, const AttentionHeadsArgs<T>& args, Tensor<float> angles) {
  const Sizes n = SizesOf(args);
  FillAngles(device, args, angles);
  const ForwardOperands<T> p = {.n = n,
                                .qkv = args.qkv.data(),
                                .q_gain = args.q_gain.data(),
                                .angles = angles.data(),
                                .value_embedding = Data(args.value_embedding),
                                .ve_layer_scale = Data(args.ve_layer_scale),
                                .ve_scale = Data(args.ve_scale),
                                .first_v = Data(args.first_v),
                                .residual = Data(args.residual),
                                .q = args.q.data(),
                                .k = args.k.data(),
                                .v = args.v.data()};
  const bool paired = Paired<T>(n.width, p.qkv, p.value_embedding, p.first_v, p.q, p.k, p.v);
  const unsigned blocks = static_cast<unsigned>(CeilDiv<int64_t>(n.rows * n.slots(), kWarps));
  Launch(device, {.blocks = blocks, .threads = kWarps * 32},
         paired ? ForwardKernel<T, 2> : ForwardKernel<T, 1>, p);
}

template <typename T>
void AttentionHeadsBackward(const Device& device, const AttentionHeadsGradArgs<T>& args, Tensor<float> angles,
                            Tensor<float> partials) {
  const AttentionHeadsArgs<T>& f = args.forward;
  const Sizes n = SizesOf(f);
  FillAngles(device, f, angles);
  const BackwardOperands<T> p = {.n = n,
                                 .qkv = f.qkv.data(),
                                 .q_gain = f.q_gain.data(),
                                 .angles = angles.data(),
                                 .value_embedding = Data(f.value_embedding),
                                 .ve_layer_scale = Data(f.ve_layer_scale),
                                 .ve_scale = Data(f.ve_scale),
                                 .first_v = Data(f.first_v),
                                 .residual = Data(f.residual),
                                 .dq = args.dq.data(),
                                 .dk = args.dk.data(),
                                 .dv = args.dv.data(),
                                 .dqkv = args.dqkv.data(),
                                 .dvalue_embedding = Data(args.dvalue_embedding),
                                 .dfirst_v = Data(args.dfirst_v),
                                 .partials = partials.data()};
  const bool paired = Paired<T>(n.width, p.qkv, p.value_embedding, p.first_v, p.dq, p.dk, p.dv, p.dqkv,
                                p.dvalue_embedding, p.dfirst_v);
  const int64_t blocks = PartialBlocks(device, n.rows, 1, 6);
  Launch(device, {.blocks = static_cast<unsigned>(blocks), .threads = kWarps * 32},
         paired ? BackwardKernel<T, 2> : BackwardKernel<T, 1>, p);
  Launch(device, {.blocks = 1, .threads = kWarps * 32}, FinishKernel, partials.data(),
         static_cast<int>(blocks), n.heads, n.kv_heads, p.ve_layer_scale, p.ve_scale, args.dq_gain.data(),
         Data(args.dve_layer_scale), Data(args.dve_scale), Data(args.dresidual));
}

template void AttentionHeadsForward<float>(const Device&, const AttentionHeadsArgs<float>&, Tensor<float>);
template void AttentionHeadsForward<Bf16>(const Device&, const AttentionHeadsArgs<Bf16>&, Tensor<float>);
template void AttentionHeadsBackward<float>(const Device&, const AttentionHeadsGradArgs<float>&,
                                            Tensor<float>, Tensor<float>);
template void AttentionHeadsBackward<Bf16>(const Device&, const AttentionHeadsGradArgs<Bf16>&, Tensor<float>,
                                           Tensor<float>);

}  // namespace hm11::cuda
