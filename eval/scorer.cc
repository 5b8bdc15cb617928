// Scorers by their options, and the run of one over a stream.
#include "eval/scorer.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "eval/document_scorer.h"
#include "eval/scored_rows.h"
#include "eval/stateful_scorer.h"
#include "eval/ttt_scorer.h"
#include "eval/window_scorer.h"
#include "model/language_model.h"

namespace hm11 {
int64_t StatefulOptions::Overlap(int64_t window) const {
  return std::min(overlap < 0 ? std::min<int64_t>(1024, window / 2) : overlap, window - 1);
}

absl::Status ScorerOptions::Validate() const {
  const auto refuse = [](const auto&... parts) { return absl::InvalidArgumentError(absl::StrCat(parts...)); };
  if (score.window < 1) return refuse("window=", score.window, ": must be at least 1");
  if (score.stride < 1) return refuse("stride=", score.stride, ": must be at least 1");
  if (stateful && stateful->overlap < -1) {
    return refuse("overlap=", stateful->overlap, ": must be at least 0, or -1 for half a window");
  }
  if (isolate_documents && ttt) {
    return refuse(
        "isolate_documents: test-time training learns from the documents before; score without one");
  }
  if (isolate_documents && score.mode == ScoreMode::kSlidingPublished) {
    return refuse(
        "isolate_documents: published windows span documents; the modes are plain, sliding and stateful");
  }
  return absl::OkStatus();
}

absl::StatusOr<ScorerOptions> ScorerOptionsFromName(absl::string_view name) {
  ScorerOptions options;
  if (name == "plain") {
    options.score.mode = ScoreMode::kPlain;
  } else if (name == "sliding" || name == "stateful" || name == "ttt" || name == "ttt_mlp") {
    options.score.mode = ScoreMode::kSliding;
  } else if (name == "sliding_published" || name == "ttt_published") {
    options.score.mode = ScoreMode::kSlidingPublished;
  } else {
    return absl::InvalidArgumentError(absl::StrCat(
        "mode '", name,
        "': expected plain, sliding, sliding_published, stateful, ttt, ttt_mlp or ttt_published"));
  }
  if (name == "stateful") options.stateful.emplace();
  if (name == "ttt" || name == "ttt_published") options.ttt.emplace();
  if (name == "ttt_mlp") {
    options.ttt =
        TttOptions{.learning_rate = 0.017, .epochs = 5, .chunk = 65536, .frozen_blocks = 0, .mlp_only = true};
  }
  return options;
}

namespace {

absl::Status SetTtt(const ScorerRequest& request, std::optional<TttOptions>* ttt) {
  const double rate = request.ttt_learning_rate;
  if (!(rate >= 0 && std::isfinite(rate))) {
    return absl::InvalidArgumentError(
        absl::StrCat("--ttt_learning_rate=", rate, ": must be a finite number, 0 for the mode's"));
  }
  if (!ttt->has_value()) {
    if (rate == 0 && request.ttt_epochs == 0 && request.ttt_chunk == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "--ttt_learning_rate, --ttt_epochs and --ttt_chunk are for --mode=ttt...");
  }
  if (rate > 0) (*ttt)->learning_rate = rate;
  if (request.ttt_epochs > 0) (*ttt)->epochs = request.ttt_epochs;
  if (request.ttt_chunk > 0) (*ttt)->chunk = request.ttt_chunk;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ScorerOptions> ScorerOptionsFor(const ScorerRequest& request, int64_t sequence,
                                               int64_t rows_at_once) {
  HM_ASSIGN_OR_RETURN(ScorerOptions options, ScorerOptionsFromName(request.mode));
  for (const auto& [flag, value] :
       {std::pair("window", request.window), std::pair("rows_at_once", request.rows_at_once),
        std::pair("ttt_epochs", request.ttt_epochs), std::pair("ttt_chunk", request.ttt_chunk)}) {
    if (value < 0) return absl::InvalidArgumentError(absl::StrCat("--", flag, "=", value, ": negative"));
  }
  HM_RETURN_IF_ERROR(SetTtt(request, &options.ttt));
  options.score.window = request.window > 0 ? request.window : sequence;
  options.score.stride = request.stride;
  options.score.rows_at_once = request.rows_at_once > 0 ? request.rows_at_once : rows_at_once;
  if (options.stateful) {
    options.stateful->overlap = request.overlap;
  } else if (request.overlap != -1) {
    return absl::InvalidArgumentError("--overlap is for --mode=stateful");
  }
  options.isolate_documents = request.isolate_documents;
  HM_RETURN_IF_ERROR(options.Validate());
  return options;
}

template <typename T>
std::unique_ptr<Scorer> NewScorer(Arena& work, const ModelConfig& config, const ModelWeights<T>& weights,
                                  int64_t tokens, const ScorerOptions& options) {
  HM_CHECK(options.Validate().ok());
  const ScoreOptions& score = options.score;
  const RowMaker<T> maker{work, config, weights, options.rows};
  if (options.stateful) return std::make_unique<StatefulScorer<T>>(maker, tokens, options);
  if (options.isolate_documents) return std::make_unique<DocumentScorer<T>>(maker, tokens, score);
  std::vector<Window> windows = LayWindows(score.mode, tokens, score.window, score.stride);
  if (!options.ttt) {
    return std::make_unique<WindowScorer<T>>(maker, std::move(windows), score.rows_at_once,
                                             std::max<int64_t>(1, tokens));
  }
  if (score.mode == ScoreMode::kSlidingPublished) {
    std::erase_if(windows, [&](const Window& w) { return w.begin > 0 && w.length < score.stride; });
  }
  return std::make_unique<TttScorer<T>>(maker, std::move(windows), tokens - 1, score, *options.ttt);
}
template std::unique_ptr<Scorer> NewScorer<float>(Arena&, const ModelConfig&, const ModelWeights<float>&,
                                                  int64_t, const ScorerOptions&);
template std::unique_ptr<Scorer> NewScorer<Bf16>(Arena&, const ModelConfig&, const ModelWeights<Bf16>&,
                                                 int64_t, const ScorerOptions&);

template <typename T>
int64_t ScorerWorkBytes(const ModelConfig& config, const ScorerOptions& options, const Device& device) {
  if (options.stateful) return StatefulScorer<T>::WorkBytes(config, options, device);
  const int64_t window = options.score.window;
  Arena plan = Arena::Plan(device);
  ModelWeights<T> weights = NewWeights<T>(plan, config);
  const int64_t before = plan.used_bytes();
  {
    Arena::Scope scope(plan);
    const int64_t batch = std::max<int64_t>(1, options.score.rows_at_once / window);
    ModelSaved<T> saved;
    const Tensor<T> hidden =
        HiddenForward<T>(plan, config, weights, plan.New<int32_t>({batch, window}), &saved, {.keep = false});
    LogProbabilities<T>(plan, config, weights, hidden.Slice(0, window));
  }
  const int64_t forward = plan.high_water_bytes() - before;
  if (!options.ttt) return forward;
  ModelWeights<Accum<T>> grad = NewWeights<Accum<T>>(plan, config);
  const int64_t trained = plan.used_bytes();
  const int64_t batch = std::max<int64_t>(1, std::min(options.ttt->batch, options.ttt->chunk / window));
  const Tensor<int32_t> ids = plan.New<int32_t>({batch, window}),
                        targets = plan.New<int32_t>({batch, window});
  LossAndGradient<T>(
      plan, config,
      {.weights = weights, .ids = ids, .targets = targets, .grad = grad, .loss = plan.New<Accum<T>>({1})});
  // And the squares of the gradients, a float a tensor, with what summing them takes.
  return std::max(forward, plan.high_water_bytes() - trained) + (int64_t{16} << 20);
}
template int64_t ScorerWorkBytes<float>(const ModelConfig&, const ScorerOptions&, const Device&);
template int64_t ScorerWorkBytes<Bf16>(const ModelConfig&, const ScorerOptions&, const Device&);

Score RunScorer(Scorer& scorer, std::span<const uint16_t> tokens, const ByteTable& bytes,
                const std::function<void(double)>& progress, RankGroup* group) {
  ScoreSum sum;
  for (int64_t end = scorer.NextEnd(); end > 0; end = scorer.NextEnd()) {
    const std::span<const uint16_t> seen = tokens.first(static_cast<size_t>(end));
    const ScoredRows rows = scorer.Score(seen);
    for (size_t i = 0; i < rows.targets.size(); ++i) {
      const size_t target = static_cast<size_t>(rows.targets[i]);
      sum.Add(rows.nats[i], bytes.Bytes(tokens[target], tokens[target - 1]));
    }
    scorer.Update(seen);
    if (progress) progress(static_cast<double>(end) / static_cast<double>(tokens.size()));
  }
  if (group != nullptr) sum.AddUp(*group);
  return sum.score();
}

}  // namespace hm11
