// Exclusive attention on a GPU: eight lanes a value vector, which stays in registers for the heads that read
// it.
//
// Bound by memory: each operand is read once and each result written once, in 16-byte packs.
#include "core/launch.cuh"
#include "ops/exclusive_attention.h"
#include "ops/head_teams.cuh"

namespace hm11::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kSmallestNorm = 1e-12f;

// The value vector of this team; teams beyond the last work on it again, and store nothing.
struct Work {
  int64_t vector;
  bool stores;
};
__device__ __forceinline__ Work WorkOfTeam(int64_t vectors) {
  const int64_t index = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kHeadLanes;
  return {index < vectors ? index : vectors - 1, index < vectors};
}

template <typename T, typename Team>
__global__ void __launch_bounds__(kThreads)
    ForwardKernel(const T* x, const T* v, T* y, int64_t vectors, int group, int head_dim) {
  const Work work = WorkOfTeam(vectors);
  typename Team::Values n;
  Team::LoadHead(v + work.vector * head_dim, head_dim, n);
  const float inverse = 1.0f / fmaxf(sqrtf(Team::Dot(n, n)), kSmallestNorm);
  Team::Zip(n, n, [&](float& n_i, float) { n_i *= inverse; });
  for (int64_t h = work.vector * group; h < (work.vector + 1) * group; ++h) {
    typename Team::Values values;
    Team::LoadHead(x + h * head_dim, head_dim, values);
    const float p = Team::Dot(values, n);
    Team::Zip(values, n, [&](float& value, float n_i) { value -= p * n_i; });
    if (work.stores) Team::StoreHead(values, head_dim, y + h * head_dim);
  }
}

// dx and dy may be the same: a head is read whole before it is written.
template <typename T, typename Team>
__global__ void __launch_bounds__(kThreads) BackwardKernel(const T* x, const T* v, const T* dy, T* dx, T* dv,
                                                           int64_t vectors, int group, int head_dim) {
  const Work work = WorkOfTeam(vectors);
  typename Team::Values n, dv_sum = {};
  Team::LoadHead(v + work.vector * head_dim, head_dim, n);
  const float length = sqrtf(Team::Dot(n, n));
  const float inverse = 1.0f / fmaxf(length, kSmallestNorm);
  Team::Zip(n, n, [&](float& n_i, float) { n_i *= inverse; });
  float along = 0;
  for (int64_t h = work.vector * group; h < (work.vector + 1) * group; ++h) {
    typename Team::Values values, gradient;
    Team::LoadHead(x + h * head_dim, head_dim, values);
    Team::LoadHead(dy + h * head_dim, head_dim, gradient);
    const float p = Team::Dot(values, n), q = Team::Dot(gradient, n);
    along += 2 * p * q;
    Team::Zip(dv_sum, values, [&](float& sum, float x_i) { sum -= q * x_i; });
    Team::Zip(dv_sum, gradient, [&](float& sum, float dy_i) { sum -= p * dy_i; });
    Team::Zip(gradient, n, [&](float& dy_i, float n_i) { dy_i -= q * n_i; });
    if (work.stores) Team::StoreHead(gradient, head_dim, dx + h * head_dim);
  }
  if (length < kSmallestNorm) along = 0;
  Team::Zip(dv_sum, n, [&](float& sum, float n_i) { sum = (sum + along * n_i) * inverse; });
  if (work.stores) Team::StoreHead(dv_sum, head_dim, dv + work.vector * head_dim);
}

dim3 Blocks(int64_t vectors) {
  return dim3(static_cast<unsigned>(CeilDiv<int64_t>(vectors, kThreads / kHeadLanes)));
}

}  // namespace

template <typename T>
void ExclusiveAttentionForward(const Device& device, const ExclusiveAttentionArgs<T>& args) {
  const int64_t head_dim = args.x.dim(3), group = args.x.dim(2) / args.v.dim(2),
                vectors = args.v.size() / head_dim;
  const bool packed = IsAligned(args.x.data()) && IsAligned(args.v.data()) && IsAligned(args.y.data());
  WithHeadTeam<T>(head_dim, packed, [&](auto team) {
    Launch(device, {.blocks = Blocks(vectors), .threads = kThreads}, ForwardKernel<T, decltype(team)>,
           args.x.data(), args.v.data(), args.y.data(), vectors, group, head_dim);
  });
}

template <typename T>
void ExclusiveAttentionBackward(const Device& device, const ExclusiveAttentionGradArgs<T>& args) {
  const int64_t head_dim = args.x.dim(3), group = args.x.dim(2) / args.v.dim(2),
                vectors = args.v.size() / head_dim;
  const bool packed = IsAligned(args.x.data()) && IsAligned(args.v.data()) && IsAligned(args.dy.data()) &&
                      IsAligned(args.dx.data()) && IsAligned(args.dv.data());
  WithHeadTeam<T>(head_dim, packed, [&](auto team) {
    Launch(device, {.blocks = Blocks(vectors), .threads = kThreads}, BackwardKernel<T, decltype(team)>,
           args.x.data(), args.v.data(), args.dy.data(), args.dx.data(), args.dv.data(), vectors, group,
           head_dim);
  });
}

#define HM11_INSTANTIATE(T)                                                                 \
  template void ExclusiveAttentionForward(const Device&, const ExclusiveAttentionArgs<T>&); \
  template void ExclusiveAttentionBackward(const Device&, const ExclusiveAttentionGradArgs<T>&)
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
#undef HM11_INSTANTIATE

}  // namespace hm11::cuda
