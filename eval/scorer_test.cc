// Scorers: the reference's own scores in every mode, rows that add up to what the fast path says, test-time
// training that does nothing when it has nothing to do, and what stateful rows and isolated documents depend
// on.
#include "eval/scorer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "core/random.h"
#include "core/rank_group.h"
#include "core/ranks.h"
#include "model/golden_model.h"
#include "ops/elementwise.h"
#include "testing/devices.h"
#include "testing/matchers.h"
#include "testing/rank_processes.h"

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

// Models of a few layers of any kinds, of one width.
struct SmallModel {
  explicit SmallModel(const std::string& layers) {
    config = {.layers = layers,
              .vocab = 12,
              .dim = 8,
              .heads = 2,
              .kv_heads = 1,
              .mlp_width = 8,
              .state = 2,
              .dt_rank = 2,
              .rope_dims = 4,
              .bigram_rows = 7,
              .bigram_dim = 4,
              .value_embedding_layers = 1,
              .value_embedding_dim = 4,
              .xsa_layers = 1,
              .value_residual = layers.size() > 2};
    HM_CHECK(config.Validate().ok());
    weights = NewWeights<float>(state, config);
    HM_CHECK(ImportWeights<float>(state, config, FormulaWeights(config, 5), &weights).ok());
  }

  // Everything that a scorer says of the stream.
  ScoredRows Run(std::span<const uint16_t> stream, const ScorerOptions& options) {
    const auto scorer = NewScorer<float>(work, config, weights, static_cast<int64_t>(stream.size()), options);
    ScoredRows all;
    for (int64_t end = scorer->NextEnd(); end > 0; end = scorer->NextEnd()) {
      const std::span<const uint16_t> seen = stream.first(static_cast<size_t>(end));
      const ScoredRows rows = scorer->Score(seen);
      scorer->Update(seen);
      all.targets.insert(all.targets.end(), rows.targets.begin(), rows.targets.end());
      all.log_probs.insert(all.log_probs.end(), rows.log_probs.begin(), rows.log_probs.end());
      all.nats.insert(all.nats.end(), rows.nats.begin(), rows.nats.end());
    }
    return all;
  }

  ModelConfig config;
  Arena state = Arena::Cpu(), work = Arena::Cpu();
  ModelWeights<float> weights;
};

SmallModel& AnyModel() {
  static auto* models = new std::map<std::string, std::unique_ptr<SmallModel>>;
  const std::string layers = *rc::gen::element<std::string>("M", "A", "MA", "AM", "MAMAA", "AMAMM");
  std::unique_ptr<SmallModel>& model = (*models)[layers];
  if (model == nullptr) model = std::make_unique<SmallModel>(layers);
  return *model;
}

std::vector<uint16_t> RandomTokens(int64_t count, uint64_t seed, bool with_bos) {
  std::vector<uint16_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t token = RandomIndex(seed, StreamOf("tokens"), static_cast<uint64_t>(i), with_bos ? 12 : 10);
    tokens.push_back(static_cast<uint16_t>(with_bos ? token : 2 + token));
  }
  return tokens;
}

ScorerOptions OptionsFor(const std::string& mode, int64_t window, int64_t stride, int64_t rows_at_once) {
  ScorerOptions options = *ScorerOptionsFromName(mode);
  options.score.window = window;
  options.score.stride = stride;
  options.score.rows_at_once = rows_at_once;
  return options;
}

ScorerOptions StatefulFor(int64_t window, int64_t overlap, int64_t rows_at_once, bool isolate = false) {
  ScorerOptions options = OptionsFor("stateful", window, 1, rows_at_once);
  options.stateful->overlap = overlap;
  options.isolate_documents = isolate;
  return options;
}

// The largest difference between `count` rows from those given on.
double RowDistance(const ScoredRows& a, size_t from_a, const ScoredRows& b, size_t from_b, size_t count) {
  constexpr size_t vocab = 12;
  HM_CHECK(from_a + count <= a.targets.size() && from_b + count <= b.targets.size());
  double largest = 0;
  for (size_t i = 0; i < count * vocab; ++i) {
    largest = std::max<double>(largest,
                               std::abs(a.log_probs[from_a * vocab + i] - b.log_probs[from_b * vocab + i]));
  }
  for (size_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::abs(a.nats[from_a + i] - b.nats[from_b + i]));
  }
  return largest;
}

