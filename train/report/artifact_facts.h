// What an artifact's bytes are of, and models of which one part alone is rounded.
//
// Properties:
//   1. The bytes of the kinds, those of the parts and those of the sections each add up to the file.
//   2. Every number of a model belongs to one part: all parts rounded are the artifact's model.
#ifndef HM11_TRAIN_REPORT_ARTIFACT_FACTS_H_
#define HM11_TRAIN_REPORT_ARTIFACT_FACTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/named_tensor.h"
#include "model/config.h"
#include "train/report/run_facts.h"

namespace hm11 {

// Of a model of this configuration. Errors begin with `source`.
absl::StatusOr<ArtifactFacts> ArtifactFactsOf(absl::string_view bytes, absl::string_view source,
                                              const ModelConfig& config);

// "layer 0, Mamba", ..., "embeddings", "the rest".
std::vector<std::string> PartNames(const ModelConfig& config);

// `exact` with the numbers of one part from `rounded`; both are of ReferenceParameters(config), in any order.
std::vector<NamedTensor> WithPartOf(const ModelConfig& config, const std::vector<NamedTensor>& exact,
                                    const std::vector<NamedTensor>& rounded, size_t part);

}  // namespace hm11

#endif  // HM11_TRAIN_REPORT_ARTIFACT_FACTS_H_
