// From ids to x0 and the value embeddings, and back: token table, hashed bigrams, smear gate.
#ifndef HM11_MODEL_EMBEDDINGS_H_
#define HM11_MODEL_EMBEDDINGS_H_

#include "core/arena.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "model/config.h"
#include "model/model_saved.h"
#include "model/weights.h"

namespace hm11 {

// Fills saved->embedding and saved->x0 for saved->ids; the sequence's state goes on where there is one. W:
// what tables and matrices are stored in.
template <typename T, typename W>
void EmbeddingsForward(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights,
                       SequenceState<T>* sequence, ModelSaved<T>* saved);

// dx0 [rows, dim] and dve_projected [rows, kv_dim]: what reached x0 and the projected value embeddings. Adds
// to `grad`.
template <typename T>
void EmbeddingsBackward(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                        const ModelSaved<T>& saved, Tensor<const T> dx0, Tensor<const T> dve_projected,
                        ModelWeights<Accum<T>>& grad);

}  // namespace hm11

#endif  // HM11_MODEL_EMBEDDINGS_H_
