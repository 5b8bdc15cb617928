// Calibration: forward passes that keep what they saved, and a product of each saved input with itself;
// passes backward a sequence at a time.
#include "train/calibration.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/parallel.h"
#include "model/language_model.h"
#include "ops/matmul.h"

namespace hm11 {
namespace {

// Weights of a layer that read inputs of their own, at most.
constexpr int64_t kInputsOfLayer = 5;

// One input, of one visit of a layer, and the weight that reads it.
template <typename T>
struct Input {
  Tensor<const T> values;  // [rows, width], whatever its own shape
  int64_t place;           // kInputsOfLayer a layer; the head comes last
  const T* weight;         // where its numbers begin
};

template <typename T>
std::vector<Input<T>> InputsOf(const ModelConfig& config, const ModelWeights<T>& weights,
                               const ModelSaved<T>& saved) {
  std::vector<Input<T>> inputs;
  const int64_t rows = saved.batch * saved.time;
  for (int64_t visit = 0; visit < config.visit_count(); ++visit) {
    const int64_t layer = config.layer_of(visit), place = kInputsOfLayer * layer;
    const BlockSaved<T>& block = saved.blocks[static_cast<size_t>(visit)];
    const BlockWeights<T>& reads = weights.blocks[static_cast<size_t>(layer)];
    if (config.is_mamba(layer)) {
      inputs.push_back({block.normed, place, reads.mamba.in_proj.data()});
      inputs.push_back(
          {block.mamba.conv.Reshaped({rows, config.inner()}), place + 1, reads.mamba.x_proj.data()});
      inputs.push_back(
          {block.mamba.y.Reshaped({rows, config.inner()}), place + 2, reads.mamba.out_proj.data()});
    } else {
      const AttentionSaved<T>& heads = block.attention;
      const Tensor<T> mixed = !heads.gated.empty()       ? heads.gated
                              : !heads.exclusive.empty() ? heads.exclusive
                                                         : heads.y;
      inputs.push_back({block.normed, place, reads.attention.qkv.data()});
      inputs.push_back({mixed.Reshaped({rows, config.dim}), place + 1, reads.attention.out.data()});
    }
    inputs.push_back({block.mlp_normed, place + 3, reads.up.data()});
    inputs.push_back({block.activated, place + 4, reads.down.data()});
  }
  inputs.push_back({saved.hidden, kInputsOfLayer * config.layer_count(),
                    (config.tied_embeddings ? weights.token_embedding : weights.lm_head).data()});
  return inputs;
}

// By where a weight's numbers begin: the names of its matrices as they are stored.
template <typename T>
std::map<const void*, std::vector<std::string>> StoredNames(const ModelConfig& config,
                                                            const ModelWeights<T>& weights) {
  std::map<const void*, std::vector<std::string>> names;
  ForEachWeight(
      config,
      [&](const WeightInfo& info, const auto& tensor) {
        if (tensor.empty()) return;
        for (const MatrixPart& part : info.parts) names[tensor.data()].push_back(part.stored_name);
      },
      weights);
  return names;
}

// Adds the sum of squares of each row of values [sums->size(), cols].
void AddRowSquares(const float* values, int64_t cols, std::vector<double>* sums) {
  ParallelFor(static_cast<int64_t>(sums->size()), 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      double sum = 0;
      for (int64_t c = r * cols; c < (r + 1) * cols; ++c) sum += static_cast<double>(values[c]) * values[c];
      (*sums)[r] += sum;
    }
  });
}

void AddOverRanks(Arena& arena, const Communicator& ranks, GradientMap* tensors) {
  if (ranks.size() == 1) return;
  Arena::Scope scope(arena);
  std::vector<float> sums;
  for (const auto& [name, rows] : *tensors) sums.insert(sums.end(), rows.begin(), rows.end());
  const Tensor<float> all = arena.New<float>({static_cast<int64_t>(sums.size())});
  arena.device().CopyFromHost(all.data(), sums.data(), all.size_bytes());
  ranks.AllReduce(arena.device(), all);
  arena.device().CopyToHost(sums.data(), all.data(), all.size_bytes());
  const float* next = sums.data();
  for (auto& [name, rows] : *tensors) {
    std::copy_n(next, rows.size(), rows.begin());
    next += rows.size();
  }
}

