// Scorers: rows from windows, and test-time training on what they have scored.
#include "eval/scorer.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/crc64.h"
#include "core/status.h"
#include "eval/document_scorer.h"
#include "eval/scored_rows.h"
#include "eval/stateful_scorer.h"
#include "model/language_model.h"
#include "ops/elementwise.h"

namespace hm11 {
namespace {

// Scores windows in order, as many of one length and one chunk at once as fit.
template <typename T>
class WindowScorer : public Scorer {
 public:
  WindowScorer(const RowMaker<T>& maker, std::vector<Window> windows, int64_t rows_at_once, int64_t chunk)
      : maker_(maker), windows_(std::move(windows)), rows_at_once_(rows_at_once), chunk_(chunk) {
    FindBlock();
  }

  int64_t NextEnd() const override {
    if (first_ == windows_.size()) return 0;
    int64_t end = 0;
    for (size_t w = first_; w < last_; ++w) end = std::max(end, windows_[w].begin + windows_[w].length + 1);
    return end;
  }

  ScoredRows Score(std::span<const uint16_t> tokens) override {
    HM_CHECK_EQ(static_cast<int64_t>(tokens.size()), NextEnd());
    ScoredRows rows;
    const std::span<const Window> windows = std::span(windows_).subspan(first_, last_ - first_);
    maker_.AppendWindows(windows, static_cast<int64_t>(windows.size()), windows[0].length, tokens, &rows);
    first_ = last_;
    FindBlock();
    return rows;
  }

  void Update(std::span<const uint16_t>) override {}

 protected:
  int64_t ChunkOf(size_t window) const {
    const Window& at = windows_[window];
    return (at.begin + at.length - at.scored) / chunk_;
  }
  bool done() const { return first_ == windows_.size(); }
  size_t next_window() const { return first_; }

  const RowMaker<T> maker_;

 private:
  void FindBlock() {
    if (done()) return;
    const int64_t length = windows_[first_].length;
    const size_t most = static_cast<size_t>(std::max<int64_t>(1, rows_at_once_ / length));
    last_ = first_ + 1;
    while (last_ < windows_.size() && last_ - first_ < most && windows_[last_].length == length &&
           ChunkOf(last_) == ChunkOf(first_)) {
      ++last_;
    }
  }

  const std::vector<Window> windows_;
  const int64_t rows_at_once_, chunk_;
  size_t first_ = 0, last_ = 0;  // windows of the next block
};

// Owns the weights that a TttScorer scores by, so that they are there before its base.
struct LearningState {
  LearningState(const Device& device, const ModelConfig& config, const ModelWeights<float>& start)
      : arena(device, 3 * WeightBytes<float>(config) + (1 << 20)),
        weights(NewWeights<float>(arena, config)),
        grad(NewWeights<float>(arena, config)),
        momentum(NewWeights<float>(arena, config)) {
    ModelWeights<float> from = start;
    ForEachWeight(
        config,
        [&](const WeightInfo&, Tensor<float>& x, Tensor<float>& y) {
          arena.device().CopyOnDevice(y.data(), x.data(), y.size_bytes());
        },
        from, weights);
  }

  Arena arena;
  ModelWeights<float> weights, grad, momentum;
};

class TttScorer : private LearningState, public WindowScorer<float> {
 public:
  // By weights of its own that start as `start`'s.
  TttScorer(const RowMaker<float>& start, std::vector<Window> windows, int64_t targets,
            const ScoreOptions& score, const TttOptions& options)
      : LearningState(start.work.device(), start.config, start.weights),
        WindowScorer<float>({start.work, start.config, LearningState::weights, start.rows},
                            std::move(windows), score.rows_at_once, options.chunk),
        options_(options),
        sequence_(score.window),
        targets_(targets),
        chunks_((targets + options.chunk - 1) / options.chunk) {}

  ScoredRows Score(std::span<const uint16_t> tokens) override {
    scored_chunk_ = ChunkOf(next_window());
    return WindowScorer<float>::Score(tokens);
  }

  void Update(std::span<const uint16_t> tokens) override {
    if (done() || ChunkOf(next_window()) == scored_chunk_) return;
    const int64_t begin = scored_chunk_ * options_.chunk;
    const int64_t end = std::min(targets_, begin + options_.chunk);
    HM_CHECK_GT(static_cast<int64_t>(tokens.size()), end);
    const int64_t sequences = (end - begin) / sequence_;
    const double progress = static_cast<double>(scored_chunk_) / static_cast<double>(chunks_ - 1);
    const double rate = options_.learning_rate * 0.5 * (1 + std::cos(std::numbers::pi * progress));
    for (int64_t epoch = 0; epoch < options_.epochs; ++epoch) {
      for (int64_t first = 0; first < sequences; first += options_.batch) {
        const int64_t batch = std::min(options_.batch, sequences - first);
        Step(tokens.subspan(static_cast<size_t>(begin + first * sequence_),
                            static_cast<size_t>(batch * sequence_ + 1)),
             batch, rate);
      }
    }
    if (options_.epochs > 0 && sequences > 0) hash_.reset();
  }

