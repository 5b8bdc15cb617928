// Test-time training: SGD with momentum on chunks that are scored.
#include "eval/ttt_scorer.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <type_traits>
#include <utility>

#include "core/check.h"
#include "core/crc64.h"
#include "core/dtype.h"
#include "model/language_model.h"
#include "ops/elementwise.h"

namespace hm11 {
namespace {

// Of one weight: what is kept as float for every T is Tensor<float> in both.
template <typename From, typename To>
void CastWeight(Arena& arena, const Tensor<From>& x, const Tensor<To>& y) {
  if (static_cast<const void*>(x.data()) != static_cast<const void*>(y.data())) Cast<From, To>(arena, x, y);
}

}  // namespace

template <typename T>
int64_t LearningState<T>::Bytes(const ModelConfig& config) {
  const int64_t copy = std::is_same_v<T, float> ? 0 : WeightBytes<T>(config);
  return 3 * WeightBytes<float>(config) + copy + (1 << 20);
}

template <typename T>
LearningState<T>::LearningState(const Device& device, const ModelConfig& config, const ModelWeights<T>& start)
    : arena(device, Bytes(config)),
      master(NewWeights<float>(arena, config)),
      grad(NewWeights<float>(arena, config)),
      momentum(NewWeights<float>(arena, config)) {
  if constexpr (std::is_same_v<T, float>) {
    weights = master;
  } else {
    weights = NewWeights<T>(arena, config);
  }
  ModelWeights<T> from = start;
  ForEachWeight(
      config,
      [&](const WeightInfo&, auto& x, Tensor<float>& trained, auto& used) {
        CastWeight(arena, x, trained);
        CastWeight(arena, x, used);
      },
      from, master, weights);
}

template <typename T>
TttScorer<T>::TttScorer(const RowMaker<T>& start, std::vector<Window> windows, int64_t targets,
                        const ScoreOptions& score, const TttOptions& options)
    : LearningState<T>(start.work.device(), start.config, start.weights),
      WindowScorer<T>({start.work, start.config, LearningState<T>::weights, start.rows}, std::move(windows),
                      score.rows_at_once, options.chunk),
      options_(options),
      sequence_(score.window),
      targets_(targets),
      chunks_((targets + options.chunk - 1) / options.chunk) {}

template <typename T>
ScoredRows TttScorer<T>::Score(std::span<const uint16_t> tokens) {
  scored_chunk_ = this->ChunkOf(this->next_window());
  return WindowScorer<T>::Score(tokens);
}

template <typename T>
void TttScorer<T>::Update(std::span<const uint16_t> tokens) {
  if (this->done() || this->ChunkOf(this->next_window()) == scored_chunk_) return;
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

template <typename T>
uint64_t TttScorer<T>::ParameterHash() {
  if (hash_) return *hash_;
  uint64_t hash = 0;
  std::vector<char> bytes;
  ForEachWeight(
      this->maker_.config,
      [&](const WeightInfo&, Tensor<float>& weight) {
        bytes.resize(static_cast<size_t>(weight.size_bytes()));
        this->arena.device().CopyToHost(bytes.data(), weight.data(), weight.size_bytes());
        hash = Crc64({bytes.data(), bytes.size()}, hash);
      },
      this->master);
  hash_ = hash;
  return hash;
}

template <typename T>
bool TttScorer<T>::Trains(const WeightInfo& info) const {
  if (options_.mlp_only) return info.mlp;
  return info.kind == WeightKind::kBankMatrix || info.layer < 0 || info.layer >= options_.frozen_blocks;
}

template <typename T>
void TttScorer<T>::Step(std::span<const uint16_t> tokens, int64_t batch, double rate) {
  const RowMaker<T>& maker = this->maker_;
  Arena& work = maker.work;
  work.Reset();
  const std::vector<int32_t> ids(tokens.begin(), tokens.end() - 1), targets(tokens.begin() + 1, tokens.end());
  int64_t tensors = 0;
  ForEachWeight(
      maker.config,
      [&](const WeightInfo&, Tensor<float>& gradient) {
        work.device().Zero(gradient.data(), gradient.size_bytes());
        ++tensors;
      },
      this->grad);
  const Tensor<int32_t> device_ids = UploadIds(work, ids, batch),
                        device_targets = UploadIds(work, targets, batch);
  const Tensor<float> loss = work.New<float>({1}), squares = work.New<float>({tensors});
  LossAndGradient<T>(work, maker.config,
                     {.weights = this->weights,
                      .ids = device_ids,
                      .targets = device_targets,
                      .grad = this->grad,
                      .loss = loss});
  const float scale = ClipScale(squares);
  const float momentum_change = static_cast<float>(options_.momentum - 1);
  ForEachWeight(
      maker.config,
      [&](const WeightInfo& info, Tensor<float>& gradient, Tensor<float>& velocity, Tensor<float>& trained,
          auto& used) {
        if (!Trains(info)) return;
        AddTo<float>(work, velocity, momentum_change, velocity);
        AddTo<float>(work, gradient, scale, velocity);
        AddTo<float>(work, velocity, static_cast<float>(-rate), trained);
        CastWeight(work, trained, used);
      },
      this->grad, this->momentum, this->master, this->weights);
}

template <typename T>
float TttScorer<T>::ClipScale(const Tensor<float>& squares) {
  const RowMaker<T>& maker = this->maker_;
  int64_t tensors = 0;
  ForEachWeight(
      maker.config,
      [&](const WeightInfo& info, Tensor<float>& gradient) {
        if (Trains(info)) SumOfSquares<float>(maker.work, gradient, squares.Slice(tensors++, 1));
      },
      this->grad);
  std::vector<float> host(static_cast<size_t>(tensors));
  maker.work.device().CopyToHost(host.data(), squares.data(), tensors * static_cast<int64_t>(sizeof(float)));
  double sum = 0;
  for (const float square : host) sum += square;
  return static_cast<float>(std::min(1.0, options_.clip / (std::sqrt(sum) + 1e-6)));
}

template struct LearningState<float>;
template struct LearningState<Bf16>;
template class TttScorer<float>;
template class TttScorer<Bf16>;

}  // namespace hm11
