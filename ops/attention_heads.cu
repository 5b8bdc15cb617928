// Attention heads on a GPU: eight lanes a head, one pass over everything.
//
// A slot is one head's share of a row of the projection: query heads, then key heads, then value heads. Lanes
// hold their channels in registers; the partner of a channel in RoPE is read again, from the first-level
// cache, by the few lanes that turn anything. Bound by memory: 16-byte accesses, neighbouring teams on
// neighbouring slots.
#include <algorithm>

#include "core/launch.cuh"
#include "ops/attention_heads.h"
#include "ops/head_teams.cuh"
#include "ops/head_totals.cuh"
#include "ops/sums.h"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTeams = kThreads / kHeadLanes;
constexpr int kBackwardBlocks = 5;  // on a multiprocessor at once
constexpr float kEpsilon = 1e-6f;

struct Sizes {
  int64_t rows;
  int time, heads, kv_heads, head_dim;
  int half;  // pairs that RoPE turns

  __host__ __device__ int slots() const { return heads + 2 * kv_heads; }
  // Slots that one block works on at once, and rows of them.
  __host__ __device__ int block_slots() const { return slots() < kTeams ? slots() : kTeams; }
  __host__ __device__ int block_rows() const { return kTeams / block_slots(); }
};

// Operands of both passes; absent ones are null.
template <typename T>
struct Operands {
  const T* qkv;
  const float* q_gain;
  const T* value_embedding;
  const float* ve_layer_scale;
  const float* ve_scale;
  const T* first_v;
  const float* residual;
  const float* cosines;  // [time, half]
  const float* sines;
  Sizes sizes;
};

// ---- Cosines and sines.

// Of positions from *place on, or from 0.
__global__ void TableKernel(int time, int half, double log2_base, const int32_t* place, float* cosines,
                            float* sines) {
  const int index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (index >= time * half) return;
  const int position = index / half + (place == nullptr ? 0 : *place);
  const double angle = position * exp2(-log2_base * (index % half) / half);
  double sine, cosine;
  sincos(angle, &sine, &cosine);
  cosines[index] = static_cast<float>(cosine);
  sines[index] = static_cast<float>(sine);
}

// ---- One head.

// y = x turned by position t's angles (back by them with kBack); `head` is where x came from, for the
// partners.
template <bool kBack, typename T, typename Team>
__device__ __forceinline__ void Turn(const Operands<T>& operands, int t, const T* head,
                                     typename Team::Values& x) {
  const int half = operands.sizes.half;
#pragma unroll
  for (int k = 0; k < Team::kPacks; ++k) {
    const int d = Team::Channel(k);
    if (d >= 2 * half) continue;
    const bool is_first = d < half;
    const int pair = is_first ? d : d - half;
    float partner[Team::kSize], cosines[Team::kSize], sines[Team::kSize];
    Load(head + (is_first ? d + half : pair), partner);
    Load(operands.cosines + int64_t{t} * half + pair, cosines);
    Load(operands.sines + int64_t{t} * half + pair, sines);
#pragma unroll
    for (int i = 0; i < Team::kSize; ++i) {
      const float sine = is_first == kBack ? -sines[i] : sines[i];
      x[k][i] = x[k][i] * cosines[i] + partner[i] * sine;
    }
  }
}

template <typename T>
__device__ __forceinline__ float ValueEmbeddingScale(const Operands<T>& operands) {
  return operands.value_embedding == nullptr ? 0.0f : *operands.ve_layer_scale * *operands.ve_scale;
}

// v with its value embedding; `at` is where its head begins in [rows, kv_heads, head_dim].
template <typename T, typename Team>
__device__ __forceinline__ void AddValueEmbedding(const Operands<T>& operands, int64_t at,
                                                  typename Team::Values& v) {
  if (operands.value_embedding == nullptr) return;
  const float scale = ValueEmbeddingScale(operands);
  typename Team::Values embedding;
  Team::LoadHead(operands.value_embedding + at, operands.sizes.head_dim, embedding);
  Team::Zip(v, embedding, [=](float& v_i, float e_i) { v_i += scale * e_i; });
}

// ---- Forward. A team a slot.

