// The audit on scorers that cheat, each in its own way, and on honest ones of the same shapes.
#include "eval/audit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/lzma.h"
#include "core/random.h"
#include "data/shard.h"
#include "model/golden_model.h"

namespace hm11 {
namespace {

constexpr int64_t kVocab = 8;
using Tokens = std::span<const uint16_t>;

std::vector<uint16_t> Stream(int64_t size = 200) {
  std::vector<uint16_t> stream;
  for (int64_t i = 0; i < size; ++i) {
    stream.push_back(static_cast<uint16_t>(RandomIndex(5, 1, static_cast<uint64_t>(i), kVocab)));
  }
  return stream;
}

// Legal: a fixed table over the two tokens before, and a cache keyed by the token before that learns a block
// after it was scored. Cheats override a part.
class CacheScorer : public Scorer {
 public:
  explicit CacheScorer(Tokens stream)
      : size_(static_cast<int64_t>(stream.size())), counts_(kVocab * kVocab) {}

  int64_t NextEnd() const override { return at_ < size_ ? std::min(at_ + 16, size_) : 0; }
  ScoredRows Score(Tokens tokens) override {
    ScoredRows rows;
    for (int64_t t = at_; t < static_cast<int64_t>(tokens.size()); ++t)
      Append(t, Weights(tokens, t), tokens, &rows);
    return rows;
  }
  void Update(Tokens tokens) override {
    Learn(tokens, at_);
    at_ = static_cast<int64_t>(tokens.size());
  }
  uint64_t ParameterHash() override {
    return Crc64({reinterpret_cast<const char*>(counts_.data()), counts_.size() * sizeof(counts_[0])});
  }

 protected:
  virtual std::vector<double> Weights(Tokens tokens, int64_t t) {
    const int64_t one = tokens[static_cast<size_t>(t - 1)],
                  two = t > 1 ? tokens[static_cast<size_t>(t - 2)] : 0;
    std::vector<double> weights;
    for (int64_t v = 0; v < kVocab; ++v) {
      weights.push_back(1 + counts_[static_cast<size_t>(one * kVocab + v)] +
                        static_cast<double>((5 * one + 3 * two + v) % 7));
    }
    return weights;
  }
  virtual void Append(int64_t t, const std::vector<double>& weights, Tokens tokens, ScoredRows* rows) {
    double sum = 0;
    for (const double weight : weights) sum += weight;
    rows->targets.push_back(t);
    for (const double weight : weights) rows->log_probs.push_back(static_cast<float>(std::log(weight / sum)));
    rows->nats.push_back(-std::log(weights[tokens[static_cast<size_t>(t)]] / sum));
  }
  void Learn(Tokens tokens, int64_t from) {
    for (size_t t = static_cast<size_t>(from); t < tokens.size(); ++t) {
      counts_[static_cast<size_t>(tokens[t - 1] * kVocab + tokens[t])] += 1;
    }
  }

  const int64_t size_;
  int64_t at_ = 1;
  std::vector<double> counts_;
};

class PeeksAtTheFuture : public CacheScorer {
  using CacheScorer::CacheScorer;
  std::vector<double> Weights(Tokens tokens, int64_t t) override {
    std::vector<double> weights = CacheScorer::Weights(tokens, t);
    if (t + 1 < static_cast<int64_t>(tokens.size())) weights[tokens[static_cast<size_t>(t + 1)]] += 1;
    return weights;
  }
};

class KeysItsCacheByTheTarget : public CacheScorer {
  using CacheScorer::CacheScorer;
  std::vector<double> Weights(Tokens tokens, int64_t t) override {
    std::vector<double> weights = CacheScorer::Weights(tokens, t);
    weights[tokens[static_cast<size_t>(t)]] += 2;  // whatever is looked up by the target is found
    return weights;
  }
};

class MixesWithoutNormalizing : public CacheScorer {
  using CacheScorer::CacheScorer;
  void Append(int64_t t, const std::vector<double>& weights, Tokens tokens, ScoredRows* rows) override {
    CacheScorer::Append(t, weights, tokens, rows);
    for (size_t v = rows->log_probs.size() - kVocab; v < rows->log_probs.size(); ++v) {
      rows->log_probs[v] = std::log(0.5f * std::exp(rows->log_probs[v]) + 0.2f);
    }
    rows->nats.back() = -rows->log_probs[rows->log_probs.size() - kVocab + tokens[static_cast<size_t>(t)]];
  }
};

class TrainsBeforeScoring : public CacheScorer {
  using CacheScorer::CacheScorer;
  ScoredRows Score(Tokens tokens) override {
    Learn(tokens, at_);
    return CacheScorer::Score(tokens);
  }
  void Update(Tokens tokens) override { at_ = static_cast<int64_t>(tokens.size()); }
};

// Learns the stream in a first pass, and reports of each target the better of both passes.
class BestOfTwoPasses : public CacheScorer {
 public:
  explicit BestOfTwoPasses(Tokens stream) : CacheScorer(stream), second_(stream) { second_.LearnAll(stream); }
  ScoredRows Score(Tokens tokens) override {
    ScoredRows first = CacheScorer::Score(tokens);
    const ScoredRows second = second_.Score(tokens);
    second_.Skip(tokens);
    for (size_t i = 0; i < first.nats.size(); ++i) {
      if (second.nats[i] >= first.nats[i]) continue;
      first.nats[i] = second.nats[i];
      const auto row = second.log_probs.begin() + static_cast<int64_t>(i) * kVocab;
      std::copy_n(row, kVocab, first.log_probs.begin() + static_cast<int64_t>(i) * kVocab);
    }
    return first;
  }

