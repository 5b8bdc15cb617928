// Scores of the artifact's model and of half-rounded ones, for the page of a run.
#include "train/run_page.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"
#include "core/file.h"
#include "core/status.h"
#include "data/shard.h"
#include "eval/bits_per_byte.h"
#include "eval/decoder.h"
#include "eval/generate.h"
#include "eval/scorer.h"
#include "model/placed_weights.h"
#include "ops/attention_step.h"
#include "ops/matmul.h"
#include "quant/config.h"
#include "train/report/artifact_facts.h"
#include "train/report/page.h"
#include "train/report/run_facts.h"
#include "train/report/run_record.h"
#include "train/report/score_facts.h"

namespace hm11 {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kShownTokens = 160;  // of a sample

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

template <typename T>
class Examination {
 public:
  explicit Examination(const FinishedModel& finished)
      : in_(finished),
        config_(finished.model.config.model),
        window_(finished.model.config.sequence),
        tokens_(finished.val_tokens.first(static_cast<size_t>(
            std::min<int64_t>(finished.most_tokens, static_cast<int64_t>(finished.val_tokens.size()))))) {}

  absl::StatusOr<RunFacts> Examine() {
    const Clock::time_point start = Clock::now();
    RunFacts facts;
    const std::string path = in_.folder + "/artifact.hm11";
    HM_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
    HM_ASSIGN_OR_RETURN(facts.artifact, ArtifactFactsOf(bytes, path, config_));
    facts.artifact.program_bytes = in_.program_bytes;
    facts.artifact.cap_bytes = kArtifactCapBytes;
    HM_RETURN_IF_ERROR(ScoreArtifact(&facts));
    HM_RETURN_IF_ERROR(CostOfRounding(&facts.rounding));
    facts.speed = {.flops_a_token = FlopsAToken(), .matmul_flops = MatmulFlops()};
    facts.seconds = SecondsSince(start);
    return facts;
  }

 private:
  ScorerOptions Options(ScoreMode mode) const {
    ScorerOptions options;
    options.score = {.mode = mode, .window = window_, .stride = window_, .rows_at_once = in_.rows_at_once};
    options.rows = false;
    while (options.score.rows_at_once > window_ &&
           ScorerWorkBytes<T>(config_, options, in_.work.device()) > in_.work_bytes) {
      options.score.rows_at_once /= 2;
    }
    return options;
  }

  // The loss of each token, -1 where it was not scored.
  std::vector<double> Losses(const ModelWeights<T>& weights, std::span<const uint16_t> tokens,
                             ScoreMode mode) {
    std::vector<double> nats(tokens.size(), -1);
    const std::unique_ptr<Scorer> scorer =
        NewScorer<T>(in_.work, config_, weights, static_cast<int64_t>(tokens.size()), Options(mode));
    while (const int64_t end = scorer->NextEnd()) {
      const std::span<const uint16_t> seen = tokens.first(static_cast<size_t>(end));
      const ScoredRows rows = scorer->Score(seen);
      for (size_t i = 0; i < rows.targets.size(); ++i)
        nats[static_cast<size_t>(rows.targets[i])] = rows.nats[i];
      scorer->Update(seen);
    }
    return nats;
  }

