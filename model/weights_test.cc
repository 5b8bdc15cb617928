// Weights before training, each by the law that its list names, and banks taken apart and put together.
#include "model/weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "testing/matchers.h"

namespace hm11 {
namespace {

using Values = std::span<const float>;
using Rule = InitialValue::Rule;

// Every kind of parameter, and matrices on both sides of the 64 rows and columns from which they are orthogonal.
ModelConfig Everything() {
  return {.layers = "MAMAA",
          .vocab = 40,
          .dim = 64,
          .heads = 4,
          .kv_heads = 2,
          .mlp_width = 96,
          .state = 5,
          .dt_rank = 6,
          .tied_embeddings = false,
          .bigram_rows = 33,
          .bigram_dim = 16,
          .value_embedding_dim = 24,
          .gated_attention = true,
          .value_residual = true,
          .token_gate = true,
          .mtp_heads = 1};
}

double Mean(Values values, int power) {
  double sum = 0;
  for (const float value : values) sum += std::pow(value, power);
  return sum / static_cast<double>(values.size());
}

// Within four deviations of what so many independent numbers of a law have.
void ExpectMoments(Values values, double variance, double fourth) {
  const auto count = static_cast<double>(values.size());
  EXPECT_NEAR(Mean(values, 1), 0, 4 * std::sqrt(variance / count));
  EXPECT_NEAR(Mean(values, 2), variance, 4 * std::sqrt((fourth - variance * variance) / count));
}

void ExpectUniform(Values values, double bound) {
  EXPECT_LT(*std::max_element(values.begin(), values.end()), bound);
  EXPECT_GE(*std::min_element(values.begin(), values.end()), -bound);
  ExpectMoments(values, bound * bound / 3, std::pow(bound, 4) / 5);
}

void ExpectOrthonormal(Values values, size_t cols) {
  const size_t rows = values.size() / cols;
  const bool by_rows = rows <= cols;
  const size_t count = std::min(rows, cols), length = std::max(rows, cols);
  const auto at = [&](size_t vector, size_t i) {
    return by_rows ? values[vector * cols + i] : values[i * cols + vector];
  };
  for (size_t a = 0; a < count; ++a) {
    for (size_t b = 0; b <= a; ++b) {
      double dot = 0;
      for (size_t i = 0; i < length; ++i) dot += double{at(a, i)} * at(b, i);
      ASSERT_NEAR(dot, a == b ? 1 : 0, 1e-5) << a << ", " << b;
    }
  }
}

void ExpectLaw(const InitialValue& initial, Values values, size_t cols) {
  const bool large = std::min(values.size() / cols, cols) >= 64;
  switch (initial.rule) {
    case Rule::kNormal:
      return ExpectMoments(values, initial.value * initial.value, 3 * std::pow(initial.value, 4));
    case Rule::kUniform:
      return ExpectUniform(values, initial.value);
    case Rule::kOrthogonal:
      return ExpectOrthonormal(values, cols);
    case Rule::kLinear:
      return large ? ExpectOrthonormal(values, cols)
                   : ExpectUniform(values, 1 / std::sqrt(static_cast<double>(cols)));
    case Rule::kConstant:
    case Rule::kFirstRow:
      for (size_t i = 0; i < values.size(); ++i) {
        const bool filled = initial.rule == Rule::kConstant || i < cols;
        ASSERT_EQ(values[i], filled ? static_cast<float>(initial.value) : 0) << i;
      }
      return;
    case Rule::kLogColumn:
      for (size_t i = 0; i < values.size(); ++i) {
        ASSERT_FLOAT_EQ(values[i], static_cast<float>(std::log(static_cast<double>(i % cols + 1))));
      }
      return;
    case Rule::kStepBias: {
      std::vector<float> logs;  // of steps; uniform between log(0.001) and log(0.1), taken about the middle
      for (const float value : values) {
        logs.push_back(static_cast<float>(std::log(std::log1p(std::exp(double{value}))) - std::log(0.01)));
      }
      return ExpectUniform(logs, std::log(10.0) * (1 + 1e-5));
    }
  }
}

TEST(WeightsTest, InitialValuesFollowTheLawsOfTheList) {
  const ModelConfig config = Everything();
  const std::vector<ReferenceParameter> parameters = ReferenceParameters(config);
  const std::vector<NamedTensor> tensors = InitialWeights(config, 5);
  ASSERT_EQ(tensors.size(), parameters.size());
  std::set<Rule> rules;
  for (size_t p = 0; p < tensors.size(); ++p) {
    const auto& matrices = parameters[p].matrices;
    const Values values = tensors[p].values;
    for (size_t m = 0; m < matrices.size(); ++m) {
      SCOPED_TRACE(matrices[m].stored_name);
      const size_t each = values.size() / matrices.size();
      const size_t cols = tensors[p].shape.empty() ? 1 : static_cast<size_t>(tensors[p].shape.back());
      ExpectLaw(matrices[m].initial, values.subspan(m * each, each), cols);
      rules.insert(matrices[m].initial.rule);
    }
  }
  EXPECT_GE(rules.size(), 6u) << "the model is to have parameters of most laws";
}

TEST(WeightsTest, BanksComeApartAndTogether) {
  ModelConfig config = Everything();
  config.mtp_heads = 0;
  const std::vector<NamedTensor> tensors = InitialWeights(config, 5);
  const auto stored = SplitBanks(config, tensors);
  ASSERT_THAT(stored, IsOk());
  const std::vector<StoredWeight> expected = StoredWeights(config);
  ASSERT_EQ(stored->size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ((*stored)[i].name, expected[i].name);
    EXPECT_EQ((*stored)[i].shape, expected[i].shape);
  }
  const auto joined = JoinBanks(config, *stored);
  ASSERT_THAT(joined, IsOk());
  ASSERT_EQ(joined->size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ((*joined)[i].name, tensors[i].name);
    EXPECT_EQ((*joined)[i].shape, tensors[i].shape);
    EXPECT_EQ((*joined)[i].values, tensors[i].values);
  }
  std::vector<NamedTensor> more = *stored;
  more.push_back({"another", {1}, {0}});
  EXPECT_THAT(JoinBanks(config, more), StatusIs(absl::StatusCode::kInvalidArgument, "another"));
}

}  // namespace
}  // namespace hm11
