// The optimizer against its formulas in double, against the reference's numbers, and in its properties.
#include "train/optimizer.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/step_graph.h"
#include "model/language_model.h"
#include "testing/devices.h"
#include "testing/generators.h"
#include "testing/matchers.h"
#include "train/newton_schulz.h"
#include "train/optimizer_test_golden.h"
#include "train/optimizer_test_oracle.h"
#include "train/schedule.h"
#include "train/step_decision.h"

namespace hm11 {
namespace {

// Every kind of weight; sides that are multiples of nothing unless asked for.
ModelConfig SmallModel(int64_t head_dim = 7, int64_t mlp_width = 37) {
  ModelConfig model;
  model.layers = "MAA";
  model.vocab = 19;
  model.heads = 2;
  model.kv_heads = 1;
  model.dim = 2 * head_dim;
  model.rope_dims = 0;
  model.mlp_width = mlp_width;
  model.state = 3;
  model.dt_rank = 5;
  model.bigram_rows = 11;
  model.bigram_dim = 6;
  model.value_embedding_layers = 1;
  model.value_embedding_dim = 9;
  model.tied_embeddings = false;
  model.gated_attention = true;
  model.value_residual = true;
  model.token_gate = true;
  model.mtp_heads = 1;
  return model;
}

// Some of them wider than a tile both ways.
rc::Gen<ModelConfig> AnyModel() {
  const auto head_dim = rc::gen::oneOf(rc::gen::inRange<int64_t>(1, 17), rc::gen::inRange<int64_t>(1, 17),
                                       rc::gen::elementOf(std::vector<int64_t>{32, 33, 34}));
  return rc::gen::apply(SmallModel, head_dim, SizeAroundTile(64));
}

// Random in the weights, 0 in the padding.
HostTensor<float> RandomFlat(const ModelConfig& model, uint64_t seed, double deviation) {
  HostTensor<float> flat = ZeroHostTensor<float>({FlatSize(model)});
  const HostTensor<float> random = RandomHostTensor<float>(flat.shape, seed, deviation);
  for (const Part& part : PartsOf(model)) {
    for (int64_t i = part.offset; i < part.offset + part.size(); ++i) flat[i] = random[i];
  }
  return flat;
}

// One optimizer with all that it works on.
class Training {
 public:
  Training(const Device& device, const ModelConfig& model, const OptimizerConfig& config,
           const HostTensor<float>& start)
      : arena_(TestArena(device, int64_t{1} << 29)), work_(TestArena(device)) {
    weights_ = NewFlatWeights(arena_, model);
    gradients_ = NewFlatWeights(arena_, model);
    average_ = NewFlatWeights(arena_, model);
    copy_ = arena_.NewZero<Bf16>(weights_.flat.shape());
    optimizer_ = std::make_unique<Optimizer>(arena_, model, config, weights_, gradients_, average_, copy_);
    Set(weights_, start);
    Set(average_, start);
  }

  void Set(const FlatWeights& set, const HostTensor<float>& values) {
    arena_.device().CopyFromHost(set.flat.data(), values.values.data(), set.flat.size_bytes());
    arena_.device().Synchronize();
  }
  void Step(const HostTensor<float>& gradient, const StepScalars& scalars) {
    Set(gradients_, gradient);
    optimizer_->Upload(scalars);
    optimizer_->Step(work_);
  }

  HostTensor<float> Get(const FlatWeights& set) { return Download(arena_, set.flat); }
  HostTensor<float> weights() { return Get(weights_); }
  HostTensor<float> gradients() { return Get(gradients_); }
  HostTensor<float> average() { return Get(average_); }
  HostTensor<float> first() { return Download(arena_, optimizer_->first_moment()); }
  HostTensor<float> second() { return Download(arena_, optimizer_->second_moment()); }
  HostTensor<Bf16> copy() { return Download(arena_, copy_); }
  float norm() { return Download(arena_, optimizer_->gradient_norm())[0]; }

