// Initial values: the rules of the list of weights, each parameter a function of the seed and its name.
#include <algorithm>
#include <cmath>
#include <span>

#include "core/parallel.h"
#include "core/random.h"
#include "model/weights.h"
#include "ops/orthogonal.h"
#include "ops/product.h"

namespace hm11 {
namespace {

// The reference makes linear maps orthogonal from this many rows and columns on, and leaves smaller ones as
// PyTorch made them: uniform in 1 / sqrt(columns).
constexpr int64_t kLeastOrthogonal = 64;

// Where a matrix's random numbers come from: `first` is its place in its parameter, which has one stream.
struct Draws {
  uint64_t seed, stream, first;

  double Normal(size_t i) const { return RandomNormal(seed, stream, first + i); }
  double Uniform(size_t i) const { return RandomUniform(seed, stream, first + i); }
};

void FillNormal(const Draws& draws, double deviation, std::span<float> values) {
  ParallelFor(static_cast<int64_t>(values.size()), 1 << 14, [&](int64_t begin, int64_t end) {
    for (size_t i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      values[i] = static_cast<float>(deviation * draws.Normal(i));
    }
  });
}

void FillUniform(const Draws& draws, double bound, std::span<float> values) {
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(bound * (2 * draws.Uniform(i) - 1));
  }
}

void FillOrthogonal(const Draws& draws, int64_t cols, std::span<float> values) {
  FillNormal(draws, 1, values);
  Orthogonalize(static_cast<int64_t>(values.size()) / cols, cols, values.data());
}

void FillLinear(const Draws& draws, int64_t cols, std::span<float> values) {
  const int64_t rows = static_cast<int64_t>(values.size()) / cols;
  if (std::min(rows, cols) >= kLeastOrthogonal) {
    FillOrthogonal(draws, cols, values);
  } else {
    FillUniform(draws, 1 / std::sqrt(static_cast<double>(cols)), values);
  }
}

void FillStepBias(const Draws& draws, std::span<float> values) {
  for (size_t i = 0; i < values.size(); ++i) {
    const double step = std::exp(std::log(0.001) + draws.Uniform(i) * std::log(100.0));
    values[i] = static_cast<float>(step + std::log(-std::expm1(-step)));  // softplus inverted
  }
}

void FillLogColumn(int64_t cols, std::span<float> values) {
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = std::log(static_cast<float>(static_cast<int64_t>(i) % cols + 1));
  }
}

// One matrix, or one parameter, of rows of `cols` numbers.
void Fill(const InitialValue& initial, const Draws& draws, int64_t cols, std::span<float> values) {
  using Rule = InitialValue::Rule;
  switch (initial.rule) {
    case Rule::kConstant:
      std::ranges::fill(values, static_cast<float>(initial.value));
      return;
    case Rule::kFirstRow:
      std::ranges::fill(values.first(static_cast<size_t>(cols)), static_cast<float>(initial.value));
      return;
    case Rule::kNormal:
      return FillNormal(draws, initial.value, values);
    case Rule::kUniform:
      return FillUniform(draws, initial.value, values);
    case Rule::kOrthogonal:
      return FillOrthogonal(draws, cols, values);
    case Rule::kLinear:
      return FillLinear(draws, cols, values);
    case Rule::kLogColumn:
      return FillLogColumn(cols, values);
    case Rule::kStepBias:
      return FillStepBias(draws, values);
  }
}

}  // namespace

// A matrix is one thread's, its decomposition's products too: threads that share small products wait for each other
// most of the time, and for all of it where other processes want the cores.
std::vector<NamedTensor> InitialWeights(const ModelConfig& config, uint64_t seed) {
  struct Task {
    const InitialValue* initial;
    Draws draws;
    int64_t cols;
    std::span<float> values;
  };
  const std::vector<ReferenceParameter> parameters = ReferenceParameters(config);
  std::vector<NamedTensor> tensors;
  tensors.reserve(parameters.size());
  std::vector<Task> tasks;
  for (const ReferenceParameter& parameter : parameters) {
    int64_t size = 1;
    for (const int64_t extent : parameter.shape) size *= extent;
    tensors.push_back({parameter.name, parameter.shape, std::vector<float>(static_cast<size_t>(size))});
    const size_t each = size == 0 ? 0 : static_cast<size_t>(size) / parameter.matrices.size();
    Draws draws{.seed = seed, .stream = StreamOf(parameter.name), .first = 0};
    for (size_t m = 0; each > 0 && m < parameter.matrices.size(); ++m, draws.first += each) {
      tasks.push_back({&parameter.matrices[m].initial, draws,
                       parameter.shape.empty() ? 1 : parameter.shape.back(),
                       std::span(tensors.back().values).subspan(m * each, each)});
    }
  }
  const OneThreadPerProduct one_thread;
  ParallelFor(static_cast<int64_t>(tasks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Task& task = tasks[static_cast<size_t>(i)];
      Fill(*task.initial, task.draws, task.cols, task.values);
    }
  });
  return tensors;
}

}  // namespace hm11
