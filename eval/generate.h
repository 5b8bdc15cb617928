// Generate: text continued by a model, a token at a time.
#ifndef HM11_EVAL_GENERATE_H_
#define HM11_EVAL_GENERATE_H_

#include <cstdint>
#include <functional>
#include <span>

#include "eval/decoder.h"
#include "eval/sampler.h"

namespace hm11 {

struct GenerateOptions {
  int64_t tokens = 120;  // to draw at most
  SamplerOptions sampler;
};

// Lets the decoder read `prompt`, at least one token, on from where it is; then draws tokens, which it reads
// too, and gives each to `take` until that returns false. A function of its arguments and of what the decoder
// has read. Returns the number of tokens drawn.
template <typename T, typename W>
int64_t Generate(Decoder<T, W>& decoder, std::span<const uint16_t> prompt, const GenerateOptions& options,
                 const std::function<bool(uint16_t)>& take);

}  // namespace hm11

#endif  // HM11_EVAL_GENERATE_H_
