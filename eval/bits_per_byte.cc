// Bits per byte: lays windows, scores as many of one length at once as fit, and counts.
#include "eval/bits_per_byte.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "data/shard.h"
#include "model/language_model.h"

namespace hm11 {
namespace {

static_assert(std::is_trivially_copyable_v<ScoreSum>);

// Windows of one length as a batch; ids, targets: [windows, length].
void Gather(std::span<const uint16_t> tokens, std::span<const Window> windows, std::vector<int32_t>* ids,
            std::vector<int32_t>* targets) {
  ids->clear();
  targets->clear();
  for (const Window& window : windows) {
    const uint16_t* const begin = tokens.data() + window.begin;
    ids->insert(ids->end(), begin, begin + window.length);
    targets->insert(targets->end(), begin + 1, begin + 1 + window.length);
  }
}

}  // namespace

absl::StatusOr<ScoreMode> ScoreModeFromName(absl::string_view name) {
  if (name == "plain") return ScoreMode::kPlain;
  if (name == "sliding") return ScoreMode::kSliding;
  if (name == "sliding_published") return ScoreMode::kSlidingPublished;
  return absl::InvalidArgumentError(
      absl::StrCat("mode '", name, "': expected plain, sliding or sliding_published"));
}

std::vector<Window> LayWindows(ScoreMode mode, int64_t tokens, int64_t window, int64_t stride) {
  HM_CHECK_GE(window, 1);
  HM_CHECK_GE(stride, 1);
  std::vector<Window> windows;
  const int64_t targets = tokens - 1;
  if (mode == ScoreMode::kPlain) {
    for (int64_t begin = 0; begin + window <= targets; begin += window)
      windows.push_back({begin, window, window});
    return windows;
  }
  if (mode == ScoreMode::kSlidingPublished) {
    for (int64_t begin = 0; begin < targets; begin += stride) {
      const int64_t length = std::min(window, targets - begin);
      const int64_t scored = begin == 0 ? length : std::min(stride, length);
      windows.push_back({begin, length, scored});
    }
    return windows;
  }
  const int64_t step = std::min(stride, window);
  int64_t done = 0;  // targets scored so far
  while (done < targets) {
    const int64_t end = std::min(targets, done == 0 ? window : done + step);
    const int64_t begin = std::max<int64_t>(0, end - window);
    windows.push_back({begin, end - begin, end - done});
    done = end;
  }
  return windows;
}

int64_t DocumentEnd(std::span<const uint16_t> tokens, int64_t position, int64_t end) {
  const auto begin = tokens.begin();
  return std::find(begin + std::min(position + 1, end), begin + end, kBosToken) - begin;
}

std::span<const uint16_t> DocumentsOf(std::span<const uint16_t> tokens, int rank, int ranks) {
  const int64_t size = static_cast<int64_t>(tokens.size()), last = std::max<int64_t>(0, size - 1);
  const auto cut = [&](int r) {
    const int64_t even = last * r / ranks;
    return even == 0 ? 0 : DocumentEnd(tokens, even - 1, last);
  };
  const int64_t begin = cut(rank), end = rank + 1 == ranks ? last : cut(rank + 1);
  return tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(std::min(size, end + 1) - begin));
}

std::vector<Window> LayDocumentWindows(ScoreMode mode, std::span<const uint16_t> tokens, int64_t first,
                                       int64_t window, int64_t stride) {
  HM_CHECK(mode == ScoreMode::kPlain || mode == ScoreMode::kSliding);
  HM_CHECK(window >= 1 && stride >= 1 && first >= 1);
  std::vector<Window> windows;
  // Of each target the input is the token before; the last token is a target only.
  const int64_t step = mode == ScoreMode::kPlain ? window : std::min(stride, window);
  const int64_t inputs = static_cast<int64_t>(tokens.size()) - 1;
  int64_t done = first - 1;  // inputs whose targets are scored
  int64_t document = done;
  while (document > 0 && tokens[static_cast<size_t>(document)] != kBosToken) --document;
  for (; done < inputs; document = done) {
    const int64_t document_end = DocumentEnd(tokens, done, inputs);
    while (done < document_end) {
      const int64_t into = done - document;
      const int64_t whole_end =
          document + (into < window ? window : window + ((into - window) / step + 1) * step);
      const int64_t begin = whole_end - window, end = std::min(whole_end, document_end);
      windows.push_back({begin, end - begin, end - done});
      done = end;
    }
  }
  return windows;
}

std::vector<std::span<const Window>> PassesOf(std::span<const Window> windows, int64_t rows_at_once, int rank,
                                              int ranks) {
  std::vector<std::span<const Window>> passes;
  for (size_t first = 0, last = 0; first < windows.size(); first = last) {
    const int64_t length = windows[first].length;
    const size_t most = static_cast<size_t>(std::max<int64_t>(1, rows_at_once / length));
    while (last < windows.size() && last - first < most && windows[last].length == length) ++last;
    passes.push_back(windows.subspan(first, last - first));
  }
  const int64_t count = static_cast<int64_t>(passes.size());
  return {passes.begin() + count * rank / ranks, passes.begin() + count * (rank + 1) / ranks};
}

