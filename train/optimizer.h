// Optimizer: clip, Muon, AdamW, moving average and the 16-bit working copy, over weights that lie in one flat
// block.
//
// Weights, gradients, moments and the average are each one flat tensor (model/weight_layout.h) in which every
// granule belongs to one weight or to padding. One step is
//
//   norm = |grad|;  g = grad * min(1, clip / (norm + 1e-6))
//   Muon:   m = mu m + g;  X = newton_schulz(g + mu m);  p = p (1 - lr wd) - lr sqrt(max(1, rows / cols)) X
//   AdamW:  m, v as usual with bias correction;  p = p (1 - lr wd) - lr m^ / (sqrt(v^) + eps)
//   average = decay average + (1 - decay) p;  working copy = bf16(p)
//
// With decay 0 the average is the weights themselves: it is written and not read, so it follows whatever it
// held. Matrices of one shape, or its transpose, are orthogonalized together, with the shorter side as rows.
// With muon_equal_rows every row of g + mu m is divided by its norm first (MuonEq-R of the
// challenge's pull request 1217).
//
// With more than one rank controls are every rank's own, updated alike by the same bits, and the rest is
// shared out (train/sharding.h): gradients are summed over ranks, a matrix' where it is owned; the norm is
// of all; a rank updates what it owns, and what the model runs on is gathered, the working copy or, without
// one, the weights. Weights, moments and average that others own are stale until CollectSets.
//
// Properties:
//   1. Parameters after three steps are the reference's.
//   2. Every matrix in Muon moves by its learning rate times a matrix of singular values near 1, and by
//      itself; queries, keys and values are three matrices.
//   3. Padding stays 0; the gradient is left 0; the working copy is bf16(p).
//   4. Without gradient and moments a weight only decays.
//   5. The gradient counts only up to its clipped norm.
//   6. A step takes the scratch that it takes on the plan device, or less.
//   7. Ranks that each hold a part of the gradient update as one rank that holds its sum, but for rounding.
//
// Muon: Jordan et al. 2024, kellerjordan.github.io/posts/muon. AdamW: Loshchilov & Hutter 2019, arXiv
// 1711.05101. All numbers that change from step to step are read from device memory (StepScalars), so that a
// step captured once as a CUDA graph can be replayed.
//
// Determinism: sums are in a fixed order; the same bits for the same state. Cost: 42 bytes moved a parameter
// (Muon in Bf16, or AdamW), 46 with an average, and Newton-Schulz's products.
#ifndef HM11_TRAIN_OPTIMIZER_H_
#define HM11_TRAIN_OPTIMIZER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "core/arena.h"
#include "core/communicator.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/step_graph.h"
#include "core/tensor.h"
#include "model/config.h"
#include "model/weight_layout.h"
#include "train/newton_schulz.h"
#include "train/update_rules.h"

namespace hm11 {

// Fixed for a run.
struct OptimizerConfig {
  double muon_lr = 0.025;
  double embedding_lr = 0.035;  // AdamW, token, bigram and value tables
  double control_lr = 0.025;    // AdamW, everything not in Muon and not a table
  double head_lr = 0.025;       // AdamW, untied output and multi-token heads
  double muon_weight_decay = 0.04;
  double adam_weight_decay = 0.04;
  double embedding_weight_decay = 0.04;  // of the tables
  bool decay_controls = true;  // whether weight decay reaches vectors and scalars (A, D, gates, scales)
  bool muon_on_mamba = true;   // Mamba matrices and their MLPs in Muon; in AdamW at control_lr when false
  bool muon_on_small = true;   // bigram and value projections in Muon
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double clip = 0.3;  // global gradient norm; 0: no clipping
  int64_t newton_schulz_steps = 5;
  bool newton_schulz_bf16 = true;  // on a GPU; the CPU computes in float
  bool polar_express = false;      // the polynomials of Newton-Schulz (train/newton_schulz.h)
  bool muon_equal_rows = false;    // all rows of a direction get one norm before it is orthogonalized

