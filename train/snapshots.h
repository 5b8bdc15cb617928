// Snapshots: weights averaged over points of the run, on the host. SWA: all points of the warm-down (Izmailov
// et al. 2018, arXiv 1803.05407); LAWA: the latest few (Kaddour 2022, arXiv 2209.14981). Off by default.
#ifndef HM11_TRAIN_SNAPSHOTS_H_
#define HM11_TRAIN_SNAPSHOTS_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "core/arena.h"
#include "train/config.h"
#include "train/optimizer.h"

namespace hm11 {

class Snapshots {
 public:
  explicit Snapshots(const RunConfig& config) : config_(config) {}

  // Whether a snapshot belongs after `step` steps, the last of them at this learning-rate scale.
  bool Wanted(int64_t step, double lr_scale) const;
  void Take(Arena& arena, const FlatWeights& weights);

  int64_t count() const { return config_.lawa_snapshots > 0 ? static_cast<int64_t>(latest_.size()) : taken_; }
  // Overwrites the weights by the mean of the snapshots; count() must not be 0.
  void Restore(Arena& arena, FlatWeights& weights) const;

 private:
  const RunConfig& config_;
  std::vector<double> sum_;  // SWA
  int64_t taken_ = 0;
  std::deque<std::vector<float>> latest_;  // LAWA
};

}  // namespace hm11

#endif  // HM11_TRAIN_SNAPSHOTS_H_
