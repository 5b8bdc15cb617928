// Shares of the weights' block in their properties; train/optimizer_ranks_test.cc has real ranks gather them.
#include "train/weight_share.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>
#include <vector>

#include "core/arena.h"
#include "model/weight_layout.h"
#include "testing/devices.h"

namespace hm11 {
namespace {

RC_GTEST_PROP(WeightShareTest, RanksFillTheBlockAndCutNoMatrix, ()) {
  ModelConfig model;
  model.layers = *rc::gen::elementOf(std::vector<std::string>{"M", "A", "MAMA"});
  model.vocab = *rc::gen::inRange<int64_t>(1, 90);
  model.heads = model.kv_heads = 1;
  model.dim = *rc::gen::inRange<int64_t>(1, 30);
  model.mlp_width = *rc::gen::inRange<int64_t>(1, 90);
  model.tied_embeddings = *rc::gen::arbitrary<bool>();
  OptimizerConfig config;
  config.muon_on_mamba = *rc::gen::arbitrary<bool>();
  const int ranks = *rc::gen::inRange(1, 20);
  const WeightLayout layout = LayOutWeights(model);

  Arena arena = Arena::Cpu();
  HostTensor<float> block = ZeroHostTensor<float>({layout.floats}), again = block;
  for (int64_t i = 0; i < layout.floats; ++i) block[i] = static_cast<float>(i);
  const Tensor<float> whole = Upload(arena, block);
  int64_t end = layout.control_floats;
  for (int rank = 0; rank < ranks; ++rank) {
    const WeightShare share(model, config, rank, ranks);
    RC_ASSERT(share.controls() == layout.control_floats && share.whole_floats() == layout.floats);
    RC_ASSERT(share.begin() == end && share.begin() % kGranule == 0);
    end = share.end();
    RC_ASSERT(share.floats() == share.controls() + share.end() - share.begin());
    for (const auto& [info, offset] : layout.weights) {
      RC_ASSERT(!share.Owns(offset) || offset >= layout.control_floats);
      if (info.kind == WeightKind::kBankMatrix || info.shape.size() == 0)
        continue;  // banks are cut in matrices
      RC_ASSERT(share.Owns(offset) == share.Owns(offset + info.shape.size() - 1));
    }
    const Tensor<float> kept = arena.New<float>({share.floats()});
    share.Take(arena.device(), whole, kept);
    for (int64_t i = 0; i < share.controls(); ++i) again[i] = kept[i];
    for (int64_t i = share.begin(); i < share.end(); ++i) again[i] = kept[i - share.skipped()];
  }
  RC_ASSERT(end == layout.floats);
  RC_ASSERT(again.values == block.values);
  if (ranks == 1) RC_ASSERT(WeightShare(model, config, 0, 1).floats() == layout.floats);
}

}  // namespace
}  // namespace hm11