// By what weight reads the input, over visits and passes.
template <typename T>
struct SumOfProducts {
  const void* weight = nullptr;  // nothing where weights are only planned
  Tensor<Accum<T>> sum;
};
template <typename T>
using Sums = std::map<int64_t, SumOfProducts<T>>;

// The widths, and so the sums, are known from a pass that is only planned.
template <typename T>
Sums<T> NewSums(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights, Shape ids) {
  Arena planned = Arena::Plan(arena.device());
  ModelSaved<T> shapes;
  HiddenForward<T>(planned, config, weights, Tensor<const int32_t>(nullptr, ids), &shapes);
  Sums<T> sums;
  for (const Input<T>& input : InputsOf<T>(config, weights, shapes)) {
    SumOfProducts<T>& products = sums[input.place];
    products.weight = input.weight;
    const int64_t width = input.values.dim(1);
    if (products.sum.empty()) products.sum = arena.NewZero<Accum<T>>({width, width});
  }
  return sums;
}

// One pass forward, and its inputs' products.
template <typename T>
void AddProducts(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                 Tensor<const int32_t> ids, const Sums<T>& sums) {
  Arena::Scope scope(arena);
  ModelSaved<T> saved;
  HiddenForward<T>(arena, config, weights, ids, &saved);
  for (const Input<T>& input : InputsOf<T>(config, weights, saved)) {
    MatmulBackward<T>(
        arena,
        {.dy = input.values, .x = input.values, .weight = {}, .dx = {}, .dweight = sums.at(input.place).sum});
  }
}

// A sum for each row of each matrix.
GradientMap ZeroGradientMap(const ModelConfig& config, ModelWeights<float>& gradient) {
  GradientMap rows_of;
  ForEachWeight(
      config,
      [&](const WeightInfo& info, auto&) {
        if (info.shape.rank() < 2) return;
        for (const MatrixPart& part : info.parts) {
          rows_of[part.stored_name].resize(static_cast<size_t>(part.rows));
        }
      },
      gradient);
  return rows_of;
}

// Adds the gradient's squares, row by row.
void AddSquares(const Device& device, const ModelConfig& config, ModelWeights<float>& gradient,
                GradientMap* rows_of) {
  std::vector<float> values;
  ForEachWeight(
      config,
      [&](const WeightInfo& info, auto& tensor) {
        if (tensor.empty() || info.shape.rank() < 2) return;
        values.resize(static_cast<size_t>(tensor.size()));
        device.CopyToHost(values.data(), tensor.data(), tensor.size_bytes());
        const float* first = values.data();
        for (const MatrixPart& part : info.parts) {
          AddRowSquares(first, info.shape[1], &rows_of->at(part.stored_name));
          first += part.rows * info.shape[1];
        }
      },
      gradient);
}

}  // namespace

template <typename T>
int64_t CalibrationWorkBytes(const ModelConfig& config, int64_t batch, int64_t time, const Device& device) {
  Arena placed = Arena::Plan(device), plan = Arena::Plan(device);
  const ModelWeights<T> weights = NewWeights<T>(placed, config);
  const Tensor<int32_t> ids = plan.New<int32_t>({batch, time});
  const Sums<T> sums = NewSums<T>(plan, config, weights, ids.shape());
  AddProducts<T>(plan, config, weights, ids, sums);
  plan.Reset();
  ModelWeights<Accum<T>> gradient = NewWeights<Accum<T>>(placed, config);
  const Tensor<int32_t> one = plan.New<int32_t>({1, time}), targets = plan.New<int32_t>({1, time});
  LossAndGradient<T>(plan, config,
                     {.weights = weights,
                      .ids = one,
                      .targets = targets,
                      .grad = gradient,
                      .loss = plan.New<Accum<T>>({1})});
  return plan.high_water_bytes();
}

