// The flat layout of a weight set: every parameter of a model in one block of floats, in a fixed order.
//
// First all vectors and scalars that a 16-bit model reads as floats (WeightKind::kControl), then the matrices
// and tables that it reads in 16 bits; within each part in the order of ForEachWeight. So what every rank of
// a run updates by itself, and what ranks share out among them (train/sharding.h), are two ranges. Each
// weight begins at a multiple of kGranule floats; the padding behind it is 0.
//
// Properties:
//   1. Weights do not overlap, begin at granules, and fill the block but for less than a granule each.
//   2. Controls, and nothing else, lie before `control_floats`.
//   3. A working copy's matrices are at the master's offsets, its vectors are the master's own.
#ifndef HM11_MODEL_WEIGHT_LAYOUT_H_
#define HM11_MODEL_WEIGHT_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "model/config.h"
#include "model/weights.h"

namespace hm11 {

// Floats: what weights are aligned to.
inline constexpr int64_t kGranule = 64;
inline int64_t WholeGranules(int64_t floats) { return (floats + kGranule - 1) / kGranule * kGranule; }

struct PlacedWeight {
  WeightInfo info;
  int64_t offset = 0;  // floats from the begin of the block
};

struct WeightLayout {
  std::vector<PlacedWeight> weights;  // in the order of ForEachWeight
  int64_t control_floats = 0;         // of the first part, padding included
  int64_t floats = 0;                 // of the whole block
};
WeightLayout LayOutWeights(const ModelConfig& config);

// A set of float weights as one flat tensor and its named view; there is no view of a tensor that is only a
// part of the block.
struct FlatWeights {
  Tensor<float> flat;
  ModelWeights<float> view;
};
FlatWeights NewFlatWeights(Arena& arena, const ModelConfig& config);  // zeroed
FlatWeights FlatWeightsOf(const ModelConfig& config, Tensor<float> flat);

// A view of `flat16`, which has one element for each float of the block at the same index, as the weights a
// Bf16 model runs on: matrices from flat16, everything Accum from the float master itself, of which nothing
// but the controls need be there.
ModelWeights<Bf16> WorkingCopyView(const ModelConfig& config, const FlatWeights& master, Tensor<Bf16> flat16);

}  // namespace hm11

#endif  // HM11_MODEL_WEIGHT_LAYOUT_H_
