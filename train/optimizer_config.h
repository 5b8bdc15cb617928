// OptimizerConfig: the optimizer's settings, and which rule updates which kind of weight.
#ifndef HM11_TRAIN_OPTIMIZER_CONFIG_H_
#define HM11_TRAIN_OPTIMIZER_CONFIG_H_

#include <cstdint>

#include "absl/status/status.h"
#include "model/weight_info.h"
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

UpdateRule RuleOf(const OptimizerConfig& config, WeightKind kind);

}  // namespace hm11

#endif  // HM11_TRAIN_OPTIMIZER_CONFIG_H_
