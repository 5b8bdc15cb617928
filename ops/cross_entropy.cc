// Cross entropy: the choice of a device and the CPU paths.
#include "ops/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "core/dispatch.h"
#include "core/fast_math.h"
#include "ops/sums.h"

namespace hm11 {
namespace {

// Leaves tanh(logits / cap) in `tanhs` and exp(capped - reference) in `exps`; gives log sum exp(capped) and
// the sum of `exps`. tanhs may be the memory of logits.
template <typename T>
struct RowSums {
  T log_normalizer, sum;
};
template <typename T>
RowSums<T> CapRow(const T* logits, int64_t vocab, T cap, T* tanhs, T* exps) {
  const T inverse = 1 / cap;
  // One function a loop: compilers turn that into vector code.
  for (int64_t v = 0; v < vocab; ++v) tanhs[v] = FastTanh(logits[v] * inverse);
  const T reference =
      cap <= static_cast<T>(kMaxFixedCap) ? cap : cap * *std::max_element(tanhs, tanhs + vocab);
  for (int64_t v = 0; v < vocab; ++v) exps[v] = FastExp(cap * tanhs[v] - reference);
  const T sum = LaneSum<T>(vocab, [&](int64_t v) { return exps[v]; });
  return {.log_normalizer = reference + std::log(sum), .sum = sum};
}

// scratch, here and below: [kMaxChunks, 2, vocab].
template <typename T>
void CpuForward(const CrossEntropyArgs<T>& a, Tensor<T> scratch) {
  const int64_t vocab = a.logits.dim(1);
  ForChunks(a.logits.dim(0), MinRows(vocab * 8), [&](int64_t chunk, int64_t begin, int64_t end) {
    T* const tanhs = scratch.data() + chunk * 2 * vocab;
    for (int64_t r = begin; r < end; ++r) {
      const auto [log_normalizer, sum] =
          CapRow(a.logits.data() + r * vocab, vocab, a.soft_cap, tanhs, tanhs + vocab);
      HM_DCHECK(a.targets[r] < vocab);
      a.losses[r] = a.targets[r] < 0 ? 0 : log_normalizer - a.soft_cap * tanhs[a.targets[r]];
    }
  });
}

template <typename T>
void CpuGradient(const CrossEntropyGradArgs<T>& a, Tensor<T> scratch) {
  const int64_t vocab = a.logits.dim(1);
  ForChunks(a.logits.dim(0), MinRows(vocab * 8), [&](int64_t chunk, int64_t begin, int64_t end) {
    T* const exps = scratch.data() + chunk * 2 * vocab;
    for (int64_t r = begin; r < end; ++r) {
      T* const row = a.logits.data() + r * vocab;
      const int32_t target = a.targets[r];
      HM_DCHECK(target < vocab);
      if (target < 0) {
        std::fill(row, row + vocab, T{0});
        a.losses[r] = 0;
        continue;
      }
      const auto [log_normalizer, sum] = CapRow(row, vocab, a.soft_cap, row, exps);
      const T t = row[target], scale = a.dloss / sum;
      a.losses[r] = log_normalizer - a.soft_cap * t;
      for (int64_t v = 0; v < vocab; ++v) row[v] = scale * exps[v] * (1 - row[v] * row[v]);
      row[target] -= a.dloss * (1 - t * t);
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
          CapRow(logits.data() + r * vocab, vocab, cap, to, scratch.data() + chunk * 2 * vocab)
              .log_normalizer;
      for (int64_t v = 0; v < vocab; ++v) to[v] = cap * to[v] - log_normalizer;
    }
  });
}

template <typename Args>
void Check(const Args& args) {
  HM_CHECK_EQ(args.logits.rank(), 2);
  const Shape rows = {args.logits.dim(0)};
  HM_CHECK_EQ(args.targets.shape(), rows);
  HM_CHECK_EQ(args.losses.shape(), rows);
  HM_CHECK_GT(args.soft_cap, 0);
}

}  // namespace

template <typename T>
void CrossEntropyForward(Arena& arena, const CrossEntropyArgs<T>& args) {
  const OpScope op("CrossEntropyForward", args.logits, args.targets, args.losses);
  Check(args);
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<Accum<T>> scratch = arena.New<Accum<T>>({kMaxChunks, 2, args.logits.dim(1)});
  if (args.logits.empty()) return;
  Dispatch<T>(
      "CrossEntropyForward", device, [&]<typename U>() { CpuForward<U>(args, scratch); },
      [&]<typename U>() { cuda::CrossEntropyForward<U>(device, args); });
}

template <typename T>
void CrossEntropyGradient(Arena& arena, const CrossEntropyGradArgs<T>& args) {
  const OpScope op("CrossEntropyGradient", args.logits, args.logits, args.targets, args.losses);
  Check(args);
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<Accum<T>> scratch = arena.New<Accum<T>>({kMaxChunks, 2, args.logits.dim(1)});
  if (args.logits.empty()) return;
  Dispatch<T>(
      "CrossEntropyGradient", device, [&]<typename U>() { CpuGradient<U>(args, scratch); },
      [&]<typename U>() { cuda::CrossEntropyGradient<U>(device, args); });
}

template <typename T>
void SoftCapLogSoftmax(Arena& arena, Tensor<const T> logits, Accum<T> soft_cap, Tensor<Accum<T>> log_probs) {
  const OpScope op("SoftCapLogSoftmax", logits, log_probs);
  HM_CHECK_EQ(logits.rank(), 2);
  HM_CHECK_EQ(log_probs.shape(), logits.shape());
  HM_CHECK_GT(soft_cap, 0);
  const Device& device = arena.device();
  Arena::Scope scope(arena);
  const Tensor<Accum<T>> scratch = arena.New<Accum<T>>({kMaxChunks, 2, logits.dim(1)});
  if (logits.empty()) return;
  Dispatch<T>(
      "SoftCapLogSoftmax", device,
      [&]<typename U>() { CpuLogSoftmax<U>(logits, soft_cap, log_probs, scratch); },
      [&]<typename U>() { cuda::SoftCapLogSoftmax<U>(device, logits, soft_cap, log_probs); });
}

template void CrossEntropyForward<double>(Arena&, const CrossEntropyArgs<double>&);
template void CrossEntropyForward<float>(Arena&, const CrossEntropyArgs<float>&);
template void CrossEntropyForward<Bf16>(Arena&, const CrossEntropyArgs<Bf16>&);
template void CrossEntropyGradient<double>(Arena&, const CrossEntropyGradArgs<double>&);
template void CrossEntropyGradient<float>(Arena&, const CrossEntropyGradArgs<float>&);
template void CrossEntropyGradient<Bf16>(Arena&, const CrossEntropyGradArgs<Bf16>&);
template void SoftCapLogSoftmax<double>(Arena&, Tensor<const double>, double, Tensor<double>);
template void SoftCapLogSoftmax<float>(Arena&, Tensor<const float>, float, Tensor<float>);
template void SoftCapLogSoftmax<Bf16>(Arena&, Tensor<const Bf16>, float, Tensor<float>);

}  // namespace hm11
