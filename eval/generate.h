// Generate: text continued by a model, a token at a time.
#ifndef HM11_EVAL_GENERATE_H_
#define HM11_EVAL_GENERATE_H_

#include <cstdint>
#include <vector>

#include "core/arena.h"
#include "model/config.h"
#include "model/weights.h"

namespace hm11 {

struct GenerateOptions {
  int64_t tokens = 120;      // to add
  int64_t window = 2048;     // of context at most
  double temperature = 0.8;  // 0: always the likeliest
  uint64_t seed = 0;
};

// Appends to `tokens`, which must not be empty. A function of its arguments. The arena is reset.
template <typename T>
void Generate(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
              const GenerateOptions& options, std::vector<uint16_t>* tokens);

}  // namespace hm11

#endif  // HM11_EVAL_GENERATE_H_