double RowDistance(const ScoredRows& a, const ScoredRows& b) {
  HM_CHECK_EQ(a.targets.size(), b.targets.size());
  return RowDistance(a, 0, b, 0, a.targets.size());
}

// Any mode and setting that scores each target exactly once and learns nothing.
ScorerOptions AnyExactOptions() {
  const std::string mode = *rc::gen::element<std::string>("plain", "sliding", "stateful");
  ScorerOptions options = OptionsFor(mode, *rc::gen::inRange<int64_t>(1, 20),
                                     *rc::gen::inRange<int64_t>(1, 20), *rc::gen::inRange<int64_t>(1, 60));
  if (options.stateful) options.stateful->overlap = *rc::gen::inRange<int64_t>(-1, 22);
  options.isolate_documents = mode == "plain" || *rc::gen::arbitrary<bool>();
  return options;
}

RC_GTEST_PROP(ScorerTest, EachTargetIsScoredOnceAndInOrder, ()) {
  SmallModel& model = AnyModel();
  const std::vector<uint16_t> tokens =
      RandomTokens(*rc::gen::inRange<int64_t>(2, 80), *rc::gen::arbitrary<uint64_t>(), /*with_bos=*/true);
  const ScoredRows rows = model.Run(tokens, AnyExactOptions());
  RC_ASSERT(rows.targets.size() == tokens.size() - 1);
  for (size_t i = 0; i < rows.targets.size(); ++i) {
    RC_ASSERT(rows.targets[i] == static_cast<int64_t>(i) + 1);
    RC_ASSERT(rows.nats[i] == -rows.log_probs[i * 12 + tokens[i + 1]]);
  }
}

RC_GTEST_PROP(ScorerTest, LossesAloneAreThoseOfTheRows, ()) {
  SmallModel& model = AnyModel();
  const std::vector<uint16_t> tokens =
      RandomTokens(*rc::gen::inRange<int64_t>(2, 80), *rc::gen::arbitrary<uint64_t>(), /*with_bos=*/true);
  ScorerOptions options = AnyExactOptions();
  const ScoredRows rows = model.Run(tokens, options);
  options.rows = false;
  const ScoredRows losses = model.Run(tokens, options);
  RC_ASSERT(losses.log_probs.empty());
  RC_ASSERT(losses.targets == rows.targets);
  for (size_t i = 0; i < rows.nats.size(); ++i) RC_ASSERT(std::abs(losses.nats[i] - rows.nats[i]) < 1e-5);
}

RC_GTEST_PROP(ScorerTest, StatefulWithFullOverlapIsSlidingByOneWindowForWindow, ()) {
  SmallModel& model = AnyModel();
  const int64_t window = *rc::gen::inRange<int64_t>(2, 16), count = *rc::gen::inRange<int64_t>(2, 40);
  const std::vector<uint16_t> tokens =
      RandomTokens(count, *rc::gen::arbitrary<uint64_t>(), /*with_bos=*/true);
  const ScoredRows sliding = model.Run(tokens, OptionsFor("sliding", window, 1, 64));
  // A window of sliding is a stream of its own, of which nothing is lost on the way.
  for (const Window& w : LayWindows(ScoreMode::kSliding, count, window, 1)) {
    const ScoredRows stateful =
        model.Run(std::span(tokens).subspan(static_cast<size_t>(w.begin), static_cast<size_t>(w.length + 1)),
                  StatefulFor(window, window - 1, *rc::gen::inRange<int64_t>(1, 64)));
    const size_t scored = static_cast<size_t>(w.scored), skipped = static_cast<size_t>(w.length) - scored;
    RC_ASSERT(RowDistance(stateful, skipped, sliding, static_cast<size_t>(w.begin) + skipped, scored) < 1e-5);
  }
}

