// Facts of an artifact and of a score: sums that must come out, parts that must make the whole.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "data/shard.h"
#include "data/tokenizer.h"
#include "model/weights.h"
#include "quant/packed_model.h"
#include "testing/matchers.h"
#include "train/report/artifact_facts.h"
#include "train/report/score_facts.h"

namespace hm11 {
namespace {

const Tokenizer& SmallTokenizer() {
  static const Tokenizer* const tokenizer = [] {
    int documents = 0;
    absl::StatusOr<Tokenizer> trained = Tokenizer::Train(
        [&](std::string* text) {
          *text =
              absl::StrCat("The ", documents, " cats and the 12 dogs, who ran; and rain fell on the plain (",
                           documents * 7, ") again.");
          return ++documents < 400;
        },
        {.vocab = 300});
    return new Tokenizer(*std::move(trained));
  }();
  return *tokenizer;
}

ModelConfig SmallModel() {
  ModelConfig config;
  config.layers = "MAMA";
  config.vocab = SmallTokenizer().vocab();
  config.dim = 32;
  config.heads = 2;
  config.kv_heads = 1;
  config.mlp_width = 64;
  config.state = 4;
  config.dt_rank = 4;
  config.rope_dims = 8;
  config.bigram_rows = 64;
  config.bigram_dim = 16;
  config.value_embedding_layers = 1;
  config.value_embedding_dim = 16;
  return config;
}

double BytesOf(const std::vector<TensorGroup>& groups) {
  double bytes = 0;
  for (const TensorGroup& group : groups) bytes += group.bytes;
  return bytes;
}

TEST(ArtifactFacts, BytesAddUpToTheFileAndNumbersToTheModel) {
  const ModelConfig config = SmallModel();
  for (const char* scheme : {"sigma", "published"}) {
    QuantConfig quant;
    quant.scheme = scheme;
    quant.budget_bytes = 0;
    quant.small_elements = 64;
    const absl::StatusOr<EncodedArtifact> packed =
        PackModel(config, 64, SmallTokenizer(), InitialWeights(config, 7), quant);
    ASSERT_THAT(packed, IsOk());
    const absl::StatusOr<ArtifactFacts> facts = ArtifactFactsOf(packed->bytes, "memory", config);
    ASSERT_THAT(facts, IsOk());
    const double size = static_cast<double>(packed->bytes.size());
    for (const auto* groups : {&facts->sections, &facts->kinds, &facts->parts}) {
      EXPECT_NEAR(BytesOf(*groups), size, 1e-6 * size) << scheme;
    }
    for (const auto* groups : {&facts->kinds, &facts->parts}) {
      int64_t numbers = 0;
      for (const TensorGroup& group : *groups) numbers += group.numbers;
      EXPECT_EQ(numbers, CountParameters(config)) << scheme;
    }
    EXPECT_EQ(facts->parts.size(), 4u + 2u + 1u);
    for (size_t layer = 0; layer < 4; ++layer) EXPECT_GT(facts->parts[layer].bytes, 0) << layer;
  }
  EXPECT_FALSE(ArtifactFactsOf("not one", "file", config).ok());
}

TEST(ArtifactFacts, AllPartsRoundedAreTheArtifactsModel) {
  const ModelConfig config = SmallModel();
  const std::vector<NamedTensor> exact = InitialWeights(config, 1);
  std::vector<NamedTensor> rounded = exact;
  for (NamedTensor& tensor : rounded) {
    for (float& value : tensor.values) value += 1;
  }
  std::vector<NamedTensor> mixed = exact;
  for (size_t part = 0; part < PartNames(config).size(); ++part) {
    const std::vector<NamedTensor> next = WithPartOf(config, mixed, rounded, part);
    int64_t changed = 0;
    for (size_t i = 0; i < next.size(); ++i) {
      for (size_t n = 0; n < next[i].values.size(); ++n) changed += next[i].values[n] != mixed[i].values[n];
    }
    EXPECT_GT(changed, 0) << "part " << part << " holds nothing, or what another one holds";
    mixed = next;
  }
  for (size_t i = 0; i < mixed.size(); ++i) EXPECT_EQ(mixed[i].values, rounded[i].values) << mixed[i].name;
}

struct Stream {
  std::vector<uint16_t> tokens;
  TargetLosses losses;
};

Stream SomeStream() {
  Stream stream;
  stream.losses.window = *rc::gen::inRange<int64_t>(1, 40);
  for (int document = *rc::gen::inRange(1, 8); document > 0; --document) {
    stream.tokens.push_back(kBosToken);
    std::string text;
    for (int word = *rc::gen::inRange(0, 200); word > 0; --word) text += " cats, 12\xc3\xa9";
    SmallTokenizer().Encode(text, &stream.tokens);
  }
  stream.tokens.push_back(kBosToken);
  stream.losses.nats.assign(stream.tokens.size(), -1);
  const size_t scored = *rc::gen::inRange<size_t>(0, stream.tokens.size());
  for (size_t t = 1; t <= scored; ++t) stream.losses.nats[t] = 0.25 * static_cast<double>(t % 9);
  return stream;
}

RC_GTEST_PROP(ScoreFacts, SumsComeOut, ()) {
  const Stream stream = SomeStream();
  double nats = 0;
  int64_t tokens = 0, bytes = 0;
  for (size_t t = 1; t < stream.tokens.size(); ++t) {
    if (stream.losses.nats[t] < 0) continue;
    nats += stream.losses.nats[t];
    bytes += SmallTokenizer().byte_table().Bytes(stream.tokens[t], stream.tokens[t - 1]);
    ++tokens;
  }
  const ScoreFacts facts = ScoreFactsOf(stream.tokens, stream.losses, SmallTokenizer());
  RC_ASSERT(facts.tokens == tokens && facts.bytes == bytes);
  double by_position = 0, by_kind = 0;
  int64_t position_bytes = 0, kind_bytes = 0, next = 1;
  for (const PositionScore& bin : facts.positions) {
    RC_ASSERT(bin.first == next && bin.last >= bin.first && bin.last <= stream.losses.window);
    next = bin.last + 1;
    by_position += bin.bpb * static_cast<double>(bin.bytes) * std::log(2.0);
    position_bytes += bin.bytes;
  }
  for (const KindScore& kind : facts.kinds) {
    by_kind += kind.nats;
    kind_bytes += kind.bytes;
  }
  RC_ASSERT(position_bytes == bytes && kind_bytes == bytes);
  RC_ASSERT(std::abs(by_kind - nats) < 1e-6);
  // A bin of targets that stand for no bytes has no bits per byte.
  RC_ASSERT(by_position <= nats + 1e-6);
  int64_t documents = 0;
  for (const DocumentBin& bin : facts.document_bins) documents += bin.count;
  RC_ASSERT(documents == facts.documents);
  for (size_t i = 1; i < facts.best.size(); ++i) RC_ASSERT(facts.best[i - 1].bpb <= facts.best[i].bpb);
  for (size_t i = 1; i < facts.worst.size(); ++i) RC_ASSERT(facts.worst[i - 1].bpb >= facts.worst[i].bpb);
}

RC_GTEST_PROP(ScoreFacts, SamplesAreTheText, ()) {
  const Stream stream = SomeStream();
  const ScoredSample sample = SampleOf("t", stream.tokens, stream.losses.nats, SmallTokenizer());
  RC_ASSERT(sample.pieces.size() == sample.bits.size());
  std::string text;
  for (const std::string& piece : sample.pieces) text += piece;
  RC_ASSERT(text == SmallTokenizer().Decode(stream.tokens));
}

}  // namespace
}  // namespace hm11
