// A model's tensors to the bytes of an artifact and back: EncodeArtifact, DecodeArtifact; EstimateSize before.
//
// The scheme "sigma" fills its budget: all steps are scaled by one factor, found so that the coded size comes
// to within budget_bytes / 4000 under the budget (or less, when 8 bits are fine enough for less). Size falls
// as the factor grows, smoothly; each round of the search solves for the factor with the entropy of the
// codes, codes with it, and corrects by the difference and by what the last two sizes say of the slope.
//
// Properties:
//   1. DecodeArtifact(EncodeArtifact(contents)) has the same text, names and shapes; tensors of float16 and
//      float32 storage are exactly the stored numbers, others are within half a step where not clipped.
//   2. The size never exceeds budget_bytes; when no step is coarse enough, ResourceExhausted says what it
//      takes.
//   3. A larger budget never gives a coarser step.
//   4. The bytes do not depend on how many threads make them.
#ifndef HM11_QUANT_MODEL_ARTIFACT_H_
#define HM11_QUANT_MODEL_ARTIFACT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/named_tensor.h"
#include "model/weight_info.h"
#include "quant/artifact.h"
#include "quant/config.h"
#include "quant/tensor_quantizer.h"

namespace hm11 {

struct ArtifactContents {
  std::string config_text;                 // of the model, "key=value" lines (core/fields.h)
  uint64_t tokenizer_crc = 0;              // of the tokenizer's file (core/crc64.h)
  int64_t vocab_size = 0;                  // of the tokenizer
  std::vector<NamedTensor> tensors = {};   // as StoredWeights lists them (model/weights.h)
  std::vector<StorageClass> classes = {};  // of each tensor, to encode; not known of decoded ones
};

struct EncodedArtifact {
  std::string bytes;           // the file
  double step_multiplier = 1;  // 1: steps of exactly sigma_k and embedding_k
  double bits_per_code = 0;    // of the section of codes; 0 without codes
  SectionSizes sections;
};

absl::StatusOr<EncodedArtifact> EncodeArtifact(const ArtifactContents& contents, const QuantConfig& config,
                                               const Calibration* calibration = nullptr);

// Errors begin with `source`, the file's path.
absl::StatusOr<ArtifactContents> DecodeArtifact(absl::string_view bytes, absl::string_view source);

struct SizeEstimate {
  int64_t size_bytes = 0;  // beyond budget_bytes where no step is coarse enough
  double step_multiplier = 1;
};

// What EncodeArtifact would make of these tensors, without making it; tensors without values are taken to
// have normal rows, as trained ones nearly do, so that a size can be told before training. Of the scheme
// "sigma" within 3 %.
//
//   size = header, configuration, directory, float16 and float32 numbers, coded as they will be,
//          with normal numbers for those not known
//        + 0.6 bytes a row of codes for its scale
//        + sum over the matrices of codes of size * H(step) / 8
//   H    = entropy of round(x / step) in bits, x the row in its deviations: of its codes, or of a
//          normal number, - sum p(n) log2 p(n), p(n) = Phi((n + 1/2) step) - Phi((n - 1/2) step)
//   step = max(m k / L(bits), sigma_k / L(max_bits)) deviations, k and bits by the matrix's storage
//          class (quant/tensor_quantizer.h), L(bits) = 2^(bits - 1) - 1
//   m    = 1 without a budget; else the smallest m for which size <= budget_bytes, no smaller than
//          what the second term of `step` leaves of it: large models fill the budget, small ones end at
//          the finest steps
absl::StatusOr<SizeEstimate> EstimateSize(const ArtifactContents& contents, const QuantConfig& config);

}  // namespace hm11

#endif  // HM11_QUANT_MODEL_ARTIFACT_H_