TEST(ScorerTest, StatefulWithFullOverlapIsSlidingByOneWhereRopeStretchesWithTheLength) {
  SmallModel model("MAA");
  const std::vector<uint16_t> tokens = RandomTokens(1101, 1, /*with_bos=*/false);
  const ScoredRows sliding = model.Run(tokens, OptionsFor("sliding", 2048, 1, 2048));
  EXPECT_LT(RowDistance(model.Run(tokens, StatefulFor(2048, 1984, 2048)), sliding), 1e-5);
  // Documents keep the base of whole windows, which is another one.
  ScorerOptions isolated = OptionsFor("sliding", 2048, 1, 2048);
  isolated.isolate_documents = true;
  const ScoredRows document = model.Run(tokens, isolated);
  EXPECT_LT(RowDistance(model.Run(tokens, StatefulFor(2048, 1984, 2048, /*isolate=*/true)), document), 1e-5);
  EXPECT_GT(RowDistance(document, sliding), 1e-4);
}

RC_GTEST_PROP(ScorerTest, TheSizeOfItsBlocksIsNothingToAStatefulScorer, ()) {
  SmallModel& model = AnyModel();
  const int64_t window = *rc::gen::inRange<int64_t>(1, 12), overlap = *rc::gen::inRange<int64_t>(-1, 12);
  const bool isolate = *rc::gen::arbitrary<bool>();
  const std::vector<uint16_t> tokens =
      RandomTokens(*rc::gen::inRange<int64_t>(2, 80), *rc::gen::arbitrary<uint64_t>(), /*with_bos=*/true);
  const auto run = [&] {
    return model.Run(tokens, StatefulFor(window, overlap, *rc::gen::inRange<int64_t>(1, 90), isolate));
  };
  const ScoredRows one = run();
  RC_ASSERT(RowDistance(one, run()) < 1e-5);
}

RC_GTEST_PROP(ScorerTest, NoBitOfARowDependsOnWhatFollows, ()) {
  SmallModel& model = AnyModel();
  const std::vector<uint16_t> tokens =
      RandomTokens(*rc::gen::inRange<int64_t>(3, 80), *rc::gen::arbitrary<uint64_t>(), /*with_bos=*/true);
  const size_t kept = static_cast<size_t>(*rc::gen::inRange<int64_t>(1, static_cast<int64_t>(tokens.size())));
  std::vector<uint16_t> altered =
      RandomTokens(static_cast<int64_t>(tokens.size()), *rc::gen::arbitrary<uint64_t>(), /*with_bos=*/true);
  std::copy_n(tokens.begin(), kept, altered.begin());
  const ScorerOptions options = AnyExactOptions();
  RC_ASSERT(RowDistance(model.Run(tokens, options), 0, model.Run(altered, options), 0, kept - 1) == 0);
}

// Which tokens a target's row depends on, by changing each.
std::set<size_t> Sees(SmallModel& model, const std::vector<uint16_t>& tokens, const ScorerOptions& options,
                      size_t target) {
  const ScoredRows rows = model.Run(tokens, options);
  std::set<size_t> seen;
  for (size_t t = 0; t < target; ++t) {
    std::vector<uint16_t> altered = tokens;
    altered[t] = static_cast<uint16_t>(2 + (altered[t] - 2 + 3) % 10);
    if (RowDistance(model.Run(altered, options), target - 1, rows, target - 1, 1) > 0) seen.insert(t);
  }
  return seen;
}

TEST(ScorerTest, AttentionSeesTheOverlapAndStatesEverything) {
  SmallModel attention("A"), mamba("M");
  const std::vector<uint16_t> tokens = RandomTokens(40, 3, /*with_bos=*/false);
  const auto from = [](size_t first, size_t end) {
    std::set<size_t> all;
    for (size_t t = first; t < end; ++t) all.insert(t);
    return all;
  };
  // Windows of 8 tokens of their own after 4: [20, 32) scores the targets 25 to 32. The first token seen
  // comes with the two before it, by way of the smear gate and the bigram hash.
  const ScorerOptions stateful = StatefulFor(12, 4, 24);
  EXPECT_EQ(Sees(attention, tokens, stateful, 25), from(18, 25));
  EXPECT_EQ(Sees(attention, tokens, stateful, 32), from(18, 32));
  EXPECT_EQ(Sees(attention, tokens, stateful, 33), from(26, 33));
  EXPECT_EQ(Sees(mamba, tokens, stateful, 33), from(0, 33));
  EXPECT_EQ(Sees(mamba, tokens, OptionsFor("sliding", 12, 1, 24), 33), from(21, 33));
}

