// Generation: a decoder's words against forward passes over the whole text, draws against their distribution,
// and text that comes in parts against the text of all tokens.
#include "eval/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/fields.h"
#include "core/file.h"
#include "core/random.h"
#include "data/tokenizer.h"
#include "eval/decoder.h"
#include "eval/run_data.h"
#include "eval/run_files.h"
#include "eval/sampler.h"
#include "eval/streamed_text.h"
#include "model/drawn_test_config.h"
#include "model/golden_model.h"
#include "model/language_model.h"
#include "testing/devices.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

// Weights by formula, in a type.
template <typename W>
struct Weights {
  Weights(const Device& device, const ModelConfig& config) : arena(TestArena(device)) {
    ModelWeights<float> master = NewWeights<float>(arena, config);
    const absl::Status status = ImportWeights<float>(arena, config, FormulaWeights(config, 3), &master);
    HM_CHECK(status.ok());
    ResizeWeights(config, &weights);
    ForEachWeight(
        config,
        [&](const WeightInfo&, Tensor<float>& from, auto& to) {
          to = UploadAs<std::remove_reference_t<decltype(to[0])>>(arena, Download(arena, from));
        },
        master, weights);
  }
  Arena arena;
  ModelWeights<W> weights;
};

// Log-probabilities of what follows the last of `tokens`, by a pass over all of them with the RoPE base of
// sequences of `window`.
template <typename T>
std::vector<Accum<T>> ByForwardPass(const Device& device, const ModelConfig& config,
                                    const ModelWeights<T>& weights, const std::vector<uint16_t>& tokens,
                                    int64_t window) {
  Arena arena = TestArena(device);
  const int64_t time = static_cast<int64_t>(tokens.size());
  SequenceState<T> state = NewSequenceState<T>(arena, config, time);
  state.windows = {.context = 0, .fresh = time, .count = 1, .rope_length = window};
  const HostTensor<int32_t> ids = {{1, time}, {tokens.begin(), tokens.end()}};
  ModelSaved<T> saved;
  const Tensor<T> hidden = HiddenForward<T>(arena, config, weights, Upload(arena, ids), &saved,
                                            {.keep = false, .sequence = &state});
  return Download(arena, LogProbabilities<T>(arena, config, weights, hidden.Slice(time - 1, 1))).values;
}

template <typename A>
uint16_t Likeliest(const std::vector<A>& log_probs) {
  return static_cast<uint16_t>(std::max_element(log_probs.begin(), log_probs.end()) - log_probs.begin());
}

std::vector<uint16_t> AnyPrompt(const ModelConfig& config) {
  std::vector<uint16_t> prompt = *rc::gen::container<std::vector<uint16_t>>(
      rc::gen::inRange<uint16_t>(0, static_cast<uint16_t>(config.vocab)));
  if (prompt.empty()) prompt.push_back(1);
  if (prompt.size() > 8) prompt.resize(8);
  return prompt;
}

template <typename T, typename W>
std::vector<uint16_t> Continued(Decoder<T, W>& decoder, std::vector<uint16_t> prompt,
                                const GenerateOptions& options) {
  std::vector<uint16_t> drawn;
  decoder.Forget();
  const int64_t count = Generate(decoder, prompt, options, [&](uint16_t token) {
    drawn.push_back(token);
    return true;
  });
  HM_CHECK_EQ(count, static_cast<int64_t>(drawn.size()));
  return drawn;
}

RC_GTEST_PROP(GenerateTest, GreedyTextIsWhatForwardPassesOverAllOfItFindLikeliest, ()) {
  const ModelConfig config = DrawnConfig(5);
  const int64_t window = 8 + 12;
  const Weights<double> weights(Device::Cpu(), config);
  Decoder<double> decoder(Device::Cpu(), config, weights.weights, window);
  std::vector<uint16_t> tokens = AnyPrompt(config);
  const std::vector<uint16_t> drawn =
      Continued(decoder, tokens, {.tokens = 12, .sampler = {.temperature = 0}});
  RC_ASSERT(drawn.size() == size_t{12});
  for (const uint16_t token : drawn) {
    const std::vector<double> log_probs =
        ByForwardPass<double>(Device::Cpu(), config, weights.weights, tokens, window);
    RC_ASSERT(token == Likeliest(log_probs));
    tokens.push_back(token);
  }
}

