// A model's tensors through the artifact and back; budgets, estimates, bad input.
#include "quant/model_artifact.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/fields.h"
#include "core/parallel.h"
#include "core/random.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "quant/gptq.h"
#include "quant/model_artifact_test_weights.h"
#include "testing/generators.h"
#include "testing/golden.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

// More threads than cores, so that they interleave; read once, before the first use.
const bool kFourThreads = setenv("HM11_THREADS", "4", 1) == 0;

using testing::AllOf;
using testing::Ge;
using testing::Le;

#ifdef NDEBUG
constexpr bool kOptimized = true;
#else
constexpr bool kOptimized = false;  // where sanitizers make everything slow
#endif

ArtifactContents ModelContents(const ModelConfig& model, bool trained, uint64_t seed = 1) {
  ArtifactContents contents{
      .config_text = FormatFields(model), .tokenizer_crc = 77, .vocab_size = model.vocab};
  contents.tensors = *SplitBanks(model, trained ? TrainedLikeWeights(model, seed) : InitialWeights(model, 3));
  for (const StoredWeight& weight : StoredWeights(model)) contents.classes.push_back(weight.storage);
  return contents;
}

// HM11's pattern at a quarter of its width: 2 million parameters, coded above 4096.
ModelConfig QuarterModel() {
  ModelConfig model;
  model.dim = 128;
  model.mlp_width = 384;
  model.dt_rank = 8;
  model.heads = 2;
  model.kv_heads = 1;
  return model;
}

QuantConfig QuarterConfig(int64_t budget_bytes) {
  QuantConfig config;
  config.small_elements = 4096;
  config.budget_bytes = budget_bytes;
  return config;
}

ArtifactContents SmallContents(uint64_t seed) {
  ArtifactContents contents{.config_text = "dim=32\n", .tokenizer_crc = seed, .vocab_size = 64};
  contents.tensors = {
      TrainedLikeTensor("skip_weights", {2, 32}, seed),
      TrainedLikeTensor("qo_bank.0", {32, 48}, seed),
      TrainedLikeTensor("qo_bank.1", {32, 48}, seed),
      TrainedLikeTensor("tok_emb.weight", {64, 32}, seed),
      TrainedLikeTensor("bigram.scale", {}, seed),
      TrainedLikeTensor("blocks.0.ssm.in_proj.weight", {128, 32}, seed),
      TrainedLikeTensor("blocks.0.ssm.conv1d.weight", {700, 1, 4}, seed),
      TrainedLikeTensor("blocks.0.proj.weight", {32, 96}, seed),
  };
  using enum StorageClass;
  contents.classes = {kFloat32, kSixBitMatrix, kSixBitMatrix, kTable,
                      kFloat32, kMatrix,       kFloat16,      kSixBitMatrix};
  return contents;
}

// Places in SmallContents.
constexpr size_t kBankMatrix = 1, kInProj = 5;

QuantConfig SmallConfig() {
  QuantConfig config;
  config.small_elements = 1000;
  config.budget_bytes = 0;
  return config;
}

TEST(ModelArtifactTest, NamesShapesAndTextComeBack) {
  const ArtifactContents contents = SmallContents(5);
  const absl::StatusOr<EncodedArtifact> encoded = EncodeArtifact(contents, SmallConfig());
  ASSERT_THAT(encoded, IsOk());
  const absl::StatusOr<ArtifactContents> decoded = DecodeArtifact(encoded->bytes, "memory");
  ASSERT_THAT(decoded, IsOk());
  EXPECT_EQ(decoded->config_text, contents.config_text);
  EXPECT_EQ(decoded->tokenizer_crc, 5u);
  EXPECT_EQ(decoded->vocab_size, 64);
  ASSERT_EQ(decoded->tensors.size(), contents.tensors.size());
  for (size_t i = 0; i < contents.tensors.size(); ++i) {
    EXPECT_EQ(decoded->tensors[i].name, contents.tensors[i].name);
    EXPECT_EQ(decoded->tensors[i].shape, contents.tensors[i].shape);
  }
}

