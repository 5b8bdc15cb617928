// ModelConfig: what is possible, and what follows from the fields.
#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/status.h"

namespace hm11 {
namespace {

absl::Status AtLeast(const char* field, int64_t value, int64_t least) {
  if (value >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, "=", value, ": must be at least ", least));
}

absl::Status AtMost(const char* field, int64_t value, int64_t most) {
  if (value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, "=", value, ": must be at most ", most));
}

absl::Status Divides(const char* part, int64_t divisor, const char* whole, int64_t dividend) {
  if (dividend % divisor == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(part, "=", divisor, ": must divide ", whole, "=", dividend));
}

// What is counted lies in its bounds.
absl::Status ValidateCounts(const ModelConfig& c) {
  if (c.layers.empty() || c.layers.find_first_not_of("MA") != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        "layers=", c.layers, ": must be one letter a layer, M for Mamba and A for attention, at least one"));
  }
  HM_RETURN_IF_ERROR(AtMost("layers (their number)", c.layer_count(), 256));
  struct Bound {
    const char* field;
    int64_t value, least, most;
  };
  const Bound bounds[] = {
      {"vocab", c.vocab, 2, 65536},
      {"dim", c.dim, 1, 65536},
      {"heads", c.heads, 1, c.dim},
      {"kv_heads", c.kv_heads, 1, c.heads},
      {"mlp_width", c.mlp_width, 1, 1 << 20},
      {"state", c.state, 1, 64},
      {"conv_width", c.conv_width, 1, 4},
      {"expand", c.expand, 1, 16},
      {"dt_rank", c.dt_rank, 1, 65536},
      {"bigram_rows", c.bigram_rows, 0, 1 << 24},
      {"bigram_dim", c.bigram_dim, 1, 65536},
      {"value_embedding_layers", c.value_embedding_layers, 0, 256},
      {"value_embedding_dim", c.value_embedding_dim, 1, 65536},
      {"xsa_layers", c.xsa_layers, 0, 256},
      {"rope_length", c.rope_length, 1, 1 << 20},
      {"loop_passes", c.loop_passes, 1, 8},
      {"loop_first", c.loop_first, 0, c.layer_count() - 1},
      {"loop_last", c.loop_last, c.loop_first, c.layer_count() - 1},
      {"parallel_layers", c.parallel_layers, 0, 256},
      {"mtp_heads", c.mtp_heads, 0, 16},
  };
  for (const Bound& bound : bounds) {
    HM_RETURN_IF_ERROR(AtLeast(bound.field, bound.value, bound.least));
    HM_RETURN_IF_ERROR(AtMost(bound.field, bound.value, bound.most));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ModelConfig::Validate() const {
  HM_RETURN_IF_ERROR(ValidateCounts(*this));
  HM_RETURN_IF_ERROR(Divides("heads", heads, "dim", dim));
  HM_RETURN_IF_ERROR(Divides("kv_heads", kv_heads, "heads", heads));
  HM_RETURN_IF_ERROR(AtMost("head width (dim / heads)", head_dim(), 128));
  HM_RETURN_IF_ERROR(AtLeast("rope_dims", rope_dims, 0));
  HM_RETURN_IF_ERROR(AtMost("rope_dims", rope_dims, head_dim()));
  if (rope_dims % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("rope_dims=", rope_dims, ": must be even"));
  }
  if (bigram_rows == 1) return absl::InvalidArgumentError("bigram_rows=1: must be 0 or at least 2");
  if (!(soft_cap > 0))
    return absl::InvalidArgumentError(absl::StrCat("soft_cap=", soft_cap, ": must be > 0"));
  if (!(rope_base > 1))
    return absl::InvalidArgumentError(absl::StrCat("rope_base=", rope_base, ": must be > 1"));
  if (!std::isfinite(skip_mix_init)) {
    return absl::InvalidArgumentError(absl::StrCat("skip_mix_init=", skip_mix_init, ": must be finite"));
  }
  if (!(mtp_weight >= 0)) {
    return absl::InvalidArgumentError(absl::StrCat("mtp_weight=", mtp_weight, ": must be >= 0"));
  }
  return absl::OkStatus();
}

int64_t ModelConfig::attention_count() const { return std::count(layers.begin(), layers.end(), 'A'); }

int64_t ModelConfig::value_embedding_count() const {
  return std::min(value_embedding_layers, attention_count());
}

int64_t ModelConfig::value_embedding_index(int64_t layer) const {
  if (is_mamba(layer)) return -1;
  const auto here = layers.begin() + layer;
  const int64_t before = std::count(layers.begin(), here, 'A');
  return std::max<int64_t>(-1, before - (attention_count() - value_embedding_count()));
}

double ModelConfig::norm_scale(int64_t layer) const {
  return layer_norm_scale ? 1.0 / std::sqrt(static_cast<double>(layer) + 1.0) : 1.0;
}

int64_t ModelConfig::visit_count() const {
  return layer_count() + (loop_passes - 1) * (loop_last - loop_first + 1);
}

int64_t ModelConfig::layer_of(int64_t visit) const {
  const int64_t looped = loop_last - loop_first + 1;
  if (visit < loop_first) return visit;
  if (visit < loop_first + loop_passes * looped) return loop_first + (visit - loop_first) % looped;
  return visit - (loop_passes - 1) * looped;
}

ModelConfig ModelConfig::WithoutLoops() const {
  ModelConfig once = *this;
  once.loop_passes = 1;
  return once;
}

int64_t ModelConfig::value_residual_source() const {
  if (!value_residual) return -1;
  for (int64_t visit = 0; visit < visit_count(); ++visit) {
    const int64_t layer = layer_of(visit);
    if (layer < layer_count() / 2 && !is_mamba(layer)) return visit;
  }
  return -1;
}

}  // namespace hm11