RC_GTEST_PROP(GenerateTest, TheSameSeedWritesTheSameTextAndWhatWasReadBeforeIsForgotten, ()) {
  const ModelConfig config = DrawnConfig(5);
  const GenerateOptions options = {.tokens = 20, .sampler = {.seed = *rc::gen::arbitrary<uint64_t>()}};
  const std::vector<uint16_t> prompt = AnyPrompt(config);
  for (const Device& device : TestDevices()) {
    const auto check = [&](auto& decoder) {
      const std::vector<uint16_t> first = Continued(decoder, prompt, options);
      Continued(decoder, {2, 3, 4}, options);
      RC_ASSERT(Continued(decoder, prompt, options) == first);
    };
    if (device.is_cpu()) {
      const Weights<float> weights(device, config);
      Decoder<float> decoder(device, config, weights.weights, 5);
      check(decoder);
    } else {
      const Weights<Bf16> weights(device, config);
      Decoder<Bf16> decoder(device, config, weights.weights, 5);
      check(decoder);
    }
  }
}

// The largest distance of log-probabilities, over the tokens, from those of forward passes.
template <typename T, typename W>
double LargestDistance(const Device& device, const ModelConfig& config, const ModelWeights<W>& stepped,
                       const ModelWeights<T>& passed, const std::vector<uint16_t>& tokens) {
  const int64_t window = static_cast<int64_t>(tokens.size());
  Decoder<T, W> decoder(device, config, stepped, window);
  double largest = 0;
  for (size_t t = 0; t < tokens.size(); ++t) {
    const std::span<const float> step = decoder.Next(tokens[t]);
    const std::vector<float> pass = ByForwardPass<T>(
        device, config, passed, {tokens.begin(), tokens.begin() + static_cast<int64_t>(t) + 1}, window);
    for (size_t v = 0; v < pass.size(); ++v) {
      largest = std::max<double>(largest, std::abs(step[v] - pass[v]));
    }
  }
  return largest;
}

RC_GTEST_PROP(GenerateTest, StepsWithWeightsOf16BitsArePassesWithThoseWeights, ()) {
  const ModelConfig config = DrawnConfig(5);
  std::vector<uint16_t> tokens;
  for (uint64_t i = 0; i < 12; ++i) {
    tokens.push_back(static_cast<uint16_t>(RandomIndex(5, 1, i, config.vocab)));
  }
  const Weights<Fp16> halves(Device::Cpu(), config);
  Weights<float> floats(Device::Cpu(), config);
  ForEachWeight(
      config,
      [&](const WeightInfo&, const auto& from, Tensor<float>& to) {
        for (int64_t i = 0; i < to.size(); ++i) to[i] = static_cast<float>(from[i]);
      },
      halves.weights, floats.weights);
  RC_ASSERT((LargestDistance<float, Fp16>(Device::Cpu(), config, halves.weights, floats.weights, tokens)) <
            1e-3);
  for (const Device& gpu : TestGpus()) {
    const Weights<Bf16> weights(gpu, config);
    RC_ASSERT((LargestDistance<Bf16, Bf16>(gpu, config, weights.weights, weights.weights, tokens)) < 0.5);
  }
}

std::vector<double> AnyLogProbs(int64_t vocab, uint64_t seed) {
  std::vector<double> log_probs;
  for (int64_t v = 0; v < vocab; ++v) {
    log_probs.push_back(2 * RandomNormal(seed, 1, static_cast<uint64_t>(v)));
  }
  return log_probs;
}

RC_GTEST_PROP(SamplerTest, DrawsAreOfTheLikeliestThatTopKAndTopPLeave, ()) {
  const std::vector<double> log_probs =
      AnyLogProbs(*rc::gen::inRange<int64_t>(1, 40), *rc::gen::arbitrary<uint64_t>());
  const SamplerOptions options = {.temperature = *rc::gen::element(0.3, 1.0, 2.0),
                                  .top_p = *rc::gen::element(0.05, 0.5, 0.9, 1.0),
                                  .top_k = *rc::gen::inRange<int64_t>(0, 10),
                                  .seed = *rc::gen::arbitrary<uint64_t>()};
  Sampler sampler(options);
  for (int draw = 0; draw < 50; ++draw) {
    const auto token = static_cast<size_t>(sampler.Draw<double>(log_probs));
    std::vector<double> likelier, kept = log_probs;
    for (const double other : log_probs) {
      if (other > log_probs[token]) likelier.push_back(other);
    }
    RC_ASSERT((options.top_k == 0 || static_cast<int64_t>(likelier.size()) < options.top_k));
    std::sort(kept.rbegin(), kept.rend());
    if (options.top_k > 0 && static_cast<size_t>(options.top_k) < kept.size()) {
      kept.resize(static_cast<size_t>(options.top_k));
    }
    const auto mass = [&](const std::vector<double>& some) {
      double sum = 0;
      for (const double log_prob : some) sum += std::exp(log_prob / options.temperature);
      return sum;
    };
    RC_ASSERT((likelier.empty() || mass(likelier) < options.top_p * mass(kept) * (1 + 1e-12)));
  }
}

