// Calibration: what is collected is named and sized as matrices are stored, adds up over text, and is the
// squared gradient.
#include "train/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "data/token_stream.h"
#include "model/language_model.h"
#include "model/placed_weights.h"
#include "model/weights.h"
#include "quant/model_artifact_test_weights.h"
#include "testing/matchers.h"
#include "train/run_test_data.h"

namespace hm11 {
namespace {

class CalibrationTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = NewSmallDataFolder("hm11_calibration");
    config_ = SmallRun(folder, "run").config.model;
    stream_ = *TokenStream::Open(folder + "/t_train_*.bin", config_.vocab);
    exported_ = TrainedLikeWeights(config_);  // none is zero, so that all have gradients
    weights_ = *PlaceWeights<float>(state_, config_, exported_);
  }

  Batcher BatchesOf(int64_t batch) const {
    return Batcher(*stream_, {.batch = batch, .time = 16, .micro_batches = 1});
  }
  GradientMap Gradients(int64_t batch, int64_t first_step, int64_t tokens) {
    return CollectGradientSquares<float>(work_, config_, weights_, BatchesOf(batch), first_step, tokens);
  }

  ModelConfig config_;
  std::optional<TokenStream> stream_;
  std::vector<NamedTensor> exported_;
  Arena state_ = Arena::Cpu(), work_ = Arena::Cpu();
  ModelWeights<float> weights_;
};

TEST_F(CalibrationTest, EveryStoredMatrixHasAGradientForEachRow) {
  const GradientMap gradients = Gradients(1, 0, 32);
  size_t matrices = 0;
  for (const auto& [name, shape, storage] : StoredWeights(config_)) {
    if (shape.size() < 2) continue;
    ++matrices;
    ASSERT_TRUE(gradients.contains(name)) << name;
    EXPECT_EQ(static_cast<int64_t>(gradients.at(name).size()), shape[0]) << name;
    double sum = 0;
    for (const double g : gradients.at(name)) sum += g;
    EXPECT_GT(sum, 0) << name;
  }
  EXPECT_EQ(gradients.size(), matrices);
}

TEST_F(CalibrationTest, SequencesAddUp) {
  const GradientMap first = Gradients(1, 0, 16), second = Gradients(1, 1, 16), both = Gradients(1, 0, 32);
  for (const auto& [name, rows] : both) {
    for (size_t r = 0; r < rows.size(); ++r) {
      EXPECT_NEAR(rows[r], first.at(name)[r] + second.at(name)[r], 1e-9 * rows[r]) << name << " " << r;
    }
  }
}

TEST_F(CalibrationTest, ASequencesRowsAreTheSquaresOfItsGradient) {
  const GradientMap collected = Gradients(1, 0, 16);
  std::vector<int32_t> ids(16), targets(16);
  const Tensor<int32_t> inputs(ids.data(), {1, 16}), next(targets.data(), {1, 16});
  BatchesOf(1).Fill(0, 0, 0, inputs, next);
  Arena own = Arena::Cpu();
  ModelWeights<float> gradient = NewWeights<float>(own, config_);
  LossAndGradient<float>(
      work_, config_,
      {.weights = weights_, .ids = inputs, .targets = next, .grad = gradient, .loss = own.New<float>({1})});
  const auto stored = SplitBanks(config_, ExportWeights<float>(work_, config_, gradient));
  ASSERT_THAT(stored, IsOk());
  for (const NamedTensor& tensor : *stored) {
    if (tensor.shape.size() != 2) continue;
    const int64_t rows = tensor.shape[0], cols = tensor.shape[1];
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0;
      for (int64_t c = 0; c < cols; ++c) squares += std::pow(tensor.values[r * cols + c], 2);
      EXPECT_NEAR(collected.at(tensor.name)[r], squares, 1e-6 * squares) << tensor.name << " " << r;
    }
  }
}

TEST_F(CalibrationTest, TheHeadsHessianIsThatOfTheTokenTable) {
  const HessianMap hessians = CollectHessians<float>(work_, config_, weights_, BatchesOf(2), 0, 32);
  ASSERT_TRUE(hessians.contains("tok_emb.weight"));
  const std::vector<float>& head = hessians.at("tok_emb.weight");
  ASSERT_EQ(static_cast<int64_t>(head.size()), config_.dim * config_.dim);
  double trace = 0;
  for (int64_t c = 0; c < config_.dim; ++c) trace += head[c * config_.dim + c];
  EXPECT_NEAR(trace, 32.0 * static_cast<double>(config_.dim), 0.01 * trace) << "hidden states are normed";
}

}  // namespace
}  // namespace hm11
