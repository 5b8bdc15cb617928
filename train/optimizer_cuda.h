// The CUDA side of the optimizer.
#ifndef HM11_TRAIN_OPTIMIZER_CUDA_H_
#define HM11_TRAIN_OPTIMIZER_CUDA_H_

#include <cstdint>

#include "core/device.h"
#include "core/tensor.h"
#include "model/weight_layout.h"
#include "train/update_rules.h"

namespace hm11::cuda {

// norm[0] = sqrt(sum_of_squares[0]).
void FinishNorm(const Device& device, const float* sum_of_squares, float* norm);

// AdamW with average, working copy and zeroed gradient for all floats of each granule that is not Muon's.
void StepAdam(const Device& device, const StepOperands& operands, Tensor<const UpdateRule> rules);

// A matrix is worked on in square tiles, a block each.
inline constexpr int kMuonTile = 64;
inline int64_t MuonTiles(const MuonShape& shape) {
  return ((shape.small + kMuonTile - 1) / kMuonTile) * ((shape.large + kMuonTile - 1) / kMuonTile);
}

// Momentum, zeroed gradient, and the directions, normalized, as x [count, small, large]. T is float or Bf16.
// Scratch: partials [count, MuonTiles(shape)].
template <typename T>
void GatherMuon(const Device& device, const StepOperands& operands, const MuonShape& shape, Tensor<T> x,
                Tensor<float> partials);

// Weights, average and working copy from x, orthogonalized.
template <typename T>
void ScatterMuon(const Device& device, const StepOperands& operands, const MuonShape& shape,
                 Tensor<const T> x);

}  // namespace hm11::cuda

#endif  // HM11_TRAIN_OPTIMIZER_CUDA_H_
