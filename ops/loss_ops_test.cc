// Soft-capped cross entropy: the numbered properties of its header.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "ops/cross_entropy.h"
#include "testing/generators.h"
#include "testing/gradient_check.h"
#include "testing/op_run.h"

namespace hm11 {
namespace {

struct Case {
  HostTensor<double> logits;
  HostTensor<int32_t> targets;
  double soft_cap = 30;
  double dloss = 0.5;
};

Case MakeCase(int64_t rows, int64_t vocab, uint64_t seed, double soft_cap = 30, double deviation = 4) {
  return {.logits = RandomOperand({rows, vocab}, seed, deviation),
          .targets = RandomIds({rows}, seed, 0, vocab),
          .soft_cap = soft_cap};
}

template <typename T>
Results Call(const Device& device, const Case& c) {
  OpRun<T> run(device);
  const auto cap = static_cast<Accum<T>>(c.soft_cap);
  const Tensor<const T> logits = run.In(c.logits);
  const Tensor<const int32_t> targets = run.InIds(c.targets);
  const Shape rows = c.targets.shape;
  CrossEntropyForward<T>(
      run.arena(),
      {.logits = logits, .targets = targets, .soft_cap = cap, .losses = run.OutAccum("losses", rows)});
  SoftCapLogSoftmax<T>(run.arena(), logits, cap, run.OutAccum("log_probs", c.logits.shape));
  CrossEntropyGradient<T>(run.arena(), {.logits = run.InOut("dlogits", c.logits),
                                        .targets = targets,
                                        .soft_cap = cap,
                                        .dloss = static_cast<Accum<T>>(c.dloss),
                                        .losses = run.OutAccum("losses of gradient", rows)});
  return run.Finish();
}

constexpr auto kCall = [](const Case& c) {
  return [&c](const Device& device, auto number) { return Call<decltype(number)>(device, c); };
};

// Bf16 gradients are compared where they are stored exactly enough; losses add up in float and are closer.
void ExpectAgreement(const Case& c) { ExpectDevicesAgree(kCall(c), 2e-5, 1e-2); }

TEST(CrossEntropyTest, PaperExample) {
  // cap tanh(x / cap) = 0 and cap / 2 where tanh is 1/2; with cap = 2 ln 3: exp = 1 and 3, sum 4.
  const double cap = 2 * std::log(3.0);
  const double half = cap * std::atanh(0.5);
  const Case c = {
      .logits = {{2, 2}, {0, half, 0, half}}, .targets = {{2}, {1, -1}}, .soft_cap = cap, .dloss = 1};
  for (const Device& device : TestDevices()) {
    const Results results = Call<float>(device, c);
    EXPECT_THAT(results.at("losses"), IsNear((HostTensor<double>{{2}, {std::log(4.0 / 3), 0}}), 1e-6));
    // (1/4 - 0) (1 - 0) and (3/4 - 1) (1 - 1/4).
    EXPECT_THAT(results.at("dlogits"), IsNear((HostTensor<double>{{2, 2}, {0.25, -0.1875, 0, 0}}), 1e-6));
  }
}

RC_GTEST_PROP(CrossEntropyTest, BackwardIsTheGradientOfForward, ()) {
  const double cap = *rc::gen::element(3.0, 30.0, 60.0);
  Case c = MakeCase(*SmallSize(), *rc::gen::inRange<int64_t>(2, 40), *Seed(), cap, 2);
  const HostTensor<double> dlogits = Call<double>(Device::Cpu(), c).at("dlogits");
  const testing::AssertionResult match = GradientsMatch({{"logits", &c.logits, dlogits}}, [&] {
    const Results results = Call<double>(Device::Cpu(), c);
    double loss = 0;
    for (const double row : results.at("losses").values) loss += c.dloss * row;
    return loss;
  });
  if (!match) std::cerr << match.message();
  RC_ASSERT(match);
}

RC_GTEST_PROP(CrossEntropyTest, DevicesAgree, ()) {
  const int64_t tile = *rc::gen::element<int64_t>(32, 128, 256, 1024);
  // The loss of a row that is all but certain is the difference of two numbers that nearly cancel: enough
  // rows that not all are.
  const int64_t rows = std::max<int64_t>(8, *SizeAroundTile(9));
  Case c = MakeCase(rows, 1 + *SizeAroundTile(tile), *Seed(), *rc::gen::element(5.0, 30.0, 100.0));
  if (*rc::gen::arbitrary<bool>()) c.targets[0] = -1;
  ExpectAgreement(c);
}

TEST(CrossEntropyTest, DevicesAgreeOnPresetVocabularies) {
  ExpectAgreement(MakeCase(300, 1024, 1));
  ExpectAgreement(MakeCase(30, 8192, 2));
  for (const int64_t vocab : {2048, 4096, 4104, 8200}) ExpectAgreement(MakeCase(9, vocab, 4));
}

// Rows in the registers of one to eight warps, and rows that have no room there.
TEST(CrossEntropyTest, RepeatsToTheBit) {
  for (const int64_t vocab : {1024, 1000, 2048, 2056, 8192, 8200})
    ExpectSameBits(kCall(MakeCase(50, vocab, 3)));
}

RC_GTEST_PROP(CrossEntropyTest, TheGradientComesWithTheLosses, ()) {
  Case c =
      MakeCase(*SizeAroundTile(9), 8 * *SizeAroundTile(256), *Seed(), *rc::gen::element(5.0, 30.0, 100.0));
  if (*rc::gen::arbitrary<bool>()) c.targets[0] = -1;
  for (const Device& device : TestDevices()) {
    const Results results = Call<float>(device, c);
    const HostTensor<double>&losses = results.at("losses"), &same = results.at("losses of gradient");
    for (int64_t r = 0; r < c.targets.shape[0]; ++r) RC_ASSERT(std::abs(same[r] - losses[r]) < 3e-5);
  }
}

RC_GTEST_PROP(CrossEntropyTest, EqualLogitsLoseTheLogarithmOfTheVocabulary, ()) {
  Case c = MakeCase(3, *SizeAroundTile(64), *Seed());
  const double logit = c.logits[0];
  for (double& value : c.logits.values) value = logit;
  for (const Device& device : TestDevices()) {
    const Results results = Call<float>(device, c);
    for (const double loss : results.at("losses").values) {
      RC_ASSERT(std::abs(loss - std::log(static_cast<double>(c.logits.shape[1]))) < 2e-5);
    }
  }
}

RC_GTEST_PROP(CrossEntropyTest, ProbabilitiesSumToOneAndHoldTheLoss, ()) {
  const Case c = MakeCase(3, *SizeAroundTile(64), *Seed(), *rc::gen::element(5.0, 30.0, 100.0), 20);
  const int64_t vocab = c.logits.shape[1];
  for (const Device& device : TestDevices()) {
    const Results results = Call<float>(device, c);
    const HostTensor<double>& log_probs = results.at("log_probs");
    for (int64_t r = 0; r < 3; ++r) {
      double sum = 0;
      for (int64_t v = 0; v < vocab; ++v) sum += std::exp(log_probs[r * vocab + v]);
      RC_ASSERT(std::abs(sum - 1) < 3e-5);
      const double loss = results.at("losses")[r];
      RC_ASSERT(std::abs(loss + log_probs[r * vocab + c.targets[r]]) < 3e-5);
      RC_ASSERT(loss > -3e-5 && loss < std::log(static_cast<double>(vocab)) + 2 * c.soft_cap + 1e-3);
    }
  }
}

TEST(CrossEntropyTest, NegativeTargetsLoseNothing) {
  Case c = MakeCase(4, 50, 7);
  const Results with = Call<float>(Device::Cpu(), c);
  c.targets[2] = -100;
  for (const Device& device : TestDevices()) {
    const Results without = Call<float>(device, c);
    EXPECT_EQ(without.at("losses")[2], 0);
    for (int64_t v = 0; v < 50; ++v) EXPECT_EQ(without.at("dlogits")[100 + v], 0);
    EXPECT_EQ(without.at("losses of gradient")[2], 0);
    EXPECT_NEAR(without.at("losses")[3], with.at("losses")[3], 1e-5);
  }
}

}  // namespace
}  // namespace hm11
