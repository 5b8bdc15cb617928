// Cross entropy: the doors and the CPU paths.
#include "ops/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "core/fast_math.h"
#include "ops/door.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

template <typename T>
T Reference(const T* logits, int64_t vocab, T cap) {
  if (cap <= static_cast<T>(kMaxFixedCap)) return cap;
  return cap * FastTanh(*std::max_element(logits, logits + vocab) / cap);
}

// Leaves the capped logits in `capped` and returns log sum exp of them. exps: a row of scratch.
template <typename T>
T CapRow(const T* logits, int64_t vocab, T cap, T* capped, T* exps) {
  const T reference = Reference(logits, vocab, cap);
  const T inverse = 1 / cap;
  for (int64_t v = 0; v < vocab; ++v) capped[v] = cap * FastTanh(logits[v] * inverse);
  for (int64_t v = 0; v < vocab; ++v) exps[v] = FastExp(capped[v] - reference);
  return reference + std::log(LaneSum<T>(vocab, [&](int64_t v) { return exps[v]; }));
}

// scratch: [kMaxChunks, 2, vocab].
template <typename T>
void CpuForward(const CrossEntropyArgs<T>& a, Tensor<T> scratch) {
  const int64_t vocab = a.logits.dim(1);
  ForChunks(a.logits.dim(0), MinRows(vocab * 8), [&](int64_t chunk, int64_t begin, int64_t end) {
    T* const capped = scratch.data() + chunk * 2 * vocab;
    for (int64_t r = begin; r < end; ++r) {
      a.log_normalizer[r] = CapRow(a.logits.data() + r * vocab, vocab, a.soft_cap, capped, capped + vocab);
      HM_DCHECK(a.targets[r] < vocab);
      a.losses[r] = a.targets[r] < 0 ? 0 : a.log_normalizer[r] - capped[a.targets[r]];
    }
  });
}

template <typename T>
void CpuBackward(const CrossEntropyGradArgs<T>& a) {
  const int64_t vocab = a.logits.dim(1);
  const T cap = a.soft_cap;
  const T inverse = 1 / cap;
  const T dloss = a.dloss;
  ParallelFor(a.logits.dim(0), MinRows(vocab * 8), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* logits = a.logits.data() + r * vocab;
      T* dlogits = a.dlogits.data() + r * vocab;
      const int32_t target = a.targets[r];
      if (target < 0) {
        std::fill(dlogits, dlogits + vocab, T{0});
        continue;
      }
      const T log_normalizer = a.log_normalizer[r];
      const T t = FastTanh(logits[target] * inverse);  // before dlogits takes its place
      // One function a loop: compilers turn that into vector code.
      for (int64_t v = 0; v < vocab; ++v) dlogits[v] = FastTanh(logits[v] * inverse);
      for (int64_t v = 0; v < vocab; ++v) {
        dlogits[v] = dloss * (1 - dlogits[v] * dlogits[v]) * FastExp(cap * dlogits[v] - log_normalizer);
      }
      dlogits[target] -= dloss * (1 - t * t);
    }
  });
}

template <typename T>
void CpuLogSoftmax(Tensor<const T> logits, T cap, Tensor<T> log_probs, Tensor<T> scratch) {
  const int64_t vocab = logits.dim(1);
  ForChunks(logits.dim(0), MinRows(vocab * 8), [&](int64_t chunk, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      T* to = log_probs.data() + r * vocab;
      const T log_normalizer =
          CapRow(logits.data() + r * vocab, vocab, cap, to, scratch.data() + chunk * 2 * vocab);
      for (int64_t v = 0; v < vocab; ++v) to[v] -= log_normalizer;
    }
  });
}

}  // namespace

template <typename T>
void CrossEntropyForward(Arena& arena, const CrossEntropyArgs<T>& args) {
  HM_CHECK_EQ(args.logits.rank(), 2);
  const Shape rows = {args.logits.dim(0)};
  HM_CHECK_EQ(args.targets.shape(), rows);
  HM_CHECK_EQ(args.losses.shape(), rows);
  HM_CHECK_EQ(args.log_normalizer.shape(), rows);
  HM_CHECK_GT(args.soft_cap, 0);
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<Accum<T>> scratch = arena.New<Accum<T>>({kMaxChunks, 2, args.logits.dim(1)});
  if (device.is_plan() || args.logits.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::CrossEntropyForward(device, args);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuForward(args, scratch);
  }
  FailNoHalf<T>("CrossEntropyForward", device);
}

template <typename T>
void CrossEntropyBackward(Arena& arena, const CrossEntropyGradArgs<T>& args) {
  HM_CHECK_EQ(args.logits.rank(), 2);
  const Shape rows = {args.logits.dim(0)};
  HM_CHECK_EQ(args.targets.shape(), rows);
  HM_CHECK_EQ(args.log_normalizer.shape(), rows);
  HM_CHECK_EQ(args.dlogits.shape(), args.logits.shape());
  HM_CHECK_GT(args.soft_cap, 0);
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
  HM_CHECK_GT(soft_cap, 0);
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<Accum<T>> scratch = arena.New<Accum<T>>({kMaxChunks, 2, logits.dim(1)});
  if (device.is_plan() || logits.empty()) return;
#if HM11_HAVE_CUDA
  if constexpr (kOnCuda<T>) {
    if (device.is_cuda()) return cuda::SoftCapLogSoftmax(device, logits, soft_cap, log_probs);
  }
#endif
  if constexpr (kOnCpu<T>) {
    if (device.is_cpu()) return CpuLogSoftmax(logits, soft_cap, log_probs, scratch);
  }
  FailNoHalf<T>("SoftCapLogSoftmax", device);
}

template void CrossEntropyForward<double>(Arena&, const CrossEntropyArgs<double>&);
template void CrossEntropyForward<float>(Arena&, const CrossEntropyArgs<float>&);
template void CrossEntropyForward<Bf16>(Arena&, const CrossEntropyArgs<Bf16>&);
template void CrossEntropyBackward<double>(Arena&, const CrossEntropyGradArgs<double>&);
template void CrossEntropyBackward<float>(Arena&, const CrossEntropyGradArgs<float>&);
template void CrossEntropyBackward<Bf16>(Arena&, const CrossEntropyGradArgs<Bf16>&);
template void SoftCapLogSoftmax<double>(Arena&, Tensor<const double>, double, Tensor<double>);
template void SoftCapLogSoftmax<float>(Arena&, Tensor<const float>, float, Tensor<float>);
template void SoftCapLogSoftmax<Bf16>(Arena&, Tensor<const Bf16>, float, Tensor<float>);

}  // namespace hm11
