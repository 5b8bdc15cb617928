// The reference's three steps of the optimizer, from its golden file.
#ifndef HM11_TRAIN_OPTIMIZER_TEST_GOLDEN_H_
#define HM11_TRAIN_OPTIMIZER_TEST_GOLDEN_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "model/config.h"
#include "model/safetensors.h"
#include "testing/devices.h"
#include "testing/golden.h"
#include "testing/matchers.h"
#include "train/optimizer_config.h"
#include "train/schedule.h"
#include "train/update_rules.h"

namespace hm11 {

// The reference's file: weights at the start and after three steps, and what each step trained on.
struct GoldenSteps {
  ModelConfig model;
  std::map<std::string, NamedTensor> tensors;

  // Those whose names begin with `prefix`, without it.
  std::vector<NamedTensor> Under(const std::string& prefix) const {
    std::vector<NamedTensor> found;
    for (const auto& [name, tensor] : tensors) {
      if (!name.starts_with(prefix)) continue;
      found.push_back({name.substr(prefix.size()), tensor.shape, tensor.values});
    }
    return found;
  }
  HostTensor<int32_t> Ids(const std::string& name) const {
    const NamedTensor& tensor = tensors.at(name);
    HostTensor<int32_t> ids{{tensor.shape.at(0), tensor.shape.at(1)}, {}};
    for (float id : tensor.values) ids.values.push_back(static_cast<int32_t>(id));
    return ids;
  }
};

inline ModelConfig GoldenModel(const nlohmann::json& json) {
  ModelConfig model;
  model.layers = std::string(json.at("num_layers").get<size_t>(), 'A');
  for (size_t layer : json.at("mamba_layers")) model.layers[layer] = 'M';
  model.vocab = json.at("vocab_size");
  model.dim = json.at("model_dim");
  model.heads = json.at("num_heads");
  model.kv_heads = json.at("num_kv_heads");
  model.mlp_width = static_cast<int64_t>(json.at("mlp_mult").get<double>() * static_cast<double>(model.dim));
  model.soft_cap = json.at("logit_softcap");
  model.rope_base = json.at("rope_base");
  model.rope_dims = json.at("rope_dims");
  model.bigram_rows = json.at("bigram_vocab_size");
  model.bigram_dim = json.at("bigram_dim");
  model.xsa_layers = json.at("xsa_last_n");
  model.layer_norm_scale = json.at("ln_scale");
  const std::string ve_layers = json.at("ve_layers");
  model.value_embedding_layers = 1 + std::count(ve_layers.begin(), ve_layers.end(), ',');
  model.value_embedding_dim = json.at("ve_dim");
  model.state = json.at("d_state");
  model.conv_width = json.at("d_conv");
  model.expand = json.at("mamba_expand");
  model.dt_rank = std::max<int64_t>(1, model.inner() / 16);
  return model;
}

inline GoldenSteps ReadGoldenSteps() {
  absl::StatusOr<Safetensors> file = ReadSafetensors(GoldenPath("optimizer.safetensors"));
  HM_CHECK(file.ok());
  GoldenSteps golden;
  golden.model = GoldenModel(nlohmann::json::parse(file->metadata.at("config")));
  for (NamedTensor& tensor : file->tensors) golden.tensors[tensor.name] = std::move(tensor);
  return golden;
}

inline void ExpectGolden(const std::vector<NamedTensor>& got, const std::vector<NamedTensor>& expected) {
  std::map<std::string, const NamedTensor*> by_name;
  for (const NamedTensor& tensor : got) by_name[tensor.name] = &tensor;
  ASSERT_EQ(got.size(), expected.size());
  for (const NamedTensor& tensor : expected) {
    ASSERT_TRUE(by_name.count(tensor.name)) << tensor.name;
    const Shape shape = {static_cast<int64_t>(tensor.values.size())};
    EXPECT_THAT((HostTensor<float>{shape, by_name[tensor.name]->values}),
                IsNear(HostTensor<float>{shape, tensor.values}, 1e-4))
        << tensor.name;
  }
}

// What the reference's steps were made with.
inline OptimizerConfig GoldenConfig() {
  OptimizerConfig config;
  config.newton_schulz_bf16 = false;
  config.muon_on_mamba = config.muon_on_small = false;
  return config;
}
inline StepScalars GoldenScalars(const OptimizerConfig& config, int64_t step) {
  const ScheduleConfig schedule = {.momentum_start = 0.92,
                                   .momentum_end = 0.99,
                                   .published_schedule = true,
                                   .published_momentum_steps = 1500};
  const double steps = static_cast<double>(step) + 1;
  return {.lr_scale = 1,
          .muon_momentum = static_cast<float>(MuonMomentum(schedule, {.step = step, .elapsed_seconds = 0})),
          .adam_correction1 = static_cast<float>(1 - std::pow(config.beta1, steps)),
          .adam_correction2 = static_cast<float>(1 - std::pow(config.beta2, steps)),
          .average_decay = 0.997f};
}

}  // namespace hm11

#endif  // HM11_TRAIN_OPTIMIZER_TEST_GOLDEN_H_
