// Generate: read, draw, read.
#include "eval/generate.h"

#include "core/check.h"

namespace hm11 {

template <typename T, typename W>
int64_t Generate(Decoder<T, W>& decoder, std::span<const uint16_t> prompt, const GenerateOptions& options,
                 const std::function<bool(uint16_t)>& take) {
  HM_CHECK(!prompt.empty());
  std::span<const Accum<T>> log_probs;
  for (const uint16_t token : prompt) log_probs = decoder.Next(token);
  Sampler sampler(options.sampler);
  for (int64_t drawn = 0; drawn < options.tokens;) {
    const auto token = static_cast<uint16_t>(sampler.Draw(log_probs));
    ++drawn;
    if (!take(token) || drawn == options.tokens) return drawn;
    log_probs = decoder.Next(token);
  }
  return 0;
}

#define HM11_INSTANTIATE(T, W)                                                                       \
  template int64_t Generate<T, W>(Decoder<T, W>&, std::span<const uint16_t>, const GenerateOptions&, \
                                  const std::function<bool(uint16_t)>&);
HM11_INSTANTIATE(double, double)
HM11_INSTANTIATE(float, float)
HM11_INSTANTIATE(float, Fp16)
HM11_INSTANTIATE(Bf16, Bf16)
#undef HM11_INSTANTIATE

}  // namespace hm11