template <typename T, typename Team>
__global__ void __launch_bounds__(kThreads) ForwardKernel(const Operands<T> operands, T* q, T* k, T* v) {
  const Sizes& s = operands.sizes;
  const int64_t index = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kHeadLanes;
  if (index >= s.rows * s.slots()) return;
  const int64_t row = index / s.slots();
  const int slot = static_cast<int>(index % s.slots());
  const T* head = operands.qkv + index * s.head_dim;
  typename Team::Values x;
  Team::LoadHead(head, s.head_dim, x);
  if (slot < s.heads + s.kv_heads) {
    const bool is_query = slot < s.heads;
    const float factor = rsqrtf(Team::Dot(x, x) / static_cast<float>(s.head_dim) + kEpsilon) *
                         (is_query ? operands.q_gain[slot] : 1.0f);
    Turn<false, T, Team>(operands, static_cast<int>(row % s.time), head, x);
    Team::Zip(x, x, [=](float& x_i, float) { x_i *= factor; });
    T* to = is_query ? q + (row * s.heads + slot) * s.head_dim
                     : k + (row * s.kv_heads + slot - s.heads) * s.head_dim;
    Team::StoreHead(x, s.head_dim, to);
    return;
  }
  const int64_t at = (row * s.kv_heads + slot - s.heads - s.kv_heads) * s.head_dim;
  AddValueEmbedding<T, Team>(operands, at, x);
  if (operands.first_v != nullptr) {
    const float of_first = operands.residual[0], of_own = operands.residual[1];
    typename Team::Values first;
    Team::LoadHead(operands.first_v + at, s.head_dim, first);
    Team::Zip(x, first, [=](float& x_i, float first_i) { x_i = of_first * first_i + of_own * x_i; });
  }
  Team::StoreHead(x, s.head_dim, v + at);
}

// ---- Backward. Blocks stride over rows; a team keeps its slots, so that its sums over rows have one writer.

template <typename T>
struct Gradients {
  const T* dq;
  const T* dk;
  const T* dv;
  T* dqkv;
  T* dvalue_embedding;
  T* dfirst_v;
  float* partials;  // [blocks, heads + 3]
};

// Sums of a block, in shared memory: a query head's gain gradient for each of the block's rows, and for each
// value head and row the sums of dv with the value embedding, first_v and v itself.
struct BlockSums {
  float* gains;   // [block_rows, heads]
  float* values;  // [block_rows, kv_heads, 3]
};
int64_t BlockSumsBytes(const Sizes& s) {
  return int64_t{s.block_rows()} * (s.heads + 3 * s.kv_heads) * int64_t{sizeof(float)};
}

// Returns the gain's gradient.
template <typename T, typename Team>
__device__ __forceinline__ float NormBackward(const Operands<T>& operands, int64_t row, int64_t slot_at,
                                              float gain, const T* gradient, T* dqkv) {
  const int head_dim = operands.sizes.head_dim;
  typename Team::Values x, dx;
  Team::LoadHead(operands.qkv + slot_at, head_dim, x);
  Team::LoadHead(gradient, head_dim, dx);
  Turn<true, T, Team>(operands, static_cast<int>(row % operands.sizes.time), gradient, dx);
  const float inverse_dim = 1.0f / static_cast<float>(head_dim);
  const float inverse_rms = rsqrtf(Team::Dot(x, x) * inverse_dim + kEpsilon);
  const float dgain = inverse_rms * Team::Dot(dx, x);
  const float of_gradient = inverse_rms * gain, along = inverse_rms * of_gradient * dgain * inverse_dim;
  Team::Zip(dx, x, [=](float& dx_i, float x_i) { dx_i = of_gradient * dx_i - along * x_i; });
  Team::StoreHead(dx, head_dim, dqkv + slot_at);
  return dgain;
}

// Adds to sums[0..2]; only the team's first lane writes them.
template <typename T, typename Team>
__device__ __forceinline__ void ValueBackward(const Operands<T>& operands, const Gradients<T>& gradients,
                                              int64_t at, int64_t slot_at, float* sums) {
  const int head_dim = operands.sizes.head_dim;
  const bool is_first_lane = Team::Lane() == 0;
  typename Team::Values dv, other;
  Team::LoadHead(gradients.dv + at, head_dim, dv);
  if (operands.first_v != nullptr) {
    const float of_first = operands.residual[0], of_own = operands.residual[1];
    Team::LoadHead(operands.first_v + at, head_dim, other);
    const float with_first = Team::Dot(dv, other);
    Team::LoadHead(operands.qkv + slot_at, head_dim, other);
    AddValueEmbedding<T, Team>(operands, at, other);
    const float with_own = Team::Dot(dv, other);
    if (is_first_lane) {
      sums[1] += with_first;
      sums[2] += with_own;
    }
    Team::LoadHead(gradients.dfirst_v + at, head_dim, other);
    Team::Zip(other, dv, [=](float& dfirst_i, float dv_i) { dfirst_i += of_first * dv_i; });
    Team::StoreHead(other, head_dim, gradients.dfirst_v + at);
    Team::Zip(dv, dv, [=](float& dv_i, float) { dv_i *= of_own; });
  }
  Team::StoreHead(dv, head_dim, gradients.dqkv + slot_at);
  if (operands.value_embedding != nullptr) {
    const float scale = ValueEmbeddingScale(operands);
    Team::LoadHead(operands.value_embedding + at, head_dim, other);
    const float with_embedding = Team::Dot(dv, other);
    if (is_first_lane) sums[0] += with_embedding;
    Team::Zip(dv, dv, [=](float& dv_i, float) { dv_i *= scale; });
    Team::StoreHead(dv, head_dim, gradients.dvalue_embedding + at);
  }
}

