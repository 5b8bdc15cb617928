// What one optimizer step does to one number: the formulas that the loops of the CPU and the kernels share.
#ifndef HM11_TRAIN_UPDATE_RULES_H_
#define HM11_TRAIN_UPDATE_RULES_H_

#include <cmath>
#include <cstdint>

#include "core/dtype.h"

namespace hm11 {

// What changes from step to step; the host fills one and Optimizer::Upload puts it where a step (or its
// graph) reads it.
struct StepScalars {
  float lr_scale = 1;  // multiplies every learning rate
  float muon_momentum = 0.95f;
  float adam_correction1 = 1;  // 1 - beta1^t, t from 1
  float adam_correction2 = 1;  // 1 - beta2^t
  float average_decay = 0;     // 0: the average is the weights themselves
};

// How a weight is updated: a rule for each granule of the flat block. The Adam rules differ in their rates
// only.
enum class UpdateRule : uint8_t { kMuon, kAdamEmbedding, kAdamControl, kAdamMatrix, kAdamHead };
inline constexpr int kUpdateRules = 5;

// A matrix for Muon: where its first element is in the flat block, and whether it has more rows than columns,
// so that it is orthogonalized as its transpose.
struct MuonMatrix {
  int64_t offset;
  bool transposed;
};

// Matrices of one shape up to transposition, small <= large.
struct MuonShape {
  int64_t count;
  int64_t small;
  int64_t large;
  const MuonMatrix* matrices;  // [count], on the device

  HM_HOST_DEVICE int64_t size() const { return small * large; }  // of one matrix
  // As the weights lie.
  HM_HOST_DEVICE int64_t rows(const MuonMatrix& matrix) const { return matrix.transposed ? large : small; }
  HM_HOST_DEVICE int64_t cols(const MuonMatrix& matrix) const { return matrix.transposed ? small : large; }
};

// A set of weights of which a rank keeps its share (train/weight_share.h), by places in the whole block.
struct KeptFloats {
  float* data = nullptr;
  int64_t controls = 0;  // places before this are where they are in the block
  int64_t skipped = 0;   // floats between them and the owned range, which are not kept

  HM_HOST_DEVICE float* At(int64_t place) const {
    return data + (place < controls ? place : place - skipped);
  }
};

// All that a step reads and writes, besides Muon's scratch. Pointers are to device memory,
// gradients and working copy to the whole block.
struct StepOperands {
  struct Rates {
    float lr;
    float weight_decay;
  };
  Rates rates[kUpdateRules];
  float beta1;
  float beta2;
  float epsilon;
  float clip;
  bool muon_equal_rows;
  const StepScalars* scalars;
  const float* norm;  // [1], of the gradient before clipping
  KeptFloats weights;
  float* gradients;  // left zeroed
  KeptFloats first;
  KeptFloats second;
  KeptFloats average;
  Bf16* working_copy;  // may be null
};

HM_HOST_DEVICE inline float ClipFactor(const StepOperands& s) {
  const float factor = s.clip / (*s.norm + 1e-6f);
  return s.clip > 0 && factor < 1 ? factor : 1;
}

// One rule's numbers for a step.
struct AdamStep {
  float clip_factor, beta1, beta2, epsilon;
  float keep;           // 1 - lr weight_decay
  float first_factor;   // lr / (1 - beta1^t)
  float second_factor;  // 1 / sqrt(1 - beta2^t)
};

HM_HOST_DEVICE inline AdamStep AdamStepOf(const StepOperands& s, UpdateRule rule) {
  const StepOperands::Rates rates = s.rates[static_cast<int>(rule)];
  const StepScalars scalars = *s.scalars;
  const float lr = rates.lr * scalars.lr_scale;
  return {ClipFactor(s),
          s.beta1,
          s.beta2,
          s.epsilon,
          1 - lr * rates.weight_decay,
          lr / scalars.adam_correction1,
          1 / sqrtf(scalars.adam_correction2)};
}

// The new weight; moments are updated in place.
HM_HOST_DEVICE inline float AdamUpdate(const AdamStep& step, float gradient, float weight, float& first,
                                       float& second) {
  const float g = gradient * step.clip_factor;
  first = step.beta1 * first + (1 - step.beta1) * g;
  second = step.beta2 * second + (1 - step.beta2) * g * g;
  return step.keep * weight - step.first_factor * first / (sqrtf(second) * step.second_factor + step.epsilon);
}

// Nesterov momentum: the direction to orthogonalize; the moment is updated in place.
HM_HOST_DEVICE inline float MuonDirection(float clipped_gradient, float momentum, float& first) {
  first = momentum * first + clipped_gradient;
  return clipped_gradient + momentum * first;
}

struct MuonStep {
  float keep;  // 1 - lr weight_decay
  float size;  // lr sqrt(max(1, rows / cols))
};

HM_HOST_DEVICE inline MuonStep MuonStepOf(const StepOperands& s, int64_t small, int64_t large,
                                          bool transposed) {
  const StepOperands::Rates rates = s.rates[static_cast<int>(UpdateRule::kMuon)];
  const float lr = rates.lr * s.scalars->lr_scale;
  const float ratio = transposed ? static_cast<float>(large) / static_cast<float>(small) : 1.0f;
  return {1 - lr * rates.weight_decay, lr * sqrtf(ratio)};
}

HM_HOST_DEVICE inline float MuonUpdate(const MuonStep& step, float weight, float orthogonal) {
  return step.keep * weight - step.size * orthogonal;
}

// What a matrix is multiplied by before it is orthogonalized.
HM_HOST_DEVICE inline float MuonNormalizer(float sum_of_squares) {
  return 1 / (sqrtf(sum_of_squares) + 1e-7f);
}

HM_HOST_DEVICE inline float AverageUpdate(float decay, float average, float weight) {
  return decay * average + (1 - decay) * weight;
}

}  // namespace hm11

#endif  // HM11_TRAIN_UPDATE_RULES_H_