// Two documents, of which the first may be any.
RC_GTEST_PROP(ScorerTest, IsolatedNoRowDependsOnTheDocumentBefore, ()) {
  SmallModel& model = AnyModel();
  ScorerOptions options = AnyExactOptions();
  options.isolate_documents = true;
  const auto document = [](int64_t length) {
    std::vector<uint16_t> tokens = RandomTokens(length, *rc::gen::arbitrary<uint64_t>(), /*with_bos=*/false);
    tokens.front() = 1;
    return tokens;
  };
  const std::vector<uint16_t> next = document(*rc::gen::inRange<int64_t>(2, 40));
  const auto rows_after = [&](const std::vector<uint16_t>& first) {
    std::vector<uint16_t> stream = first;
    stream.insert(stream.end(), next.begin(), next.end());
    return model.Run(stream, options);
  };
  const std::vector<uint16_t> one = document(*rc::gen::inRange<int64_t>(1, 40)),
                              other = document(*rc::gen::inRange<int64_t>(1, 40));
  RC_ASSERT(RowDistance(rows_after(one), one.size(), rows_after(other), other.size(), next.size() - 1) <
            1e-5);
  // As if alone; and so is the first, the next one's BOS being its last target.
  RC_ASSERT(RowDistance(rows_after(one), one.size(), model.Run(next, options), 0, next.size() - 1) < 1e-5);
  std::vector<uint16_t> alone = one;
  alone.push_back(1);
  RC_ASSERT(RowDistance(rows_after(one), 0, model.Run(alone, options), 0, one.size()) < 1e-5);
}

TEST(ScorerTest, NotIsolatedTheDocumentBeforeIsSeen) {
  SmallModel model("MA");
  std::vector<uint16_t> tokens = RandomTokens(24, 7, /*with_bos=*/false),
                        altered = RandomTokens(24, 8, false);
  tokens[0] = altered[0] = tokens[10] = 1;
  std::copy(tokens.begin() + 10, tokens.end(), altered.begin() + 10);
  for (const char* mode : {"plain", "sliding", "stateful"}) {
    ScorerOptions options = OptionsFor(mode, 23, 4, 64);
    EXPECT_GT(RowDistance(model.Run(tokens, options), 10, model.Run(altered, options), 10, 13), 1e-3) << mode;
    options.isolate_documents = true;
    EXPECT_LT(RowDistance(model.Run(tokens, options), 10, model.Run(altered, options), 10, 13), 1e-5) << mode;
  }
}

RC_GTEST_PROP(ScorerTest, PartsCutAtDocumentsAddUpToTheWhole, ()) {
  SmallModel& model = AnyModel();
  const std::vector<uint16_t> tokens =
      RandomTokens(*rc::gen::inRange<int64_t>(2, 120), *rc::gen::arbitrary<uint64_t>(), /*with_bos=*/true);
  ScorerOptions options = AnyExactOptions();
  options.isolate_documents = true;
  const ScoredRows whole = model.Run(tokens, options);
  const int ranks = *rc::gen::inRange(1, 7);
  size_t done = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    const ScoredRows own = model.Run(DocumentsOf(tokens, rank, ranks), options);
    RC_ASSERT(RowDistance(own, 0, whole, done, own.targets.size()) < 1e-5);
    done += own.targets.size();
  }
  RC_ASSERT(done == whole.targets.size());
}

