// TrainingState: everything a run goes on from, the tensors of a checkpoint.
#ifndef HM11_TRAIN_TRAINING_STATE_H_
#define HM11_TRAIN_TRAINING_STATE_H_

#include <vector>

#include "core/named_tensor.h"

namespace hm11 {

struct TrainingState {
  std::vector<NamedTensor> weights, first_moment, second_moment, average;  // reference names
};

}  // namespace hm11

#endif  // HM11_TRAIN_TRAINING_STATE_H_
