// Sampler: weights, cut and drawn from.
#include "eval/sampler.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/random.h"

namespace hm11 {

absl::Status SamplerOptions::Validate() const {
  if (!(temperature >= 0 && std::isfinite(temperature))) {
    return absl::InvalidArgumentError(absl::StrCat("temperature=", temperature, ": must be finite and >= 0"));
  }
  if (!(top_p > 0 && top_p <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("top_p=", top_p, ": must be above 0 and at most 1"));
  }
  if (top_k < 0) return absl::InvalidArgumentError(absl::StrCat("top_k=", top_k, ": must not be negative"));
  return absl::OkStatus();
}

template <typename A>
int64_t Sampler::Draw(std::span<const A> log_probs) {
  const double uniform = RandomUniform(options_.seed, StreamOf("generate"), draws_++);
  const auto likeliest = std::max_element(log_probs.begin(), log_probs.end());
  if (options_.temperature == 0) return likeliest - log_probs.begin();
  candidates_.clear();
  for (size_t i = 0; i < log_probs.size(); ++i) {
    candidates_.push_back({static_cast<double>(log_probs[i]), static_cast<int64_t>(i)});
  }
  const int64_t all = static_cast<int64_t>(candidates_.size());
  const int64_t most = options_.top_k == 0 ? all : std::min(options_.top_k, all);
  if (most < all || options_.top_p < 1) {
    std::partial_sort(candidates_.begin(), candidates_.begin() + most, candidates_.end(),
                      [](const Candidate& a, const Candidate& b) {
                        return a.log_prob != b.log_prob ? a.log_prob > b.log_prob : a.token < b.token;
                      });
    candidates_.resize(static_cast<size_t>(most));
  }
  double sum = 0;
  for (Candidate& candidate : candidates_) {
    candidate.weight = std::exp((candidate.log_prob - *likeliest) / options_.temperature);
    sum += candidate.weight;
  }
  if (options_.top_p < 1) {
    double kept = 0;
    size_t count = 0;
    while (count < candidates_.size() && (count == 0 || kept < options_.top_p * sum)) {
      kept += candidates_[count++].weight;
    }
    candidates_.resize(count);
    sum = kept;
  }
  double passed = 0;
  for (const Candidate& candidate : candidates_) {
    passed += candidate.weight;
    if (uniform * sum < passed) return candidate.token;
  }
  return candidates_.back().token;
}

template int64_t Sampler::Draw<float>(std::span<const float>);
template int64_t Sampler::Draw<double>(std::span<const double>);

}  // namespace hm11
