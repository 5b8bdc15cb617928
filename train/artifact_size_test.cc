// Presets at full size through the real path, weights to a file: with the program that is counted they stay
// under the cap of 16,000,000 bytes, and their size was told before.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "core/random.h"
#include "data/tokenizer.h"
#include "model/weights.h"
#include "program/counted_program.h"
#include "quant/model_artifact_test_weights.h"
#include "quant/packed_model.h"
#include "testing/matchers.h"
#include "train/config.h"

namespace hm11 {
namespace {

#ifdef NDEBUG
constexpr const char* kPreset = "hm11";
#else
constexpr const char* kPreset = "tiny";  // where sanitizers make everything slow
#endif

// Of 1024 pieces, of words of random letters.
Tokenizer SomeTokenizer(int64_t vocab) {
  uint64_t next = 0;
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Train(
      [&](std::string* text) {
        text->clear();
        for (uint64_t i = 0; i < 60; ++i) {
          *text += static_cast<char>('a' + RandomIndex(5, 1, next * 60 + i, 26));
          if (i % 5 == 4) *text += ' ';
        }
        return ++next < 1000;
      },
      {.vocab = vocab});
  HM_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

struct Sizes {
  int64_t artifact = 0;
  int64_t program = 0;
  int64_t told = 0;  // of the artifact
  double step_multiplier = 1;
};

Sizes SizesOf(const RunConfig& config, std::vector<NamedTensor> tensors) {
  static const Tokenizer* const tokenizer = new Tokenizer(SomeTokenizer(config.model.vocab));
  const auto flags = TrainingFlags(config);
  HM_CHECK(flags.ok());
  const auto program = ProgramWith(*flags);
  HM_CHECK(program.ok());
  const QuantConfig quant = QuantConfigWithProgram(config, program->size_bytes());
  const auto told = EstimatePackedSize(config.model, config.sequence, quant);
  const auto packed = PackModel(config.model, config.sequence, *tokenizer, std::move(tensors), quant);
  EXPECT_THAT(told, IsOk());
  EXPECT_THAT(packed, IsOk());
  if (!told.ok() || !packed.ok()) return {};
  EXPECT_THAT(UnpackModel(packed->bytes, "memory"), IsOk());
  return {static_cast<int64_t>(packed->bytes.size()), program->size_bytes(), told->size_bytes,
          packed->step_multiplier};
}

TEST(ArtifactSizeTest, AnInitializedModelAndItsProgramStayUnderTheCap) {
  RunConfig config = *Preset(kPreset);
  config.model.zero_init_outputs = false;  // zeros would take no bytes
  const Sizes sizes = SizesOf(config, InitialWeights(config.model, 7));
  EXPECT_GT(sizes.program, 100000);
  EXPECT_LE(sizes.artifact + sizes.program, kArtifactCapBytes);
  if (config.preset == "hm11") {
    EXPECT_GT(sizes.artifact + sizes.program, kArtifactCapBytes - 20000) << "and fill it";
  }
}

TEST(ArtifactSizeTest, ATrainedModelAndItsProgramStayUnderTheCapAndTheirSizeWasTold) {
  const RunConfig config = *Preset(kPreset);
  const Sizes sizes = SizesOf(config, TrainedLikeWeights(config.model));
  EXPECT_LE(sizes.artifact + sizes.program, kArtifactCapBytes);
  EXPECT_NEAR(static_cast<double>(sizes.told) / static_cast<double>(sizes.artifact), 1, 0.03);
}

}  // namespace
}  // namespace hm11
