// Snapshots: weights averaged over points of the run, on the host. SWA: all points of the warm-down (Izmailov
// et al. 2018, arXiv 1803.05407); LAWA: the latest few (Kaddour 2022, arXiv 2209.14981). Off by default.
//
// Properties:
//   1. Mean is the mean of what was taken: of all of it, or of the last lawa_snapshots.
//   2. What Save gives and Load takes goes on as if it had never been saved, to the bit.
#ifndef HM11_TRAIN_SNAPSHOTS_H_
#define HM11_TRAIN_SNAPSHOTS_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/status.h"
#include "core/named_tensor.h"
#include "train/config.h"

namespace hm11 {

// As a checkpoint holds it, in float32: LAWA's snapshots, oldest first; or SWA's sum, in three parts that add
// up to it exactly.
struct SnapshotState {
  int64_t taken = 0;
  std::vector<std::vector<NamedTensor>> sets;
};

class Snapshots {
 public:
  explicit Snapshots(const RunConfig& config) : config_(config) {}

  // Whether a snapshot belongs after `step` steps, the last of them at this learning-rate scale.
  bool Wanted(int64_t step, double lr_scale) const;
  // The same names and shapes every time.
  void Take(std::vector<NamedTensor> weights);

  int64_t count() const { return latest_.empty() ? taken_ : static_cast<int64_t>(latest_.size()); }
  // count() must not be 0.
  std::vector<NamedTensor> Mean() const;

  SnapshotState Save() const;
  // InvalidArgument where the state is not of these settings.
  absl::Status Load(SnapshotState state);

 private:
  bool keeps_latest() const { return config_.lawa_snapshots > 0; }

  const RunConfig& config_;
  std::vector<NamedTensor> like_;         // SWA: names and shapes
  std::vector<std::vector<double>> sum_;  // SWA, by tensor
  int64_t taken_ = 0;
  std::deque<std::vector<NamedTensor>> latest_;  // LAWA
};

}  // namespace hm11

#endif  // HM11_TRAIN_SNAPSHOTS_H_