TEST(ModelArtifactTest, EveryTensorIsStoredAsItsClassAndSizeSay) {
  ArtifactContents contents = SmallContents(5);
  contents.tensors.push_back(TrainedLikeTensor("blocks.3.resid_mix", {2, 600}));
  contents.tensors.push_back({"huge", {}, {1e6f}});
  contents.classes.insert(contents.classes.end(), {StorageClass::kFloat32, StorageClass::kFloat16});
  const absl::StatusOr<EncodedArtifact> encoded = EncodeArtifact(contents, SmallConfig());
  ASSERT_THAT(encoded, IsOk());
  const absl::StatusOr<Artifact> artifact = ParseArtifact(encoded->bytes, "memory");
  ASSERT_THAT(artifact, IsOk());
  std::string storage;
  for (const StoredTensor& tensor : artifact->tensors) {
    absl::StrAppend(&storage, tensor.name, " ",
                    tensor.storage == Storage::kFloat32   ? "float32"
                    : tensor.storage == Storage::kFloat16 ? "float16"
                                                          : absl::StrCat(tensor.codes.bits, " bits"),
                    "\n");
  }
  EXPECT_EQ(storage,
            "skip_weights float16\n"
            "qo_bank.0 6 bits\n"
            "qo_bank.1 6 bits\n"
            "tok_emb.weight 8 bits\n"
            "bigram.scale float16\n"
            "blocks.0.ssm.in_proj.weight 6 bits\n"
            "blocks.0.ssm.conv1d.weight float16\n"
            "blocks.0.proj.weight 6 bits\n"
            "blocks.3.resid_mix float32\n"
            "huge float32\n");
}

// In the sigma scheme steps are 12.85 / 31 of a row's deviation, taken to within 4.5 %; 20 / 127 for tables.
RC_GTEST_PROP(ModelArtifactTest, ValuesComeBackWithinHalfAStep, ()) {
  ArtifactContents contents = SmallContents(*Seed());
  const std::string coder = *rc::gen::elementOf(std::vector<std::string>{"range", "lzma", "smallest"});
  QuantConfig config = SmallConfig();
  config.coder = coder;
  const absl::StatusOr<EncodedArtifact> encoded = EncodeArtifact(contents, config);
  RC_ASSERT(encoded.ok());
  const absl::StatusOr<ArtifactContents> decoded = DecodeArtifact(encoded->bytes, "memory");
  RC_ASSERT(decoded.ok());
  for (size_t t = 0; t < contents.tensors.size(); ++t) {
    const NamedTensor& tensor = contents.tensors[t];
    const bool coded = SizeOf(tensor.shape) > 1000 && !absl::StrContains(tensor.name, "conv1d");
    const int64_t cols = tensor.shape.empty() ? 1 : tensor.shape.back();
    const double k = absl::StrContains(tensor.name, "emb") ? 20.0 / 127 : 12.85 / 31;
    for (int64_t row = 0; row < SizeOf(tensor.shape) / cols; ++row) {
      double squares = 0;
      for (int64_t c = row * cols; c < (row + 1) * cols; ++c) squares += std::pow(tensor.values[c], 2);
      const double step = k * std::sqrt(squares / static_cast<double>(cols));
      for (int64_t c = row * cols; c < (row + 1) * cols; ++c) {
        const double error = std::fabs(decoded->tensors[t].values[c] - tensor.values[c]);
        RC_ASSERT(error <= (coded ? 0.5 * 1.05 * step : std::fabs(tensor.values[c]) / 2048 + 3.1e-8));
      }
    }
  }
}

// One of the reference's matrices with what its quantizers made of it.
struct ReferenceMatrix {
  NamedTensor weights;
  std::vector<float> codes6, scales6, codes8, scales8;
};

ReferenceMatrix ReadReferenceMatrix(const std::string& stem) {
  const absl::StatusOr<Safetensors> golden = ReadSafetensors(GoldenPath("quant.safetensors"));
  EXPECT_THAT(golden, IsOk());
  std::map<std::string, NamedTensor> tensors;
  for (const NamedTensor& tensor : golden->tensors) tensors[tensor.name] = tensor;
  return {tensors[stem + ".w"], tensors[stem + ".int6_q"].values, tensors[stem + ".int6_scale"].values,
          tensors[stem + ".int8_q"].values, tensors[stem + ".int8_scale"].values};
}

