// What a trainer holds on its device, and the passes over it: the same for a trainer and for the plan of its memory.
#ifndef HM11_TRAIN_TRAINER_TENSORS_H_
#define HM11_TRAIN_TRAINER_TENSORS_H_

#include <cstdint>
#include <memory>
#include <type_traits>

#include "core/arena.h"
#include "core/communicator.h"
#include "model/language_model.h"
#include "model/weight_layout.h"
#include "ops/elementwise.h"
#include "train/config.h"
#include "train/optimizer.h"
#include "train/weight_share.h"

namespace hm11 {

// Members of Trainer say what each is.
struct StateTensors {
  FlatWeights master, gradients, average;
  Tensor<Bf16> working_copy;
  Tensor<int32_t> ids, targets, incoming[2];
  Tensor<float> micro_losses, loss, history;
  std::unique_ptr<Optimizer> optimizer;
};

template <typename T>
StateTensors NewState(Arena& arena, const RunConfig& config, const Communicator& ranks,
                      int64_t micro_batch_tokens, int64_t history) {
  const int64_t tokens = config.batch_tokens / ranks.size();
  StateTensors state;
  const WeightShare share(config.model, config.optimizer, ranks.rank(), ranks.size());
  state.gradients = NewFlatWeights(arena, config.model);
  state.average.flat = arena.NewZero<float>({share.floats()});
  if constexpr (std::is_same_v<T, Bf16>) {
    state.master.flat = arena.NewZero<float>({share.floats()});
    state.working_copy = arena.NewZero<Bf16>({share.whole_floats()});
  } else {
    state.master = NewFlatWeights(arena, config.model);
  }
  state.ids = arena.New<int32_t>({tokens});
  state.targets = arena.New<int32_t>({tokens});
  for (Tensor<int32_t>& batch : state.incoming) batch = arena.New<int32_t>({2, tokens});
  state.micro_losses = arena.New<float>({tokens / micro_batch_tokens});
  state.loss = arena.New<float>({1});
  state.history = arena.NewZero<float>({history, 2});
  state.optimizer = std::make_unique<Optimizer>(arena, config.model, config.optimizer, state.master,
                                                state.gradients, state.average, state.working_copy, ranks);
  return state;
}

template <typename T>
ModelWeights<T> ModelView(const ModelConfig& config, const FlatWeights& master, Tensor<Bf16> working_copy) {
  if constexpr (std::is_same_v<T, Bf16>) {
    return WorkingCopyView(config, master, working_copy);
  } else {
    (void)working_copy;
    (void)config;
    return master.view;
  }
}

// What forward and backward of a step read and write on this rank.
template <typename T>
struct PassOperands {
  const ModelWeights<T>& weights;
  Tensor<const int32_t> ids, targets;  // [sequences * sequence]
  ModelWeights<float>& gradients;      // this rank's part of the mean; adds
  Tensor<float> micro_losses;          // [micro-batches]
  Tensor<float> loss;                  // [1]: the mean over all ranks
  bool fp8;                            // LossAndGradientArgs'
};

template <typename T>
void QueuePasses(Arena& work, const Communicator& ranks, const ModelConfig& model, int64_t sequence,
                 const PassOperands<T>& pass) {
  const int64_t micro_batches = pass.micro_losses.size(), tokens = pass.ids.size() / micro_batches;
  const Shape shape = {tokens / sequence, sequence};
  const float share = 1.0f / static_cast<float>(micro_batches * ranks.size());
  for (int64_t m = 0; m < micro_batches; ++m) {
    LossAndGradient<T>(work, model,
                       {.weights = pass.weights,
                        .ids = pass.ids.Slice(m * tokens, tokens).Reshaped(shape),
                        .targets = pass.targets.Slice(m * tokens, tokens).Reshaped(shape),
                        .loss_scale = share,
                        .grad = pass.gradients,
                        .loss = pass.micro_losses.Slice(m, 1),
                        .fp8 = pass.fp8});
  }
  Sum<float>(work, pass.micro_losses, share, pass.loss);
  ranks.AllReduce(work.device(), pass.loss);
}

}  // namespace hm11

#endif  // HM11_TRAIN_TRAINER_TENSORS_H_