  template <typename Self, typename F>
  static void ForEachField(Self& self, F&& f) {
    f("muon_lr", self.muon_lr);
    f("embedding_lr", self.embedding_lr);
    f("control_lr", self.control_lr);
    f("head_lr", self.head_lr);
    f("muon_weight_decay", self.muon_weight_decay);
    f("adam_weight_decay", self.adam_weight_decay);
    f("embedding_weight_decay", self.embedding_weight_decay);
    f("decay_controls", self.decay_controls);
    f("muon_on_mamba", self.muon_on_mamba);
    f("muon_on_small", self.muon_on_small);
    f("beta1", self.beta1);
    f("beta2", self.beta2);
    f("epsilon", self.epsilon);
    f("clip", self.clip);
    f("newton_schulz_steps", self.newton_schulz_steps);
    f("newton_schulz_bf16", self.newton_schulz_bf16);
    f("polar_express", self.polar_express);
    f("muon_equal_rows", self.muon_equal_rows);
  }

  // InvalidArgument names the field.
  absl::Status Validate() const;
};

class Optimizer {
 public:
  // Takes moments and tables from the arena, all of which live as long as the arena is not reset. The weight
  // sets must be from NewFlatWeights on the same device. `working_copy` may be absent (a float model).
  Optimizer(Arena& arena, const ModelConfig& model, const OptimizerConfig& config, const FlatWeights& weights,
            const FlatWeights& gradients, const FlatWeights& average, Tensor<Bf16> working_copy,
            const Communicator& ranks = Communicator());
  ~Optimizer();
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // Host to device, queued behind the steps queued before, whatever becomes of `scalars`. Waits only when
  // kUploads are still queued.
  void Upload(const StepScalars& scalars);

  // Queues one step on the device, with scratch from the arena; capturable. gradients.flat holds the mean
  // gradient, or this rank's part of it; it is left zeroed. Collective.
  void Step(Arena& arena) {
    MeasureGradient(arena);
    UpdateOwned(arena);
    Publish();
  }

  // Makes weights, moments and average whole on every rank: from their owners, or all from rank 0.
  // Collective.
  void CollectSets();
  void TakeSetsOfRankZero();
  // Floats of the weights that this rank updates.
  int64_t owned_floats() const { return controls_ + owned_end() - owned_begin(); }

  // Norm of the gradient before clipping, of the last step: a device tensor [1].
  Tensor<const float> gradient_norm() const { return norm_; }

  // First and second moments, for checkpoints (flat, as the weights). Muon's momentum is a first moment.
  const FlatWeights& first_moment() const { return first_; }
  const FlatWeights& second_moment() const { return second_; }

 private:
  static constexpr int kUploads = 4;

  // Matrices of one shape, orthogonalized together.
  struct MuonBatch {
    int64_t small = 0;
    int64_t large = 0;
    Tensor<MuonMatrix> matrices;  // [count], on the device
    MuonShape shape() const { return {matrices.size(), small, large, matrices.data()}; }
  };

  void MeasureGradient(Arena& arena);
  void UpdateOwned(Arena& arena);
  void Publish();
  std::vector<FlatWeights> Sets() const { return {weights_, average_, first_, second_}; }

  // All of a flat tensor that is shared out, and of that what this rank owns, in floats of the block.
  template <typename T>
  Tensor<T> Shared(Tensor<T> flat) const {
    return flat.Slice(controls_, flat.size() - controls_);
  }
  int64_t owned_begin() const { return controls_ + shares_[static_cast<size_t>(ranks_.rank())]; }
  int64_t owned_end() const { return controls_ + shares_[static_cast<size_t>(ranks_.rank()) + 1]; }

  void ShareWeights(const WeightLayout& layout);
  UpdateRule RuleOf(WeightKind kind) const;
  void MakeTables(Arena& arena, const ModelConfig& model);
  StepOperands Operands() const;
  NewtonSchulzPolynomials Polynomials() const;
  template <typename T>
  void StepMuon(Arena& arena, const MuonBatch& batch);

  Device device_;
  OptimizerConfig config_;
  FlatWeights weights_, gradients_, average_, first_, second_;
  Tensor<Bf16> working_copy_;
  Communicator ranks_;
  int64_t controls_ = 0;         // floats before the part that is shared out
  std::vector<int64_t> shares_;  // of that part: ShareOut's cuts
  Tensor<UpdateRule> rules_;     // one for every kGranule floats of the flat block
  Tensor<StepScalars> scalars_;  // [1]
  Tensor<float> norm_;           // [1]
  std::vector<MuonBatch> muon_;
  // Host memory that uploads are read from, in turn; a fence for each says when it may be written again.
  StepScalars* staging_ = nullptr;
  std::unique_ptr<Fence> fences_[kUploads];
  int next_upload_ = 0;
};

}  // namespace hm11

#endif  // HM11_TRAIN_OPTIMIZER_H_