// All but a few, which lie on the border between two codes, are the reference's to the bit.
void ExpectReferenceValues(const std::vector<float>& got, const std::vector<float>& codes,
                           const std::vector<float>& scales) {
  ASSERT_EQ(got.size(), codes.size());
  const size_t cols = codes.size() / scales.size();
  int others = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const float scale = scales[i / cols], expected = codes[i] * scale;
    if (got[i] == expected) continue;
    ++others;
    EXPECT_LE(std::fabs(got[i] - expected), scale * 1.001f) << "element " << i;
  }
  EXPECT_LT(others, 5);
}

TEST(ModelArtifactTest, ThePublishedSchemeIsTheReferencesQuantizer) {
  QuantConfig config = SmallConfig();
  config.scheme = "published";
  ArtifactContents contents{.config_text = "dim=32\n", .vocab_size = 64};
  using enum StorageClass;
  const std::pair<const char*, StorageClass> stored[] = {
      {"m0", kSixBitMatrix}, {"m1", kSixBitMatrix}, {"m0", kMatrix}, {"m1", kTable}};
  for (const auto& [stem, storage] : stored) {
    contents.tensors.push_back(ReadReferenceMatrix(stem).weights);
    contents.tensors.back().name = absl::StrCat(stem, ".", contents.tensors.size());
    contents.classes.push_back(storage);
  }
  const absl::StatusOr<EncodedArtifact> encoded = EncodeArtifact(contents, config);
  ASSERT_THAT(encoded, IsOk());
  const absl::StatusOr<ArtifactContents> decoded = DecodeArtifact(encoded->bytes, "memory");
  ASSERT_THAT(decoded, IsOk());
  for (size_t i = 0; i < std::size(stored); ++i) {
    const ReferenceMatrix reference = ReadReferenceMatrix(stored[i].first);
    const bool six = stored[i].second == kSixBitMatrix;
    SCOPED_TRACE(contents.tensors[i].name);
    ExpectReferenceValues(decoded->tensors[i].values, six ? reference.codes6 : reference.codes8,
                          six ? reference.scales6 : reference.scales8);
  }
}

TEST(ModelArtifactTest, TheBudgetIsFilledAndNeverExceeded) {
  const ArtifactContents contents = ModelContents(QuarterModel(), /*trained=*/true);
  double finer = 0;
  for (const int64_t budget : {1500000, 900000, 400000}) {
    const absl::StatusOr<EncodedArtifact> encoded = EncodeArtifact(contents, QuarterConfig(budget));
    ASSERT_THAT(encoded, IsOk());
    EXPECT_THAT(static_cast<int64_t>(encoded->bytes.size()), AllOf(Le(budget), Ge(budget - budget / 1000)));
    EXPECT_GT(encoded->step_multiplier, finer);
    finer = encoded->step_multiplier;
  }
}

TEST(ModelArtifactTest, WhereThereIsRoomCodesHaveEightBits) {
  const ArtifactContents contents = SmallContents(7);
  QuantConfig config = SmallConfig();
  config.budget_bytes = 1 << 20;
  const absl::StatusOr<EncodedArtifact> encoded = EncodeArtifact(contents, config);
  ASSERT_THAT(encoded, IsOk());
  EXPECT_GT(encoded->bits_per_code, 5);
  const absl::StatusOr<ArtifactContents> decoded = DecodeArtifact(encoded->bytes, "memory");
  ASSERT_THAT(decoded, IsOk());
  double error = 0;
  double norm = 0;
  const std::vector<float>& values = contents.tensors[kBankMatrix].values;
  for (size_t i = 0; i < values.size(); ++i) {
    error += std::pow(decoded->tensors[kBankMatrix].values[i] - values[i], 2);
    norm += std::pow(values[i], 2);
  }
  EXPECT_LT(std::sqrt(error / norm), 0.035);  // a step of 12.85 / 127 deviations over sqrt(12), 0.029
}

TEST(ModelArtifactTest, AModelThatCannotFitIsAnError) {
  QuantConfig config = SmallConfig();
  config.budget_bytes = 2000;
  EXPECT_THAT(EncodeArtifact(SmallContents(8), config),
              StatusIs(absl::StatusCode::kResourceExhausted, "'budget_bytes' is 2000"));
}

