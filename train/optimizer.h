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
// newton_schulz divides by the Frobenius norm first; with muon_equal_rows every row is divided by its own norm
// and by sqrt(rows) instead (MuonEq-R of the challenge's pull request 1217, but for rows of nearly nothing, which
// do not make the others larger).
//
// With more than one rank controls are every rank's own, updated alike by the same bits, and the rest is
// shared out (train/weight_share.h): gradients are summed over ranks, a matrix' where it is owned; the norm
// is of all; a rank updates what it owns, and what the model runs on is gathered, the working copy or,
// without one, the weights. Moments, average and, beside a working copy, weights are kept only where they
// are owned.
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

#include "core/arena.h"
#include "core/communicator.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/step_graph.h"
#include "core/tensor.h"
#include "model/config.h"
#include "model/weight_layout.h"
#include "train/newton_schulz.h"
#include "train/optimizer_config.h"
#include "train/update_rules.h"
#include "train/weight_share.h"

namespace hm11 {

class Optimizer {
 public:
  // Takes moments and tables from the arena, all of which live as long as the arena is not reset. On the
  // same device: `gradients` and `working_copy` of the whole block; `average`, and beside a working copy
  // `weights`, of the rank's share of it. `working_copy` may be absent (a float model): then `weights` are
  // whole.
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

  // What the model runs on becomes every owner's: the last part of a step. Collective.
  void Publish();
  const WeightShare& share() const { return share_; }

  // Norm of the gradient before clipping, of the last step: a device tensor [1].
  Tensor<const float> gradient_norm() const { return norm_; }

  // First and second moments, for checkpoints: the rank's share. Muon's momentum is a first moment.
  const Tensor<float>& first_moment() const { return first_; }
  const Tensor<float>& second_moment() const { return second_; }

 private:
  static constexpr int kUploads = 4;
  static constexpr int kQueues = 4;

  // Matrices of one shape, orthogonalized together.
  struct MuonBatch {
    int64_t small = 0;
    int64_t large = 0;
    Tensor<MuonMatrix> matrices;  // [count], on the device
    int queue = 0;                // of queues_
    MuonShape shape() const { return {matrices.size(), small, large, matrices.data()}; }
  };

  void MeasureGradient(Arena& arena);
  void UpdateOwned(Arena& arena);
  void MakeTables(Arena& arena, const ModelConfig& model);
  void ShareOutQueues();
  StepOperands Operands() const;
  NewtonSchulzPolynomials Polynomials() const;
  template <typename T>
  void StepMuon(Arena& arena, const MuonBatch& batch);

  Device device_;
  OptimizerConfig config_;
  FlatWeights weights_, gradients_, average_;
  Tensor<Bf16> working_copy_;
  Communicator ranks_;
  WeightShare share_;
  Tensor<float> first_, second_;
  Tensor<UpdateRule> rules_;     // one for every kGranule floats of the flat block
  Tensor<StepScalars> scalars_;  // [1]
  Tensor<float> norm_;           // [1]
  std::vector<MuonBatch> muon_;
  std::unique_ptr<Fork> queues_;  // for batches of few matrices, whose products leave most of a GPU idle
  // Host memory that uploads are read from, in turn; a fence for each says when it may be written again.
  StepScalars* staging_ = nullptr;
  std::unique_ptr<Fence> fences_[kUploads];
  int next_upload_ = 0;
};

}  // namespace hm11

#endif  // HM11_TRAIN_OPTIMIZER_H_
