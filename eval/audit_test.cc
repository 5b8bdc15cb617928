// The audit on scorers that cheat, each in its own way, and on honest ones of the same shapes.
#include "eval/audit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/crc64.h"
#include "core/random.h"
#include "data/shard.h"

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

// Of single documents: what came earlier in the same one, and nothing before it.
class ForgetsWhereADocumentBegins : public CacheScorer {
  using CacheScorer::CacheScorer;
  std::vector<double> Weights(Tokens tokens, int64_t t) override {
    const uint16_t one = tokens[static_cast<size_t>(t - 1)];
    std::vector<double> weights(kVocab, 1.0);
    for (int64_t s = t - 1; s > 0 && tokens[static_cast<size_t>(s)] != kBosToken; --s) {
      if (tokens[static_cast<size_t>(s - 1)] == one) weights[tokens[static_cast<size_t>(s)]] += 1;
    }
    return weights;
  }
};

// Fits a bias to the block that is then scored with it, and throws it away.
class FitsADeltaToItsBlock : public CacheScorer {
 public:
  using CacheScorer::CacheScorer;
  ScoredRows Score(Tokens tokens) override {
    Fit(tokens);
    return CacheScorer::Score(tokens);
  }
  std::vector<double> Weights(Tokens tokens, int64_t t) override {
    std::vector<double> weights = CacheScorer::Weights(tokens, t);
    for (size_t v = 0; v < weights.size(); ++v) weights[v] += delta_[v];
    return weights;
  }

 protected:
  void Fit(Tokens tokens) {
    delta_.assign(kVocab, 0.0);
    for (size_t t = static_cast<size_t>(at_); t < tokens.size(); ++t) delta_[tokens[t]] += 0.1;
  }

 private:
  std::vector<double> delta_ = std::vector<double>(kVocab, 0.0);
};