  absl::Status ScoreArtifact(RunFacts* facts) {
    Arena state(in_.work.device(), WeightBytes<float>(config_) + WeightBytes<T>(config_));
    HM_ASSIGN_OR_RETURN(const ModelWeights<T> weights, PlaceWeights<T>(state, config_, in_.model.tensors));
    const TargetLosses losses = {.nats = Losses(weights, tokens_, ScoreMode::kPlain), .window = window_};
    facts->score = ScoreFactsOf(tokens_, losses, in_.tokenizer);
    if (in_.sample.size() > 1) {
      facts->samples.push_back(SampleOf("What the model wrote", in_.sample,
                                        Losses(weights, in_.sample, ScoreMode::kSliding), in_.tokenizer));
    }
    for (const DocumentPlace& place : PlacesToShow(tokens_, losses, in_.tokenizer)) {
      const size_t begin = static_cast<size_t>(place.begin);
      const size_t count = static_cast<size_t>(std::min<int64_t>(kShownTokens, place.end - place.begin));
      facts->samples.push_back(SampleOf(place.title, tokens_.subspan(begin, count),
                                        std::span(losses.nats).subspan(begin, count), in_.tokenizer));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<double> BitsPerByte(const std::vector<NamedTensor>& tensors,
                                     std::span<const uint16_t> tokens) {
    Arena state(in_.work.device(), WeightBytes<float>(config_) + WeightBytes<T>(config_));
    HM_ASSIGN_OR_RETURN(const ModelWeights<T> weights, PlaceWeights<T>(state, config_, tensors));
    const Score score = ScoreTokens<T>(in_.work, config_, weights, tokens, in_.tokenizer.byte_table(),
                                       Options(ScoreMode::kPlain).score);
    return score.bits_per_byte;
  }

  absl::Status CostOfRounding(RoundingFacts* facts) {
    const std::span<const uint16_t> tokens = tokens_.first(
        std::min(tokens_.size(), std::max<size_t>(tokens_.size() / 4, static_cast<size_t>(window_ + 1))));
    std::vector<NamedTensor> exact = in_.exact;
    std::erase_if(exact, [&](const NamedTensor& tensor) {  // what is only for training
      return std::ranges::find(in_.model.tensors, tensor.name, &NamedTensor::name) == in_.model.tensors.end();
    });
    facts->tokens = static_cast<int64_t>(tokens.size());
    HM_ASSIGN_OR_RETURN(facts->exact_bpb, BitsPerByte(exact, tokens));
    HM_ASSIGN_OR_RETURN(facts->artifact_bpb, BitsPerByte(in_.model.tensors, tokens));
    const std::vector<std::string> parts = PartNames(config_);
    for (size_t part = 0; part < parts.size(); ++part) {
      HM_ASSIGN_OR_RETURN(const double bpb,
                          BitsPerByte(WithPartOf(config_, exact, in_.model.tensors, part), tokens));
      facts->parts.push_back({parts[part], bpb});
    }
    return absl::OkStatus();
  }

  // Forward and backward pass: 6 for each weight of a matrix that a token meets, and attention's two products
  // over half a window of keys on average. Lookups and scans are not counted.
  double FlopsAToken() const {
    double weights = 0, attention = 0;
    for (int64_t visit = 0; visit < config_.visit_count(); ++visit) {
      const int64_t layer = config_.layer_of(visit);
      double matrices = 2.0 * static_cast<double>(config_.mlp_width * config_.dim);
      if (config_.is_mamba(layer)) {
        matrices += static_cast<double>(config_.inner() *
                                        (3 * config_.dim + 2 * config_.dt_rank + 2 * config_.state));
      } else {
        matrices += static_cast<double>(config_.dim * (2 * config_.dim + 2 * config_.kv_dim()));
        attention += 6.0 * static_cast<double>(config_.dim * window_);
      }
      weights += matrices;
    }
    weights += static_cast<double>(config_.vocab * config_.dim);
    return 6 * weights + attention;
  }

  // A second, of a product far larger than what starting it costs.
  double MatmulFlops() {
    const Device& device = in_.work.device();
    const int64_t size = device.is_cuda() ? 4096 : 768;
    Arena arena(device, 4 * size * size * static_cast<int64_t>(sizeof(T)));
    const Tensor<T> x = arena.NewZero<T>({size, size}), weight = arena.NewZero<T>({size, size});
    const Tensor<T> y = arena.New<T>({size, size});
    const auto multiply = [&] { MatmulForward<T>(arena, {.x = x, .weight = weight, .y = y}); };
    multiply();
    device.Synchronize();
    const Clock::time_point start = Clock::now();
    int64_t products = 0;
    do {
      for (int i = 0; i < 4; ++i, ++products) multiply();
      device.Synchronize();
    } while (SecondsSince(start) < 0.1);
    return 2.0 * std::pow(static_cast<double>(size), 3) * static_cast<double>(products) / SecondsSince(start);
  }

  const FinishedModel& in_;
  const ModelConfig config_;
  const int64_t window_;
  const std::span<const uint16_t> tokens_;
};

}  // namespace

absl::Status DrawRunPage(const std::string& folder) {
  HM_ASSIGN_OR_RETURN(RunRecord record, ReadRunRecord(folder));
  return WriteFile(folder + "/report.html", RunPage({std::move(record)}));
}

template <typename T>
std::vector<uint16_t> WriteSample(const Device& device, const ModelConfig& config,
                                  const ModelWeights<T>& weights, std::span<const uint16_t> prompt,
                                  int64_t tokens, int64_t window) {
  std::vector<uint16_t> sample(prompt.begin(), prompt.end());
  Decoder<T> decoder(device, config, weights, std::min(window, kMaxStepWindow));
  Generate(decoder, prompt, {.tokens = tokens, .sampler = {.temperature = 0.8, .seed = 1}},
           [&](uint16_t token) {
             sample.push_back(token);
             return true;
           });
  return sample;
}

template <typename T>
absl::Status WriteRunFacts(const FinishedModel& finished) {
  if (static_cast<int64_t>(finished.val_tokens.size()) <= finished.model.config.sequence) {
    return absl::InvalidArgumentError("the validation text is shorter than a window");
  }
  HM_ASSIGN_OR_RETURN(const RunFacts facts, Examination<T>(finished).Examine());
  return WriteFile(absl::StrCat(finished.folder, "/", kRunFactsName), FormatRunFacts(facts));
}

#define HM11_INSTANTIATE(T)                                                                             \
  template std::vector<uint16_t> WriteSample(const Device&, const ModelConfig&, const ModelWeights<T>&, \
                                             std::span<const uint16_t>, int64_t, int64_t);              \
  template absl::Status WriteRunFacts<T>(const FinishedModel&)
HM11_INSTANTIATE(float);
HM11_INSTANTIATE(Bf16);
#undef HM11_INSTANTIATE

}  // namespace hm11