void ScoreSum::AddUp(RankGroup& group) {
  const std::vector<std::string> all =
      group.AllGather(absl::string_view(reinterpret_cast<const char*>(this), sizeof(*this)));
  *this = ScoreSum();
  for (const std::string& bytes : all) {
    ScoreSum other;
    HM_CHECK_EQ(bytes.size(), sizeof(other));
    std::memcpy(&other, bytes.data(), sizeof(other));
    nats_ += other.nats_;
    bytes_ += other.bytes_;
    tokens_ += other.tokens_;
  }
}

Score ScoreSum::score() const {
  Score score{.loss_nats = 0, .bits_per_byte = 0, .tokens = tokens_, .bytes = bytes_};
  if (tokens_ > 0) score.loss_nats = nats_ / static_cast<double>(tokens_);
  if (bytes_ > 0) score.bits_per_byte = nats_ / std::log(2.0) / static_cast<double>(bytes_);
  return score;
}

absl::Status CheckScored(const Score& score, absl::string_view data) {
  if (score.tokens == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("data ", data, ": no target was scored, it is shorter than a window"));
  }
  if (score.bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("data ", data, ": its ", score.tokens, " targets stand for no text"));
  }
  return absl::OkStatus();
}

template <typename T>
Score ScoreTokens(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                  std::span<const uint16_t> tokens, const ByteTable& bytes, const ScoreOptions& options,
                  const std::function<void(double)>& progress, RankGroup* group) {
  const std::vector<Window> windows =
      LayWindows(options.mode, static_cast<int64_t>(tokens.size()), options.window, options.stride);
  const std::vector<std::span<const Window>> passes =
      PassesOf(windows, options.rows_at_once, group == nullptr ? 0 : group->rank(),
               group == nullptr ? 1 : group->size());
  ScoreSum sum;
  std::vector<int32_t> ids, targets;
  std::vector<Accum<T>> losses;
  for (size_t pass = 0; pass < passes.size(); ++pass) {
    const std::span<const Window> together = passes[pass];
    const int64_t length = together[0].length;
    const int64_t count = static_cast<int64_t>(together.size());
    Gather(tokens, together, &ids, &targets);
    arena.Reset();
    Tensor<int32_t> device_ids = arena.New<int32_t>({count, length});
    Tensor<int32_t> device_targets = arena.New<int32_t>({count, length});
    arena.device().CopyFromHost(device_ids.data(), ids.data(), device_ids.size_bytes());
    arena.device().CopyFromHost(device_targets.data(), targets.data(), device_targets.size_bytes());
    const Tensor<Accum<T>> result = TokenLosses<T>(arena, config, weights, device_ids, device_targets);
    losses.resize(ids.size());
    arena.device().CopyToHost(losses.data(), result.data(), result.size_bytes());
    for (int64_t w = 0; w < count; ++w) {
      for (int64_t t = length - together[static_cast<size_t>(w)].scored; t < length; ++t) {
        const size_t i = static_cast<size_t>(w * length + t);
        sum.Add(losses[i], bytes.Bytes(targets[i], ids[i]));
      }
    }
    if (progress) progress(static_cast<double>(pass + 1) / static_cast<double>(passes.size()));
  }
  arena.Reset();
  if (group != nullptr) sum.AddUp(*group);
  return sum.score();
}

template <typename T>
int64_t ScoreWorkBytes(const ModelConfig& config, const ScoreOptions& options, const Device& device) {
  Arena plan = Arena::Plan(device);
  const ModelWeights<T> weights = NewWeights<T>(plan, config);
  const int64_t before = plan.used_bytes();
  const int64_t rows = std::max<int64_t>(1, options.rows_at_once / options.window);
  const Tensor<int32_t> ids = plan.New<int32_t>({rows, options.window});
  const Tensor<int32_t> targets = plan.New<int32_t>({rows, options.window});
  TokenLosses<T>(plan, config, weights, ids, targets);
  return plan.high_water_bytes() - before;
}

#define HM11_INSTANTIATE(T)                                                                       \
  template int64_t ScoreWorkBytes<T>(const ModelConfig&, const ScoreOptions&, const Device&);     \
  template Score ScoreTokens<T>(Arena&, const ModelConfig&, const ModelWeights<T>&,               \
                                std::span<const uint16_t>, const ByteTable&, const ScoreOptions&, \
                                const std::function<void(double)>&, RankGroup*);
HM11_INSTANTIATE(double)
HM11_INSTANTIATE(float)
HM11_INSTANTIATE(Bf16)
#undef HM11_INSTANTIATE

}  // namespace hm11