 private:
  struct Learned : CacheScorer {
    using CacheScorer::CacheScorer;
    void LearnAll(Tokens stream) { Learn(stream, 1); }
    void Skip(Tokens tokens) { at_ = static_cast<int64_t>(tokens.size()); }
  };
  Learned second_;
};

// Reports the better of two losses, and the row of the first.
class ReportsABetterLoss : public CacheScorer {
  using CacheScorer::CacheScorer;
  void Append(int64_t t, const std::vector<double>& weights, Tokens tokens, ScoredRows* rows) override {
    CacheScorer::Append(t, weights, tokens, rows);
    rows->nats.back() = std::min(rows->nats.back(), 1.5);
  }
};

class ScoresTheTailTwice : public CacheScorer {
  using CacheScorer::CacheScorer;
  ScoredRows Score(Tokens tokens) override {
    ScoredRows rows = CacheScorer::Score(tokens);
    const int64_t size = static_cast<int64_t>(tokens.size());
    if (size < size_) return rows;
    for (int64_t t = size - 5; t < size; ++t) Append(t, Weights(tokens, t), tokens, &rows);
    return rows;
  }
};

class LeavesOutHardTargets : public CacheScorer {
  using CacheScorer::CacheScorer;
  void Append(int64_t t, const std::vector<double>& weights, Tokens tokens, ScoredRows* rows) override {
    if (t % 16 != 7) CacheScorer::Append(t, weights, tokens, rows);
  }
};

class ScoresABlockFromItsEnd : public CacheScorer {
  using CacheScorer::CacheScorer;
  ScoredRows Score(Tokens tokens) override {
    ScoredRows rows;
    for (int64_t t = static_cast<int64_t>(tokens.size()) - 1; t >= at_; --t) {
      Append(t, Weights(tokens, t), tokens, &rows);
    }
    return rows;
  }
};

class StateFedFromTheEnd : public CacheScorer {
 public:
  explicit StateFedFromTheEnd(Tokens stream) : CacheScorer(stream) {
    for (size_t t = stream.size() - 1; t > stream.size() / 2; --t) state_ = 0.9 * state_ + stream[t];
  }
  std::vector<double> Weights(Tokens tokens, int64_t t) override {
    std::vector<double> weights = CacheScorer::Weights(tokens, t);
    weights[0] += 0.01 * state_;
    return weights;
  }

 private:
  double state_ = 0;
};

// Legal: the state of the tokens before, read in their order.
class CarriesAState : public CacheScorer {
 public:
  using CacheScorer::CacheScorer;
  std::vector<double> Weights(Tokens tokens, int64_t t) override {
    ReadTo(tokens, t);
    std::vector<double> weights = CacheScorer::Weights(tokens, t);
    weights[0] += 0.01 * state_;
    return weights;
  }

 protected:
  void ReadTo(Tokens tokens, int64_t end) {
    for (; read_ < end; ++read_) state_ = 0.9 * state_ + tokens[static_cast<size_t>(read_)];
  }

