// Snapshots: copies on the host and their mean.
#include "train/snapshots.h"

#include <utility>

#include "core/check.h"

namespace hm11 {
namespace {

constexpr size_t kParts = 3;  // floats that hold any double sum of floats

using Sums = std::vector<std::vector<double>>;

void Add(const std::vector<NamedTensor>& weights, Sums* sums) {
  sums->resize(weights.size());
  for (size_t t = 0; t < weights.size(); ++t) {
    std::vector<double>& sum = (*sums)[t];
    sum.resize(weights[t].values.size());
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += weights[t].values[i];
  }
}

std::vector<NamedTensor> WithoutValues(const std::vector<NamedTensor>& weights) {
  std::vector<NamedTensor> like;
  for (const NamedTensor& tensor : weights)
    like.push_back({.name = tensor.name, .shape = tensor.shape, .values = {}});
  return like;
}

}  // namespace

bool Snapshots::Wanted(int64_t step, double lr_scale) const {
  if (keeps_latest()) return step % config_.lawa_every == 0;
  return config_.swa_every > 0 && step % config_.swa_every == 0 && lr_scale < config_.swa_lr_scale;
}

void Snapshots::Take(std::vector<NamedTensor> weights) {
  ++taken_;
  if (keeps_latest()) {
    latest_.push_back(std::move(weights));
    if (static_cast<int64_t>(latest_.size()) > config_.lawa_snapshots) latest_.pop_front();
    return;
  }
  if (like_.empty()) like_ = WithoutValues(weights);
  Add(weights, &sum_);
}

std::vector<NamedTensor> Snapshots::Mean() const {
  HM_CHECK_GT(count(), 0);
  std::vector<NamedTensor> mean = keeps_latest() ? WithoutValues(latest_.front()) : like_;
  Sums sums = sum_;
  for (const std::vector<NamedTensor>& snapshot : latest_) Add(snapshot, &sums);
  for (size_t t = 0; t < mean.size(); ++t) {
    for (const double sum : sums[t]) {
      mean[t].values.push_back(static_cast<float>(sum / static_cast<double>(count())));
    }
  }
  return mean;
}

SnapshotState Snapshots::Save() const {
  SnapshotState state{.taken = taken_, .sets = {latest_.begin(), latest_.end()}};
  if (keeps_latest() || taken_ == 0) return state;
  Sums left = sum_;
  for (size_t part = 0; part < kParts; ++part) {
    state.sets.push_back(like_);
    for (size_t t = 0; t < like_.size(); ++t) {
      for (double& value : left[t]) {
        const float taken = static_cast<float>(value);
        state.sets.back()[t].values.push_back(taken);
        value -= taken;
      }
    }
  }
  return state;
}

absl::Status Snapshots::Load(SnapshotState state) {
  const size_t expected = state.taken == 0 ? 0
                          : !keeps_latest()
                              ? kParts
                              : static_cast<size_t>(std::min(state.taken, config_.lawa_snapshots));
  if (state.sets.size() != expected || (state.taken > 0 && !keeps_latest() && config_.swa_every == 0)) {
    return absl::InvalidArgumentError("its snapshots are of other settings of lawa_snapshots and swa_every");
  }
  taken_ = state.taken;
  like_.clear();
  sum_.clear();
  latest_.clear();
  if (keeps_latest()) {
    for (std::vector<NamedTensor>& set : state.sets) latest_.push_back(std::move(set));
    return absl::OkStatus();
  }
  for (const std::vector<NamedTensor>& part : state.sets) {
    if (like_.empty()) like_ = WithoutValues(part);
    Add(part, &sum_);
  }
  return absl::OkStatus();
}

}  // namespace hm11
