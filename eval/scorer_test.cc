// Scorers: the reference's own scores in every mode, rows that add up to what the fast path says, and
// test-time training that does nothing when it has nothing to do.
#include "eval/scorer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "model/golden_model.h"
#include "testing/devices.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

// The golden model, its 1000 tokens and their bytes.
struct GoldenEval {
  GoldenEval() : golden(LoadGoldenModel("eval")) {
    for (const int32_t id : golden.Ids("tokens")) tokens.push_back(static_cast<uint16_t>(id));
    for (const int32_t n : golden.Ids("base_bytes")) bytes.base.push_back(static_cast<int16_t>(n));
    for (const int32_t n : golden.Ids("has_leading_space")) bytes.leading_space.push_back(n != 0);
    for (const int32_t n : golden.Ids("is_boundary")) bytes.boundary.push_back(n != 0);
    const absl::Status status = ImportWeights<float>(
        state, golden.config,
        FormulaWeights(golden.config, std::stod(golden.file.metadata.at("formula_seed"))), &weights);
    HM_CHECK(status.ok());
  }

  static ScorerOptions Options(const std::string& name) {
    ScorerOptions options = *ScorerOptionsFromName(name);
    options.score.window = 32;
    options.score.stride = 8;
    options.score.rows_at_once = 256;
    if (options.ttt) options.ttt->chunk = 128;
    if (options.ttt) options.ttt->batch = 2;
    return options;
  }

  Score Run(const ScorerOptions& options, int64_t count = 1000) {
    const std::span<const uint16_t> stream = std::span(tokens).first(static_cast<size_t>(count));
    const auto scorer = NewScorer<float>(work, golden.config, weights, count, options);
    return RunScorer(*scorer, stream, bytes);
  }

  GoldenModel golden;
  std::vector<uint16_t> tokens;
  ByteTable bytes;
  Arena state = Arena::Cpu(), work = Arena::Cpu();
  ModelWeights<float> weights = NewWeights<float>(state, golden.config);
};

GoldenEval& Golden() {
  static GoldenEval* eval = new GoldenEval;
  return *eval;
}

class GoldenMode : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(GoldenMode, IsTheReferences) {
  const auto& [tensor, mode] = GetParam();
  const Score score = Golden().Run(GoldenEval::Options(mode));
  const std::vector<float>& expected = Golden().golden.Values(tensor);
  EXPECT_NEAR(score.loss_nats, expected[0], 2e-6 * expected[0]);
  EXPECT_NEAR(score.bits_per_byte, expected[1], 2e-6 * expected[1]);
}
INSTANTIATE_TEST_SUITE_P(ScorerTest, GoldenMode,
                         testing::Values(std::pair("plain", "plain"),
                                         std::pair("sliding", "sliding_published"),
                                         std::pair("ttt", "ttt_published")));

TEST(ScorerTest, TrainingChangesTheGoldenScoreByMoreThanTheTolerance) {
  const auto& golden = Golden().golden;
  EXPECT_GT(std::abs(golden.Values("ttt")[0] - golden.Values("sliding")[0]), 1e-4);
}

TEST(ScorerTest, RowsAddUpToTheFastPath) {
  for (const char* mode : {"plain", "sliding", "sliding_published"}) {
    const ScorerOptions options = GoldenEval::Options(mode);
    GoldenEval& eval = Golden();
    const Score rows = eval.Run(options);
    const Score fast = ScoreTokens<float>(eval.work, eval.golden.config, eval.weights, eval.tokens,
                                          eval.bytes, options.score);
    EXPECT_EQ(rows.tokens, fast.tokens) << mode;
    EXPECT_EQ(rows.bytes, fast.bytes) << mode;
    EXPECT_NEAR(rows.loss_nats, fast.loss_nats, 1e-6 * fast.loss_nats) << mode;
  }
}

TEST(ScorerTest, TestTimeTrainingWithoutEpochsIsSliding) {
  for (const char* mode : {"ttt", "ttt_mlp"}) {
    ScorerOptions options = GoldenEval::Options(mode);
    const Score trained = Golden().Run(options, 400);
    options.ttt->epochs = 0;
    const Score untrained = Golden().Run(options, 400);
    options.ttt.reset();
    const Score sliding = Golden().Run(options, 400);
    EXPECT_EQ(untrained.tokens, 399);
    EXPECT_EQ(untrained.tokens, sliding.tokens);
    EXPECT_NEAR(untrained.loss_nats, sliding.loss_nats, 1e-6);
    EXPECT_GT(std::abs(trained.loss_nats - sliding.loss_nats), 1e-4) << mode << " trains nothing";
  }
}

TEST(ScorerTest, ScorersLeaveTheWeightsTheyAreGivenAsTheyAre) {
  const Score before = Golden().Run(GoldenEval::Options("plain"));
  Golden().Run(GoldenEval::Options("ttt"), 300);
  EXPECT_EQ(Golden().Run(GoldenEval::Options("plain")).loss_nats, before.loss_nats);
}

TEST(ScorerTest, OnlyAnUpdateChangesTheParameters) {
  GoldenEval& eval = Golden();
  const auto scorer =
      NewScorer<float>(eval.work, eval.golden.config, eval.weights, 400, GoldenEval::Options("ttt"));
  int64_t changes = 0;
  for (int64_t end = scorer->NextEnd(); end > 0; end = scorer->NextEnd()) {
    const std::span<const uint16_t> seen = std::span(eval.tokens).first(static_cast<size_t>(end));
    const uint64_t before = scorer->ParameterHash();
    scorer->Score(seen);
    EXPECT_EQ(scorer->ParameterHash(), before);
    scorer->Update(seen);
    changes += scorer->ParameterHash() != before;
  }
  EXPECT_EQ(changes, 3);  // 399 targets are four chunks of 128, the last not trained on
}

// Memory is planned for GPUs only; a CPU's address space has no need of it.
TEST(ScorerTest, FitsTheMemoryThatWasPlannedOnAGpu) {
  GoldenEval& eval = Golden();
  const ModelConfig& config = eval.golden.config;
  for (const Device& gpu : TestGpus()) {
    Arena state = TestArena(gpu);
    const auto weights = [&] {
      ModelWeights<float> placed = NewWeights<float>(state, config);
      HM_CHECK(ImportWeights<float>(state, config, FormulaWeights(config, 7), &placed).ok());
      return placed;
    }();
    for (const char* mode : {"plain", "sliding", "ttt"}) {
      const ScorerOptions options = GoldenEval::Options(mode);
      // An arena that is too small ends the test.
      Arena work(gpu, ScorerWorkBytes<float>(config, options));
      const auto scorer = NewScorer<float>(work, config, weights, 400, options);
      const Score score = RunScorer(*scorer, std::span(eval.tokens).first(400), eval.bytes);
      EXPECT_NEAR(score.loss_nats, eval.Run(options, 400).loss_nats, 1e-4) << mode;
    }
  }
}

TEST(ScorerTest, AnUnknownModeIsNamed) {
  EXPECT_THAT(ScorerOptionsFromName("best"), StatusIs(absl::StatusCode::kInvalidArgument, "'best'"));
}

}  // namespace
}  // namespace hm11