template <typename T, typename Team>
__device__ __forceinline__ void SlotBackward(const Operands<T>& operands, const Gradients<T>& gradients,
                                             int64_t row, int slot, int block_row, const BlockSums& sums) {
  const Sizes& s = operands.sizes;
  const int64_t slot_at = (row * s.slots() + slot) * s.head_dim;
  if (slot < s.heads) {
    const float dgain =
        NormBackward<T, Team>(operands, row, slot_at, operands.q_gain[slot],
                              gradients.dq + (row * s.heads + slot) * s.head_dim, gradients.dqkv);
    if (Team::Lane() == 0) sums.gains[block_row * s.heads + slot] += dgain;
  } else if (slot < s.heads + s.kv_heads) {
    NormBackward<T, Team>(operands, row, slot_at, 1.0f,
                          gradients.dk + (row * s.kv_heads + slot - s.heads) * s.head_dim, gradients.dqkv);
  } else {
    const int head = slot - s.heads - s.kv_heads;
    ValueBackward<T, Team>(operands, gradients, (row * s.kv_heads + head) * s.head_dim, slot_at,
                           sums.values + (block_row * s.kv_heads + head) * 3);
  }
}

template <typename T, typename Team>
__global__ void __launch_bounds__(kThreads)
    BackwardKernel(const Operands<T> operands, const Gradients<T> gradients) {
  extern __shared__ float shared[];
  const Sizes& s = operands.sizes;
  const int block_slots = s.block_slots(), block_rows = s.block_rows();
  const BlockSums sums = {shared, shared + block_rows * s.heads};
  for (int i = threadIdx.x; i < block_rows * (s.heads + 3 * s.kv_heads); i += kThreads) shared[i] = 0;
  __syncthreads();

  const int team = threadIdx.x / kHeadLanes, block_row = team / block_slots;
  if (block_row < block_rows) {
    for (int64_t row = int64_t{blockIdx.x} * block_rows + block_row; row < s.rows;
         row += int64_t{gridDim.x} * block_rows) {
      for (int slot = team % block_slots; slot < s.slots(); slot += block_slots) {
        SlotBackward<T, Team>(operands, gradients, row, slot, block_row, sums);
      }
    }
  }
  __syncthreads();
  for (int column = threadIdx.x; column < s.heads + 3; column += kThreads) {
    float total = 0;
    if (column < s.heads) {
      for (int r = 0; r < block_rows; ++r) total += sums.gains[r * s.heads + column];
    } else {
      for (int i = 0; i < block_rows * s.kv_heads; ++i) total += sums.values[i * 3 + column - s.heads];
    }
    gradients.partials[int64_t{blockIdx.x} * (s.heads + 3) + column] = total;
  }
}

// A block a column of the partials.
__global__ void __launch_bounds__(kThreads)
    TotalsKernel(const float* partials, int64_t count, int heads, const HeadTotals totals) {
  __shared__ float scratch[32];
  const int column = blockIdx.x;
  float sum = 0;
  for (int64_t p = threadIdx.x; p < count; p += kThreads) sum += partials[p * (heads + 3) + column];
  sum = BlockSum<kThreads>(sum, scratch);
  if (threadIdx.x == 0) totals.Add(column, heads, sum);
}

// ---- Host.

