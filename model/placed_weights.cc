// Imports in float, then casts what a model does not keep in float.
#include "model/placed_weights.h"

#include <type_traits>

#include "core/dtype.h"
#include "core/status.h"
#include "ops/elementwise.h"

namespace hm11 {

template <typename T>
absl::StatusOr<ModelWeights<T>> PlaceWeights(Arena& arena, const ModelConfig& config,
                                             const std::vector<NamedTensor>& tensors) {
  ModelWeights<float> master = NewWeights<float>(arena, config);
  HM_RETURN_IF_ERROR(ImportWeights<float>(arena, config, tensors, &master));
  if constexpr (std::is_same_v<T, float>) {
    return master;
  } else {
    ModelWeights<T> weights;
    ResizeWeights(config, &weights);
    ForEachWeight(
        config,
        [&](const WeightInfo& info, Tensor<float>& from, auto& to) {
          if constexpr (std::is_same_v<decltype(to), Tensor<float>&>) {
            to = from;
          } else {
            to = arena.New<T>(info.shape);
            Cast<float, T>(arena, from, to);
          }
        },
        master, weights);
    return weights;
  }
}
template absl::StatusOr<ModelWeights<float>> PlaceWeights<float>(Arena&, const ModelConfig&,
                                                                 const std::vector<NamedTensor>&);
template absl::StatusOr<ModelWeights<Fp16>> PlaceWeights<Fp16>(Arena&, const ModelConfig&,
                                                               const std::vector<NamedTensor>&);
template absl::StatusOr<ModelWeights<Bf16>> PlaceWeights<Bf16>(Arena&, const ModelConfig&,
                                                               const std::vector<NamedTensor>&);

}  // namespace hm11