// Real processes, each with its documents: the score of all.
TEST(RankBody, DISABLED_ScoresItsDocuments) {
  const absl::StatusOr<std::shared_ptr<RankGroup>> group = RankGroup::Join(*RanksFromProcess(), 20);
  ASSERT_THAT(group, IsOk());
  SmallModel model("MA");
  const std::vector<uint16_t> tokens = RandomTokens(3000, 5, /*with_bos=*/true);
  const ByteTable bytes = {.base = std::vector<int16_t>(12, 2),
                           .leading_space = std::vector<uint8_t>(12, 1),
                           .boundary = std::vector<uint8_t>(12, 0)};
  const auto score = [&](std::span<const uint16_t> stream, const ScorerOptions& options, RankGroup* among) {
    const auto scorer = NewScorer<float>(model.work, model.config, model.weights,
                                         static_cast<int64_t>(stream.size()), options);
    return RunScorer(*scorer, stream, bytes, {}, among);
  };
  for (const char* mode : {"plain", "sliding", "stateful"}) {
    ScorerOptions options = OptionsFor(mode, 16, 4, 64);
    options.isolate_documents = true;
    const Score alone = score(tokens, options, nullptr);
    const Score together =
        score(DocumentsOf(tokens, (*group)->rank(), (*group)->size()), options, group->get());
    EXPECT_NEAR(together.bits_per_byte, alone.bits_per_byte, 1e-6) << mode;
    EXPECT_EQ(together.tokens, 2999) << mode;
    EXPECT_EQ(together.bytes, alone.bytes) << mode;
  }
  EXPECT_EQ((*group)->Finish(absl::OkStatus()), 0);
}

TEST(ScorerTest, ThreeRanksScoreAsOne) {
  EXPECT_TRUE(RankProcesses("RankBody.DISABLED_ScoresItsDocuments", 3).AllPass());
}

TEST(ScorerTest, OverlapsAreHalfAWindowAndNeverAWholeOne) {
  EXPECT_EQ(StatefulOptions{}.Overlap(512), 256);
  EXPECT_EQ(StatefulOptions{}.Overlap(8192), 1024);
  EXPECT_EQ(StatefulOptions{}.Overlap(1), 0);
  EXPECT_EQ(StatefulOptions{.overlap = 512}.Overlap(512), 511);
  EXPECT_EQ(StatefulOptions{.overlap = 0}.Overlap(512), 0);
}

TEST(ScorerTest, WhatCannotBeScoredIsRefusedByItsSetting) {
  const auto refused = [](const ScorerOptions& options, const char* setting) {
    EXPECT_THAT(options.Validate(), StatusIs(absl::StatusCode::kInvalidArgument, setting));
  };
  refused(OptionsFor("plain", 0, 1, 1), "window=0");
  refused(OptionsFor("sliding", 8, 0, 1), "stride=0");
  refused(StatefulFor(8, -2, 1), "overlap=-2");
  for (const char* mode : {"sliding_published", "ttt", "ttt_mlp", "ttt_published"}) {
    ScorerOptions options = GoldenEval::Options(mode);
    EXPECT_THAT(options.Validate(), IsOk());
    options.isolate_documents = true;
    refused(options, "isolate_documents");
  }
}

TEST(ScorerTest, FitsTheMemoryThatWasPlanned) {
  GoldenEval& eval = Golden();
  const ModelConfig& config = eval.golden.config;
  for (const Device& device : TestDevices()) {
    Arena state = TestArena(device);
    const auto weights = [&] {
      ModelWeights<float> placed = NewWeights<float>(state, config);
      const double seed = std::stod(eval.golden.file.metadata.at("formula_seed"));
      HM_CHECK(ImportWeights<float>(state, config, FormulaWeights(config, seed), &placed).ok());
      return placed;
    }();
    for (const char* mode : {"plain", "sliding", "stateful", "ttt"}) {
      const ScorerOptions options = GoldenEval::Options(mode);
      // An arena that is too small ends the test.
      Arena work(device, ScorerWorkBytes<float>(config, options, device));
      const auto scorer = NewScorer<float>(work, config, weights, 400, options);
      const Score score = RunScorer(*scorer, std::span(eval.tokens).first(400), eval.bytes);
      EXPECT_NEAR(score.loss_nats, eval.Run(options, 400).loss_nats, 1e-4) << mode;
    }
  }
}

