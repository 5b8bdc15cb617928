// Rows and losses of targets: on the device, then to the host.
#include "eval/scored_rows.h"

#include "model/language_model.h"

namespace hm11 {
namespace {

template <typename A>
std::vector<A> ToHost(const Arena& arena, Tensor<const A> tensor) {
  std::vector<A> host(static_cast<size_t>(tensor.size()));
  arena.device().CopyToHost(host.data(), tensor.data(), tensor.size_bytes());
  return host;
}

}  // namespace

Tensor<int32_t> UploadIds(Arena& arena, const std::vector<int32_t>& ids, int64_t batch) {
  Tensor<int32_t> tensor = arena.New<int32_t>({batch, static_cast<int64_t>(ids.size()) / batch});
  arena.device().CopyFromHost(tensor.data(), ids.data(), tensor.size_bytes());
  return tensor;
}

template <typename T>
void RowMaker<T>::Append(Tensor<const T> hidden, int64_t first, std::span<const uint16_t> tokens,
                         ScoredRows* scored) const {
  using A = Accum<T>;
  Arena::Scope scope(work);
  const int64_t count = hidden.dim(0);
  const auto begin = tokens.begin() + first;
  for (int64_t i = 0; i < count; ++i) scored->targets.push_back(first + i);
  if (rows) {
    const std::vector<A> host = ToHost<A>(work, LogProbabilities<T>(work, config, weights, hidden));
    scored->log_probs.insert(scored->log_probs.end(), host.begin(), host.end());
    for (int64_t i = 0; i < count; ++i) {
      scored->nats.push_back(-host[static_cast<size_t>(i * config.vocab + begin[i])]);
    }
  } else {
    const std::vector<int32_t> targets(begin, begin + count);
    const Tensor<A> losses = work.New<A>({count});
    TargetLosses<T>(work, config, weights, hidden, UploadIds(work, targets, 1).Reshaped({count}), losses);
    const std::vector<A> host = ToHost<A>(work, losses);
    scored->nats.insert(scored->nats.end(), host.begin(), host.end());
  }
}

template <typename T>
void RowMaker<T>::AppendWindows(std::span<const Window> windows, int64_t length,
                                std::span<const uint16_t> tokens, ScoredRows* scored) const {
  work.Reset();
  const int64_t count = static_cast<int64_t>(windows.size());
  std::vector<int32_t> ids;
  for (const Window& window : windows) {
    HM_CHECK_LE(window.length, length);
    const auto begin = tokens.begin() + window.begin;
    ids.insert(ids.end(), begin, begin + window.length);
    ids.resize(ids.size() + static_cast<size_t>(length - window.length), 0);
  }
  ModelSaved<T> saved;
  const Tensor<T> hidden =
      HiddenForward<T>(work, config, weights, UploadIds(work, ids, count), &saved, {.keep = false});
  for (int64_t w = 0; w < count; ++w) {
    const Window& window = windows[static_cast<size_t>(w)];
    const int64_t skipped = window.length - window.scored;
    Append(hidden.Slice(w * length + skipped, window.scored), window.begin + skipped + 1, tokens, scored);
  }
}

template struct RowMaker<float>;
template struct RowMaker<Bf16>;

}  // namespace hm11