TEST(SamplerTest, WithoutTemperatureOrChoiceTheLikeliestIsDrawn) {
  const std::vector<float> log_probs = {-3, -1, -2, -1};
  Sampler cold({.temperature = 0}), narrow({.temperature = 5, .top_k = 1}),
      thin({.temperature = 1, .top_p = 1e-9});
  for (int draw = 0; draw < 20; ++draw) {
    EXPECT_EQ(cold.Draw<float>(log_probs), 1);
    EXPECT_EQ(narrow.Draw<float>(log_probs), 1);
    EXPECT_EQ(thin.Draw<float>(log_probs), 1);
  }
}

TEST(SamplerTest, FrequenciesAreTheProbabilities) {
  const std::vector<double> log_probs = AnyLogProbs(6, 4);
  for (const double temperature : {0.5, 1.0, 2.0}) {
    Sampler sampler({.temperature = temperature, .seed = 7});
    std::vector<double> counts(6), weights;
    double sum = 0;
    for (const double log_prob : log_probs) sum += weights.emplace_back(std::exp(log_prob / temperature));
    constexpr int kDraws = 20000;
    for (int draw = 0; draw < kDraws; ++draw) ++counts[static_cast<size_t>(sampler.Draw<double>(log_probs))];
    // Four deviations of a frequency are at most 4 sqrt(1/4 / 20000).
    for (size_t v = 0; v < 6; ++v) EXPECT_NEAR(counts[v] / kDraws, weights[v] / sum, 0.0142);
  }
}

TEST(SamplerTest, WhatTopKAndTopPLeaveKeepsItsProbabilities) {
  const std::vector<double> log_probs = {std::log(0.4), std::log(0.3), std::log(0.2), std::log(0.1)};
  const auto frequencies = [&](const SamplerOptions& options) {
    constexpr int kDraws = 20000;
    Sampler sampler(options);
    std::vector<double> counts(4);
    for (int draw = 0; draw < kDraws; ++draw)
      counts[static_cast<size_t>(sampler.Draw<double>(log_probs))] += 1.0 / kDraws;
    return counts;
  };
  const auto are_near = [](const std::vector<double>& expected) {
    return testing::Pointwise(testing::DoubleNear(0.0142), expected);  // four deviations at most
  };
  EXPECT_THAT(frequencies({.temperature = 1, .top_k = 3}), are_near({4.0 / 9, 3.0 / 9, 2.0 / 9, 0}));
  EXPECT_THAT(frequencies({.temperature = 1, .top_p = 0.8}), are_near({4.0 / 9, 3.0 / 9, 2.0 / 9, 0}));
  EXPECT_THAT(frequencies({.temperature = 1, .top_p = 0.65}), are_near({4.0 / 7, 3.0 / 7, 0, 0}));
  // Of the three that are left, two hold 7 of 9.
  EXPECT_THAT(frequencies({.temperature = 1, .top_p = 0.7, .top_k = 3}), are_near({4.0 / 7, 3.0 / 7, 0, 0}));
  // At half the temperature they weigh as their squares: 16, 9, 4, 1 of 30.
  EXPECT_THAT(frequencies({.temperature = 0.5, .top_p = 0.8}), are_near({16.0 / 25, 9.0 / 25, 0, 0}));
}

TEST(SamplerTest, WhatCannotBeIsRefusedByName) {
  using absl::StatusCode;
  EXPECT_THAT(SamplerOptions().Validate(), IsOk());
  EXPECT_THAT(SamplerOptions{.temperature = -1}.Validate(),
              StatusIs(StatusCode::kInvalidArgument, "temperature"));
  EXPECT_THAT(SamplerOptions{.temperature = std::nan("")}.Validate(),
              StatusIs(StatusCode::kInvalidArgument, "temperature"));
  EXPECT_THAT(SamplerOptions{.top_p = 0}.Validate(), StatusIs(StatusCode::kInvalidArgument, "top_p"));
  EXPECT_THAT(SamplerOptions{.top_k = -1}.Validate(), StatusIs(StatusCode::kInvalidArgument, "top_k"));
}

// With byte fallback: what its few letters cannot write is bytes.
const Tokenizer& SmallTokenizer() {
  static const Tokenizer* const tokenizer = [] {
    int documents = 0;
    absl::StatusOr<Tokenizer> trained = Tokenizer::Train(
        [&](std::string* document) {
          *document = "the cat and the dog ate the bread \xc3\xa4 and the cat sat";
          return documents++ < 20;
        },
        {.vocab = 290});
    HM_CHECK(trained.ok());
    return new Tokenizer(std::move(*trained));
  }();
  return *tokenizer;
}

