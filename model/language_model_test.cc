// The language model: the reference's own numbers, gradients in double, causality, and independence of rows.
#include "model/language_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "core/op_scope.h"
#include "core/random.h"
#include "model/drawn_test_config.h"
#include "model/golden_model.h"
#include "testing/devices.h"
#include "testing/gradient_check.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

template <typename T>
struct Placed {
  explicit Placed(const Device& device, int64_t gpu_bytes = int64_t{1} << 31)
      : state(TestArena(device, gpu_bytes)), work(TestArena(device, gpu_bytes)) {}
  Arena state, work;
  ModelWeights<T> weights;
  ModelWeights<Accum<T>> grad;
};

template <typename T>
void Place(const ModelConfig& config, const std::vector<NamedTensor>& values, Placed<T>* placed) {
  placed->weights = NewWeights<T>(placed->state, config);
  placed->grad = NewWeights<Accum<T>>(placed->state, config);
  const absl::Status status = ImportWeights<T>(placed->state, config, values, &placed->weights);
  ASSERT_TRUE(status.ok()) << status.message();
}

HostTensor<int32_t> Tokens(const std::vector<int32_t>& ids, int64_t batch) {
  return {{batch, static_cast<int64_t>(ids.size()) / batch}, ids};
}

double RelativeDistance(const std::vector<float>& got, const std::vector<float>& expected) {
  HM_CHECK_EQ(got.size(), expected.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - expected[i], 2);
    norm += std::pow(static_cast<double>(expected[i]), 2);
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

// The training loss and all gradients, under the reference's names.
template <typename T>
double LossAndGradients(const ModelConfig& config, Placed<T>& placed, const HostTensor<int32_t>& ids,
                        const HostTensor<int32_t>& targets, std::vector<NamedTensor>* gradients) {
  Tensor<Accum<T>> loss = placed.state.template New<Accum<T>>({1});
  Tensor<Accum<T>> total = placed.state.template New<Accum<T>>({1});
  LossAndGradient<T>(placed.work, config,
                     {.weights = placed.weights,
                      .ids = Upload(placed.state, ids),
                      .targets = Upload(placed.state, targets),
                      .grad = placed.grad,
                      .loss = loss,
                      .total_loss = total});
  *gradients = ExportWeights<Accum<T>>(placed.state, config, placed.grad);
  return Download(placed.state, total)[0];
}

class GoldenSmallModel : public testing::TestWithParam<std::string> {};

TEST_P(GoldenSmallModel, LossLogitsAndEveryGradientAreTheReferences) {
  const GoldenModel golden = LoadGoldenModel(GetParam());
  ASSERT_THAT(golden.config.Validate(), IsOk());
  for (const Device& device : TestDevices()) {
    Placed<float> placed(device, int64_t{1} << 28);
    Place<float>(golden.config, golden.WithPrefix("param."), &placed);
    const HostTensor<int32_t> ids = Tokens(golden.Ids("input_ids"), 2);
    const HostTensor<int32_t> targets = Tokens(golden.Ids("target_ids"), 2);
    std::vector<NamedTensor> gradients;
    const double loss = LossAndGradients<float>(golden.config, placed, ids, targets, &gradients);
    EXPECT_NEAR(loss, golden.Values("loss")[0], 2e-5 * std::abs(golden.Values("loss")[0]));
    for (const NamedTensor& gradient : gradients) {
      if (golden.tensors.count("grad." + gradient.name) == 0) {
        ADD_FAILURE() << "no golden gradient of " << gradient.name;
        continue;
      }
      // The gradient of a single number is one sum over all tokens, whose terms may nearly cancel.
      const double bar = gradient.values.size() == 1 ? 5e-4 : 1e-4;
      EXPECT_LE(RelativeDistance(gradient.values, golden.Values("grad." + gradient.name)), bar)
          << gradient.name << " on " << device.name();
    }
    ModelSaved<float> saved;
    const Tensor<float> hidden =
        HiddenForward<float>(placed.work, golden.config, placed.weights, Upload(placed.state, ids), &saved);
    const HostTensor<float> raw =
        Download(placed.work, Logits<float>(placed.work, golden.config, placed.weights, hidden));
    std::vector<float> capped;
    const double cap = golden.config.soft_cap;
    for (float logit : raw.values) capped.push_back(static_cast<float>(cap * std::tanh(logit / cap)));
    EXPECT_LE(RelativeDistance(capped, golden.Values("logits")), 1e-4) << device.name();
  }
}

INSTANTIATE_TEST_SUITE_P(LanguageModelTest, GoldenSmallModel,
                         testing::Values("model_small", "model_small_options", "model_small_all_attention",
                                         "model_small_all_mamba"));

// What is placed, rounded where a model in T has it in T.
template <typename T>
ModelWeights<T> WeightsIn(const ModelConfig& config, Placed<float>& master) {
  if constexpr (std::is_same_v<T, float>) {
    return master.weights;
  } else {
    ModelWeights<T> weights;
    ResizeWeights(config, &weights);
    ForEachWeight(
        config,
        [&](const WeightInfo&, Tensor<float>& from, auto& to) {
          if constexpr (std::is_same_v<decltype(to), Tensor<float>&>) {
            to = from;
          } else {
            to = UploadAs<T>(master.state, Download(master.state, from));
          }
        },
        master.weights, weights);
    return weights;
  }
}

// The bars of the full model: of the loss (absolute), relative L2 of logits and gradients; and, of gradients,
// what rounding upstream may put into any tensor, relative to the largest tensor's gradient: in 16 bits small
// gradients that are sums of cancelling terms (gains, scales) drown in it.
struct Bars {
  double loss, logits, gradients, noise;
};

template <typename T>
void CheckFullModel(const Device& device, Bars bars) {
  const GoldenModel golden = LoadGoldenModel("model_full");
  ASSERT_EQ(CountParameters(golden.config), 32'108'596);
  const double seed = std::stod(golden.file.metadata.at("formula_seed"));
  Placed<float> master(device);
  Place<float>(golden.config, FormulaWeights(golden.config, seed), &master);
  const ModelWeights<T> weights = WeightsIn<T>(golden.config, master);
  const HostTensor<int32_t> ids = Tokens(golden.Ids("input_ids"), 1),
                            targets = Tokens(golden.Ids("target_ids"), 1);
  Tensor<float> loss = master.state.New<float>({1});
  LossAndGradient<T>(master.work, golden.config,
                     {.weights = weights,
                      .ids = Upload(master.state, ids),
                      .targets = Upload(master.state, targets),
                      .grad = master.grad,
                      .loss = loss});
  EXPECT_NEAR(Download(master.state, loss)[0], golden.Values("loss")[0], bars.loss) << device.name();
  double largest = 0;
  for (const auto& [name, tensor] : golden.tensors) {
    if (name.starts_with("grad_l2.")) largest = std::max<double>(largest, tensor->values[0]);
  }
  for (const NamedTensor& gradient : ExportWeights<float>(master.state, golden.config, master.grad)) {
    double sum = 0;
    for (float value : gradient.values) sum += static_cast<double>(value) * value;
    const double norm = golden.Values("grad_l2." + gradient.name)[0];
    EXPECT_NEAR(std::sqrt(sum), norm, bars.gradients * norm + bars.noise * largest)
        << gradient.name << " on " << device.name();
    const std::vector<float>& samples = golden.Values("grad_every." + gradient.name);
    const size_t stride = std::max<size_t>(1, gradient.values.size() / 16);
    for (size_t i = 0; i < samples.size(); ++i) {
      // Samples against the root mean square of the tensor: single elements may be near zero.
      const double scale = norm / std::sqrt(static_cast<double>(gradient.values.size()));
      EXPECT_NEAR(gradient.values[i * stride], samples[i],
                  10 * bars.gradients * (scale + std::abs(samples[i])) + bars.noise * largest)
          << gradient.name << " element " << i * stride << " on " << device.name();
    }
  }
  ModelSaved<T> saved;
  const Tensor<T> hidden =
      HiddenForward<T>(master.work, golden.config, weights, Upload(master.state, ids), &saved);
  const HostTensor<float> raw = DownloadAs<float>(
      master.work, Logits<T>(master.work, golden.config, weights, hidden.Slice(ids.size() - 8, 8)));
  std::vector<float> capped;
  for (float logit : raw.values) capped.push_back(30.0f * std::tanh(logit / 30.0f));
  EXPECT_LE(RelativeDistance(capped, golden.Values("logits_last8")), bars.logits) << device.name();
}

TEST(LanguageModelTest, TheFullSizeModelIsTheReferences) {
  for (const Device& device : TestDevices()) CheckFullModel<float>(device, {2e-5, 5e-4, 5e-4, 0});
}

TEST(LanguageModelTest, InBf16TheFullSizeModelStaysWithinItsRounding) {
  if (TestGpus().empty()) GTEST_SKIP() << "no GPU";
  for (const Device& device : TestGpus()) CheckFullModel<Bf16>(device, {2e-3, 3e-2, 6e-2, 2e-5});
}

// The gradients of these sequences, of the mean of their losses, in one batch or one after the other.
template <typename T>
std::vector<NamedTensor> GradientsOf(const Device& device, const ModelConfig& config, int64_t batch,
                                     int64_t time, int64_t at_once, bool fp8 = false) {
  Placed<float> placed(device);
  Place<float>(config, FormulaWeights(config, 3), &placed);
  const ModelWeights<T> weights = WeightsIn<T>(config, placed);
  const Tensor<int32_t> ids = Upload(placed.state, RandomIds({batch, time}, 1, 0, config.vocab)),
                        targets = Upload(placed.state, RandomIds({batch, time}, 2, 0, config.vocab));
  const Tensor<float> loss = placed.state.New<float>({1});
  for (int64_t first = 0; first < batch; first += at_once) {
    LossAndGradient<T>(placed.work, config,
                       {.weights = weights,
                        .ids = ids.Slice(first, at_once),
                        .targets = targets.Slice(first, at_once),
                        .loss_scale = static_cast<float>(at_once) / static_cast<float>(batch),
                        .grad = placed.grad,
                        .loss = loss,
                        .fp8 = fp8});
  }
  return ExportWeights<float>(placed.state, config, placed.grad);
}

double Size(const std::vector<float>& values) {
  return RelativeDistance(values, std::vector<float>(values.size()));
}

// Products of 8-bit numbers, in as many rows as their kernels take: what each gradient is off by is their rounding,
// an eighth of a number or a sixteenth, in sums of many.
TEST(LanguageModelTest, Fp8ChangesGradientsByItsRounding) {
  ModelConfig config;
  config.layers = "MAMA";
  for (const Device& gpu : TestGpus()) {
    ASSERT_EQ(Fp8Serves<Bf16>(gpu, config), gpu.compute_capability() == 90);
    EXPECT_FALSE(Fp8Serves<float>(gpu, config));
    const std::vector<NamedTensor> whole = GradientsOf<Bf16>(gpu, config, 4, 2048, 4),
                                   rounded = GradientsOf<Bf16>(gpu, config, 4, 2048, 4, true);
    double largest = 0, farthest = 0;
    for (const NamedTensor& gradient : whole) largest = std::max(largest, Size(gradient.values));
    for (size_t i = 0; i < whole.size(); ++i) {
      if (Size(whole[i].values) < 1e-3 * largest) continue;
      const double distance = RelativeDistance(rounded[i].values, whole[i].values);
      EXPECT_LE(distance, 0.35) << whole[i].name << " on " << gpu.name();
      farthest = std::max(farthest, distance);
    }
    EXPECT_EQ(farthest > 1e-3, Fp8Serves<Bf16>(gpu, config));
  }
}

// On a GPU two sequences have so many rows that steps of the residual stream go into products, one has not. Bars
// relative to the gradient, but for `noise` of the largest one (see Bars).
template <typename T>
void CheckBatchIsTheMeanOfItsSequences(const Device& device, int64_t time, double bar, double noise) {
  ModelConfig config;
  config.layers = "MAMAAA";
  config.vocab = 64;
  config.mlp_width = 512;
  config.state = 8;
  config.bigram_rows = 64;
  ASSERT_THAT(config.Validate(), IsOk());
  const std::vector<NamedTensor> together = GradientsOf<T>(device, config, 2, time, 2),
                                 apart = GradientsOf<T>(device, config, 2, time, 1);
  double largest = 0;
  for (const NamedTensor& gradient : apart) largest = std::max(largest, Size(gradient.values));
  for (size_t i = 0; i < apart.size(); ++i) {
    std::vector<float> difference = together[i].values;
    for (size_t j = 0; j < difference.size(); ++j) difference[j] -= apart[i].values[j];
    EXPECT_LE(Size(difference), bar * Size(apart[i].values) + noise * largest)
        << apart[i].name << " on " << device.name();
  }
}

TEST(LanguageModelTest, TheGradientOfABatchIsTheMeanOfItsSequences) {
  for (const Device& device : TestDevices()) {
    CheckBatchIsTheMeanOfItsSequences<float>(device, 8, 1e-4, 1e-5);
  }
  for (const Device& gpu : TestGpus()) CheckBatchIsTheMeanOfItsSequences<Bf16>(gpu, 4096, 0.1, 1e-3);
}

TEST(LanguageModelTest, TheDefaultHasThePublishedNumberOfParameters) {
  EXPECT_EQ(CountParameters(ModelConfig()), 31'780'916);
}

struct Draw {
  ModelConfig config;
  HostTensor<int32_t> ids, targets;
  uint64_t seed = 0;
};

Draw AnyDraw() {
  Draw draw;
  draw.config = DrawnConfig();
  draw.seed = *rc::gen::arbitrary<uint64_t>();
  const int64_t batch = *rc::gen::inRange(1, 3), time = *rc::gen::inRange(2, 9);
  draw.ids = RandomIds({batch, time}, draw.seed, 0, draw.config.vocab);
  draw.targets = RandomIds({batch, time}, draw.seed + 1, 0, draw.config.vocab);
  return draw;
}

double TotalLoss(const Draw& draw, Placed<double>& placed) {
  Tensor<double> loss = placed.state.New<double>({1}), total = placed.state.New<double>({1});
  ModelWeights<double> ignored = NewWeights<double>(placed.state, draw.config);
  LossAndGradient<double>(placed.work, draw.config,
                          {.weights = placed.weights,
                           .ids = Upload(placed.state, draw.ids),
                           .targets = Upload(placed.state, draw.targets),
                           .grad = ignored,
                           .loss = loss,
                           .total_loss = total});
  return total[0];
}

RC_GTEST_PROP(LanguageModelTest, BackwardIsTheGradientOfForward, ()) {
  const Draw draw = AnyDraw();
  Placed<double> placed(Device::Cpu());
  Place<double>(draw.config, FormulaWeights(draw.config, static_cast<double>(draw.seed % 100)), &placed);
  std::vector<NamedTensor> gradients;
  LossAndGradients<double>(draw.config, placed, draw.ids, draw.targets, &gradients);
  // Every weight moves along a direction of its own at once; and the gate that token gating hides from the
  // gradient must hold still, as must what no gradient reaches.
  // Small, for the squared leaky ReLU has a second derivative that jumps: a step across zero errs in its
  // proportion.
  const double step = 1e-6;
  double predicted = 0;
  std::map<std::string, std::vector<double>> directions;
  ForEachWeight(
      draw.config,
      [&](const WeightInfo& info, Tensor<double>& weight, Tensor<double>& gradient) {
        std::vector<double>& direction = directions[info.name];
        for (int64_t i = 0; i < weight.size(); ++i) {
          direction.push_back(RandomNormal(draw.seed, StreamOf(info.name), static_cast<uint64_t>(i)));
          predicted += direction.back() * gradient[i];
        }
      },
      placed.weights, placed.grad);
  if (draw.config.token_gate && draw.config.layers.find('A') != std::string::npos)
    return;  // see the next test
  const auto moved = [&](double by) {
    const auto shift = [&](double sign) {
      ForEachWeight(
          draw.config,
          [&](const WeightInfo& info, Tensor<double>& weight) {
            for (int64_t i = 0; i < weight.size(); ++i) {
              weight[i] += sign * by * directions[info.name][static_cast<size_t>(i)];
            }
          },
          placed.weights);
    };
    shift(1);
    const double loss = TotalLoss(draw, placed);
    shift(-1);
    return loss;
  };
  const double measured =
      (8 * (moved(step) - moved(-step)) - (moved(2 * step) - moved(-2 * step))) / (12 * step);
  RC_ASSERT(std::abs(predicted) > 1e-12);
  RC_ASSERT(std::abs(measured - predicted) <= 1e-6 * std::max(1.0, std::abs(predicted)));
}

// The weights of a looped model as those of a model that has a layer of its own for every visit.
template <typename T>
ModelWeights<T> Unrolled(const ModelConfig& looped, const ModelWeights<T>& weights) {
  ModelWeights<T> unrolled = weights;
  unrolled.blocks.clear();
  for (int64_t visit = 0; visit < looped.visit_count(); ++visit) {
    unrolled.blocks.push_back(weights.blocks[static_cast<size_t>(looped.layer_of(visit))]);
  }
  return unrolled;
}

RC_GTEST_PROP(LanguageModelTest, ALoopedModelIsOneWhoseLayersShareWeights, ()) {
  Draw draw = AnyDraw();
  ModelConfig& looped = draw.config;
  // These go by the number of a layer, which unrolling changes.
  looped.layer_norm_scale = false;
  looped.value_embedding_layers = 0;
  looped.value_residual = false;
  looped.xsa_layers = *rc::gen::element<int64_t>(0, 256);
  looped.parallel_layers = *rc::gen::element<int64_t>(0, 256);
  ModelConfig unrolled = looped;
  unrolled.loop_passes = 1;
  unrolled.layers.clear();
  for (int64_t visit = 0; visit < looped.visit_count(); ++visit) {
    unrolled.layers += looped.layers[static_cast<size_t>(looped.layer_of(visit))];
  }
  Placed<double> placed(Device::Cpu());
  Place<double>(looped, FormulaWeights(looped, 3), &placed);
  const ModelWeights<double> expected_grad = NewWeights<double>(placed.state, looped);
  ModelWeights<double> unrolled_grad = Unrolled(looped, expected_grad);
  const auto loss_of = [&](const ModelConfig& config, const ModelWeights<double>& weights,
                           ModelWeights<double>& grad) {
    Tensor<double> loss = placed.state.New<double>({1});
    LossAndGradient<double>(placed.work, config,
                            {.weights = weights,
                             .ids = Upload(placed.state, draw.ids),
                             .targets = Upload(placed.state, draw.targets),
                             .grad = grad,
                             .loss = loss});
    return loss[0];
  };
  RC_ASSERT(loss_of(looped, placed.weights, placed.grad) ==
            loss_of(unrolled, Unrolled(looped, placed.weights), unrolled_grad));
  ForEachWeight(
      looped,
      [&](const WeightInfo&, Tensor<double>& got, const Tensor<double>& expected) {
        for (int64_t i = 0; i < got.size(); ++i) RC_ASSERT(got[i] == expected[i]);
      },
      placed.grad, expected_grad);
}

TEST(LanguageModelTest, VisitsGoThroughTheLoopAsOftenAsAsked) {
  ModelConfig config = {.layers = "MAAAM", .loop_first = 1, .loop_last = 2, .loop_passes = 3};
  std::string visits;
  for (int64_t visit = 0; visit < config.visit_count(); ++visit)
    visits += std::to_string(config.layer_of(visit));
  EXPECT_EQ(visits, "012121234");
  EXPECT_EQ(config.skip_count(), 4);
  EXPECT_EQ(config.WithoutLoops().visit_count(), 5);
}

TEST(LanguageModelTest, AResidualStreamThatASkipJoinsBeginsWithItsOwnWeight) {
  const ModelConfig config = {
      .layers = "MAA", .dim = 8, .heads = 2, .kv_heads = 2, .rope_dims = 2, .skip_mix_init = 0.5};
  for (const NamedTensor& tensor : InitialWeights(config, 1)) {
    if (!tensor.name.ends_with("resid_mix")) continue;
    EXPECT_EQ(tensor.values[0], tensor.name == "blocks.1.resid_mix" ? 0.5f : 1.0f) << tensor.name;
    EXPECT_EQ(tensor.values[8], 0.0f) << tensor.name;
  }
}

// Losses of every token, [batch * time].
std::vector<double> Losses(const Draw& draw, const HostTensor<int32_t>& ids) {
  Placed<double> placed(Device::Cpu());
  Place<double>(draw.config, FormulaWeights(draw.config, 3), &placed);
  return Download(placed.work,
                  TokenLosses<double>(placed.work, draw.config, placed.weights, Upload(placed.state, ids),
                                      Upload(placed.state, draw.targets)))
      .values;
}

RC_GTEST_PROP(LanguageModelTest, ATokenNeverChangesWhatComesBeforeIt, ()) {
  const Draw draw = AnyDraw();
  const int64_t time = draw.ids.shape[1], at = *rc::gen::inRange<int64_t>(0, draw.ids.size());
  HostTensor<int32_t> changed = draw.ids;
  changed[at] = static_cast<int32_t>((changed[at] + 1) % draw.config.vocab);
  const std::vector<double> before = Losses(draw, draw.ids), after = Losses(draw, changed);
  for (int64_t i = 0; i < draw.ids.size(); ++i) {
    const bool other_row = i / time != at / time;
    if (other_row || i < at) RC_ASSERT(before[static_cast<size_t>(i)] == after[static_cast<size_t>(i)]);
  }
}

RC_GTEST_PROP(LanguageModelTest, KeepingNothingForBackwardChangesNoLoss, ()) {
  const Draw draw = AnyDraw();
  Placed<double> placed(Device::Cpu());
  Place<double>(draw.config, FormulaWeights(draw.config, 3), &placed);
  double sum = 0;
  for (double loss : Losses(draw, draw.ids)) sum += loss;
  Tensor<double> loss = placed.state.New<double>({1});
  LossAndGradient<double>(placed.work, draw.config,
                          {.weights = placed.weights,
                           .ids = Upload(placed.state, draw.ids),
                           .targets = Upload(placed.state, draw.targets),
                           .grad = placed.grad,
                           .loss = loss});
  RC_ASSERT(std::abs(sum / static_cast<double>(draw.ids.size()) - loss[0]) <=
            1e-12 * std::max(1.0, std::abs(sum)));
}

// Hidden states of a sequence read in chunks: [ids, dim]. `windows` tells how attention reads what follows.
template <typename Windows>
std::vector<double> HiddenInChunks(const ModelConfig& config, const HostTensor<int32_t>& ids,
                                   int64_t capacity, const Windows& windows) {
  Placed<double> placed(Device::Cpu());
  Place<double>(config, FormulaWeights(config, 3), &placed);
  SequenceState<double> state = NewSequenceState<double>(placed.state, config, capacity);
  const Tensor<int32_t> all = Upload(placed.state, ids).Reshaped({ids.size()});
  std::vector<double> hidden;
  for (int64_t read = 0; read < ids.size(); read += state.windows.tokens()) {
    placed.work.Reset();
    state.windows = windows(read);
    if (state.windows.rope_length == 0) state.windows.rope_length = ids.size();
    const int64_t count = state.windows.tokens();
    ModelSaved<double> saved;
    const std::vector<double> chunk =
        Download(placed.work, HiddenForward<double>(placed.work, config, placed.weights,
                                                    all.Slice(read, count).Reshaped({1, count}), &saved,
                                                    {.keep = false, .sequence = &state}))
            .values;
    hidden.insert(hidden.end(), chunk.begin(), chunk.end());
  }
  return hidden;
}

double LargestDifference(const std::vector<double>& a, const std::vector<double>& b) {
  RC_ASSERT(a.size() == b.size());
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

RC_GTEST_PROP(LanguageModelTest, ASequenceReadInChunksThatLookBackToItsBeginIsThatReadAtOnce, ()) {
  const ModelConfig config = DrawnConfig();
  const int64_t time = *rc::gen::inRange<int64_t>(2, 24);
  const HostTensor<int32_t> ids = RandomIds({1, time}, *rc::gen::arbitrary<uint64_t>(), 0, config.vocab);
  const std::vector<double> chunks = HiddenInChunks(config, ids, time, [&](int64_t read) {
    return AttentionWindows{.context = read, .fresh = *rc::gen::inRange<int64_t>(1, time - read + 1)};
  });
  Placed<double> placed(Device::Cpu());
  Place<double>(config, FormulaWeights(config, 3), &placed);
  ModelSaved<double> saved;
  const std::vector<double> whole =
      Download(placed.work,
               HiddenForward<double>(placed.work, config, placed.weights, Upload(placed.state, ids), &saved))
          .values;
  RC_ASSERT(LargestDifference(chunks, whole) <= 1e-11);
}

// The same of a sequence read a token at a time; twice, the state forgetting in between.
std::vector<double> HiddenInSteps(const ModelConfig& config, const HostTensor<int32_t>& ids, int64_t window) {
  Placed<double> placed(Device::Cpu());
  Place<double>(config, FormulaWeights(config, 3), &placed);
  SequenceState<double> state = NewStepState<double>(placed.state, config, window);
  const Tensor<int32_t> all = Upload(placed.state, ids).Reshaped({ids.size()});
  std::vector<double> hidden;
  for (int repeat = 0; repeat < 2; ++repeat) {
    hidden.clear();
    state.Forget();
    for (int64_t t = 0; t < ids.size(); ++t) {
      placed.work.Reset();
      ModelSaved<double> saved;
      const Tensor<double> row =
          HiddenForward<double>(placed.work, config, placed.weights, all.Slice(t, 1).Reshaped({1, 1}), &saved,
                                {.keep = false, .sequence = &state});
      hidden.insert(hidden.end(), row.begin(), row.end());
    }
  }
  return hidden;
}

RC_GTEST_PROP(LanguageModelTest, StepsAreTheSequenceReadAtOnceWithinAWindowAndChunksOfOneTokenPastIt, ()) {
  const ModelConfig config = DrawnConfig();
  const int64_t window = *rc::gen::inRange<int64_t>(1, 12), time = *rc::gen::inRange<int64_t>(1, 24);
  const HostTensor<int32_t> ids = RandomIds({1, time}, *rc::gen::arbitrary<uint64_t>(), 0, config.vocab);
  const std::vector<double> chunks = HiddenInChunks(config, ids, window, [&](int64_t read) {
    return AttentionWindows{
        .context = std::min(read, window - 1), .fresh = 1, .count = 1, .rope_length = window};
  });
  RC_ASSERT(LargestDifference(HiddenInSteps(config, ids, window), chunks) <= 1e-11);
  const std::vector<double> whole = HiddenInChunks(config, ids, time, [&](int64_t) {
    return AttentionWindows{.context = 0, .fresh = time, .count = 1, .rope_length = time + window};
  });
  RC_ASSERT(LargestDifference(HiddenInSteps(config, ids, time + window), whole) <= 1e-11);
}

RC_GTEST_PROP(LanguageModelTest, WindowsOfOneChunkAreChunksOfOneWindow, ()) {
  const ModelConfig config = DrawnConfig();
  const int64_t fresh = *rc::gen::inRange<int64_t>(1, 5), context = *rc::gen::inRange<int64_t>(0, 7);
  const int64_t count = *rc::gen::inRange<int64_t>(2, 5), first = context + *rc::gen::inRange<int64_t>(1, 4);
  const HostTensor<int32_t> ids =
      RandomIds({1, first + count * fresh}, *rc::gen::arbitrary<uint64_t>(), 0, config.vocab);
  const auto read_by = [&](int64_t at_once) {
    return HiddenInChunks(config, ids, first, [&](int64_t read) {
      if (read == 0) return AttentionWindows{.context = 0, .fresh = first};
      return AttentionWindows{.context = context, .fresh = fresh, .count = at_once};
    });
  };
  RC_ASSERT(LargestDifference(read_by(count), read_by(1)) <= 1e-11);
}

RC_GTEST_PROP(LanguageModelTest, WhatASequenceReadsLaterChangesNothingBefore, ()) {
  const ModelConfig config = DrawnConfig();
  const int64_t fresh = *rc::gen::inRange<int64_t>(1, 5), context = *rc::gen::inRange<int64_t>(0, 7);
  const int64_t count = *rc::gen::inRange<int64_t>(1, 5), first = context + 1;
  HostTensor<int32_t> ids =
      RandomIds({1, first + 2 * count * fresh}, *rc::gen::arbitrary<uint64_t>(), 0, config.vocab);
  const int64_t at = *rc::gen::inRange<int64_t>(0, ids.size());
  const auto read = [&] {
    return HiddenInChunks(config, ids, first, [&](int64_t read) {
      if (read == 0) return AttentionWindows{.context = 0, .fresh = first};
      return AttentionWindows{.context = context, .fresh = fresh, .count = count};
    });
  };
  const std::vector<double> before = read();
  ids[at] = static_cast<int32_t>((ids[at] + 1) % config.vocab);
  const std::vector<double> after = read();
  RC_ASSERT(std::equal(before.begin(), before.begin() + at * config.dim, after.begin()));
}

RC_GTEST_PROP(LanguageModelTest, AStateThatHasForgottenIsANewOne, ()) {
  const ModelConfig config = DrawnConfig();
  const int64_t time = *rc::gen::inRange<int64_t>(1, 9);
  const HostTensor<int32_t> ids = RandomIds({1, time}, *rc::gen::arbitrary<uint64_t>(), 0, config.vocab);
  Placed<double> placed(Device::Cpu());
  Place<double>(config, FormulaWeights(config, 3), &placed);
  SequenceState<double> state = NewSequenceState<double>(placed.state, config, time);
  state.windows = {.context = 0, .fresh = time, .rope_length = time};
  const auto read = [&] {
    ModelSaved<double> saved;
    return Download(placed.work,
                    HiddenForward<double>(placed.work, config, placed.weights, Upload(placed.state, ids),
                                          &saved, {.keep = false, .sequence = &state}))
        .values;
  };
  const std::vector<double> first = read();
  read();
  state.Forget();
  RC_ASSERT(read() == first);
}

class OpList : public OpObserver {
 public:
  void Begin(const OpCall& call) override { calls.push_back(call); }
  void End() override {}

  std::vector<OpCall> calls;
};

// The ops that a forward and backward pass asks for on the arena's device.
std::vector<OpCall> OpsOfAPass(Arena& arena, const ModelConfig& config, Shape shape) {
  ModelWeights<float> weights = NewWeights<float>(arena, config), grad = NewWeights<float>(arena, config);
  const Tensor<int32_t> ids = arena.NewZero<int32_t>(shape);
  const Tensor<float> loss = arena.New<float>({1});
  OpList list;
  const ObservedOps observed(&list);
  LossAndGradient<float>(arena, config,
                         {.weights = weights, .ids = ids, .targets = ids, .grad = grad, .loss = loss});
  return list.calls;
}

// Numbers of matrices that every row is multiplied by, as often as it is.
int64_t MultipliedNumbers(const ModelConfig& config, int64_t time) {
  std::vector<int64_t> visits(static_cast<size_t>(config.layer_count()), 0);
  for (int64_t visit = 0; visit < config.visit_count(); ++visit) {
    ++visits[static_cast<size_t>(config.layer_of(visit))];
  }
  int64_t numbers = 0;
  ModelWeights<float> none;
  ResizeWeights(config, &none);
  ForEachWeight(
      config,
      [&](const WeightInfo& info, const auto&) {
        const int64_t size = info.shape.size();
        const bool is_head = info.name == "tok_emb.weight" && config.tied_embeddings;
        if (info.kind == WeightKind::kEmbedding ? !is_head : info.kind == WeightKind::kControl) return;
        if (absl::StartsWith(info.name, "mtp_heads.")) return;
        numbers += size * (info.layer < 0 ? 1 : visits[static_cast<size_t>(info.layer)]);
      },
      none);
  return numbers + std::min(config.mtp_heads, time - 1) * config.vocab * config.dim;
}

// So whoever observes a pass, planned or computed, knows all that it does: each matrix is multiplied once
// forward and twice backward, and no op hides its operands.
RC_GTEST_PROP(LanguageModelTest, OpsTellWhatAPassMultipliesAndMoves, ()) {
  const ModelConfig config = DrawnConfig();
  const Shape shape = {*rc::gen::inRange<int64_t>(1, 3), *rc::gen::inRange<int64_t>(1, 6)};
  Arena cpu = Arena::Cpu(), plan = Arena::Plan(Device::Cpu());
  const std::vector<OpCall> computed = OpsOfAPass(cpu, config, shape);
  const std::vector<OpCall> planned = OpsOfAPass(plan, config, shape);
  RC_ASSERT(computed.size() == planned.size());
  double operations = 0;
  for (size_t i = 0; i < computed.size(); ++i) {
    const OpCall& call = computed[i];
    RC_LOG() << call.work.op << "\n";
    RC_ASSERT(std::string(call.work.op) == planned[i].work.op);
    RC_ASSERT(call.bytes() > 0);
    RC_ASSERT(call.bytes() == planned[i].bytes());
    if (call.work.kind == OpKind::kMatrixProduct) operations += call.work.operations;
  }
  const int64_t expected = 6 * shape.size() * MultipliedNumbers(config, shape[1]);
  RC_ASSERT(operations == static_cast<double>(expected));
}

RC_GTEST_PROP(LanguageModelTest, LogProbabilitiesAreOfEveryRowAndHoldItsLoss, ()) {
  const Draw draw = AnyDraw();
  Placed<double> placed(Device::Cpu());
  Place<double>(draw.config, FormulaWeights(draw.config, 3), &placed);
  ModelSaved<double> saved;
  const Tensor<double> hidden = HiddenForward<double>(
      placed.work, draw.config, placed.weights, Upload(placed.state, draw.ids), &saved, {.keep = false});
  const HostTensor<double> log_probs =
      Download(placed.work, LogProbabilities<double>(placed.work, draw.config, placed.weights, hidden));
  const int64_t vocab = draw.config.vocab;
  RC_ASSERT(log_probs.shape == (Shape{draw.ids.size(), vocab}));
  const std::vector<double> losses = Losses(draw, draw.ids);
  for (int64_t row = 0; row < draw.ids.size(); ++row) {
    RC_ASSERT(std::abs(log_probs[row * vocab + draw.targets[row]] + losses[static_cast<size_t>(row)]) < 1e-9);
  }
}

RC_GTEST_PROP(LanguageModelTest, WeightsComeBackFromTheirExport, ()) {
  const ModelConfig config = DrawnConfig();
  const uint64_t seed = *rc::gen::arbitrary<uint64_t>();
  const std::vector<NamedTensor> initial = InitialWeights(config, seed);
  Placed<float> placed(Device::Cpu());
  Place<float>(config, initial, &placed);
  const std::vector<NamedTensor> exported = ExportWeights<float>(placed.state, config, placed.weights);
  RC_ASSERT(exported.size() == initial.size());
  for (size_t i = 0; i < exported.size(); ++i) {
    RC_ASSERT(exported[i].name == initial[i].name);
    RC_ASSERT(exported[i].shape == initial[i].shape);
    RC_ASSERT(exported[i].values == initial[i].values);
  }
}

TEST(LanguageModelTest, AnImportThatDoesNotFitNamesTheTensor) {
  const ModelConfig config;
  std::vector<NamedTensor> tensors = FormulaWeights({.layers = "MA",
                                                     .vocab = 4,
                                                     .dim = 8,
                                                     .heads = 2,
                                                     .kv_heads = 1,
                                                     .mlp_width = 4,
                                                     .rope_dims = 2,
                                                     .bigram_rows = 3,
                                                     .bigram_dim = 2,
                                                     .value_embedding_dim = 2},
                                                    1);
  Placed<float> placed(Device::Cpu());
  placed.weights = NewWeights<float>(placed.state, config);
  EXPECT_THAT(ImportWeights<float>(placed.state, config, tensors, &placed.weights),
              StatusIs(absl::StatusCode::kInvalidArgument, "skip_weights"));
  tensors.erase(tensors.begin());
  EXPECT_THAT(ImportWeights<float>(placed.state, config, tensors, &placed.weights),
              StatusIs(absl::StatusCode::kNotFound, "skip_weights"));
}

TEST(LanguageModelTest, AnImpossibleConfigurationIsRefusedByItsField) {
  const auto refused = [](const ModelConfig& config, const char* field) {
    EXPECT_THAT(config.Validate(), StatusIs(absl::StatusCode::kInvalidArgument, field));
  };
  refused({.layers = ""}, "layers");
  refused({.layers = "MAX"}, "layers");
  refused({.dim = 500}, "heads=8");
  refused({.kv_heads = 3}, "kv_heads=3");
  refused({.state = 0}, "state=0");
  refused({.state = 65}, "state=65");
  refused({.conv_width = 5}, "conv_width=5");
  refused({.rope_dims = 15}, "rope_dims=15");
  refused({.bigram_rows = 1}, "bigram_rows=1");
  refused({.vocab = 65537}, "vocab=65537");
  refused({.loop_first = 4, .loop_last = 3}, "loop_last=3");
  refused({.loop_last = 11}, "loop_last=11");
  refused({.loop_passes = 9}, "loop_passes=9");
  refused({.rope_length = 0}, "rope_length=0");
  EXPECT_THAT(ModelConfig().Validate(), IsOk());
}

}  // namespace
}  // namespace hm11
