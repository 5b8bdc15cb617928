// Checks of quantizer settings.
#include "quant/config.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace hm11 {
namespace {

absl::Status Wrong(absl::string_view field, absl::string_view value, absl::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat("setting '", field, "': '", value, "' is not ", expected));
}

bool IsBits(int64_t bits) { return bits >= 2 && bits <= 8; }

}  // namespace

absl::Status QuantConfig::Validate() const {
  if (scheme != "sigma" && scheme != "published") return Wrong("scheme", scheme, "sigma or published");
  if (coder != "range" && coder != "lzma" && coder != "smallest") {
    return Wrong("coder", coder, "range, lzma or smallest");
  }
  if (!IsBits(matrix_bits)) return Wrong("matrix_bits", absl::StrCat(matrix_bits), "2 to 8");
  if (!IsBits(embedding_bits)) return Wrong("embedding_bits", absl::StrCat(embedding_bits), "2 to 8");
  if (!IsBits(max_bits)) return Wrong("max_bits", absl::StrCat(max_bits), "2 to 8");
  if (!(sigma_k >= 0.1 && sigma_k <= 1000)) return Wrong("sigma_k", absl::StrCat(sigma_k), "0.1 to 1000");
  if (!(embedding_k >= 0.1 && embedding_k <= 1000)) {
    return Wrong("embedding_k", absl::StrCat(embedding_k), "0.1 to 1000");
  }
  const std::pair<const char*, double> shares[] = {{"sensitivity", sensitivity},
                                                   {"row_sensitivity", row_sensitivity},
                                                   {"column_steps", column_steps},
                                                   {"rate_lambda", rate_lambda},
                                                   {"embedding_identity", embedding_identity}};
  for (const auto& [field, value] : shares) {
    if (!(value >= 0 && value <= 1)) return Wrong(field, absl::StrCat(value), "0 to 1");
  }
  if (!(hessian_damping >= 1e-6 && hessian_damping <= 10)) {
    return Wrong("hessian_damping", absl::StrCat(hessian_damping), "1e-6 to 10");
  }
  if (small_elements < 0) return Wrong("small_elements", absl::StrCat(small_elements), "0 or more");
  if (float16_mantissa < 1 || float16_mantissa > 10) {
    return Wrong("float16_mantissa", absl::StrCat(float16_mantissa), "1 to 10");
  }
  if (budget_bytes < 0) return Wrong("budget_bytes", absl::StrCat(budget_bytes), "0 or more");
  return absl::OkStatus();
}

}  // namespace hm11