bool IsWholeUtf8(const std::string& text) {
  size_t i = 0;
  while (i < text.size()) {
    const auto first = static_cast<unsigned char>(text[i]);
    const size_t length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (first >= 0x80 && first < 0xc2) return false;
    if (i + length > text.size()) return false;
    for (size_t k = 1; k < length; ++k) {
      if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return false;
    }
    i += length;
  }
  return true;
}

std::string Streamed(const std::vector<uint16_t>& tokens, const std::string& stop) {
  StreamedText text(SmallTokenizer(), stop);
  std::string joined;
  for (const uint16_t token : tokens) {
    const std::string part = text.Next(token);
    RC_ASSERT(IsWholeUtf8(part));
    joined += part;
  }
  const std::string last = text.Finish();
  RC_ASSERT(IsWholeUtf8(last));
  return joined + last;
}

// Any tokens, and often the bytes of characters.
std::vector<uint16_t> AnyTokens() {
  std::vector<uint16_t> tokens;
  const int parts = *rc::gen::inRange(0, 12);
  for (int part = 0; part < parts; ++part) {
    if (*rc::gen::arbitrary<bool>()) {
      tokens.push_back(*rc::gen::inRange<uint16_t>(0, static_cast<uint16_t>(SmallTokenizer().vocab())));
    } else {
      SmallTokenizer().Encode(*rc::gen::element<std::string>("the cat", "\xe6\x97\xa5\xe6\x9c\xac",
                                                             "\xf0\x9f\x90\x88", "\xc3\xa9t\xc3\xa9"),
                              &tokens);
      if (*rc::gen::arbitrary<bool>()) tokens.pop_back();  // Perhaps within a character.
    }
  }
  return tokens;
}

// What the tokens add to a text before them: Decode by itself drops a space that a text begins with.
std::string Continuation(const std::vector<uint16_t>& tokens) {
  std::vector<uint16_t> all;
  SmallTokenizer().Encode("t", &all);
  const std::string before = SmallTokenizer().Decode(all);
  all.insert(all.end(), tokens.begin(), tokens.end());
  return SmallTokenizer().Decode(all).substr(before.size());
}

RC_GTEST_PROP(StreamedTextTest, PartsAreWholeCharactersAndJoinToTheTextOfAllTokens, ()) {
  const std::vector<uint16_t> tokens = AnyTokens();
  RC_ASSERT(Streamed(tokens, "") == Continuation(tokens));
}

RC_GTEST_PROP(StreamedTextTest, NothingFromTheStopOnIsGiven, ()) {
  const std::vector<uint16_t> tokens = AnyTokens();
  const std::string all = Continuation(tokens);
  const std::string stop = *rc::gen::element<std::string>("cat", " the", "t", "\xe6\x9c\xac", "no such text");
  RC_ASSERT(Streamed(tokens, stop) == all.substr(0, all.find(stop)));
}

TEST(StreamedTextTest, ASpaceThatTheTextBeginsWithStays) {
  std::vector<uint16_t> tokens;
  SmallTokenizer().Encode("cat the", &tokens);
  tokens.erase(tokens.begin(), std::find_if(tokens.begin(), tokens.end(), [](uint16_t token) {
                 return SmallTokenizer().piece(token).starts_with("\xe2\x96\x81");
               }));
  EXPECT_EQ(Streamed(tokens, ""), " the");
}

TEST(RunFilesTest, WhatIsNotSaidComesFromTheRunAndWhatIsMissingIsNamed) {
  using absl::StatusCode;
  const std::string folder = testing::TempDir() + "/run_files";
  RunFiles files;
  EXPECT_THAT(FillFromRun("", &files), IsOk());
  EXPECT_EQ(files.artifact, "");
  EXPECT_THAT(FillFromRun(folder, &files), StatusIs(StatusCode::kNotFound, "holds no run"));
  ASSERT_THAT(MakeFolders(folder), IsOk());
  ASSERT_THAT(WriteFile(folder + "/config.txt", ""), IsOk());
  EXPECT_THAT(FillFromRun(folder, &files), StatusIs(StatusCode::kNotFound, "artifact.hm11"));
  ASSERT_THAT(WriteFile(folder + "/artifact.hm11", ""), IsOk());
  ASSERT_THAT(WriteFile(folder + "/tokenizer.model", ""), IsOk());
  ASSERT_THAT(WriteFile(absl::StrCat(folder, "/", kRunDataName),
                        FormatFields(RunData{.val_pattern = "/text/*_val_*.bin"})),
              IsOk());
  files = {.tokenizer = "own.model"};
  EXPECT_THAT(FillFromRun(folder, &files), IsOk());
  EXPECT_EQ(files.artifact, folder + "/artifact.hm11");
  EXPECT_EQ(files.tokenizer, "own.model");
  EXPECT_EQ(files.data, "/text/*_val_*.bin");
}

}  // namespace
}  // namespace hm11
