// The audit on the scorers of the model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/shard.h"
#include "eval/audit.h"
#include "eval/scorer.h"
#include "model/golden_model.h"

namespace hm11 {
namespace {

using testing::Contains;
using testing::ElementsAre;
using Tokens = std::span<const uint16_t>;

std::vector<std::string> Violated(const AuditReport& report) {
  std::vector<std::string> checks;
  for (const Finding& finding : report.findings) {
    if (finding.verdict == CheckResult::kViolated) checks.push_back(finding.check);
  }
  return checks;
}

// The golden model and a stream of three documents, one of them empty.
struct GoldenAudit {
  GoldenAudit() : golden(LoadGoldenModel("eval")) {
    weights = NewWeights<float>(state, golden.config);
    HM_CHECK(ImportWeights<float>(state, golden.config, FormulaWeights(golden.config, 7), &weights).ok());
    for (const int32_t id : golden.Ids("tokens")) stream.push_back(static_cast<uint16_t>(id));
    stream.resize(230);
    for (const size_t begin : {0, 70, 71, 150}) stream[begin] = kBosToken;
  }

  static ScorerOptions OptionsFor(const std::string& mode) {
    ScorerOptions options = *ScorerOptionsFromName(mode);
    options.score.window = 32;
    options.score.stride = 8;
    options.score.rows_at_once = 128;
    if (options.ttt) options.ttt->chunk = 64;
    return options;
  }
  std::unique_ptr<Scorer> New(int64_t tokens, const ScorerOptions& options) {
    return NewScorer<float>(work, golden.config, weights, tokens, options);
  }
  AuditReport Audit(const ScorerFactory& factory, int64_t free_tail, bool claims_isolation = false) const {
    const AuditOptions options{.vocab = golden.config.vocab,
                               .probes = 6,
                               .borders = {32, 64, 65, 128, 129},
                               .free_tail = free_tail,
                               .documents_isolated = claims_isolation,
                               .allowed = OpenFilesAndSockets()};
    return AuditScorer(factory, stream, options);
  }
  AuditReport Audit(const ScorerOptions& options) { return Audit(options, options.isolate_documents); }
  AuditReport Audit(const ScorerOptions& options, bool claims_isolation) {
    const bool tail = options.score.mode == ScoreMode::kPlain && !options.isolate_documents;
    return Audit([&](Tokens tokens) { return New(static_cast<int64_t>(tokens.size()), options); },
                 tail ? 31 : 0, claims_isolation);
  }

  const GoldenModel golden;
  Arena state = Arena::Cpu(), work = Arena::Cpu();
  ModelWeights<float> weights;
  std::vector<uint16_t> stream;
};

TEST(AuditTest, TheModelsScorersAreLegalButForThePublishedTail) {
  GoldenAudit audit;
  for (const char* mode : {"plain", "sliding", "stateful", "ttt", "ttt_mlp"}) {
    const AuditReport report = audit.Audit(GoldenAudit::OptionsFor(mode));
    EXPECT_TRUE(report.legal()) << mode << "\n" << report.Text();
  }
  EXPECT_THAT(Violated(audit.Audit(GoldenAudit::OptionsFor("sliding_published"))),
              ElementsAre("once", "order"));
}

TEST(AuditTest, DocumentsIsolatedAreScoredLegally) {
  GoldenAudit audit;
  for (const char* mode : {"plain", "sliding", "stateful"}) {
    ScorerOptions options = GoldenAudit::OptionsFor(mode);
    options.isolate_documents = true;
    const AuditReport report = audit.Audit(options);
    EXPECT_TRUE(report.legal()) << mode << "\n" << report.Text();
    EXPECT_EQ(report.verdict("documents"), CheckResult::kHolds) << mode << "\n" << report.Text();
  }
}

// The control of the test above: a scorer that was told to isolate and does not.
TEST(AuditTest, IsolationThatIsClaimedAndNotDoneIsNamed) {
  GoldenAudit audit;
  for (const char* mode : {"plain", "sliding", "stateful"}) {
    const AuditReport report = audit.Audit(GoldenAudit::OptionsFor(mode), /*claims_isolation=*/true);
    EXPECT_THAT(Violated(report), ElementsAre("documents")) << mode << "\n" << report.Text();
  }
}

// The model's own stateful scorer over the stream twice; what counts is the second time, whose state comes
// from the stream's end.
class StatefulSecondPass : public Scorer {
 public:
  StatefulSecondPass(GoldenAudit& audit, Tokens stream) : size_(stream.size()) {
    std::vector<uint16_t> twice(stream.begin(), stream.end());
    twice.insert(twice.end(), stream.begin(), stream.end());
    const auto scorer = audit.New(static_cast<int64_t>(twice.size()), GoldenAudit::OptionsFor("stateful"));
    const size_t vocab = static_cast<size_t>(audit.golden.config.vocab);
    for (int64_t end = scorer->NextEnd(); end > 0; end = scorer->NextEnd()) {
      const ScoredRows rows = scorer->Score(Tokens(twice).first(static_cast<size_t>(end)));
      for (size_t i = 0; i < rows.targets.size(); ++i) {
        const int64_t target = rows.targets[i] - static_cast<int64_t>(size_);
        if (target < 1) continue;
        const auto row = rows.log_probs.begin() + static_cast<int64_t>(i * vocab);
        rows_.targets.push_back(target);
        rows_.nats.push_back(rows.nats[i]);
        rows_.log_probs.insert(rows_.log_probs.end(), row, row + static_cast<int64_t>(vocab));
      }
    }
  }
  int64_t NextEnd() const override { return done_ ? 0 : static_cast<int64_t>(size_); }
  ScoredRows Score(Tokens) override {
    done_ = true;
    return rows_;
  }
  void Update(Tokens) override {}

 private:
  const size_t size_;
  ScoredRows rows_;
  bool done_ = false;
};

TEST(AuditTest, AStatefulScorersStateFromTheStreamsEndIsNamed) {
  GoldenAudit audit;
  const AuditReport report =
      audit.Audit([&](Tokens tokens) { return std::make_unique<StatefulSecondPass>(audit, tokens); }, 0);
  EXPECT_THAT(Violated(report), Contains("future")) << report.Text();
}

}  // namespace
}  // namespace hm11
