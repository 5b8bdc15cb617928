// Rows and losses of targets: on the device, then to the host.
#include "eval/scored_rows.h"

#include <algorithm>

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
void RowMaker<T>::Append(Tensor<const T> hidden, int64_t count, int64_t first,
                         std::span<const uint16_t> tokens, ScoredRows* scored) const {
  using A = Accum<T>;
  Arena::Scope scope(work);
  const auto begin = tokens.begin() + first;
  for (int64_t i = 0; i < count; ++i) scored->targets.push_back(first + i);
  if (rows) {
    const Tensor<A> log_probs = LogProbabilities<T>(work, config, weights, hidden);
    const std::vector<A> host = ToHost<A>(work, log_probs.Slice(0, count));
    scored->log_probs.insert(scored->log_probs.end(), host.begin(), host.end());
    for (int64_t i = 0; i < count; ++i) {
      scored->nats.push_back(-host[static_cast<size_t>(i * config.vocab + begin[i])]);
    }
  } else {
    std::vector<int32_t> targets(static_cast<size_t>(hidden.dim(0)), -1);
    std::copy_n(begin, count, targets.begin());
    const Tensor<A> losses = work.New<A>({hidden.dim(0)});
    TargetLosses<T>(work, config, weights, hidden, UploadIds(work, targets, 1).Reshaped(losses.shape()),
                    losses);
    const std::vector<A> host = ToHost<A>(work, losses.Slice(0, count));
    scored->nats.insert(scored->nats.end(), host.begin(), host.end());
  }
}

template <typename T>
void RowMaker<T>::AppendWindows(std::span<const Window> windows, int64_t batch, int64_t length,
                                std::span<const uint16_t> tokens, ScoredRows* scored) const {
  HM_CHECK_LE(static_cast<int64_t>(windows.size()), batch);
  work.Reset();
  std::vector<int32_t> ids(static_cast<size_t>(batch * length), 0);
  auto to = ids.begin();
  for (const Window& window : windows) {
    HM_CHECK_LE(window.length, length);
    std::copy_n(tokens.begin() + window.begin, window.length, to);
    to += length;
  }
  ModelSaved<T> saved;
  const Tensor<T> hidden =
      HiddenForward<T>(work, config, weights, UploadIds(work, ids, batch), &saved, {.keep = false});
  for (size_t w = 0; w < windows.size(); ++w) {
    const Window& window = windows[w];
    const int64_t skipped = window.length - window.scored;
    Append(hidden.Slice(static_cast<int64_t>(w) * length + skipped, length - skipped), window.scored,
           window.begin + skipped + 1, tokens, scored);
  }
}

template struct RowMaker<float>;
template struct RowMaker<Bf16>;

}  // namespace hm11
