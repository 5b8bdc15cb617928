// Snapshots: copies to the host and their mean.
#include "train/snapshots.h"

namespace hm11 {

bool Snapshots::Wanted(int64_t step, double lr_scale) const {
  if (config_.lawa_snapshots > 0) return step % config_.lawa_every == 0;
  return config_.swa_every > 0 && step % config_.swa_every == 0 && lr_scale < config_.swa_lr_scale;
}

void Snapshots::Take(Arena& arena, const FlatWeights& weights) {
  std::vector<float> values(static_cast<size_t>(weights.flat.size()));
  arena.device().CopyToHost(values.data(), weights.flat.data(), weights.flat.size_bytes());
  if (config_.lawa_snapshots > 0) {
    latest_.push_back(std::move(values));
    if (static_cast<int64_t>(latest_.size()) > config_.lawa_snapshots) latest_.pop_front();
    return;
  }
  sum_.resize(values.size());
  for (size_t i = 0; i < values.size(); ++i) sum_[i] += values[i];
  ++taken_;
}

void Snapshots::Restore(Arena& arena, FlatWeights& weights) const {
  HM_CHECK_GT(count(), 0);
  std::vector<double> sum = sum_;
  if (config_.lawa_snapshots > 0) {
    sum.assign(latest_.front().size(), 0);
    for (const std::vector<float>& snapshot : latest_) {
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += snapshot[i];
    }
  }
  std::vector<float> mean(sum.size());
  for (size_t i = 0; i < sum.size(); ++i) mean[i] = static_cast<float>(sum[i] / static_cast<double>(count()));
  arena.device().CopyFromHost(weights.flat.data(), mean.data(), weights.flat.size_bytes());
  arena.device().Synchronize();
}

}  // namespace hm11