 private:
  int64_t read_ = 0;
  double state_ = 0;
};

// Scores a block with the state that the block leaves.
class ReadsABlockBeforeScoringIt : public CarriesAState {
  using CarriesAState::CarriesAState;
  ScoredRows Score(Tokens tokens) override {
    ReadTo(tokens, static_cast<int64_t>(tokens.size()));
    return CarriesAState::Score(tokens);
  }
};

// Legal: a mixture that is one.
class MixesAndNormalizes : public CacheScorer {
  using CacheScorer::CacheScorer;
  void Append(int64_t t, const std::vector<double>& weights, Tokens tokens, ScoredRows* rows) override {
    double sum = 0;
    for (const double weight : weights) sum += weight;
    std::vector<double> mixed;
    for (const double weight : weights) mixed.push_back(0.5 * weight / sum + 0.5 / kVocab);
    CacheScorer::Append(t, mixed, tokens, rows);
  }
};

// Legal: of two ways, the one that was better on what is scored already.
class BestSoFarOfTwoWays : public CacheScorer {
  using CacheScorer::CacheScorer;
  std::vector<double> Weights(Tokens tokens, int64_t t) override {
    return ahead_ >= 0 ? CacheScorer::Weights(tokens, t) : std::vector<double>(kVocab, 1.0);
  }
  void Update(Tokens tokens) override {
    for (int64_t t = at_; t < static_cast<int64_t>(tokens.size()); ++t) {
      const std::vector<double> weights = CacheScorer::Weights(tokens, t);
      double sum = 0;
      for (const double weight : weights) sum += weight;
      ahead_ += std::log(weights[tokens[static_cast<size_t>(t)]] / sum * kVocab);
    }
    CacheScorer::Update(tokens);
  }
  uint64_t ParameterHash() override {
    return CacheScorer::ParameterHash() ^ Crc64({reinterpret_cast<const char*>(&ahead_), sizeof(ahead_)});
  }

  double ahead_ = 0;  // nats by which the cache is better than chance
};

// Legal: how far into its document a target is.
class CountsFromTheDocumentsBegin : public CacheScorer {
  using CacheScorer::CacheScorer;
  std::vector<double> Weights(Tokens tokens, int64_t t) override {
    int64_t begin = t - 1;
    while (begin > 0 && tokens[static_cast<size_t>(begin)] != kBosToken) --begin;
    std::vector<double> weights = CacheScorer::Weights(tokens, t);
    weights[0] += static_cast<double>(t - begin);
    return weights;
  }
};

// Tells a document's last tokens by where the next one begins.
class CountsToTheDocumentsEnd : public CacheScorer {
  using CacheScorer::CacheScorer;
  std::vector<double> Weights(Tokens tokens, int64_t t) override {
    int64_t end = t + 1;
    while (end < static_cast<int64_t>(tokens.size()) && tokens[static_cast<size_t>(end)] != kBosToken) ++end;
    std::vector<double> weights = CacheScorer::Weights(tokens, t);
    weights[0] += static_cast<double>(end - t);
    return weights;
  }
};

class ReadsAnotherFile : public CacheScorer {
 public:
  explicit ReadsAnotherFile(Tokens stream)
      : CacheScorer(stream),
        path_(testing::TempDir() + "/answers.bin"),
        file_(std::fopen(path_.c_str(), "w")) {}
  ~ReadsAnotherFile() override { std::fclose(file_); }

 private:
  std::string path_;
  std::FILE* file_;
};

class OpensASocket : public CacheScorer {
 public:
  explicit OpensASocket(Tokens stream) : CacheScorer(stream), socket_(socket(AF_INET, SOCK_STREAM, 0)) {}
  ~OpensASocket() override { close(socket_); }