TEST(ModelArtifactTest, SizesAreToldWithinThreePercent) {
  for (const bool trained : {false, true}) {
    const ArtifactContents contents = ModelContents(QuarterModel(), trained);
    for (const int64_t budget : {0, 900000}) {
      const QuantConfig config = QuarterConfig(budget);
      const absl::StatusOr<SizeEstimate> estimate = EstimateSize(contents, config);
      ASSERT_THAT(estimate, IsOk());
      const absl::StatusOr<EncodedArtifact> encoded = EncodeArtifact(contents, config);
      ASSERT_THAT(encoded, IsOk());
      const double size = static_cast<double>(encoded->bytes.size());
      EXPECT_NEAR(static_cast<double>(estimate->size_bytes) / size, 1, 0.03) << trained << " " << budget;
      EXPECT_NEAR(estimate->step_multiplier / encoded->step_multiplier, 1, 0.1) << trained << " " << budget;
    }
  }
}

TEST(ModelArtifactTest, SizesAreToldFromShapesAlone) {
  ArtifactContents contents = ModelContents(QuarterModel(), /*trained=*/true);
  const QuantConfig config = QuarterConfig(0);
  const absl::StatusOr<EncodedArtifact> encoded = EncodeArtifact(contents, config);
  ASSERT_THAT(encoded, IsOk());
  for (NamedTensor& tensor : contents.tensors) tensor.values.clear();
  const absl::StatusOr<SizeEstimate> estimate = EstimateSize(contents, config);
  ASSERT_THAT(estimate, IsOk());
  EXPECT_NEAR(static_cast<double>(estimate->size_bytes) / static_cast<double>(encoded->bytes.size()), 1,
              0.03);
}

// A model of any pattern and widths, of 10,000 to 500,000 parameters or so.
ModelConfig AnyModel() {
  const auto of = [](std::initializer_list<int64_t> sizes) {
    return *rc::gen::elementOf(std::vector<int64_t>(sizes));
  };
  ModelConfig model;
  model.layers = *rc::gen::elementOf(std::vector<std::string>{"M", "A", "MA", "AM", "MMA", "AAA", "MAMA"});
  model.vocab = *rc::gen::inRange<int64_t>(256, 1025);
  model.dim = of({32, 48, 64, 96});
  model.heads = of({2, 4});
  model.kv_heads = of({1, 2});
  model.mlp_width = model.dim * of({1, 2, 3});
  model.state = of({1, 8, 16, 64});
  model.dt_rank = *rc::gen::inRange<int64_t>(1, 17);
  model.expand = of({1, 2});
  model.tied_embeddings = *rc::gen::arbitrary<bool>();
  model.rope_dims = 8;
  model.bigram_rows = of({0, 64, 512});
  model.bigram_dim = of({16, 32});
  model.value_embedding_dim = of({16, 64});
  model.gated_attention = *rc::gen::arbitrary<bool>();
  model.value_residual = *rc::gen::arbitrary<bool>();
  model.token_gate = *rc::gen::arbitrary<bool>();
  return model;
}

RC_GTEST_PROP(ModelArtifactTest, SizesOfAnyModelAreToldBeforeTraining, ()) {
  const ModelConfig model = AnyModel();
  RC_ASSERT(model.Validate().ok());
  const ArtifactContents contents = ModelContents(model, /*trained=*/true, *Seed());
  ArtifactContents shapes = contents;
  for (NamedTensor& tensor : shapes.tensors) tensor.values.clear();
  QuantConfig config;
  config.small_elements = *rc::gen::elementOf(std::vector<int64_t>{1000, 65536});
  config.budget_bytes = 0;
  // No budget; more than enough; one that steps must grow for.
  const absl::StatusOr<SizeEstimate> plain = EstimateSize(shapes, config);
  RC_ASSERT(plain.ok());
  const int64_t tight = plain->size_bytes * 9 / 10;
  config.budget_bytes = *rc::gen::elementOf(std::vector<int64_t>{0, kArtifactCapBytes, tight});
  const absl::StatusOr<SizeEstimate> estimate = EstimateSize(shapes, config);
  RC_ASSERT(estimate.ok());
  const double told = static_cast<double>(estimate->size_bytes);
  const absl::StatusOr<EncodedArtifact> encoded = EncodeArtifact(contents, config);
  if (!encoded.ok()) {
    RC_ASSERT(absl::IsResourceExhausted(encoded.status()));
    RC_ASSERT(told > 0.97 * static_cast<double>(config.budget_bytes));
    return;
  }
  const double ratio = told / static_cast<double>(encoded->bytes.size());
  RC_CLASSIFY(encoded->step_multiplier > 1, "coarse steps");
  RC_ASSERT(ratio > 0.97 && ratio < 1.03);
}

