// A weight more in the list, a member and one line of it (BUILD plants them), is initialized, laid out,
// trained, counted, saved, loaded and quantized, though nothing else knows its name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/random.h"
#include "model/safetensors.h"
#include "model/weight_layout.h"
#include "quant/packed_model.h"
#include "testing/devices.h"
#include "testing/matchers.h"
#include "train/optimizer.h"

namespace hm11 {
namespace {

ModelConfig SmallModel() {
  return {.layers = "MA",
          .vocab = 300,
          .dim = 32,
          .heads = 2,
          .kv_heads = 1,
          .mlp_width = 48,
          .state = 4,
          .dt_rank = 4,
          .rope_dims = 8,
          .bigram_rows = 64,
          .bigram_dim = 8,
          .value_embedding_dim = 8};
}

const NamedTensor& Planted(const std::vector<NamedTensor>& tensors) {
  const auto found =
      std::ranges::find_if(tensors, [](const NamedTensor& t) { return t.name == "planted.gain"; });
  HM_CHECK(found != tensors.end());
  return *found;
}

TEST(PlantedWeightTest, BeginsAsItsLineSaysAndIsCounted) {
  const ModelConfig model = SmallModel();
  const std::vector<NamedTensor> initial = InitialWeights(model, 1);
  EXPECT_EQ(Planted(initial).values, std::vector<float>(32, 3.0f));
  int64_t numbers = 0;
  for (const NamedTensor& tensor : initial) numbers += static_cast<int64_t>(tensor.values.size());
  EXPECT_EQ(CountParameters(model), numbers);
  const WeightLayout layout = LayOutWeights(model);
  EXPECT_TRUE(std::ranges::any_of(layout.weights, [&](const PlacedWeight& weight) {
    return weight.info.name == "planted.gain" && weight.offset < layout.control_floats;
  }));
}

TEST(PlantedWeightTest, IsTrainedSavedAndLoaded) {
  const ModelConfig model = SmallModel();
  Arena arena = Arena::Cpu(), work = Arena::Cpu();
  FlatWeights weights = NewFlatWeights(arena, model), gradients = NewFlatWeights(arena, model),
              average = NewFlatWeights(arena, model);
  ASSERT_THAT(ImportWeights<float>(arena, model, InitialWeights(model, 1), &weights.view), IsOk());
  Optimizer optimizer(arena, model, OptimizerConfig(), weights, gradients, average, {});
  optimizer.Upload({.adam_correction1 = 0.1f, .adam_correction2 = 0.1f});
  for (int64_t i = 0; i < gradients.flat.size(); ++i) gradients.flat.data()[i] = 1;
  optimizer.Step(work);
  const std::vector<NamedTensor> trained = ExportWeights<float>(arena, model, weights.view);
  for (const float value : Planted(trained).values) EXPECT_LT(value, 3.0f);

  const std::string path = testing::TempDir() + "/planted.safetensors";
  ASSERT_THAT(WriteSafetensors(path, {.metadata = {}, .tensors = trained}), IsOk());
  const auto file = ReadSafetensors(path);
  ASSERT_THAT(file, IsOk());
  ModelWeights<float> loaded = NewWeights<float>(arena, model);
  ASSERT_THAT(ImportWeights<float>(arena, model, file->tensors, &loaded), IsOk());
  EXPECT_EQ(Planted(ExportWeights<float>(arena, model, loaded)).values, Planted(trained).values);
}

TEST(PlantedWeightTest, ANameThatTheListDoesNotHaveIsAnError) {
  const ModelConfig model = SmallModel();
  Arena arena = Arena::Cpu();
  ModelWeights<float> weights = NewWeights<float>(arena, model);
  std::vector<NamedTensor> tensors = InitialWeights(model, 1);
  tensors.push_back({"planted.loss", {1}, {3}});
  EXPECT_THAT(ImportWeights<float>(arena, model, tensors, &weights),
              StatusIs(absl::StatusCode::kInvalidArgument, "tensor planted.loss does not belong"));
  tensors.pop_back();
  tensors.back().name += "s";
  EXPECT_THAT(ImportWeights<float>(arena, model, tensors, &weights),
              StatusIs(absl::StatusCode::kNotFound, "is missing"));
}

TEST(PlantedWeightTest, IsQuantizedAsItsLineSays) {
  const ModelConfig model = SmallModel();
  uint64_t text = 0;
  const auto tokenizer = Tokenizer::Train(
      [&](std::string* line) {
        line->clear();
        for (uint64_t i = 0; i < 60; ++i) {
          line->push_back(i % 6 == 5 ? ' ' : static_cast<char>('a' + RandomIndex(1, 1, text * 60 + i, 26)));
        }
        return ++text < 1000;
      },
      {.vocab = model.vocab});
  ASSERT_THAT(tokenizer, IsOk());
  QuantConfig exact;
  exact.small_elements = 8;  // fewer than the planted weight has
  const auto packed = PackModel(model, 64, *tokenizer, InitialWeights(model, 1), exact);
  ASSERT_THAT(packed, IsOk());
  const auto artifact = ParseArtifact(packed->bytes, "memory");
  ASSERT_THAT(artifact, IsOk());
  const auto stored = std::ranges::find_if(
      artifact->tensors, [](const StoredTensor& tensor) { return tensor.name == "planted.gain"; });
  ASSERT_NE(stored, artifact->tensors.end());
  EXPECT_EQ(stored->storage, Storage::kFloat32);
  const auto unpacked = UnpackModel(packed->bytes, "memory");
  ASSERT_THAT(unpacked, IsOk());
  EXPECT_EQ(Planted(unpacked->tensors).values, std::vector<float>(32, 3.0f));
}

}  // namespace
}  // namespace hm11