// Legal: the same bias, of the block before.
class KeepsTheDeltaOfTheBlockBefore : public FitsADeltaToItsBlock {
  using FitsADeltaToItsBlock::FitsADeltaToItsBlock;
  ScoredRows Score(Tokens tokens) override { return CacheScorer::Score(tokens); }
  void Update(Tokens tokens) override {
    Fit(tokens);
    CacheScorer::Update(tokens);
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
AuditReport AuditOf(bool documents_isolated = false) {
  AuditOptions options{.vocab = kVocab,
                       .probes = 16,
                       .documents_isolated = documents_isolated,
                       .allowed = OpenFilesAndSockets()};
  return AuditScorer([](Tokens stream) { return std::make_unique<S>(stream); }, Stream(), options);
}

std::vector<std::string> Violated(const AuditReport& report) {
  std::vector<std::string> checks;
  for (const Finding& finding : report.findings) {
    if (finding.verdict == CheckResult::kViolated) checks.push_back(finding.check);
  }
  return checks;
}

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;

// What a submission's files can only make one suspect, each as it is done and as it is done legally.
struct Pair {
  const char* name;
  const char* check;  // that the cheat violates
  AuditReport (*cheat)();
  AuditReport (*twin)();
};

template <typename S>
AuditReport Of() {
  return AuditOf<S>();
}

template <typename S>
AuditReport OfSingleDocuments() {
  return AuditOf<S>(/*documents_isolated=*/true);
}

constexpr Pair kPairs[] = {
    {"AFutureToken", "future", Of<PeeksAtTheFuture>, Of<CacheScorer>},
    {"AStateFromTheEnd", "future", Of<StateFedFromTheEnd>, Of<CarriesAState>},
    {"WhereADocumentEnds", "future", Of<CountsToTheDocumentsEnd>, Of<CountsFromTheDocumentsBegin>},
    {"ACacheKeyedByTheTarget", "own token", Of<KeysItsCacheByTheTarget>, Of<CacheScorer>},
    {"ADeltaOfItsOwnBlock", "own token", Of<FitsADeltaToItsBlock>, Of<KeepsTheDeltaOfTheBlockBefore>},
    {"ABlockReadFirst", "own token", Of<ReadsABlockBeforeScoringIt>, Of<CarriesAState>},
    {"AMixture", "normalized", Of<MixesWithoutNormalizing>, Of<MixesAndNormalizes>},
    {"AnUpdate", "parameters", Of<TrainsBeforeScoring>, Of<CacheScorer>},
    {"TheBetterOfTwoPasses", "future", Of<BestOfTwoPasses>, Of<BestSoFarOfTwoWays>},
    {"TheBetterOfTwoLosses", "reported loss", Of<ReportsABetterLoss>, Of<BestSoFarOfTwoWays>},
    {"ATailTwice", "once", Of<ScoresTheTailTwice>, Of<CacheScorer>},
    {"HardTargetsLeftOut", "once", Of<LeavesOutHardTargets>, Of<CacheScorer>},
    {"TheOrderOfABlock", "order", Of<ScoresABlockFromItsEnd>, Of<CacheScorer>},
    {"DocumentsSaidToBeIsolated", "documents", OfSingleDocuments<CacheScorer>,
     OfSingleDocuments<ForgetsWhereADocumentBegins>},
    {"AnotherFile", "files", Of<ReadsAnotherFile>, Of<CacheScorer>},
    {"ASocket", "network", Of<OpensASocket>, Of<CacheScorer>},
};

class PairTest : public testing::TestWithParam<Pair> {};

TEST_P(PairTest, TheCheatIsNamedAndItsTwinIsLegal) {
  const AuditReport cheat = GetParam().cheat(), twin = GetParam().twin();
  EXPECT_THAT(Violated(cheat), Contains(GetParam().check)) << cheat.Text();
  EXPECT_FALSE(cheat.legal());
  EXPECT_THAT(Violated(twin), IsEmpty()) << twin.Text();
  EXPECT_EQ(twin.verdict(GetParam().check), CheckResult::kHolds) << twin.Text();
}

INSTANTIATE_TEST_SUITE_P(Scorers, PairTest, testing::ValuesIn(kPairs),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(AuditTest, ACheatIsBlamedForNothingElse) {
  EXPECT_THAT(Violated(AuditOf<PeeksAtTheFuture>()), ElementsAre("future"));
  EXPECT_THAT(Violated(AuditOf<KeysItsCacheByTheTarget>()), ElementsAre("own token"));
  EXPECT_THAT(Violated(AuditOf<MixesWithoutNormalizing>()), ElementsAre("normalized"));
  EXPECT_THAT(Violated(AuditOf<ReportsABetterLoss>()), ElementsAre("reported loss"));
  EXPECT_THAT(Violated(AuditOf<ScoresTheTailTwice>()), ElementsAre("once", "order"));
  EXPECT_THAT(Violated(AuditOf<LeavesOutHardTargets>()), ElementsAre("once"));
  EXPECT_THAT(Violated(AuditOf<ScoresABlockFromItsEnd>()), ElementsAre("order"));
  EXPECT_THAT(Violated(AuditOf<CacheScorer>(/*documents_isolated=*/true)), ElementsAre("documents"));
  EXPECT_THAT(Violated(AuditOf<ReadsAnotherFile>()), ElementsAre("files"));
  EXPECT_THAT(Violated(AuditOf<OpensASocket>()), ElementsAre("network"));
}

TEST(AuditTest, OneDocumentAloneTellsNothingOfIsolation) {
  std::vector<uint16_t> stream = Stream();
  std::replace(stream.begin(), stream.end(), kBosToken, uint16_t{2});
  const AuditOptions options{.vocab = kVocab, .documents_isolated = true, .allowed = OpenFilesAndSockets()};
  const AuditReport report =
      AuditScorer([](Tokens tokens) { return std::make_unique<CacheScorer>(tokens); }, stream, options);
  EXPECT_EQ(report.verdict("documents"), CheckResult::kCannotTell) << report.Text();
  EXPECT_TRUE(report.legal());
}

TEST(AuditTest, ACacheKeyedByThePrefixAndUpdatedAfterScoringIsLegal) {
  const AuditReport report = AuditOf<CacheScorer>();
  EXPECT_TRUE(report.legal()) << report.Text();
  EXPECT_THAT(Violated(report), IsEmpty());
  EXPECT_EQ(report.findings.size(), 10);
}

TEST(AuditTest, TooLongATimeIsAViolationWhereTheLimitHolds) {
  AuditOptions options{.vocab = kVocab, .probes = 2, .allowed = OpenFilesAndSockets(), .seconds_before = 601};
  const auto factory = [](Tokens stream) { return std::make_unique<CacheScorer>(stream); };
  EXPECT_EQ(AuditScorer(factory, Stream(), options).verdict("time"), CheckResult::kViolated);
  options.time_counts = false;
  const AuditReport report = AuditScorer(factory, Stream(), options);
  EXPECT_EQ(report.verdict("time"), CheckResult::kCannotTell);
  EXPECT_TRUE(report.legal());
}

TEST(AuditTest, TheJsonReportHoldsWhatTheTextDoes) {
  const AuditReport report = AuditOf<KeysItsCacheByTheTarget>();
  const nlohmann::json json = nlohmann::json::parse(report.Json());
  EXPECT_FALSE(json["legal"].get<bool>());
  EXPECT_EQ(json["checks"].size(), report.findings.size());
  EXPECT_THAT(report.Text(), testing::HasSubstr("NOT legal"));
}

}  // namespace
}  // namespace hm11
