// A visit of a layer: mixer and MLP with the residual steps into and between them, forward and backward.
#ifndef HM11_MODEL_BLOCKS_H_
#define HM11_MODEL_BLOCKS_H_

#include <cstdint>
#include <vector>

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "model/config.h"
#include "model/model_saved.h"
#include "model/weights.h"

namespace hm11 {

// Fills mixer8, up8 and down8 of saved->blocks.
void LayerWeightsToFp8(Arena& arena, const ModelConfig& config, const ModelWeights<Bf16>& weights,
                       ModelSaved<Bf16>* saved);

// Fills saved->blocks[visit], but for the step into it, which the visit before has done (the first does its
// own), and does the step into the next visit, or into the final norm.
template <typename T, typename W>
void BlockForward(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights, int64_t visit,
                  const ForwardOptions<T>& options, ModelSaved<T>* saved);

// Gradients that live across visits.
template <typename T>
struct ResidualGrads {
  Tensor<T> dresidual;           // [rows, dim]: of the sum at the current boundary
  Tensor<E5m2> dresidual8;       // as it leaves a step, in 8 bits (ops/fp8.h); absent where forward had none
  Tensor<T> dx0;                 // [rows, dim]: sums over visits, which the last of the visits begins
  std::vector<Tensor<T>> dskip;  // per encoder visit but the last: what its output gets from the decoder
  Tensor<T> dve_projected;       // [rows, kv_dim]: sums over visits
  bool has_dve = false;          // something has reached dve_projected
  Tensor<T> dfirst_v;            // sums over visits
};

// With room for all of them.
template <typename T>
ResidualGrads<T> NewResidualGrads(Arena& arena, const ModelConfig& config, const ModelSaved<T>& saved);

// Makes g.dresidual, the gradient of the visit's output, that of what enters the visit; of the first visit, which x0
// enters, it goes to g.dx0. Adds to `grad`.
template <typename T>
void BlockBackward(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                   const ModelSaved<T>& saved, int64_t visit, ResidualGrads<T>& g,
                   ModelWeights<Accum<T>>& grad);

}  // namespace hm11

#endif  // HM11_MODEL_BLOCKS_H_
