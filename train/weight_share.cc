// WeightShare: costs of all matrices to cuts, and copies of two ranges.
#include "train/weight_share.h"

#include "core/check.h"
#include "model/weight_layout.h"
#include "train/sharding.h"

namespace hm11 {

WeightShare::WeightShare(const ModelConfig& model, const OptimizerConfig& config, int rank, int ranks)
    : rank_(static_cast<size_t>(rank)) {
  const WeightLayout layout = LayOutWeights(model);
  controls_ = layout.control_floats;
  std::vector<WeightPart> parts;
  for (const auto& [info, offset] : layout.weights) {
    if (info.kind == WeightKind::kControl || info.shape.size() == 0) continue;
    int64_t begin = offset - controls_;
    for (const auto& part : info.parts) {
      const int64_t rows = part.rows, cols = info.shape[1];
      const double cost = RuleOf(config, info.kind) == UpdateRule::kMuon
                              ? MuonCost(rows, cols, config.newton_schulz_steps)
                              : AdamCost(rows * cols);
      // Ranges begin at granules: a part that does not goes with the one before it.
      if (begin % kGranule == 0) {
        parts.push_back({begin, cost});
      } else {
        parts.back().cost += cost;
      }
      begin += rows * cols;
    }
  }
  cuts_ = ShareOut(parts, layout.floats - controls_, ranks);
}

void WeightShare::Take(const Device& device, Tensor<const float> whole, Tensor<float> kept) const {
  HM_CHECK_EQ(whole.size(), whole_floats());
  if (kept.size() == whole.size()) {
    return device.CopyOnDevice(kept.data(), whole.data(), whole.size_bytes());
  }
  HM_CHECK_EQ(kept.size(), floats());
  const Tensor<const float> controls = whole.Slice(0, controls_),
                            owned = whole.Slice(begin(), end() - begin());
  device.CopyOnDevice(kept.data(), controls.data(), controls.size_bytes());
  device.CopyOnDevice(kept.data() + controls_, owned.data(), owned.size_bytes());
}

void WeightShare::Gather(const Device& device, const Communicator& ranks, Tensor<const float> kept,
                         Tensor<float> whole) const {
  HM_CHECK_EQ(whole.size(), whole_floats());
  HM_CHECK_EQ(kept.size(), floats());
  const Tensor<const float> controls = kept.Slice(0, controls_),
                            owned = kept.Slice(controls_, end() - begin());
  device.CopyOnDevice(whole.data(), controls.data(), controls.size_bytes());
  device.CopyOnDevice(whole.data() + begin(), owned.data(), owned.size_bytes());
  ranks.AllGather(device, SharedOut(whole), cuts_);
}

}  // namespace hm11