  uint64_t ParameterHash() override {
    if (hash_) return *hash_;
    uint64_t hash = 0;
    std::vector<char> bytes;
    ForEachWeight(
        maker_.config,
        [&](const WeightInfo&, Tensor<float>& weight) {
          bytes.resize(static_cast<size_t>(weight.size_bytes()));
          maker_.work.device().CopyToHost(bytes.data(), weight.data(), weight.size_bytes());
          hash = Crc64({bytes.data(), bytes.size()}, hash);
        },
        LearningState::weights);
    hash_ = hash;
    return hash;
  }

 private:
  bool Trains(const WeightInfo& info) const {
    if (options_.mlp_only) return info.mlp;
    return info.kind == WeightKind::kBankMatrix || info.layer < 0 || info.layer >= options_.frozen_blocks;
  }

  void Step(std::span<const uint16_t> tokens, int64_t batch, double rate) {
    maker_.work.Reset();
    const std::vector<int32_t> ids(tokens.begin(), tokens.end() - 1),
        targets(tokens.begin() + 1, tokens.end());
    int64_t tensors = 0;
    ForEachWeight(
        maker_.config,
        [&](const WeightInfo&, Tensor<float>& gradient) {
          maker_.work.device().Zero(gradient.data(), gradient.size_bytes());
          ++tensors;
        },
        grad);
    const Tensor<int32_t> device_ids = UploadIds(maker_.work, ids, batch),
                          device_targets = UploadIds(maker_.work, targets, batch);
    const Tensor<float> loss = maker_.work.New<float>({1}), squares = maker_.work.New<float>({tensors});
    LossAndGradient<float>(maker_.work, maker_.config, LearningState::weights, device_ids, device_targets, 1,
                           grad, loss);
    const float scale = ClipScale(squares);
    const float momentum_change = static_cast<float>(options_.momentum - 1);
    ForEachWeight(
        maker_.config,
        [&](const WeightInfo& info, Tensor<float>& gradient, Tensor<float>& velocity, Tensor<float>& weight) {
          if (!Trains(info)) return;
          AddTo<float>(maker_.work, velocity, momentum_change, velocity);
          AddTo<float>(maker_.work, gradient, scale, velocity);
          AddTo<float>(maker_.work, velocity, static_cast<float>(-rate), weight);
        },
        grad, momentum, LearningState::weights);
  }

  // What brings the gradient of what trains to a norm of at most `clip`.
  float ClipScale(const Tensor<float>& squares) {
    int64_t tensors = 0;
    ForEachWeight(
        maker_.config,
        [&](const WeightInfo& info, Tensor<float>& gradient) {
          if (Trains(info)) SumOfSquares<float>(maker_.work, gradient, squares.Slice(tensors++, 1));
        },
        grad);
    std::vector<float> host(static_cast<size_t>(tensors));
    maker_.work.device().CopyToHost(host.data(), squares.data(),
                                    tensors * static_cast<int64_t>(sizeof(float)));
    double sum = 0;
    for (const float square : host) sum += square;
    return static_cast<float>(std::min(1.0, options_.clip / (std::sqrt(sum) + 1e-6)));
  }

  const TttOptions options_;
  const int64_t sequence_, targets_, chunks_;
  int64_t scored_chunk_ = 0;
  std::optional<uint64_t> hash_;
};

}  // namespace

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

absl::StatusOr<ScorerOptions> ScorerOptionsFor(const ScorerRequest& request, int64_t sequence,
                                               int64_t rows_at_once) {
  HM_ASSIGN_OR_RETURN(ScorerOptions options, ScorerOptionsFromName(request.mode));
  for (const auto& [flag, value] :
       {std::pair("window", request.window), std::pair("rows_at_once", request.rows_at_once)}) {
    if (value < 0) return absl::InvalidArgumentError(absl::StrCat("--", flag, "=", value, ": negative"));
  }
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
  if constexpr (std::is_same_v<T, float>) {
    if (score.mode == ScoreMode::kSlidingPublished) {
      std::erase_if(windows, [&](const Window& w) { return w.begin > 0 && w.length < score.stride; });
    }
    return std::make_unique<TttScorer>(maker, std::move(windows), tokens - 1, score, *options.ttt);
  } else {
    check_internal::Fail(__FILE__, __LINE__, "test-time training is for float weights");
  }
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
  LossAndGradient<T>(plan, config, weights, ids, targets, 1, grad, plan.New<Accum<T>>({1}));
  // And the squares of the gradients, a float a tensor, with what summing them takes.
  return std::max(forward, plan.high_water_bytes() - trained) + (int64_t{16} << 20);
}
template int64_t ScorerWorkBytes<float>(const ModelConfig&, const ScorerOptions&, const Device&);
template int64_t ScorerWorkBytes<Bf16>(const ModelConfig&, const ScorerOptions&, const Device&);

Score RunScorer(Scorer& scorer, std::span<const uint16_t> tokens, const ByteTable& bytes,
                const std::function<void(double)>& progress) {
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
  return sum.score();
}

}  // namespace hm11
