// OptimizerConfig: bounds, and kinds of weights by their rules.
#include "train/optimizer_config.h"

#include <limits>

#include "core/check.h"
#include "core/fields.h"

namespace hm11 {

absl::Status OptimizerConfig::Validate() const {
  constexpr double kHuge = std::numeric_limits<double>::max();
  return CheckBounds({{"muon_lr", muon_lr, 0, kHuge},
                      {"embedding_lr", embedding_lr, 0, kHuge},
                      {"control_lr", control_lr, 0, kHuge},
                      {"head_lr", head_lr, 0, kHuge},
                      {"muon_weight_decay", muon_weight_decay, 0, kHuge},
                      {"adam_weight_decay", adam_weight_decay, 0, kHuge},
                      {"embedding_weight_decay", embedding_weight_decay, 0, kHuge},
                      {"beta1", beta1, 0, 0.999999},
                      {"beta2", beta2, 0, 0.999999},
                      {"epsilon", epsilon, 1e-30, kHuge},
                      {"clip", clip, 0, kHuge},
                      {"newton_schulz_steps", static_cast<double>(newton_schulz_steps), 1, 100}});
}

UpdateRule RuleOf(const OptimizerConfig& config, WeightKind kind) {
  switch (kind) {
    case WeightKind::kBankMatrix:
      return UpdateRule::kMuon;
    case WeightKind::kMambaMatrix:
      return config.muon_on_mamba ? UpdateRule::kMuon : UpdateRule::kAdamMatrix;
    case WeightKind::kSmallMatrix:
      return config.muon_on_small ? UpdateRule::kMuon : UpdateRule::kAdamMatrix;
    case WeightKind::kEmbedding:
      return UpdateRule::kAdamEmbedding;
    case WeightKind::kHead:
      return UpdateRule::kAdamHead;
    case WeightKind::kControl:
      return UpdateRule::kAdamControl;
  }
  HM_CHECK(!"a kind of weight without a rule");
  return UpdateRule::kAdamControl;
}

}  // namespace hm11