// Fills the table, and says where everything is.
template <typename T>
Operands<T> Prepare(const Device& device, const AttentionHeadsArgs<T>& args, const Shape& q, const Shape& k,
                    Tensor<float> table) {
  FillAngles(device, args, table);
  return {.qkv = args.qkv.data(),
          .q_gain = args.q_gain.data(),
          .value_embedding = args.value_embedding.data(),
          .ve_layer_scale = args.ve_layer_scale.data(),
          .ve_scale = args.ve_scale.data(),
          .first_v = args.first_v.data(),
          .residual = args.residual.data(),
          .cosines = table.data(),
          .sines = table.data() + table.size() / 2,
          .sizes = {.rows = args.batch * args.time,
                    .time = static_cast<int>(args.time),
                    .heads = static_cast<int>(q[2]),
                    .kv_heads = static_cast<int>(k[2]),
                    .head_dim = static_cast<int>(q[3]),
                    .half = static_cast<int>(args.rope_dims / 2)}};
}

// Packs need whole packs of pairs too. (A null operand counts as aligned.)
template <typename T>
bool IsPacked(const AttentionHeadsArgs<T>& args) {
  return args.rope_dims / 2 % kPackSize<T> == 0 && IsAligned(args.qkv.data()) &&
         IsAligned(args.value_embedding.data()) && IsAligned(args.first_v.data());
}

}  // namespace

template <typename T>
void FillAngles(const Device& device, const AttentionHeadsArgs<T>& args, Tensor<float> table) {
  const int half = static_cast<int>(args.rope_dims / 2), time = static_cast<int>(args.time);
  const int64_t angles = int64_t{time} * half;
  Launch(device, {.blocks = dim3(static_cast<unsigned>(CeilDiv<int64_t>(angles, 128))), .threads = 128},
         TableKernel, time, half, std::log2(args.rope_base), Data(args.place), table.data(),
         table.data() + angles);
}

template <typename T>
void AttentionHeadsForward(const Device& device, const AttentionHeadsArgs<T>& args, Tensor<float> table) {
  const Operands<T> operands = Prepare(device, args, args.q.shape(), args.k.shape(), table);
  const Sizes& s = operands.sizes;
  const bool packed =
      IsPacked(args) && IsAligned(args.q.data()) && IsAligned(args.k.data()) && IsAligned(args.v.data());
  const dim3 blocks(static_cast<unsigned>(CeilDiv<int64_t>(s.rows * s.slots(), kTeams)));
  WithHeadTeam<T>(s.head_dim, packed, [&](auto team) {
    Launch(device, {.blocks = blocks, .threads = kThreads}, ForwardKernel<T, decltype(team)>, operands,
           args.q.data(), args.k.data(), args.v.data());
  });
}

template <typename T>
void AttentionHeadsBackward(const Device& device, const AttentionHeadsGradArgs<T>& args, Tensor<float> table,
                            Tensor<float> partials) {
  const AttentionHeadsArgs<T>& forward = args.forward;
  const Operands<T> operands = Prepare(device, forward, args.dq.shape(), args.dk.shape(), table);
  const Sizes& s = operands.sizes;
  const Gradients<T> gradients = {.dq = args.dq.data(),
                                  .dk = args.dk.data(),
                                  .dv = args.dv.data(),
                                  .dqkv = args.dqkv.data(),
                                  .dvalue_embedding = args.dvalue_embedding.data(),
                                  .dfirst_v = args.dfirst_v.data(),
                                  .partials = partials.data()};
  const bool packed = IsPacked(forward) && IsAligned(args.dq.data()) && IsAligned(args.dk.data()) &&
                      IsAligned(args.dv.data()) && IsAligned(args.dqkv.data()) &&
                      IsAligned(args.dvalue_embedding.data()) && IsAligned(args.dfirst_v.data());
  const int64_t blocks = PartialBlocks(device, s.rows, s.block_rows(), kBackwardBlocks);
  WithHeadTeam<T>(s.head_dim, packed, [&](auto team) {
    Launch(device,
           {.blocks = dim3(static_cast<unsigned>(blocks)),
            .threads = kThreads,
            .shared_bytes = BlockSumsBytes(s)},
           BackwardKernel<T, decltype(team)>, operands, gradients);
  });
  Launch(device, {.blocks = dim3(static_cast<unsigned>(s.heads + 3)), .threads = kThreads}, TotalsKernel,
         partials.data(), blocks, s.heads, HeadTotalsOf(args));
}

#define HM11_INSTANTIATE(T)                                                                            \
  template void FillAngles(const Device&, const AttentionHeadsArgs<T>&, Tensor<float>);                \
  template void AttentionHeadsForward(const Device&, const AttentionHeadsArgs<T>&, Tensor<float>);     \
  template void AttentionHeadsBackward(const Device&, const AttentionHeadsGradArgs<T>&, Tensor<float>, \
                                       Tensor<float>)
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
#undef HM11_INSTANTIATE

}  // namespace hm11::cuda
