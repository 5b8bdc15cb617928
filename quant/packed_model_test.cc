// From weights to an artifact and back, and every way in which that must be refused by name.
#include "quant/packed_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "core/fields.h"
#include "core/file.h"
#include "core/random.h"
#include "model/placed_weights.h"
#include "model/safetensors.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

using absl::StatusCode;

Tokenizer TrainTokenizer(uint64_t seed) {
  uint64_t next = 0;
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Train(
      [&](std::string* text) {
        text->clear();
        for (uint64_t i = 0; i < 60; ++i) {
          const char letter = static_cast<char>('a' + RandomIndex(seed, 1, next * 60 + i, 26));
          *text += letter;
          if (i % 5 == 4) *text += ' ';
        }
        return ++next < 1000;
      },
      {.vocab = 300});
  HM_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

class PackedModelTest : public testing::Test {
 protected:
  static ModelConfig Config() {
    ModelConfig config;
    config.layers = "MA";
    config.vocab = 300;
    config.dim = 32;
    config.heads = 2;
    config.kv_heads = 1;
    config.mlp_width = 48;
    config.state = 4;
    config.dt_rank = 4;
    config.rope_dims = 8;
    config.bigram_rows = 64;
    config.bigram_dim = 8;
    config.value_embedding_layers = 1;
    config.value_embedding_dim = 8;
    config.mtp_heads = 1;
    return config;
  }
  static void SetUpTestSuite() {
    tokenizer_ = new Tokenizer(TrainTokenizer(1));
    ASSERT_THAT(Config().Validate(), IsOk());
    const auto packed = PackModel(Config(), 64, *tokenizer_, InitialWeights(Config(), 3), QuantConfig());
    ASSERT_THAT(packed, IsOk());
    bytes_ = new std::string(packed->bytes);
  }
  static void TearDownTestSuite() {
    delete tokenizer_;
    delete bytes_;
  }
  static std::string Path(const std::string& name) { return testing::TempDir() + "/" + name; }

  static Tokenizer* tokenizer_;
  static std::string* bytes_;
};

Tokenizer* PackedModelTest::tokenizer_ = nullptr;
std::string* PackedModelTest::bytes_ = nullptr;

TEST_F(PackedModelTest, WhatIsReadIsWhatWasPackedWithoutTrainingHeads) {
  ASSERT_THAT(WriteFile(Path("whole.hm11"), *bytes_), IsOk());
  const auto model = ReadModel(Path("whole.hm11"));
  ASSERT_THAT(model, IsOk());
  EXPECT_EQ(model->config.sequence, 64);
  EXPECT_EQ(model->config.model.layers, "MA");
  EXPECT_EQ(model->config.model.mtp_heads, 0);
  EXPECT_THAT(CheckTokenizer(*model, "whole.hm11", *tokenizer_, "mine.model"), IsOk());
  Arena arena = Arena::Cpu();
  EXPECT_THAT(PlaceWeights<float>(arena, model->config.model, model->tensors), IsOk());
}

TEST_F(PackedModelTest, WeightsAreReadWithoutTrainingHeadsAndWithoutAnythingUnknown) {
  const std::string path = Path("model.safetensors");
  Safetensors file = {.metadata = {{"config", FormatFields(Config())}},
                      .tensors = InitialWeights(Config(), 3)};
  ASSERT_THAT(WriteSafetensors(path, file), IsOk());
  const auto model = ReadModelOrWeights(path);
  ASSERT_THAT(model, IsOk());
  EXPECT_EQ(model->config.model.mtp_heads, 0);
  EXPECT_EQ(model->tensors.size() + 1, file.tensors.size());
  // The configuration has one head.
  file.tensors.push_back({"mtp_heads.1.weight", {1}, {0}});
  ASSERT_THAT(WriteSafetensors(path, file), IsOk());
  EXPECT_THAT(ReadModelOrWeights(path), StatusIs(StatusCode::kInvalidArgument, "mtp_heads.1.weight"));
}

TEST_F(PackedModelTest, AMissingFileIsNamed) {
  EXPECT_THAT(ReadModel(Path("nowhere.hm11")), StatusIs(StatusCode::kNotFound, "nowhere.hm11"));
}

TEST_F(PackedModelTest, ATruncatedArtifactIsNamed) {
  for (const size_t size : {size_t{0}, size_t{7}, size_t{100}, bytes_->size() / 2, bytes_->size() - 1}) {
    ASSERT_THAT(WriteFile(Path("short.hm11"), bytes_->substr(0, size)), IsOk());
    EXPECT_THAT(ReadModel(Path("short.hm11")), StatusIs(StatusCode::kDataLoss, "short.hm11")) << size;
  }
}

TEST_F(PackedModelTest, AnAlteredArtifactIsNamed) {
  for (uint64_t i = 0; i < 20; ++i) {
    std::string altered = *bytes_;
    altered[static_cast<size_t>(RandomIndex(9, 1, i, static_cast<int64_t>(altered.size())))] ^= 16;
    const auto model = UnpackModel(altered, "altered.hm11");
    EXPECT_FALSE(model.ok());
    EXPECT_THAT(std::string(model.status().message()), testing::HasSubstr("altered.hm11"));
  }
}

TEST_F(PackedModelTest, AnotherTokenizerIsRefusedWithBothNames) {
  const auto model = UnpackModel(*bytes_, "a.hm11");
  ASSERT_THAT(model, IsOk());
  const Tokenizer other = TrainTokenizer(2);
  const absl::Status status = CheckTokenizer(*model, "a.hm11", other, "other.model");
  EXPECT_THAT(status, StatusIs(StatusCode::kInvalidArgument, "a.hm11"));
  EXPECT_THAT(status, StatusIs(StatusCode::kInvalidArgument, "other.model"));
}

TEST_F(PackedModelTest, TensorsThatAreNotThoseOfTheConfigurationAreRefused) {
  ModelConfig larger = Config();
  larger.mlp_width = 64;
  EXPECT_THAT(PackModel(larger, 64, *tokenizer_, InitialWeights(Config(), 3), QuantConfig()),
              StatusIs(StatusCode::kInvalidArgument, "mlp_up_bank"));
  ArtifactContents mixed = *DecodeArtifact(*bytes_, "whole.hm11");
  mixed.classes.assign(mixed.tensors.size(), StorageClass::kMatrix);
  const auto pack = [&] { return EncodeArtifact(mixed, QuantConfig())->bytes; };
  mixed.tensors.push_back({"stowaway", {2}, {1, 2}});
  mixed.classes.push_back(StorageClass::kMatrix);
  EXPECT_THAT(UnpackModel(pack(), "mixed.hm11"),
              StatusIs(StatusCode::kInvalidArgument, "mixed.hm11: tensor stowaway"));
  mixed.tensors.pop_back();
  mixed.tensors.pop_back();
  mixed.classes.resize(mixed.tensors.size());
  EXPECT_THAT(UnpackModel(pack(), "mixed.hm11"), StatusIs(StatusCode::kNotFound, "mixed.hm11: tensor"));
  mixed = *DecodeArtifact(*bytes_, "whole.hm11");
  mixed.classes.assign(mixed.tensors.size(), StorageClass::kMatrix);
  mixed.config_text += "mlp_width=64\n";
  EXPECT_THAT(UnpackModel(pack(), "mixed.hm11"),
              StatusIs(StatusCode::kInvalidArgument, "mixed.hm11: tensor mlp_up_bank.0 has shape"));
}

}  // namespace
}  // namespace hm11
