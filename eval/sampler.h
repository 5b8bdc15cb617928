// Sampler: draws tokens from a model's log-probabilities.
//
//   p_i ~ exp(log_prob_i / temperature) over the top_k likeliest tokens, of which the fewest that have top_p
//   of it
//
// Properties
//   1. Temperature 0 and top_k = 1 give the likeliest token, of equals the first.
//   2. No token outside the top_k likeliest is drawn, and none that top_p leaves out: one before which
//      likelier ones already have top_p. The likeliest is always in.
//   3. Draws are a function of seed and the draw's number; frequencies go to p.
// Source: top_p is nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751; top_k Fan et al. 2018, arXiv
// 1805.04833.
#ifndef HM11_EVAL_SAMPLER_H_
#define HM11_EVAL_SAMPLER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"

namespace hm11 {

struct SamplerOptions {
  double temperature = 0.8;  // 0: always the likeliest
  double top_p = 1;
  int64_t top_k = 0;  // 0: all
  uint64_t seed = 0;

  // InvalidArgument names the field.
  absl::Status Validate() const;
};

class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options) : options_(options) {}  // which pass Validate

  // A = float or double.
  template <typename A>
  int64_t Draw(std::span<const A> log_probs);

 private:
  struct Candidate {
    double log_prob;
    int64_t token;
    double weight = 0;
  };

  const SamplerOptions options_;
  uint64_t draws_ = 0;
  std::vector<Candidate> candidates_;
};

}  // namespace hm11

#endif  // HM11_EVAL_SAMPLER_H_
