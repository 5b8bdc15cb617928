// The flat layout: offsets from one walk over the list of weights, views from another.
#include "model/weight_layout.h"

#include <type_traits>

#include "core/check.h"

namespace hm11 {

static_assert(kGranule * sizeof(float) == Arena::kAlignment);

WeightLayout LayOutWeights(const ModelConfig& config) {
  WeightLayout layout;
  ModelWeights<float> shadow;
  ResizeWeights(config, &shadow);
  int64_t matrix_floats = 0;
  ForEachWeight(
      config,
      [&](const WeightInfo& info, Tensor<float>&) {
        int64_t& end = info.kind == WeightKind::kControl ? layout.control_floats : matrix_floats;
        layout.weights.push_back({info, end});
        end += WholeGranules(info.shape.size());
      },
      shadow);
  for (PlacedWeight& weight : layout.weights) {
    if (weight.info.kind != WeightKind::kControl) weight.offset += layout.control_floats;
  }
  layout.floats = layout.control_floats + matrix_floats;
  return layout;
}

FlatWeights NewFlatWeights(Arena& arena, const ModelConfig& config) {
  return FlatWeightsOf(config, arena.NewZero<float>({LayOutWeights(config).floats}));
}

FlatWeights FlatWeightsOf(const ModelConfig& config, Tensor<float> flat) {
  const WeightLayout layout = LayOutWeights(config);
  HM_CHECK_EQ(flat.size(), layout.floats);
  FlatWeights weights{.flat = flat, .view = {}};
  ResizeWeights(config, &weights.view);
  size_t index = 0;
  ForEachWeight(
      config,
      [&](const WeightInfo& info, Tensor<float>& tensor) {
        const int64_t offset = layout.weights[index++].offset;
        tensor = weights.flat.Slice(offset, info.shape.size()).Reshaped(info.shape);
      },
      weights.view);
  return weights;
}

ModelWeights<Bf16> WorkingCopyView(const ModelConfig& config, const FlatWeights& master,
                                   Tensor<Bf16> flat16) {
  const WeightLayout layout = LayOutWeights(config);
  HM_CHECK_EQ(flat16.size(), layout.floats);
  HM_CHECK_GE(master.flat.size(), layout.control_floats);
  ModelWeights<Bf16> view;
  ResizeWeights(config, &view);
  size_t index = 0;
  ForEachWeight(
      config,
      [&](const WeightInfo& info, auto& tensor) {
        const int64_t offset = layout.weights[index++].offset;
        if constexpr (std::is_same_v<std::decay_t<decltype(tensor)>, Tensor<Bf16>>) {
          HM_CHECK_GE(offset, layout.control_floats);
          tensor = flat16.Slice(offset, info.shape.size()).Reshaped(info.shape);
        } else {
          HM_CHECK_LT(offset, layout.control_floats);
          tensor = master.flat.Slice(offset, info.shape.size()).Reshaped(info.shape);
        }
      },
      view);
  return view;
}

}  // namespace hm11