// The promise of the default configuration: 31.8 million trained weights always fit.
TEST(ModelArtifactTest, Hm11FitsItsCap) {
  const ArtifactContents contents =
      ModelContents(kOptimized ? ModelConfig() : QuarterModel(), /*trained=*/true);
  const QuantConfig config = kOptimized ? QuantConfig() : QuarterConfig(900000);
  const absl::StatusOr<EncodedArtifact> encoded = EncodeArtifact(contents, config);
  ASSERT_THAT(encoded, IsOk());
  EXPECT_LE(static_cast<int64_t>(encoded->bytes.size()), config.budget_bytes);
  if (kOptimized) {
    EXPECT_LT(encoded->step_multiplier, 1) << "finer steps than 12.85 deviations / 31";
  }
}

TEST(ModelArtifactTest, AHessianLowersTheWeightedError) {
  const ArtifactContents contents = SmallContents(9);
  const NamedTensor& matrix = contents.tensors[kInProj];
  const int64_t cols = 32;
  std::vector<float> hessian(cols * cols);
  for (int64_t i = 0; i < cols * cols; ++i) hessian[i] = i / cols == i % cols ? 2.0f : 1.0f;
  const Calibration calibration = {.hessians = {{matrix.name, hessian}}, .gradients = {}};
  std::vector<double> errors;
  for (const Calibration* known : {static_cast<const Calibration*>(nullptr), &calibration}) {
    const absl::StatusOr<EncodedArtifact> encoded = EncodeArtifact(contents, SmallConfig(), known);
    ASSERT_THAT(encoded, IsOk());
    const absl::StatusOr<Artifact> artifact = ParseArtifact(encoded->bytes, "memory");
    ASSERT_THAT(artifact, IsOk());
    double error = 0;
    for (const StoredTensor& tensor : artifact->tensors) {
      if (tensor.name != matrix.name) continue;
      for (const double e : WeightedErrors({matrix.values.data(), 128, cols}, tensor.codes, hessian))
        error += e;
    }
    errors.push_back(error);
  }
  EXPECT_LT(errors[1], 0.75 * errors[0]);
}

// What the loss would rise by, to second order, but for a factor.
double LossOf(const ArtifactContents& contents, const ArtifactContents& decoded,
              const Calibration& calibration) {
  double loss = 0;
  for (size_t t = 0; t < contents.tensors.size(); ++t) {
    const NamedTensor &before = contents.tensors[t], &after = decoded.tensors[t];
    const auto gradients = calibration.gradients.find(before.name);
    if (gradients == calibration.gradients.end()) continue;
    const std::vector<float>& hessian = calibration.hessians.at(before.name);
    const int64_t rows = before.shape[0], cols = SizeOf(before.shape) / rows;
    double trace = 0;
    for (int64_t c = 0; c < cols; ++c) trace += hessian[c * cols + c];
    for (int64_t i = 0; i < rows * cols; ++i) {
      const double error = after.values[i] - before.values[i];
      const int64_t c = i % cols;
      loss += gradients->second[i / cols] / trace * error * error * hessian[c * cols + c];
    }
  }
  return loss;
}

TEST(ModelArtifactTest, StepsByWhatErrorsCostLoseLess) {
  const ArtifactContents contents = ModelContents(QuarterModel(), /*trained=*/true);
  const Calibration calibration = CalibrationLike(contents.tensors);
  const QuantConfig config = QuarterConfig(800000);
  std::vector<double> losses;
  for (const Calibration* known : {static_cast<const Calibration*>(nullptr), &calibration}) {
    const absl::StatusOr<EncodedArtifact> encoded = EncodeArtifact(contents, config, known);
    ASSERT_THAT(encoded, IsOk());
    const absl::StatusOr<ArtifactContents> decoded = DecodeArtifact(encoded->bytes, "memory");
    ASSERT_THAT(decoded, IsOk());
    losses.push_back(LossOf(contents, *decoded, calibration));
  }
  EXPECT_LT(losses[1], 0.5 * losses[0]);
}

