// Calibration: forward passes that keep what they saved, and a product of each saved input with itself;
// passes backward a sequence at a time.
#include "train/calibration.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/parallel.h"
#include "model/language_model.h"
#include "ops/matmul.h"

namespace hm11 {
namespace {

// One input, of one visit of a layer, and the stored matrices that read it.
template <typename T>
struct Input {
  Tensor<const T> values;  // [rows, width], whatever its own shape
  std::vector<std::string> matrices;
};

template <typename T>
std::vector<Input<T>> InputsOf(const ModelConfig& config, const ModelSaved<T>& saved) {
  std::vector<Input<T>> inputs;
  const int64_t rows = saved.batch * saved.time, attention_layers = config.attention_count();
  for (int64_t visit = 0; visit < config.visit_count(); ++visit) {
    const int64_t layer = config.layer_of(visit);
    // Of the attention layer in the banks.
    const int64_t index = std::count(config.layers.begin(), config.layers.begin() + layer, 'A');
    const BlockSaved<T>& block = saved.blocks[static_cast<size_t>(visit)];
    const std::string name = absl::StrCat("blocks.", layer, ".");
    if (config.is_mamba(layer)) {
      inputs.push_back({block.normed, {name + "ssm.in_proj.weight"}});
      inputs.push_back({block.mamba.conv.Reshaped({rows, config.inner()}), {name + "ssm.x_proj.weight"}});
      inputs.push_back({block.mamba.y.Reshaped({rows, config.inner()}), {name + "ssm.out_proj.weight"}});
      inputs.push_back({block.mlp_normed, {name + "fc.weight"}});
      inputs.push_back({block.activated, {name + "proj.weight"}});
      continue;
    }
    const AttentionSaved<T>& heads = block.attention;
    const Tensor<T> mixed = !heads.gated.empty()       ? heads.gated
                            : !heads.exclusive.empty() ? heads.exclusive
                                                       : heads.y;
    inputs.push_back({block.normed,
                      {absl::StrCat("qo_bank.", index), absl::StrCat("kv_bank.", index),
                       absl::StrCat("kv_bank.", attention_layers + index)}});
    inputs.push_back(
        {mixed.Reshaped({rows, config.dim}), {absl::StrCat("qo_bank.", attention_layers + index)}});
    inputs.push_back({block.mlp_normed, {absl::StrCat("mlp_up_bank.", index)}});
    inputs.push_back({block.activated, {absl::StrCat("mlp_down_bank.", index)}});
  }
  inputs.push_back({saved.hidden, {config.tied_embeddings ? "tok_emb.weight" : "lm_head.weight"}});
  return inputs;
}

// Adds each row's sum of squares.
void AddRowSquares(const std::vector<float>& values, std::vector<double>* sums) {
  const int64_t rows = static_cast<int64_t>(sums->size());
  const int64_t cols = static_cast<int64_t>(values.size()) / rows;
  ParallelFor(rows, 16, [&](int64_t begin, int64_t end) {
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

// From rows of the model's tensors to rows of stored matrices: as ExportWeights does, but banks in their
// matrices.
GradientMap ByStoredMatrix(const ModelConfig& config, const GradientMap& tensors) {
  GradientMap stored;
  for (const ReferenceParameter& parameter : ReferenceParameters(config)) {
    if (parameter.shape.size() < 2) continue;
    std::vector<double> rows;
    for (const ReferenceParameter::Piece& piece : parameter.pieces) {
      const auto begin = tensors.at(piece.tensor).begin() + piece.first_row;
      rows.insert(rows.end(), begin, begin + piece.rows);
    }
    const bool bank = parameter.shape.size() == 3 && absl::EndsWith(parameter.name, "_bank");
    const int64_t matrices = bank ? parameter.shape[0] : 1;
    const int64_t each = static_cast<int64_t>(rows.size()) / matrices;
    for (int64_t i = 0; i < matrices; ++i) {
      const std::string name = bank ? absl::StrCat(parameter.name, ".", i) : parameter.name;
      stored[name].assign(rows.begin() + i * each, rows.begin() + (i + 1) * each);
    }
  }
  return stored;
}

// By the matrices that read the same input, over visits and passes.
template <typename T>
using Sums = std::map<std::vector<std::string>, Tensor<Accum<T>>>;

// The widths, and so the sums, are known from a pass that is only planned.
template <typename T>
Sums<T> NewSums(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights, Shape ids) {
  Arena planned = Arena::Plan(arena.device());
  ModelSaved<T> shapes;
  HiddenForward<T>(planned, config, weights, Tensor<const int32_t>(nullptr, ids), &shapes);
  Sums<T> sums;
  for (const Input<T>& input : InputsOf(config, shapes)) {
    Tensor<Accum<T>>& sum = sums[input.matrices];
    if (sum.empty()) sum = arena.NewZero<Accum<T>>({input.values.dim(1), input.values.dim(1)});
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
  for (const Input<T>& input : InputsOf(config, saved)) {
    MatmulBackward<T>(
        arena,
        {.dy = input.values, .x = input.values, .weight = {}, .dx = {}, .dweight = sums.at(input.matrices)});
  }
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
  LossAndGradient<T>(plan, config, weights, one, targets, 1, gradient, plan.New<Accum<T>>({1}));
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
  for (const auto& [names, sum] : sums) {
    ranks.AllReduce(arena.device(), sum.Reshaped({sum.size()}));
    std::vector<float> values(static_cast<size_t>(sum.size()));
    arena.device().CopyToHost(values.data(), sum.data(), sum.size_bytes());
    for (const std::string& name : names) hessians[name] = values;
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
  GradientMap tensors;
  std::vector<int32_t> ids(static_cast<size_t>(plan.batch * plan.time)), targets(ids.size());
  std::vector<float> values;
  ForEachWeight(
      config,
      [&](const WeightInfo& info, auto&) {
        tensors[info.name].resize(static_cast<size_t>(info.shape.rank() > 0 ? info.shape[0] : 1));
      },
      gradient);
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
    LossAndGradient<T>(arena, config, weights, device_ids, device_targets, 1, gradient, loss);
    ForEachWeight(
        config,
        [&](const WeightInfo& info, auto& tensor) {
          std::vector<double>& sums = tensors.at(info.name);
          if (sums.empty() || info.shape.rank() < 2) return;
          values.resize(static_cast<size_t>(tensor.size()));
          device.CopyToHost(values.data(), tensor.data(), tensor.size_bytes());
          AddRowSquares(values, &sums);
        },
        gradient);
  }
  arena.Reset();
  AddOverRanks(arena, ranks, &tensors);
  return ByStoredMatrix(config, tensors);
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
