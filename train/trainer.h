// Trainer: one model in training on one device of each rank. Memory planned once, a step recorded once and
// replayed.
//
// With more than one rank each trains on its share of a step's sequences and owns its share of the weights'
// updates (train/optimizer.h); R ranks of M micro-batches do what one of R M does, but for rounding. Making
// one, Step, WarmUp, Save, Load and exports are then collective.
//
// A step is all micro-batches' forward and backward passes, clip, Muon, AdamW, average and working copy. T is
// what the model computes in: Bf16 on a GPU, float on the CPU; master weights, gradients and moments are
// float in both. With a step limit instead of a time limit, a run is a function of its configuration and
// data, to the bit on one kind of device.
#ifndef HM11_TRAIN_TRAINER_H_
#define HM11_TRAIN_TRAINER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/arena.h"
#include "core/communicator.h"
#include "core/device.h"
#include "core/named_tensor.h"
#include "core/step_graph.h"
#include "data/batcher.h"
#include "model/weights.h"
#include "train/config.h"
#include "train/optimizer.h"
#include "train/training_state.h"

namespace hm11 {

// What a training run holds in memory, in bytes.
struct MemoryPlan {
  int64_t micro_batch_tokens = 0;
  int64_t state_bytes = 0;  // weights, gradients, moments, average, tokens
  int64_t work_bytes = 0;   // the most of what a micro-batch, the optimizer, scoring and calibration take
  int64_t undo_bytes = 0;   // what the warm-up is undone from; given back after it
  int64_t total_bytes() const { return state_bytes + work_bytes + undo_bytes; }
};

// The plan of one rank on `device`, with its micro_batch_tokens or, where that is 0, the largest that fits in
// `available_bytes`. ResourceExhausted says what does not fit, in bytes, and which micro-batch would.
template <typename T>
absl::StatusOr<MemoryPlan> PlanMemory(const RunConfig& config, const Communicator& ranks,
                                      const Device& device, int64_t available_bytes);

template <typename T>
class Trainer {
 public:
  // Weights are InitialWeights(config.model, config.seed). The stream outlives the trainer.
  Trainer(const RunConfig& config, const MemoryPlan& plan, Device device, const TokenStream& stream,
          const Communicator& ranks);
  ~Trainer();

  // Weights, and the average, are `weights` instead: the model's, under the reference's names. Errors name
  // the tensor that is missing, unknown or of another shape, and leave all as it was. Before the first step.
  absl::Status BeginWith(const std::vector<NamedTensor>& weights);

  // Runs up to `steps` steps, and at least those that a GPU needs, and undoes them: afterwards weights,
  // moments and average are what they were. Records a step of each phase. `go_on` is asked after each step
  // with the number of steps done, and has to answer alike on all ranks; may be empty. Gives the number of
  // steps done.
  int64_t WarmUp(int64_t steps, const std::function<bool(int64_t done)>& go_on = {});
  // Seconds of a step's passes, out of one micro-batch's. On the CPU, where that is nearly all of a step.
  double EstimateStepSeconds();

  // Queues step `step`, of the phase config.Phases()[phase]; returns when the step before the last one is
  // done, so that the host stays near the device.
  void Step(int64_t step, const StepScalars& scalars, size_t phase);
  // Waits for the device.
  void Synchronize() { device_.Synchronize(); }

  // Training loss (nats, mean over the batch) and gradient norm of the last kHistory steps, read from the
  // device.
  struct StepReport {
    double loss_nats = 0;
    double gradient_norm = 0;
  };
  static constexpr int64_t kHistory = 1024;
  std::vector<StepReport> Reports(int64_t first_step, int64_t count);

  // On rank 0, nothing on others.
  TrainingState Save();
  // Of the whole model, on every rank.
  std::vector<NamedTensor> ExportMaster() { return Export(master_.flat); }
  std::vector<NamedTensor> ExportAverage() { return Export(average_.flat); }
  // `state` is rank 0's; the others' is not read.
  absl::Status Load(const TrainingState& state);
  // Floats of the weights that this rank updates.
  int64_t owned_floats() const { return optimizer_->share().floats(); }

  // The weights the model runs on; for evaluation between steps, on work().
  ModelWeights<T>& model_weights() { return model_weights_; }
  Arena& work() { return work_; }
  // The most that was ever in use at once, of the plan's total_bytes().
  int64_t used_bytes() const { return state_.high_water_bytes() + work_.high_water_bytes(); }
  const Device& device() const { return device_; }
  const MemoryPlan& plan() const { return plan_; }
  const Batcher& batcher() const { return phases_.back().batcher; }  // of the last phase
  int64_t tokens_per_step() const { return batcher().tokens_per_step(); }

 private:
  // A phase of the run: how its steps look, and one recorded.
  struct PhaseSteps {
    ModelConfig model;
    Batcher batcher;
    std::unique_ptr<StepGraph> graph;
  };

  std::vector<Tensor<float>> WeightSets() const;  // all that a step changes and the next one reads
  // A set, whole on every rank, until work_ is used again. Collective where ranks keep shares.
  FlatWeights Whole(Tensor<float> set);
  std::vector<NamedTensor> Export(Tensor<float> set);
  enum class Giver { kEachRank, kRankZero };  // who has the tensors
  absl::Status Import(const std::vector<NamedTensor>& tensors, Tensor<float> set, Giver giver);
  void RefreshWorkingCopy();
  void AgreeOnMatmulTuning();
  void QueueStep(const PhaseSteps& phase);  // what a graph records
  void Prefetch(int64_t step, size_t phase);
  void TakeBatch(int64_t step, size_t phase);

  RunConfig config_;
  MemoryPlan plan_;
  Device device_;
  Communicator ranks_;
  std::vector<PhaseSteps> phases_;
  Arena state_;
  Arena work_;
  FlatWeights master_, gradients_, average_;
  Tensor<Bf16> working_copy_;
  ModelWeights<T> model_weights_;
  Tensor<int32_t> ids_, targets_;  // [batch_tokens / ranks], of whatever length sequences have
  Tensor<float> micro_losses_;     // [micro_batches]
  Tensor<float> loss_;             // [1]
  Tensor<float> history_;          // [kHistory, 2]: loss and gradient norm
  std::unique_ptr<Optimizer> optimizer_;
  // Batches on their way, a step ahead: filled on the host and copied on a stream of their own while the step
  // before runs.
  struct Incoming {
    int64_t step = -1;  // none
    size_t phase = 0;
    int32_t* host = nullptr;          // ids, then targets
    Tensor<int32_t> batch;            // [2, batch_tokens / ranks], on the device
    std::unique_ptr<Fence> arrived;   // recorded on copies_
    std::unique_ptr<Fence> taken;     // by the step, recorded on device_
    std::unique_ptr<Fence> finished;  // the step
  };
  Device copies_;
  Incoming incoming_[2];  // of even and odd steps
};

}  // namespace hm11

#endif  // HM11_TRAIN_TRAINER_H_