template <typename T>
HessianMap CollectHessians(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                           const Batcher& batcher, int64_t first_step, int64_t tokens,
                           const Communicator& ranks) {
  const BatchPlan& plan = batcher.plan();
  const int64_t rows = plan.batch * plan.time, passes = (tokens + rows - 1) / rows;
  arena.Reset();
  std::vector<int32_t> ids(static_cast<size_t>(rows)), targets(static_cast<size_t>(rows));
  Tensor<int32_t> device_ids = arena.New<int32_t>({plan.batch, plan.time});
  const Sums<T> sums = NewSums<T>(arena, config, weights, device_ids.shape());
  HM_CHECK_EQ(plan.ranks, ranks.size());
  for (int64_t pass = ranks.rank(); pass < passes; pass += ranks.size()) {
    const int64_t turn = pass / ranks.size();
    batcher.Fill(first_step + turn / plan.micro_batches, ranks.rank(), turn % plan.micro_batches,
                 Tensor<int32_t>(ids.data(), {plan.batch, plan.time}),
                 Tensor<int32_t>(targets.data(), {plan.batch, plan.time}));
    arena.device().CopyFromHost(device_ids.data(), ids.data(), device_ids.size_bytes());
    arena.device().Synchronize();
    AddProducts<T>(arena, config, weights, device_ids, sums);
  }
  HessianMap hessians;
  const auto names = StoredNames<T>(config, weights);
  for (const auto& [place, products] : sums) {
    const Tensor<Accum<T>>& sum = products.sum;
    ranks.AllReduce(arena.device(), sum.Reshaped({sum.size()}));
    std::vector<float> values(static_cast<size_t>(sum.size()));
    arena.device().CopyToHost(values.data(), sum.data(), sum.size_bytes());
    for (const std::string& name : names.at(products.weight)) hessians[name] = values;
  }
  arena.Reset();
  return hessians;
}

template <typename T>
GradientMap CollectGradientSquares(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                                   const Batcher& batcher, int64_t first_step, int64_t tokens,
                                   const Communicator& ranks) {
  const BatchPlan& plan = batcher.plan();
  HM_CHECK_EQ(plan.ranks, ranks.size());
  const Device& device = arena.device();
  const int64_t passes = (tokens + plan.time - 1) / plan.time;
  Arena state(device, WeightBytes<float>(config));
  ModelWeights<Accum<T>> gradient = NewWeights<float>(state, config);
  GradientMap rows_of = ZeroGradientMap(config, gradient);
  std::vector<int32_t> ids(static_cast<size_t>(plan.batch * plan.time)), targets(ids.size());
  for (int64_t pass = ranks.rank(); pass < passes; pass += ranks.size()) {
    const int64_t turn = pass / ranks.size(), row = turn % plan.batch, micro_batch = turn / plan.batch;
    if (row == 0) {
      batcher.Fill(first_step + micro_batch / plan.micro_batches, ranks.rank(),
                   micro_batch % plan.micro_batches, Tensor<int32_t>(ids.data(), {plan.batch, plan.time}),
                   Tensor<int32_t>(targets.data(), {plan.batch, plan.time}));
    }
    arena.Reset();
    const Tensor<int32_t> device_ids = arena.New<int32_t>({1, plan.time});
    const Tensor<int32_t> device_targets = arena.New<int32_t>({1, plan.time});
    const Tensor<float> loss = arena.New<float>({1});
    device.CopyFromHost(device_ids.data(), ids.data() + row * plan.time, device_ids.size_bytes());
    device.CopyFromHost(device_targets.data(), targets.data() + row * plan.time, device_targets.size_bytes());
    ForEachWeight(
        config, [&](const WeightInfo&, auto& tensor) { device.Zero(tensor.data(), tensor.size_bytes()); },
        gradient);
    LossAndGradient<T>(
        arena, config,
        {.weights = weights, .ids = device_ids, .targets = device_targets, .grad = gradient, .loss = loss});
    AddSquares(device, config, gradient, &rows_of);
  }
  arena.Reset();
  AddOverRanks(arena, ranks, &rows_of);
  return rows_of;
}

template int64_t CalibrationWorkBytes<float>(const ModelConfig&, int64_t, int64_t, const Device&);
template int64_t CalibrationWorkBytes<Bf16>(const ModelConfig&, int64_t, int64_t, const Device&);
template HessianMap CollectHessians<float>(Arena&, const ModelConfig&, const ModelWeights<float>&,
                                           const Batcher&, int64_t, int64_t, const Communicator&);
template HessianMap CollectHessians<Bf16>(Arena&, const ModelConfig&, const ModelWeights<Bf16>&,
                                          const Batcher&, int64_t, int64_t, const Communicator&);
template GradientMap CollectGradientSquares<float>(Arena&, const ModelConfig&, const ModelWeights<float>&,
                                                   const Batcher&, int64_t, int64_t, const Communicator&);
template GradientMap CollectGradientSquares<Bf16>(Arena&, const ModelConfig&, const ModelWeights<Bf16>&,
                                                  const Batcher&, int64_t, int64_t, const Communicator&);

}  // namespace hm11
