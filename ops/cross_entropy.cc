// Soft-capped cross entropy: the doors and the CPU paths.
#include "ops/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "ops/door.h"
#include "ops/sums.h"
#include "ops/vector_math.h"

namespace hm11 {
namespace {

// log sum exp of the capped logits of a row; their largest is at most the cap, so the cap itself is the
// offset.
template <typename T>
T LogNormalizer(const T* logits, int64_t vocab, T cap) {
  const T inverse = 1 / cap;
  T largest = -cap;
  for (int64_t v = 0; v < vocab; ++v) largest = std::max(largest, logits[v]);
  const T offset = cap * Tanh(largest * inverse);
  const T sum = LaneSum<T>(vocab, [&](int64_t v) { return Exp(cap * Tanh(logits[v] * inverse) - offset); });
  return offset + std::log(sum);
}

template <typename T>
void CpuForward(const CrossEntropyArgs<T>& a) {
  const int64_t vocab = a.logits.dim(1);
  ParallelFor(a.logits.dim(0), MinRows(8 * vocab), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* row = a.logits.data() + r * vocab;
      const T normalizer = LogNormalizer(row, vocab, a.soft_cap);
      const int32_t target = a.targets[r];
      a.log_normalizer[r] = normalizer;
      a.losses[r] = target < 0 ? T{0} : normalizer - a.soft_cap * Tanh(row[target] / a.soft_cap);
    }
  });
}

// d loss / d logit = (softmax - onehot) * (1 - tanh^2).
template <typename T>
void CpuBackward(const CrossEntropyGradArgs<T>& a) {
  const int64_t vocab = a.logits.dim(1);
  const T cap = a.soft_cap, inverse = 1 / cap;
  ParallelFor(a.logits.dim(0), MinRows(8 * vocab), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* row = a.logits.data() + r * vocab;
      T* drow = a.dlogits.data() + r * vocab;
      const int32_t target = a.targets[r];
      if (target < 0) {
        std::fill(drow, drow + vocab, T{0});
        continue;
      }
      const T normalizer = a.log_normalizer[r];
      const T at_target = Tanh(row[target] * inverse);
      for (int64_t v = 0; v < vocab; ++v) {
        const T t = Tanh(row[v] * inverse);
        drow[v] = a.dloss * Exp(cap * t - normalizer) * (1 - t * t);
      }
      drow[target] -= a.dloss * (1 - at_target * at_target);
    }
  });
}

template <typename T>
void CpuLogSoftmax(Tensor<const T> logits, T cap, Tensor<T> log_probs) {
  const int64_t vocab = logits.dim(1);
  ParallelFor(logits.dim(0), MinRows(8 * vocab), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* row = logits.data() + r * vocab;
      const T normalizer = LogNormalizer(row, vocab, cap);
      for (int64_t v = 0; v < vocab; ++v) log_probs[r * vocab + v] = cap * Tanh(row[v] / cap) - normalizer;
    }
  });
}

}  // namespace

template <typename T>
void CrossEntropyForward(Arena& arena, const CrossEntropyArgs<T>& args) {
  HM_CHECK_EQ(args.logits.rank(), 2);
  for (int64_t size : {args.targets.size(), args.losses.size(), args.log_normalizer.size()}) {
    HM_CHECK_EQ(size, args.logits.dim(0));
  }
  HM_CHECK_GT(args.soft_cap, 0);
  const Device& device = arena.device();
  if (device.is_plan() || args.logits.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::CrossEntropyForward(device, args);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuForward(args);
  }
  FailNoHalf<T>("CrossEntropyForward", device);
}

template <typename T>
void CrossEntropyBackward(Arena& arena, const CrossEntropyGradArgs<T>& args) {
  HM_CHECK_EQ(args.logits.rank(), 2);
  HM_CHECK_EQ(args.dlogits.shape(), args.logits.shape());
  for (int64_t size : {args.targets.size(), args.log_normalizer.size()})
    HM_CHECK_EQ(size, args.logits.dim(0));
  const Device& device = arena.device();
  if (device.is_plan() || args.logits.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::CrossEntropyBackward(device, args);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuBackward(args);
  }
  FailNoHalf<T>("CrossEntropyBackward", device);
}

template <typename T>
void SoftCapLogSoftmax(Arena& arena, Tensor<const T> logits, Accum<T> soft_cap, Tensor<Accum<T>> log_probs) {
  HM_CHECK_EQ(logits.rank(), 2);
  HM_CHECK_EQ(log_probs.shape(), logits.shape());
  const Device& device = arena.device();
  if (device.is_plan() || logits.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::SoftCapLogSoftmax<T>(device, logits, soft_cap, log_probs);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuLogSoftmax<T>(logits, soft_cap, log_probs);
  }
  FailNoHalf<T>("SoftCapLogSoftmax", device);
}

#define HM11_INSTANTIATE(T)                                                      \
  template void CrossEntropyForward<T>(Arena&, const CrossEntropyArgs<T>&);      \
  template void CrossEntropyBackward<T>(Arena&, const CrossEntropyGradArgs<T>&); \
  template void SoftCapLogSoftmax<T>(Arena&, Tensor<const T>, Accum<T>, Tensor<Accum<T>>);
HM11_INSTANTIATE(double)
HM11_INSTANTIATE(float)
HM11_INSTANTIATE(Bf16)
#undef HM11_INSTANTIATE

}  // namespace hm11
