// WeightShare: what a rank keeps of a set of weights where ranks share their updates out (ZeRO stage 1). Of
// the flat block (model/weight_layout.h) that is the controls, which every rank updates by itself, and the
// range that it owns (train/sharding.h), kept one behind the other.
//
// Properties:
//   1. Ranks' ranges follow each other from the controls' end to the block's; no matrix in Muon is cut.
//   2. With one rank the share is the block.
//   3. What all ranks Take of a block is the block again when they Gather it.
#ifndef HM11_TRAIN_WEIGHT_SHARE_H_
#define HM11_TRAIN_WEIGHT_SHARE_H_

#include <cstdint>
#include <vector>

#include "core/communicator.h"
#include "core/device.h"
#include "core/tensor.h"
#include "model/config.h"
#include "train/optimizer_config.h"

namespace hm11 {

class WeightShare {
 public:
  // Of one of so many ranks.
  WeightShare(const ModelConfig& model, const OptimizerConfig& config, int rank, int ranks);

  // In floats of the block: the controls' end, and the owned range.
  int64_t controls() const { return controls_; }
  int64_t begin() const { return controls_ + cuts_[rank_]; }
  int64_t end() const { return controls_ + cuts_[rank_ + 1]; }
  bool Owns(int64_t place) const { return place >= begin() && place < end(); }
  int64_t skipped() const { return begin() - controls_; }  // floats between the two
  int64_t floats() const { return controls_ + end() - begin(); }
  int64_t whole_floats() const { return controls_ + cuts_.back(); }

  // Of a tensor of the whole block, what is shared out, and how: ShareOut's cuts.
  template <typename T>
  Tensor<T> SharedOut(Tensor<T> whole) const {
    return whole.Slice(controls_, whole.size() - controls_);
  }
  const std::vector<int64_t>& cuts() const { return cuts_; }

  // From whole [whole_floats()] to kept [floats()], which may be whole too.
  void Take(const Device& device, Tensor<const float> whole, Tensor<float> kept) const;
  // From every rank's kept to each one's whole. Collective.
  void Gather(const Device& device, const Communicator& ranks, Tensor<const float> kept,
              Tensor<float> whole) const;

 private:
  size_t rank_;
  int64_t controls_ = 0;
  std::vector<int64_t> cuts_;
};

}  // namespace hm11

#endif  // HM11_TRAIN_WEIGHT_SHARE_H_