  Arena arena_;
  Arena work_;
  FlatWeights weights_, gradients_, average_;
  Tensor<Bf16> copy_;
  std::unique_ptr<Optimizer> optimizer_;
};

// The scalars of a run's step, but for the schedule's: a learning rate of 1, a momentum of 0.9.
StepScalars ScalarsOf(const OptimizerConfig& config, int64_t step, double average_decay = 0) {
  RunConfig run;
  run.optimizer = config;
  StepScalars scalars = DecideStep(run, run.schedule, {.step = step}, {}, /*interrupted=*/false).scalars;
  scalars.lr_scale = 1;
  scalars.muon_momentum = 0.9f;
  scalars.average_decay = static_cast<float>(average_decay);
  return scalars;
}

// Float everywhere, so that devices can be compared with double.
OptimizerConfig FloatConfig() {
  OptimizerConfig config;
  config.newton_schulz_bf16 = false;
  return config;
}

// Where singular values from `from` on come out with five steps.
struct SingularBars {
  NewtonSchulzPolynomials polynomials;
  double from, least, most;
};
constexpr SingularBars kSingularBars[] = {{NewtonSchulzPolynomials::kJordan, 0.01, 0.6, 1.3},
                                          {NewtonSchulzPolynomials::kPolarExpress, 0.003, 0.83, 1.17}};

template <typename T>
void ExpectSingularValuesNearOne(const Device& device, const SingularBars& bars, int64_t count, int64_t small,
                                 int64_t large, uint64_t seed) {
  HostTensor<double> host = RandomHostTensor<double>({count, small, large}, seed);
  const int64_t size = small * large;
  for (int64_t i = 0; i < count; ++i) {
    double squares = 0;
    for (int64_t j = 0; j < size; ++j) squares += host[i * size + j] * host[i * size + j];
    for (int64_t j = 0; j < size; ++j) host[i * size + j] /= std::sqrt(squares);
  }
  Arena arena = TestArena(device);
  const HostTensor<double> result =
      DownloadAs<double>(arena, NewtonSchulz<T>(arena, UploadAs<T>(arena, host), 5, bars.polynomials));
  for (int64_t i = 0; i < count; ++i) {
    Matrix before(small, large), after(small, large);
    std::copy_n(host.values.begin() + i * size, size, before.values.begin());
    std::copy_n(result.values.begin() + i * size, size, after.values.begin());
    const auto [least, most] = SingularValues(after);
    EXPECT_LT(most, bars.most) << small << " x " << large << " on " << device.name();
    if (SingularValues(before).first > bars.from) {
      EXPECT_GT(least, bars.least) << small << " x " << large;
    }
  }
}

RC_GTEST_PROP(NewtonSchulzTest, SingularValuesComeOutNearOne, ()) {
  const int64_t count = *SmallSize(3), small = *rc::gen::inRange<int64_t>(1, 40);
  const int64_t large = small + *rc::gen::inRange<int64_t>(0, 70);
  const uint64_t seed = *Seed();
  for (const SingularBars& bars : kSingularBars) {
    for (const Device& device : TestDevices()) {
      ExpectSingularValuesNearOne<float>(device, bars, count, small, large, seed);
    }
    for (const Device& gpu : TestGpus()) {
      ExpectSingularValuesNearOne<Bf16>(gpu, bars, count, small, large, seed);
    }
  }
}

TEST(OptimizerTest, PaperExample) {
  // A weight 1 x 1 in Muon is its own singular value; AdamW's first step is one learning rate long.
  ModelConfig model = SmallModel();
  model.bigram_dim = 1;
  model.dim = 1;
  model.heads = model.kv_heads = 1;
  OptimizerConfig config = FloatConfig();
  config.clip = 0;
  config.newton_schulz_steps = 1;
  for (const Device& device : TestDevices()) {
    HostTensor<float> start = ZeroHostTensor<float>({FlatSize(model)});
    HostTensor<float> gradient = start;
    for (const Part& part : PartsOf(model)) {
      for (int64_t i = part.offset; i < part.offset + part.size(); ++i) start[i] = 2, gradient[i] = 0.5f;
    }
    Training training(device, model, config, start);
    training.Step(gradient, ScalarsOf(config, 0));
    for (const Part& part : PartsOf(model)) {
      const float got = training.weights()[part.offset];
      if (part.name == "bigram.proj.weight") {
        // 2 (1 - 0.025 * 0.04) - 0.025 (3.4445 - 4.7750 + 2.0315)
        EXPECT_NEAR(got, 1.998 - 0.025 * 0.701, 1e-6) << device.name();
      } else if (part.name == "tok_emb.weight") {
        EXPECT_NEAR(got, 2 * (1 - 0.035 * 0.04) - 0.035, 1e-6) << device.name();
      }
    }
  }
}

// How far float's rounding takes Newton-Schulz from its formula, relative to its result. With u = 2^-24, step
// k rounds a X + b G X + c G^2 X, terms that cancel, to within u (a + |b| s^2 + |c| s^4), s the largest
// singular value: at most 1 before the first step, 1.02 behind one of Polar Express and 1.25 behind one of the
// constant coefficients. What is lost lies in any direction, also where X has next to nothing, and is
// stretched by all later steps as small singular values are: by a. Weights are no smaller than their updates
// here, so this holds relative to them too.
double NewtonSchulzRounding(const OptimizerConfig& config) {
  const auto polynomials =
      config.polar_express ? NewtonSchulzPolynomials::kPolarExpress : NewtonSchulzPolynomials::kJordan;
  double lost = 0;
  for (int64_t step = 0; step < config.newton_schulz_steps; ++step) {
    const auto [a, b, c] = PolynomialOfStep(polynomials, step);
    const double s = step == 0 ? 1 : config.polar_express ? 1.02 : 1.25;
    lost = a * lost + a + std::abs(b) * s * s + std::abs(c) * s * s * s * s;
  }
  return std::exp2(-24) * lost;
}

// The part that is farthest from what it should be, for a message.
std::string FarthestPart(const ModelConfig& model, const HostTensor<float>& got,
                         const HostTensor<double>& expected) {
  std::string farthest = "none";
  double most = 0;
  for (const Part& part : PartsOf(model)) {
    double squares = 0;
    for (int64_t i = part.offset; i < part.offset + part.size(); ++i) {
      squares += (got[i] - expected[i]) * (got[i] - expected[i]);
    }
    if (squares <= most) continue;
    most = squares;
    farthest = absl::StrCat(part.name, " [", part.rows, ", ", part.cols, "], off by ", std::sqrt(squares));
  }
  return farthest;
}

RC_GTEST_PROP(OptimizerTest, StepsAreTheFormulasOnEveryDevice, ()) {
  const ModelConfig model = *AnyModel();
  OptimizerConfig config = FloatConfig();
  config.muon_on_mamba = *rc::gen::arbitrary<bool>();
  config.muon_on_small = *rc::gen::arbitrary<bool>();
  config.decay_controls = *rc::gen::arbitrary<bool>();
  config.embedding_weight_decay = *rc::gen::elementOf(std::vector<double>{0, 0.04, 1});
  config.muon_equal_rows = *rc::gen::arbitrary<bool>();
  config.polar_express = *rc::gen::arbitrary<bool>();
  config.clip = *rc::gen::elementOf(std::vector<double>{0, 0.3, 1e6});
  config.head_lr = 0.01;
  config.control_lr = 0.02;
  config.muon_lr = 0.03;
  const uint64_t seed = *Seed();
  const double decay = *rc::gen::elementOf(std::vector<double>{0, 0.9});
  const HostTensor<float> start = RandomFlat(model, seed, 0.05);
  for (const Device& device : TestDevices()) {
    Oracle oracle(start);
    Training training(device, model, config, start);
    for (int64_t step = 0; step < 2; ++step) {
      const HostTensor<float> gradient = RandomFlat(model, seed + 1 + static_cast<uint64_t>(step), 1e-2);
      StepScalars scalars = ScalarsOf(config, step, decay);
      scalars.lr_scale = step == 0 ? 1 : 0.5f;
      scalars.muon_momentum = step == 0 ? 0.8f : 0.95f;
      oracle.Step(model, config, gradient, scalars);
      training.Step(gradient, scalars);
    }
    const double bar = NewtonSchulzRounding(config);
    EXPECT_THAT(training.weights(), IsNear(oracle.weights, bar))
        << device.name() << ", farthest " << FarthestPart(model, training.weights(), oracle.weights)
        << "; equal rows " << config.muon_equal_rows << ", polar express " << config.polar_express
        << ", Muon on small matrices " << config.muon_on_small << ", clip " << config.clip;
    EXPECT_THAT(training.average(), IsNear(oracle.average, bar)) << device.name();
    EXPECT_THAT(training.first(), IsNear(oracle.first, 1e-5)) << device.name();
    EXPECT_THAT(training.second(), IsNear(oracle.second, 1e-5)) << device.name();
    EXPECT_NEAR(training.norm(), oracle.norm, 1e-5 * oracle.norm) << device.name();
  }
}

TEST(OptimizerTest, MatricesMoveByThemselves) {
  const ModelConfig model = SmallModel();
  OptimizerConfig config = FloatConfig();
  config.clip = 0;  // The common norm would couple them.
  const HostTensor<float> start = RandomFlat(model, 1, 0.05), gradient = RandomFlat(model, 2, 1);
  for (const Device& device : TestDevices()) {
    Training all(device, model, config, start);
    all.Step(gradient, ScalarsOf(config, 0));
    const HostTensor<float> expected = all.weights();
    for (const Part& changed : PartsOf(model)) {
      if (!changed.InMuon(config)) continue;
      HostTensor<float> other = gradient;
      for (int64_t i = 0; i < changed.size(); ++i) other[changed.offset + i] = static_cast<float>(i % 3) - 1;
      Training one(device, model, config, start);
      one.Step(other, ScalarsOf(config, 0));
      HostTensor<float> got = one.weights();
      const auto begin = got.values.begin() + changed.offset, end = begin + changed.size();
      const auto expected_begin = expected.values.begin() + changed.offset;
      EXPECT_FALSE(std::equal(begin, end, expected_begin)) << changed.name;
      std::copy_n(expected_begin, changed.size(), begin);
      EXPECT_EQ(got.values, expected.values) << changed.name << " on " << device.name();
    }
  }
}

TEST(OptimizerTest, RowsOfEqualNormMoveAlikeHoweverTheyWereScaled) {
  ModelConfig model = SmallModel();
  OptimizerConfig config = FloatConfig();
  config.muon_equal_rows = true;
  config.clip = 0;
  const HostTensor<float> start = RandomFlat(model, 1, 0.05), gradient = RandomFlat(model, 2, 1);
  HostTensor<float> scaled = gradient;
  for (const Part& part : PartsOf(model)) {
    for (int64_t i = 0; i < part.size(); ++i) {
      scaled[part.offset + i] *= std::exp2(static_cast<float>(i / part.cols % 5));
    }
  }
  for (const Device& device : TestDevices()) {
    Training one(device, model, config, start), other(device, model, config, start);
    one.Step(gradient, ScalarsOf(config, 0));
    other.Step(scaled, ScalarsOf(config, 0));
    const HostTensor<float> expected = one.weights(), got = other.weights();
    for (const Part& part : PartsOf(model)) {
      if (!part.InMuon(config)) continue;
      for (int64_t i = part.offset; i < part.offset + part.size(); ++i) {
        EXPECT_NEAR(got[i], expected[i], 1e-5) << part.name << " on " << device.name();
      }
    }
  }
}

TEST(OptimizerTest, RowsOfNothingDoNotMakeTheOthersLarger) {
  const ModelConfig model = SmallModel();
  OptimizerConfig config = FloatConfig();
  config.muon_equal_rows = true;
  const HostTensor<float> start = RandomFlat(model, 1, 0.05);
  HostTensor<float> gradient = RandomFlat(model, 2, 1e-2);
  for (const Part& part : PartsOf(model)) {
    for (int64_t i = 0; i < part.size(); ++i) {
      if (i / part.cols % 3 == 0) gradient[part.offset + i] = 0;
    }
  }
  Oracle oracle(start);
  oracle.Step(model, config, gradient, ScalarsOf(config, 0));
  for (const Device& device : TestDevices()) {
    Training training(device, model, config, start);
    training.Step(gradient, ScalarsOf(config, 0));
    EXPECT_THAT(training.weights(), IsNear(oracle.weights, NewtonSchulzRounding(config)))
        << device.name() << ", farthest " << FarthestPart(model, training.weights(), oracle.weights);
  }
}

RC_GTEST_PROP(OptimizerTest, PaddingStaysZeroGradientIsZeroedAndTheCopyIsRounded, ()) {
  const ModelConfig model = *AnyModel();
  OptimizerConfig config;
  const uint64_t seed = *Seed();
  std::vector<bool> is_padding(static_cast<size_t>(FlatSize(model)), true);
  for (const Part& part : PartsOf(model)) {
    std::fill_n(is_padding.begin() + part.offset, part.size(), false);
  }
  for (const Device& device : TestDevices()) {
    Training training(device, model, config, RandomFlat(model, seed, 0.05));
    for (int64_t step = 0; step < 3; ++step) {
      training.Step(RandomFlat(model, seed + 1, 1), ScalarsOf(config, step, step == 2 ? 0.5 : 0));
    }
    const HostTensor<float> weights = training.weights();
    const HostTensor<float> sets[] = {weights, training.first(), training.second(), training.average()};
    const HostTensor<Bf16> copy = training.copy();
    for (const float gradient : training.gradients().values) RC_ASSERT(gradient == 0);
    for (int64_t i = 0; i < weights.size(); ++i) {
      RC_ASSERT(copy[i].bits == Bf16(weights[i]).bits);
      if (!is_padding[static_cast<size_t>(i)]) continue;
      for (const HostTensor<float>& set : sets) RC_ASSERT(set[i] == 0);
    }
  }
}

TEST(OptimizerTest, WithoutGradientAndMomentsAWeightOnlyDecays) {
  const ModelConfig model = SmallModel();
  OptimizerConfig config;
  config.decay_controls = false;
  const HostTensor<float> start = RandomFlat(model, 3, 1), zero = ZeroHostTensor<float>(start.shape);
  for (const Device& device : TestDevices()) {
    Training training(device, model, config, start);
    training.Step(zero, ScalarsOf(config, 0));
    const HostTensor<float> weights = training.weights();
    EXPECT_EQ(training.norm(), 0);
    for (const Part& part : PartsOf(model)) {
      const double decay = part.kind == WeightKind::kControl     ? 0
                           : part.kind == WeightKind::kEmbedding ? 0.035 * 0.04
                                                                 : 0.025 * 0.04;
      for (int64_t i = part.offset; i < part.offset + part.size(); ++i) {
        EXPECT_NEAR(weights[i], start[i] * (1 - decay), 2e-7 * std::abs(start[i])) << part.name;
      }
    }
  }
}

TEST(OptimizerTest, TheGradientCountsOnlyUpToItsClippedNorm) {
  const ModelConfig model = SmallModel();
  const OptimizerConfig config = FloatConfig();
  const HostTensor<float> start = RandomFlat(model, 4, 0.05), gradient = RandomFlat(model, 5, 1);
  HostTensor<float> larger = gradient;
  for (float& value : larger.values) value *= 1024;
  for (const Device& device : TestDevices()) {
    Training once(device, model, config, start), again(device, model, config, start);
    once.Step(gradient, ScalarsOf(config, 0));
    again.Step(larger, ScalarsOf(config, 0));
    EXPECT_THAT(again.first(), IsNear(once.first(), 1e-6)) << device.name();
    EXPECT_THAT(again.weights(), IsNear(once.weights(), 1e-5)) << device.name();
    EXPECT_NEAR(again.norm(), 1024 * once.norm(), 1e-3 * once.norm()) << "the norm is that before clipping";
    // What the moments took in, of the first gradient.
    const HostTensor<float> first = once.first();
    double squares = 0;
    for (const Part& part : PartsOf(model)) {
      const double share = part.InMuon(config) ? 1 : 1 - config.beta1;
      for (int64_t i = part.offset; i < part.offset + part.size(); ++i) {
        squares += std::pow(first[i] / share, 2);
      }
    }
    EXPECT_NEAR(std::sqrt(squares), config.clip, 1e-4 * config.clip);
  }
}

TEST(OptimizerTest, WithDecayZeroTheAverageIsTheWeightsWhateverItHeld) {
  const ModelConfig model = SmallModel();
  const OptimizerConfig config = FloatConfig();
  const HostTensor<float> start = RandomFlat(model, 6, 0.05), gradient = RandomFlat(model, 7, 1);
  HostTensor<float> broken = start;
  std::fill(broken.values.begin(), broken.values.end(), std::numeric_limits<float>::quiet_NaN());
  for (const Device& device : TestDevices()) {
    Training training(device, model, config, start);
    training.Set(training.average_, broken);
    training.Step(gradient, ScalarsOf(config, 0));
    HostTensor<float> average = training.average();
    const HostTensor<float> weights = training.weights();
    for (const Part& part : PartsOf(model)) {
      for (int64_t i = part.offset; i < part.offset + part.size(); ++i) ASSERT_EQ(average[i], weights[i]);
    }
  }
}

TEST(OptimizerTest, StepsRepeatToTheBit) {
  const ModelConfig model = SmallModel(33, 129);
  for (const bool bf16 : {false, true}) {
    OptimizerConfig config;
    config.newton_schulz_bf16 = bf16;
    const HostTensor<float> start = RandomFlat(model, 8, 0.05), gradient = RandomFlat(model, 9, 1);
    for (const Device& device : TestDevices()) {
      std::vector<float> results[2];
      for (std::vector<float>& result : results) {
        Training training(device, model, config, start);
        for (int64_t step = 0; step < 3; ++step) training.Step(gradient, ScalarsOf(config, step, 0.9));
        result = training.weights().values;
        const HostTensor<float> average = training.average();
        result.insert(result.end(), average.values.begin(), average.values.end());
      }
      EXPECT_EQ(results[0], results[1]) << device.name();
    }
  }
}

TEST(OptimizerTest, OrthogonalizingInBf16ChangesTheStepLittle) {
  const ModelConfig model = SmallModel(32, 192);
  const HostTensor<float> start = ZeroHostTensor<float>({FlatSize(model)}),
                          gradient = RandomFlat(model, 10, 1);
  for (const Device& gpu : TestGpus()) {
    OptimizerConfig config;
    Training rounded(gpu, model, config, start), exact(gpu, model, FloatConfig(), start);
    rounded.Step(gradient, ScalarsOf(config, 0));
    exact.Step(gradient, ScalarsOf(config, 0));
    EXPECT_THAT(rounded.weights(), IsNear(exact.weights(), 0.03));
    EXPECT_GT(RelativeL2(rounded.weights(), exact.weights()), 1e-4) << "it was not done in Bf16 at all";
  }
}

// Scalars uploaded for several steps ahead reach each its own step, recorded or not.
TEST(OptimizerTest, RecordedStepsReadTheirOwnScalars) {
  const ModelConfig model = SmallModel();
  const OptimizerConfig config = FloatConfig();
  const HostTensor<float> start = RandomFlat(model, 11, 0.05), gradient = RandomFlat(model, 12, 1);
  constexpr int64_t kSteps = 20;
  const auto scalars_of = [&](int64_t step) {
    StepScalars scalars = ScalarsOf(config, step, step < 10 ? 0 : 0.8);
    scalars.lr_scale = 1.0f / static_cast<float>(1 + step);
    return scalars;
  };
  for (const Device& device : TestDevices()) {
    Training plain(device, model, config, start), recorded(device, model, config, start);
    for (int64_t step = 0; step < kSteps; ++step) {
      plain.Step(step == 0 ? gradient : ZeroHostTensor<float>(start.shape), scalars_of(step));
      device.Synchronize();
    }
    recorded.Step(gradient, scalars_of(0));
    StepGraph graph(device, [&] {
      recorded.work_.Reset();
      recorded.optimizer_->Step(recorded.work_);
    });
    for (int64_t step = 1; step < kSteps; ++step) {
      recorded.optimizer_->Upload(scalars_of(step));
      graph.Launch();
    }
    EXPECT_EQ(recorded.weights().values, plain.weights().values) << device.name();
    EXPECT_EQ(recorded.average().values, plain.average().values) << device.name();
  }
}

TEST(OptimizerTest, TakesNoMoreThanOnThePlanDevice) {
  const ModelConfig model = SmallModel();
  const auto bytes = [&](const Device& device) {
    Arena state(device, device.is_plan() ? int64_t{1} << 60 : int64_t{1} << 29);
    Arena work(device, device.is_plan() ? int64_t{1} << 60 : int64_t{1} << 28);
    const FlatWeights weights = NewFlatWeights(state, model), gradients = NewFlatWeights(state, model),
                      average = NewFlatWeights(state, model);
    const Tensor<Bf16> copy = state.NewZero<Bf16>(weights.flat.shape());
    WorkingCopyView(model, weights, copy);
    Optimizer optimizer(state, model, {}, weights, gradients, average, copy);
    optimizer.Upload({});
    optimizer.Step(work);
    EXPECT_EQ(work.used_bytes(), 0);
    return std::pair(state.high_water_bytes(), work.high_water_bytes());
  };
  for (const Device& device : TestDevices()) {
    const auto plan = bytes(Device::Plan(device)), taken = bytes(device);
    EXPECT_EQ(taken.first, plan.first) << device.name();
    EXPECT_LE(taken.second, plan.second) << device.name();
  }
}

TEST(OptimizerTest, ThreeStepsAreTheReferences) {
  const GoldenSteps golden = ReadGoldenSteps();
  const NamedTensor &losses = golden.tensors.at("losses"), &norms = golden.tensors.at("grad_norms");
  const OptimizerConfig config = GoldenConfig();
  for (const Device& device : TestDevices()) {
    SCOPED_TRACE(device.name());
    Training training(device, golden.model, config, ZeroHostTensor<float>({FlatSize(golden.model)}));
    for (FlatWeights* set : {&training.weights_, &training.average_}) {
      ASSERT_THAT(ImportWeights<float>(training.arena_, golden.model, golden.Under("start."), &set->view),
                  IsOk());
    }
    for (int64_t step = 0; step < 3; ++step) {
      const std::string prefix = "step" + std::to_string(step);
      Arena& work = training.work_;
      work.Reset();
      const Tensor<float> loss = work.New<float>({1});
      LossAndGradient<float>(work, golden.model,
                             {.weights = training.weights_.view,
                              .ids = Upload(work, golden.Ids(prefix + ".input_ids")),
                              .targets = Upload(work, golden.Ids(prefix + ".target_ids")),
                              .grad = training.gradients_.view,
                              .loss = loss});
      const size_t s = static_cast<size_t>(step);
      EXPECT_NEAR(Download(work, loss)[0], losses.values[s], 1e-4 * losses.values[s]) << prefix;
      training.optimizer_->Upload(GoldenScalars(config, step));
      training.optimizer_->Step(work);
      EXPECT_NEAR(training.norm(), norms.values[s], 1e-4 * norms.values[s]) << prefix;
    }
    ExpectGolden(ExportWeights<float>(training.arena_, golden.model, training.weights_.view),
                 golden.Under("end."));
    ExpectGolden(ExportWeights<float>(training.arena_, golden.model, training.average_.view),
                 golden.Under("ema."));
  }
}

}  // namespace
}  // namespace hm11
