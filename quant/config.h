// QuantConfig: how weights become an artifact, as plain values with a text form (core/fields.h).
#ifndef HM11_QUANT_CONFIG_H_
#define HM11_QUANT_CONFIG_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace hm11 {

inline constexpr int64_t kArtifactCapBytes = 16'000'000;  // artifact and program together

struct QuantConfig {
  // "sigma": steps tied to each row's standard deviation and scaled together until the artifact fits.
  // "published": the reference's clip search and scale floors; takes the bytes it takes.
  std::string scheme = "sigma";
  // Of the codes. "range": the adaptive range coder; "lzma"; "smallest": both are tried (LZMA needs a
  // minute). Everything else is stored the smallest of all ways.
  std::string coder = "range";
  int64_t matrix_bits = 6;     // of large matrices: codes of 6 bits are -31..31
  double sigma_k = 12.85;      // largest code of matrix_bits stands for this many standard deviations
  int64_t embedding_bits = 8;  // of large tables
  double embedding_k = 20;
  // A matrix whose clipped outliers would cost 1 % of its squared rounding error gets more bits, up to these.
  int64_t max_bits = 8;
  // With calibration, steps by what errors cost the loss (quant/step_plan.h); 0 to 1 each.
  double sensitivity = 1;
  double row_sensitivity = 0.8;
  double column_steps = 1;
  double rate_lambda = 0;  // squared steps of rounding error that a bit saved is worth; 0: round to nearest
  double hessian_damping = 0.05;    // added to Hessians' diagonals, in their means (quant/gptq.h)
  double embedding_identity = 0.5;  // share of a multiple of the identity in the Hessians of tables
  int64_t small_elements = 8192;    // tensors of at most so many numbers are float16
  int64_t float16_mantissa = 10;    // bits kept of float16 tensors' mantissas, 1 to 10
  // "sigma": the artifact's size; the finest steps that fit. 0: sigma_k
  int64_t budget_bytes = kArtifactCapBytes;

  template <typename Self, typename F>
  static void ForEachField(Self& self, F&& f) {
    f("scheme", self.scheme);
    f("coder", self.coder);
    f("matrix_bits", self.matrix_bits);
    f("sigma_k", self.sigma_k);
    f("embedding_bits", self.embedding_bits);
    f("embedding_k", self.embedding_k);
    f("max_bits", self.max_bits);
    f("sensitivity", self.sensitivity);
    f("row_sensitivity", self.row_sensitivity);
    f("column_steps", self.column_steps);
    f("rate_lambda", self.rate_lambda);
    f("hessian_damping", self.hessian_damping);
    f("embedding_identity", self.embedding_identity);
    f("small_elements", self.small_elements);
    f("float16_mantissa", self.float16_mantissa);
    f("budget_bytes", self.budget_bytes);
  }

  // InvalidArgument names the field at fault.
  absl::Status Validate() const;
};

}  // namespace hm11

#endif  // HM11_QUANT_CONFIG_H_
