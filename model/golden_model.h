// Golden model files: their configurations, and weights by formula. For tests.
#ifndef HM11_MODEL_GOLDEN_MODEL_H_
#define HM11_MODEL_GOLDEN_MODEL_H_

#include <map>
#include <string>
#include <vector>

#include "core/named_tensor.h"
#include "model/config.h"
#include "model/safetensors.h"

namespace hm11 {

struct GoldenModel {
  ModelConfig config;
  Safetensors file;
  std::map<std::string, const NamedTensor*> tensors;  // of the file, by name

  const std::vector<float>& Values(const std::string& name) const;
  // The tensors whose name begins with `prefix`, without it.
  std::vector<NamedTensor> WithPrefix(const std::string& prefix) const;
  std::vector<int32_t> Ids(const std::string& name) const;
};

// Fatal when the file cannot be read: a test without its data is no test.
GoldenModel LoadGoldenModel(const std::string& name);

// Parameters as the program that wrote the golden files makes them: a sine of tensor and element index, scaled by
// name.
std::vector<NamedTensor> FormulaWeights(const ModelConfig& config, double formula_seed);

}  // namespace hm11

#endif  // HM11_MODEL_GOLDEN_MODEL_H_