// Of float copies, rounded to Bf16 after every step: what it learns is what float learns.
TEST(ScorerTest, TestTimeTrainingInBf16LearnsAsInFloat) {
  GoldenEval& eval = Golden();
  const ModelConfig& config = eval.golden.config;
  const double seed = std::stod(eval.golden.file.metadata.at("formula_seed"));
  for (const Device& gpu : TestGpus()) {
    Arena state = TestArena(gpu);
    ModelWeights<float> exact = NewWeights<float>(state, config);
    ModelWeights<Bf16> weights = NewWeights<Bf16>(state, config);
    HM_CHECK(ImportWeights<float>(state, config, FormulaWeights(config, seed), &exact).ok());
    ForEachWeight(
        config,
        [&](const WeightInfo&, Tensor<float>& from, auto& to) {
          Cast<float, std::remove_pointer_t<decltype(to.data())>>(state, from, to);
        },
        exact, weights);
    for (const char* mode : {"ttt", "ttt_mlp"}) {
      ScorerOptions options = GoldenEval::Options(mode);
      Arena work(gpu, ScorerWorkBytes<Bf16>(config, options, gpu));
      const auto loss = [&](int64_t epochs) {
        options.ttt->epochs = epochs;
        return RunScorer(*NewScorer<Bf16>(work, config, weights, 1000, options), eval.tokens, eval.bytes)
            .loss_nats;
      };
      const double learned = loss(0) - loss(3);
      options.ttt->epochs = 0;
      const double before = eval.Run(options).loss_nats;
      options.ttt->epochs = 3;
      const double in_float = before - eval.Run(options).loss_nats;
      EXPECT_GT(in_float, 0) << mode;
      EXPECT_NEAR(learned, in_float, 0.2 * in_float) << mode;
    }
  }
}

TEST(ScorerTest, AnUnknownModeIsNamed) {
  EXPECT_THAT(ScorerOptionsFromName("best"), StatusIs(absl::StatusCode::kInvalidArgument, "'best'"));
}

TEST(ScorerTest, ARequestIsFilledInOrRefusedByName) {
  const auto options = ScorerOptionsFor({.mode = "sliding", .rows_at_once = 512}, 256, 4096);
  ASSERT_THAT(options, IsOk());
  EXPECT_EQ(options->score.window, 256);
  EXPECT_EQ(options->score.rows_at_once, 512);
  EXPECT_EQ(ScorerOptionsFor({.mode = "stateful", .overlap = 9, .window = 32}, 256, 64)->stateful->overlap,
            9);
  const ScorerRequest learning = {
      .mode = "ttt_mlp", .ttt_learning_rate = 0.25, .ttt_epochs = 7, .ttt_chunk = 99};
  const TttOptions ttt = *ScorerOptionsFor(learning, 256, 64)->ttt;
  EXPECT_EQ(std::tuple(ttt.learning_rate, ttt.epochs, ttt.chunk, ttt.mlp_only),
            std::tuple(0.25, 7, 99, true));
  EXPECT_EQ(ScorerOptionsFor({.mode = "ttt_mlp"}, 256, 64)->ttt->epochs,
            ScorerOptionsFromName("ttt_mlp")->ttt->epochs);
  const std::pair<ScorerRequest, const char*> wrong[] = {
      {{.mode = "plain", .window = -1}, "--window=-1"},
      {{.mode = "plain", .rows_at_once = -5}, "--rows_at_once=-5"},
      {{.mode = "plain", .overlap = 3}, "--overlap"},
      {{.mode = "sliding", .stride = 0}, "stride=0"},
      {{.mode = "sliding", .ttt_epochs = 2}, "--ttt_epochs"},
      {{.mode = "plain", .ttt_learning_rate = 0.1}, "--ttt_learning_rate"},
      {{.mode = "ttt", .ttt_learning_rate = -0.1}, "--ttt_learning_rate=-0.1"},
      {{.mode = "ttt", .ttt_learning_rate = std::nan("")}, "--ttt_learning_rate=nan"},
      {{.mode = "ttt", .ttt_chunk = -1}, "--ttt_chunk=-1"},
      {{.mode = "ttt", .isolate_documents = true}, "isolate_documents"}};
  for (const auto& [request, name] : wrong) {
    EXPECT_THAT(ScorerOptionsFor(request, 256, 64), StatusIs(absl::StatusCode::kInvalidArgument, name));
  }
}

}  // namespace
}  // namespace hm11