 private:
  int socket_;
};

template <typename S>
AuditReport AuditOf() {
  AuditOptions options{.vocab = kVocab, .probes = 16, .allowed = OpenFilesAndSockets()};
  return AuditScorer([](Tokens stream) { return std::make_unique<S>(stream); }, Stream(), options);
}

std::vector<std::string> Violated(const AuditReport& report) {
  std::vector<std::string> checks;
  for (const Finding& finding : report.findings) {
    if (finding.verdict == Verdict::kViolated) checks.push_back(finding.check);
  }
  return checks;
}

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;

TEST(AuditTest, EachCheatIsNamed) {
  EXPECT_THAT(Violated(AuditOf<PeeksAtTheFuture>()), Contains("future"));
  EXPECT_THAT(Violated(AuditOf<KeysItsCacheByTheTarget>()), ElementsAre("own token"));
  EXPECT_THAT(Violated(AuditOf<MixesWithoutNormalizing>()), ElementsAre("normalized"));
  EXPECT_THAT(Violated(AuditOf<TrainsBeforeScoring>()),
              testing::IsSupersetOf({"future", "own token", "parameters"}));
  EXPECT_THAT(Violated(AuditOf<BestOfTwoPasses>()), testing::IsSupersetOf({"future", "own token"}));
  EXPECT_THAT(Violated(AuditOf<ReportsABetterLoss>()), ElementsAre("reported loss"));
  EXPECT_THAT(Violated(AuditOf<ScoresTheTailTwice>()), ElementsAre("once", "order"));
  EXPECT_THAT(Violated(AuditOf<LeavesOutHardTargets>()), ElementsAre("once"));
  EXPECT_THAT(Violated(AuditOf<ScoresABlockFromItsEnd>()), ElementsAre("order"));
  EXPECT_THAT(Violated(AuditOf<StateFedFromTheEnd>()), Contains("future"));
  EXPECT_THAT(Violated(AuditOf<ReadsABlockBeforeScoringIt>()),
              testing::IsSupersetOf({"future", "own token"}));
  EXPECT_THAT(Violated(AuditOf<CountsToTheDocumentsEnd>()), Contains("future"));
  EXPECT_THAT(Violated(AuditOf<ReadsAnotherFile>()), ElementsAre("files"));
  EXPECT_THAT(Violated(AuditOf<OpensASocket>()), ElementsAre("network"));
}

TEST(AuditTest, ACacheKeyedByThePrefixAndUpdatedAfterScoringIsLegal) {
  const AuditReport report = AuditOf<CacheScorer>();
  EXPECT_TRUE(report.legal()) << report.Text();
  EXPECT_THAT(Violated(report), IsEmpty());
  EXPECT_EQ(report.findings.size(), 10);
}

TEST(AuditTest, HonestScorersOfTheCheatsShapesAreLegal) {
  for (const AuditReport& report : {AuditOf<CarriesAState>(), AuditOf<MixesAndNormalizes>(),
                                    AuditOf<BestSoFarOfTwoWays>(), AuditOf<CountsFromTheDocumentsBegin>()}) {
    EXPECT_TRUE(report.legal()) << report.Text();
  }
}

TEST(AuditTest, TooLongATimeIsAViolationWhereTheLimitHolds) {
  AuditOptions options{.vocab = kVocab, .probes = 2, .allowed = OpenFilesAndSockets(), .seconds_before = 601};
  const auto factory = [](Tokens stream) { return std::make_unique<CacheScorer>(stream); };
  EXPECT_EQ(AuditScorer(factory, Stream(), options).verdict("time"), Verdict::kViolated);
  options.time_counts = false;
  const AuditReport report = AuditScorer(factory, Stream(), options);
  EXPECT_EQ(report.verdict("time"), Verdict::kCannotTell);
  EXPECT_TRUE(report.legal());
}

TEST(AuditTest, TheJsonReportHoldsWhatTheTextDoes) {
  const AuditReport report = AuditOf<KeysItsCacheByTheTarget>();
  const nlohmann::json json = nlohmann::json::parse(report.Json());
  EXPECT_FALSE(json["legal"].get<bool>());
  EXPECT_EQ(json["checks"].size(), report.findings.size());
  EXPECT_THAT(report.Text(), testing::HasSubstr("NOT legal"));
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
  AuditReport Audit(const ScorerFactory& factory, int64_t free_tail) const {
    const AuditOptions options{.vocab = golden.config.vocab,
                               .probes = 6,
                               .borders = {32, 64, 65, 128, 129},
                               .free_tail = free_tail,
                               .allowed = OpenFilesAndSockets()};
    return AuditScorer(factory, stream, options);
  }
  AuditReport Audit(const ScorerOptions& options) {
    const bool tail = options.score.mode == ScoreMode::kPlain && !options.isolate_documents;
    return Audit([&](Tokens tokens) { return New(static_cast<int64_t>(tokens.size()), options); },
                 tail ? 31 : 0);
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
  }
}

// Nats of each target, by its position.
std::map<int64_t, double> NatsOf(GoldenAudit& audit, const ScorerOptions& options) {
  std::map<int64_t, double> nats;
  const auto scorer = audit.New(static_cast<int64_t>(audit.stream.size()), options);
  for (int64_t end = scorer->NextEnd(); end > 0; end = scorer->NextEnd()) {
    const ScoredRows rows = scorer->Score(Tokens(audit.stream).first(static_cast<size_t>(end)));
    for (size_t i = 0; i < rows.targets.size(); ++i) nats[rows.targets[i]] = rows.nats[i];
  }
  return nats;
}

// The control of the test above: a scorer that does not isolate is as legal, but gives other scores.
TEST(AuditTest, IsolatingDocumentsChangesWhatFollowsABorderAndNothingBefore) {
  GoldenAudit audit;
  const auto second = std::find(audit.stream.begin() + 1, audit.stream.end(), kBosToken);
  const int64_t border = second - audit.stream.begin();
  ASSERT_GT(border, 1);
  for (const char* mode : {"plain", "sliding", "stateful"}) {
    ScorerOptions options = GoldenAudit::OptionsFor(mode);
    const std::map<int64_t, double> together = NatsOf(audit, options);
    options.isolate_documents = true;
    const std::map<int64_t, double> isolated = NatsOf(audit, options);
    double before = 0, after = 0;
    for (const auto& [target, nats] : isolated) {
      const auto other = together.find(target);
      if (other == together.end()) continue;
      double& largest = target < border ? before : after;
      largest = std::max(largest, std::abs(static_cast<double>(nats - other->second)));
    }
    EXPECT_LT(before, 1e-4) << mode;
    EXPECT_GT(after, 1e-3) << mode;
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
