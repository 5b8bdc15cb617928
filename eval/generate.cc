// Generate: one forward pass over the context for each token.
#include "eval/generate.h"

#include <algorithm>
#include <cmath>

#include "core/random.h"
#include "model/language_model.h"

namespace hm11 {
namespace {

// Draws an index with probability exp(log_prob / temperature), normalized.
template <typename A>
int64_t Draw(const std::vector<A>& log_probs, double temperature, double uniform) {
  const auto likeliest = std::max_element(log_probs.begin(), log_probs.end());
  if (temperature <= 0) return likeliest - log_probs.begin();
  std::vector<double> cumulative(log_probs.size());
  double sum = 0;
  for (size_t v = 0; v < log_probs.size(); ++v) {
    sum += std::exp((static_cast<double>(log_probs[v]) - *likeliest) / temperature);
    cumulative[v] = sum;
  }
  const auto found = std::upper_bound(cumulative.begin(), cumulative.end(), uniform * sum);
  return std::min<int64_t>(found - cumulative.begin(), static_cast<int64_t>(cumulative.size()) - 1);
}

}  // namespace

template <typename T>
void Generate(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
              const GenerateOptions& options, std::vector<uint16_t>* tokens) {
  HM_CHECK(!tokens->empty());
  using A = Accum<T>;
  for (int64_t i = 0; i < options.tokens; ++i) {
    const int64_t length = std::min<int64_t>(options.window, static_cast<int64_t>(tokens->size()));
    const std::vector<int32_t> context(tokens->end() - length, tokens->end());
    arena.Reset();
    Tensor<int32_t> ids = arena.New<int32_t>({1, length});
    arena.device().CopyFromHost(ids.data(), context.data(), ids.size_bytes());
    ModelSaved<T> saved;
    const Tensor<T> hidden = HiddenForward<T>(arena, config, weights, ids, &saved, {.keep = false});
    const Tensor<A> log_probs = LogProbabilities<T>(arena, config, weights, hidden.Slice(length - 1, 1));
    std::vector<A> row(static_cast<size_t>(config.vocab));
    arena.device().CopyToHost(row.data(), log_probs.data(), log_probs.size_bytes());
    const double uniform = RandomUniform(options.seed, StreamOf("generate"), static_cast<uint64_t>(i));
    tokens->push_back(static_cast<uint16_t>(Draw(row, options.temperature, uniform)));
  }
  arena.Reset();
}

template void Generate<float>(Arena&, const ModelConfig&, const ModelWeights<float>&, const GenerateOptions&,
                              std::vector<uint16_t>*);
template void Generate<Bf16>(Arena&, const ModelConfig&, const ModelWeights<Bf16>&, const GenerateOptions&,
                             std::vector<uint16_t>*);

}  // namespace hm11