TEST(ModelArtifactTest, TheBudgetIsFilledAndNeverExceededWhenCalibrated) {
  const ArtifactContents contents = ModelContents(QuarterModel(), /*trained=*/true);
  const Calibration calibration = CalibrationLike(contents.tensors);
  double finer = 0;
  for (const int64_t budget : {1200000, 900000, 500000}) {
    const absl::StatusOr<EncodedArtifact> encoded =
        EncodeArtifact(contents, QuarterConfig(budget), &calibration);
    ASSERT_THAT(encoded, IsOk());
    EXPECT_THAT(static_cast<int64_t>(encoded->bytes.size()), AllOf(Le(budget), Ge(budget - budget / 1000)));
    EXPECT_GT(encoded->step_multiplier, finer);
    finer = encoded->step_multiplier;
  }
}

TEST(ModelArtifactTest, TheSameBytesOnOneThreadAndOnMany) {
  ASSERT_TRUE(kFourThreads);
  const ArtifactContents contents = ModelContents(QuarterModel(), /*trained=*/true);
  const Calibration calibration = CalibrationLike(contents.tensors);
  for (const Calibration* known : {static_cast<const Calibration*>(nullptr), &calibration}) {
    const absl::StatusOr<EncodedArtifact> many = EncodeArtifact(contents, QuarterConfig(900000), known);
    ASSERT_THAT(many, IsOk());
    // Loops within a loop run on its thread.
    std::string on_one;
    ParallelFor(2, 1, [&](int64_t begin, int64_t) {
      if (begin == 0) on_one = EncodeArtifact(contents, QuarterConfig(900000), known)->bytes;
    });
    EXPECT_EQ(many->bytes, on_one);
  }
}

// Training can say how large its artifact will be though it is calibrated only at its end.
TEST(ModelArtifactTest, SizesAreToldWithinThreePercentOfCalibratedOnes) {
  const ArtifactContents contents = ModelContents(QuarterModel(), /*trained=*/true);
  const Calibration calibration = CalibrationLike(contents.tensors);
  for (const int64_t budget : {900000, 1 << 23}) {
    const QuantConfig config = QuarterConfig(budget);
    const absl::StatusOr<SizeEstimate> estimate = EstimateSize(contents, config);
    const absl::StatusOr<EncodedArtifact> encoded = EncodeArtifact(contents, config, &calibration);
    ASSERT_THAT(estimate, IsOk());
    ASSERT_THAT(encoded, IsOk());
    EXPECT_NEAR(static_cast<double>(estimate->size_bytes) / static_cast<double>(encoded->bytes.size()), 1,
                0.03);
  }
}

TEST(ModelArtifactTest, BadInputIsNamed) {
  ArtifactContents contents = SmallContents(10);
  contents.tensors[kInProj].values[100] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(EncodeArtifact(contents, SmallConfig()),
              StatusIs(absl::StatusCode::kInvalidArgument, "blocks.0.ssm.in_proj.weight"));
  const auto refusal = [](const char* key, const char* value) {
    QuantConfig config;
    if (!SetField(&config, key, value).ok()) return absl::OkStatus();
    return config.Validate();
  };
  EXPECT_THAT(refusal("scheme", "best"), StatusIs(absl::StatusCode::kInvalidArgument, "'scheme'"));
  EXPECT_THAT(refusal("coder", "zip"), StatusIs(absl::StatusCode::kInvalidArgument, "'coder'"));
  EXPECT_THAT(refusal("matrix_bits", "9"), StatusIs(absl::StatusCode::kInvalidArgument, "'matrix_bits'"));
  EXPECT_THAT(refusal("sigma_k", "nan"), StatusIs(absl::StatusCode::kInvalidArgument, "'sigma_k'"));
  EXPECT_THAT(refusal("budget_bytes", "-1"), StatusIs(absl::StatusCode::kInvalidArgument, "'budget_bytes'"));
  EXPECT_THAT(QuantConfig().Validate(), IsOk());
}

RC_GTEST_PROP(ModelArtifactTest, TheSettingsPrintAndParseBack, ()) {
  QuantConfig config;
  config.sigma_k = *rc::gen::inRange(1, 1000) / 7.0;
  config.budget_bytes = *rc::gen::inRange<int64_t>(0, 1 << 30);
  QuantConfig parsed;
  RC_ASSERT(ParseFields(FormatFields(config), &parsed).ok());
  RC_ASSERT(FormatFields(parsed) == FormatFields(config));
}

}  // namespace
}  // namespace hm11
