// Golden model files, read.
#include "model/golden_model.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "core/check.h"
#include "model/weights.h"
#include "testing/golden.h"

namespace hm11 {
namespace {

using Json = nlohmann::json;

ModelConfig ConfigOf(const Json& json) {
  ModelConfig config;
  config.layers = std::string(json["num_layers"].get<size_t>(), 'A');
  for (const Json& layer : json["mamba_layers"]) config.layers[layer.get<size_t>()] = 'M';
  config.vocab = json["vocab_size"];
  config.dim = json["model_dim"];
  config.heads = json["num_heads"];
  config.kv_heads = json["num_kv_heads"];
  config.mlp_width = std::llround(json["mlp_mult"].get<double>() * static_cast<double>(config.dim));
  config.state = json["d_state"];
  config.conv_width = json["d_conv"];
  config.expand = json["mamba_expand"];
  config.dt_rank = std::max<int64_t>(1, config.inner() / 16);
  config.tied_embeddings = json["tie_embeddings"];
  config.soft_cap = json["logit_softcap"];
  config.rope_dims = json["rope_dims"];
  config.rope_base = json["rope_base"];
  config.q_gain_init = json["qk_gain_init"];
  config.bigram_rows = json["bigram_vocab_size"];
  config.bigram_dim = json["bigram_dim"];
  config.value_embedding_layers = json["ve_enabled"].get<bool>() ? 2 : 0;
  config.value_embedding_dim = json["ve_dim"];
  config.xsa_layers = json["xsa_last_n"];
  config.layer_norm_scale = json["ln_scale"];
  config.gated_attention = json.value("gated_attention", false);
  config.value_residual = json.value("value_residual", false);
  config.token_gate = json.value("dtg", false);
  config.mtp_heads = json.value("mtp_num_heads", 0);
  config.mtp_weight = json.value("mtp_loss_weight", 0.2);
  return config;
}

// The value of an element whose sine is `s`: the first rule that fits the name.
double FormulaValue(const std::string& name, const std::vector<int64_t>& shape, int64_t element, double s) {
  if (absl::EndsWith(name, "A_log")) {
    return static_cast<float>(std::log(static_cast<double>(element % shape.back() + 1))) + 0.1 * s;
  }
  if (absl::EndsWith(name, "dt_proj.bias")) return -3 + s;
  if (absl::EndsWith(name, "ssm.D")) return 1 + 0.2 * s;
  if (absl::EndsWith(name, "resid_mix") || absl::EndsWith(name, "_scale") || name == "skip_weights" ||
      absl::StartsWith(name, "ve_layer_scales.") || absl::EndsWith(name, ".scale")) {
    return 0.8 + 0.3 * s;
  }
  if (absl::EndsWith(name, "q_gain")) return 1.5 + 0.3 * s;
  if (absl::StrContains(name, "smear")) return 0.5 * s;
  if (shape.size() >= 2) return 1.2 * s / std::sqrt(static_cast<double>(shape.back()));
  return 0.1 * s;
}

}  // namespace

const std::vector<float>& GoldenModel::Values(const std::string& name) const {
  const auto found = tensors.find(name);
  if (found == tensors.end()) check_internal::Fail(__FILE__, __LINE__, "no golden tensor " + name);
  return found->second->values;
}

std::vector<NamedTensor> GoldenModel::WithPrefix(const std::string& prefix) const {
  std::vector<NamedTensor> found;
  for (const NamedTensor& tensor : file.tensors) {
    absl::string_view name = tensor.name;
    if (absl::ConsumePrefix(&name, prefix)) found.push_back({std::string(name), tensor.shape, tensor.values});
  }
  return found;
}

std::vector<int32_t> GoldenModel::Ids(const std::string& name) const {
  const std::vector<float>& values = Values(name);
  return std::vector<int32_t>(values.begin(), values.end());
}

GoldenModel LoadGoldenModel(const std::string& name) {
  absl::StatusOr<Safetensors> file = ReadSafetensors(GoldenPath(name + ".safetensors"));
  if (!file.ok()) check_internal::Fail(__FILE__, __LINE__, std::string(file.status().message()));
  GoldenModel golden;
  golden.file = *std::move(file);
  golden.config = ConfigOf(Json::parse(golden.file.metadata.at("config")));
  for (const NamedTensor& tensor : golden.file.tensors) golden.tensors[tensor.name] = &tensor;
  return golden;
}

std::vector<NamedTensor> FormulaWeights(const ModelConfig& config, double formula_seed) {
  std::vector<NamedTensor> weights;
  for (const ReferenceParameter& parameter : ReferenceParameters(config)) {
    NamedTensor tensor{.name = parameter.name, .shape = parameter.shape, .values = {}};
    int64_t size = 1;
    for (int64_t extent : parameter.shape) size *= extent;
    const double i = static_cast<double>(weights.size());
    for (int64_t j = 0; j < size; ++j) {
      const double s =
          std::sin(0.7548776662466927 * static_cast<double>(j + 1) + 1.3247179572447460 * i + formula_seed);
      tensor.values.push_back(static_cast<float>(FormulaValue(tensor.name, tensor.shape, j, s)));
    }
    weights.push_back(std::move(tensor));
  }
  return weights;
}

}  // namespace hm11
