// Initial values: the reference's recipe as it ran, each tensor a function of the seed and its name.
#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "core/random.h"
#include "model/weights.h"
#include "ops/orthogonal.h"

namespace hm11 {
namespace {

void FillNormal(uint64_t seed, const std::string& name, double standard_deviation,
                std::vector<float>* values) {
  const uint64_t stream = StreamOf(name);
  ParallelFor(static_cast<int64_t>(values->size()), 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      (*values)[static_cast<size_t>(i)] =
          static_cast<float>(standard_deviation * RandomNormal(seed, stream, static_cast<uint64_t>(i)));
    }
  });
}

// Uniform in [-bound, bound): PyTorch's default for a linear map, bound = 1 / sqrt(inputs).
void FillUniform(uint64_t seed, const std::string& name, double bound, std::vector<float>* values) {
  const uint64_t stream = StreamOf(name);
  for (size_t i = 0; i < values->size(); ++i) {
    (*values)[i] = static_cast<float>(bound * (2 * RandomUniform(seed, stream, i) - 1));
  }
}

// Each matrix of a bank, or the one matrix, as rows of orthonormal rows or columns.
void FillOrthogonal(uint64_t seed, const std::string& name, int64_t matrices, int64_t rows, int64_t cols,
                    std::vector<float>* values) {
  FillNormal(seed, name, 1.0, values);
  for (int64_t m = 0; m < matrices; ++m) Orthogonalize(rows, cols, values->data() + m * rows * cols);
}

// softplus(bias) log-uniform in [0.001, 0.1] (Gu & Dao 2023, section 3.6).
void FillStepBias(uint64_t seed, const std::string& name, std::vector<float>* values) {
  const uint64_t stream = StreamOf(name);
  for (size_t i = 0; i < values->size(); ++i) {
    const double step = std::exp(std::log(0.001) + RandomUniform(seed, stream, i) * std::log(100.0));
    (*values)[i] = static_cast<float>(step + std::log(-std::expm1(-step)));  // softplus inverted
  }
}

bool EndsWith(const std::string& name, const char* end) { return name.ends_with(end); }

bool IsMambaOutput(const std::string& name) {
  return name.starts_with("blocks.") &&
         (EndsWith(name, "ssm.out_proj.weight") || EndsWith(name, ".proj.weight"));
}

// Whether a U-Net skip joins the stream where the layer named "blocks.LAYER.resid_mix" is visited once.
bool JoinsSkip(const ModelConfig& config, const std::string& name) {
  const int64_t layer = std::stoll(name.substr(std::string("blocks.").size()));
  const int64_t encoder = config.layer_count() / 2;
  return layer >= encoder && layer < 2 * encoder;
}

// Vectors and scalars: a constant each, but for the logarithms of A and the step-size bias.
void FillControl(const ModelConfig& config, uint64_t seed, NamedTensor* tensor) {
  const std::string& name = tensor->name;
  std::vector<float>& values = tensor->values;
  const auto fill = [&](double value) { std::fill(values.begin(), values.end(), static_cast<float>(value)); };
  if (EndsWith(name, "A_log")) {
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = std::log(static_cast<float>(static_cast<int64_t>(i) % config.state + 1));
    }
  } else if (EndsWith(name, "dt_proj.bias")) {
    FillStepBias(seed, name, &values);
  } else if (EndsWith(name, "conv1d.weight") || EndsWith(name, "conv1d.bias")) {
    FillUniform(seed, name, 1.0 / std::sqrt(static_cast<double>(config.conv_width)), &values);
  } else if (EndsWith(name, "resid_mix")) {
    const float stream = JoinsSkip(config, name) ? static_cast<float>(config.skip_mix_init) : 1.0f;
    std::fill(values.begin(), values.begin() + config.dim, stream);
    std::fill(values.begin() + config.dim, values.end(), 0.0f);
  } else if (EndsWith(name, "smear.gate") || EndsWith(name, "dtg_gate.weight")) {
    fill(0);
  } else if (EndsWith(name, "dtg_gate.bias")) {
    fill(2);
  } else if (EndsWith(name, "attn_gate.bias")) {
    fill(4);
  } else if (EndsWith(name, "vr_lambda")) {
    fill(0.5);
  } else if (EndsWith(name, "q_gain")) {
    fill(config.q_gain_init);
  } else if (name == "bigram.scale") {
    fill(0.05);
  } else if (name == "ve_shared.scale") {
    fill(0.1);
  } else {
    fill(1);  // D, skip weights and every other scale
  }
}

}  // namespace

std::vector<NamedTensor> InitialWeights(const ModelConfig& config, uint64_t seed) {
  std::vector<NamedTensor> tensors;
  for (const ReferenceParameter& parameter : ReferenceParameters(config)) {
    int64_t size = 1;
    for (int64_t extent : parameter.shape) size *= extent;
    NamedTensor tensor{.name = parameter.name, .shape = parameter.shape, .values = {}};
    tensor.values.resize(static_cast<size_t>(size));
    tensors.push_back(std::move(tensor));
  }
  for (NamedTensor& tensor : tensors) {
    const std::string& name = tensor.name;
    const size_t rank = tensor.shape.size();
    const bool bank = EndsWith(name, "_bank");
    const bool matrix =
        bank || (rank == 2 && EndsWith(name, ".weight") && !EndsWith(name, "dtg_gate.weight"));
    if (tensor.values.empty()) continue;
    if (name == "tok_emb.weight") {
      FillNormal(seed, name, config.embedding_init_std, &tensor.values);
    } else if (name == "ve_shared.embed.weight") {
      FillNormal(seed, name, 0.01, &tensor.values);
    } else if (name == "bigram.embed.weight" || EndsWith(name, "attn_gate.weight") ||
               name.starts_with("mtp_heads.") || name == "lm_head.weight" ||
               (config.zero_init_outputs && IsMambaOutput(name))) {
      // Zero.
    } else if (name == "qo_bank") {  // Queries orthogonal, outputs zero.
      FillOrthogonal(seed, name, tensor.shape[0], tensor.shape[1], tensor.shape[2], &tensor.values);
      std::fill(tensor.values.begin() + static_cast<int64_t>(tensor.values.size() / 2), tensor.values.end(),
                0.0f);
    } else if (name == "mlp_down_bank") {
      // Zero.
    } else if (bank) {
      FillOrthogonal(seed, name, tensor.shape[0], tensor.shape[1], tensor.shape[2], &tensor.values);
    } else if (matrix && std::min(tensor.shape[0], tensor.shape[1]) >= 64) {
      FillOrthogonal(seed, name, 1, tensor.shape[0], tensor.shape[1], &tensor.values);
    } else if (matrix) {
      FillUniform(seed, name, 1.0 / std::sqrt(static_cast<double>(tensor.shape[1])), &tensor.values);
    } else {
      FillControl(config, seed, &tensor);
    }
  }
  return tensors;
}

}  // namespace hm11
