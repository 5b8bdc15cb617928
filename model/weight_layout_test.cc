// The flat layout in its properties.
#include "model/weight_layout.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>

namespace hm11 {
namespace {

// Every kind of weight, of any size.
ModelConfig AnyModel() {
  ModelConfig model;
  model.layers = *rc::gen::elementOf(std::vector<std::string>{"M", "A", "MA", "AMA"});
  model.vocab = *rc::gen::inRange<int64_t>(1, 90);
  model.heads = model.kv_heads = 1;
  model.dim = *rc::gen::inRange<int64_t>(1, 30);
  model.mlp_width = *rc::gen::inRange<int64_t>(1, 90);
  model.state = *rc::gen::inRange<int64_t>(1, 9);
  model.dt_rank = *rc::gen::inRange<int64_t>(1, 9);
  model.bigram_rows = *rc::gen::inRange<int64_t>(0, 20);
  model.bigram_dim = *rc::gen::inRange<int64_t>(1, 9);
  model.value_embedding_layers = *rc::gen::inRange<int64_t>(0, 2);
  model.value_embedding_dim = *rc::gen::inRange<int64_t>(1, 9);
  model.tied_embeddings = *rc::gen::arbitrary<bool>();
  model.gated_attention = *rc::gen::arbitrary<bool>();
  model.value_residual = *rc::gen::arbitrary<bool>();
  model.token_gate = *rc::gen::arbitrary<bool>();
  model.mtp_heads = *rc::gen::inRange<int64_t>(0, 2);
  return model;
}

RC_GTEST_PROP(WeightLayoutTest, WeightsFillTheBlockControlsFirst, ()) {
  const ModelConfig model = AnyModel();
  WeightLayout layout = LayOutWeights(model);
  int64_t parameters = 0;
  std::stable_sort(layout.weights.begin(), layout.weights.end(),
                   [](const PlacedWeight& a, const PlacedWeight& b) { return a.offset < b.offset; });
  int64_t end = 0;
  for (const PlacedWeight& weight : layout.weights) {
    RC_ASSERT(weight.offset == end);
    RC_ASSERT((weight.info.kind == WeightKind::kControl) == (weight.offset < layout.control_floats));
    RC_ASSERT(weight.offset % kGranule == 0);
    end += WholeGranules(weight.info.shape.size());
    parameters += weight.info.shape.size();
  }
  RC_ASSERT(end == layout.floats);
  RC_ASSERT(parameters == CountParameters(model));
}

RC_GTEST_PROP(WeightLayoutTest, AWorkingCopyIsMatricesOfTheCopyAndTheMastersOwnVectors, ()) {
  const ModelConfig model = AnyModel();
  Arena arena = Arena::Cpu();
  const FlatWeights master = NewFlatWeights(arena, model);
  const Tensor<Bf16> flat16 = arena.New<Bf16>(master.flat.shape());
  const ModelWeights<Bf16> view = WorkingCopyView(model, master, flat16);
  ForEachWeight(
      model,
      [&](const WeightInfo& info, const auto& tensor, const Tensor<float>& own) {
        RC_ASSERT(tensor.shape() == own.shape());
        RC_ASSERT(own.shape() == info.shape);
        if constexpr (std::is_same_v<std::decay_t<decltype(tensor)>, Tensor<Bf16>>) {
          RC_ASSERT(tensor.data() - flat16.data() == own.data() - master.flat.data());
        } else {
          RC_ASSERT(tensor.data() == own.data());
        }
      },
      view, master.view);
}

}  // namespace
}  // namespace hm11
