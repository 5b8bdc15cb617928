// Embeddings: the sums before the first layer, forward and backward.
#include "model/embeddings.h"

#include "ops/embedding.h"
#include "ops/matmul.h"
#include "ops/residual_norm.h"
#include "ops/smear.h"

namespace hm11 {
namespace {

template <typename T, typename W>
ResidualNormArgs<T> EmbeddingSum(const ModelWeights<W>& weights, const EmbeddingSaved<T>& e, int64_t rows,
                                 int64_t dim) {
  ResidualNormArgs<T> args;
  args.x = e.tokens;
  if (!e.bigram_projected.empty()) {
    args.branch = e.bigram_projected;
    args.branch_scale = weights.bigram_scale;
  }
  args.y = e.summed;
  args.normed = e.normed.Reshaped({rows, dim});
  args.rstd = e.rstd;
  return args;
}

// The ids that a sequence keeps, then those of its next chunk.
template <typename T>
Tensor<int32_t> JoinedIds(Arena& arena, const SequenceState<T>& sequence, Tensor<const int32_t> ids) {
  const Tensor<int32_t> joined = NewAfterKept(arena, sequence.ids, sequence.kept, ids.size());
  arena.device().CopyOnDevice(joined.Slice(sequence.kept, ids.size()).data(), ids.data(), ids.size_bytes());
  return joined;
}

// The hash of each id and the one before it; of a sequence's first id here, the last one of the chunk before.
template <typename T>
Tensor<int32_t> HashForward(Arena& arena, const ModelConfig& config, Tensor<const int32_t> ids,
                            const SequenceState<T>* sequence, Tensor<const int32_t> joined) {
  if (sequence == nullptr || sequence->kept == 0) {
    const Tensor<int32_t> hash = arena.New<int32_t>(ids.shape());
    BigramHash(arena, ids, config.bigram_rows, hash);
    return hash;
  }
  const int64_t rows = ids.size();
  const Tensor<int32_t> hash = arena.New<int32_t>({1, rows + 1});
  BigramHash(arena, joined.Slice(sequence->kept - 1, rows + 1).Reshaped({1, rows + 1}), config.bigram_rows,
             hash);
  return hash.Reshaped({rows + 1}).Slice(1, rows).Reshaped(ids.shape());
}

}  // namespace

template <typename T, typename W>
void EmbeddingsForward(Arena& arena, const ModelConfig& config, const ModelWeights<W>& weights,
                       SequenceState<T>* sequence, ModelSaved<T>* saved) {
  const int64_t batch = saved->batch, time = saved->time, rows = batch * time, dim = config.dim;
  const Tensor<const int32_t> ids = saved->ids.Reshaped({rows});
  Tensor<int32_t> joined;
  if (sequence != nullptr) joined = JoinedIds(arena, *sequence, ids);
  EmbeddingSaved<T>& e = saved->embedding;
  e.tokens = arena.New<T>({rows, dim});
  EmbeddingForward<T, W>(arena, {.ids = ids, .table = weights.token_embedding, .y = e.tokens});
  if (config.bigram_rows > 0) {
    e.hash = HashForward<T>(arena, config, saved->ids, sequence, joined);
    e.bigram = arena.New<T>({rows, config.bigram_dim});
    e.bigram_projected = arena.New<T>({rows, dim});
    EmbeddingForward<T, W>(
        arena, {.ids = e.hash.Reshaped({rows}), .table = weights.bigram_embedding, .y = e.bigram});
    MatmulForward<T, W>(arena, {.x = e.bigram, .weight = weights.bigram_proj, .y = e.bigram_projected});
  }
  e.summed = arena.New<T>({rows, dim});
  e.rstd = arena.New<Accum<T>>({rows});
  e.normed = arena.New<T>({batch, time, dim});
  ResidualNormForward<T>(arena, EmbeddingSum(weights, e, rows, dim));
  saved->x0 = arena.New<T>({batch, time, dim});
  SmearArgs<T> smear = {.x = e.normed, .gate = weights.smear_gate, .previous = {}, .y = saved->x0};
  if (sequence != nullptr && sequence->kept > 0) smear.previous = sequence->embedding;
  SmearForward<T>(arena, smear);
  if (sequence != nullptr) {
    KeepLast(arena, e.normed.Reshaped({rows, dim}), sequence->embedding);
    KeepLast(arena, joined, sequence->ids);
  }
  if (config.value_embedding_count() > 0) {
    const Tensor<const int32_t> seen =
        sequence == nullptr ? ids : Tensor<const int32_t>(RowsOfWindows(arena, sequence->windows, joined));
    e.ve = arena.New<T>({seen.dim(0), config.value_embedding_dim});
    e.ve_projected = arena.New<T>({seen.dim(0), config.kv_dim()});
    EmbeddingForward<T, W>(arena, {.ids = seen, .table = weights.ve_embedding, .y = e.ve});
    MatmulForward<T, W>(arena, {.x = e.ve, .weight = weights.ve_proj, .y = e.ve_projected});
  }
}

template <typename T>
void EmbeddingsBackward(Arena& arena, const ModelConfig& config, const ModelWeights<T>& weights,
                        const ModelSaved<T>& saved, Tensor<const T> dx0, Tensor<const T> dve_projected,
                        ModelWeights<Accum<T>>& grad) {
  Arena::Scope scope(arena);
  const int64_t batch = saved.batch, time = saved.time, rows = batch * time, dim = config.dim;
  const Tensor<const int32_t> ids = saved.ids.Reshaped({rows});
  const EmbeddingSaved<T>& e = saved.embedding;
  if (!dve_projected.empty()) {
    Tensor<T> dve = arena.New<T>({rows, config.value_embedding_dim});
    MatmulBackward<T>(
        arena,
        {.dy = dve_projected, .x = e.ve, .weight = weights.ve_proj, .dx = dve, .dweight = grad.ve_proj});
    EmbeddingBackward<T>(arena, {.ids = ids, .dy = dve, .dtable = grad.ve_embedding});
  }
  Tensor<T> dnormed = arena.New<T>({batch, time, dim});
  SmearBackward<T>(arena, {.x = e.normed,
                           .gate = weights.smear_gate,
                           .dy = dx0.Reshaped({batch, time, dim}),
                           .dx = dnormed,
                           .dgate = grad.smear_gate});
  Tensor<T> dtokens = arena.New<T>({rows, dim});
  ResidualNormGradArgs<T> sum;
  sum.forward = EmbeddingSum(weights, e, rows, dim);
  sum.dnormed = dnormed.Reshaped({rows, dim});
  sum.dx = dtokens;
  if (config.bigram_rows > 0) {
    sum.dbranch = arena.New<T>({rows, dim});
    sum.dbranch_scale = grad.bigram_scale;
  }
  ResidualNormBackward<T>(arena, sum);
  EmbeddingBackward<T>(arena, {.ids = ids, .dy = dtokens, .dtable = grad.token_embedding});
  if (config.bigram_rows > 0) {
    Tensor<T> dbigram = arena.New<T>({rows, config.bigram_dim});
    MatmulBackward<T>(arena, {.dy = sum.dbranch,
                              .x = e.bigram,
                              .weight = weights.bigram_proj,
                              .dx = dbigram,
                              .dweight = grad.bigram_proj});
    EmbeddingBackward<T>(arena,
                         {.ids = e.hash.Reshaped({rows}), .dy = dbigram, .dtable = grad.bigram_embedding});
  }
}

#define HM11_INSTANTIATE(T)                                                                   \
  template void EmbeddingsForward<T, T>(Arena&, const ModelConfig&, const ModelWeights<T>&,   \
                                        SequenceState<T>*, ModelSaved<T>*);                   \
  template void EmbeddingsBackward<T>(Arena&, const ModelConfig&, const ModelWeights<T>&,     \
                                      const ModelSaved<T>&, Tensor<const T>, Tensor<const T>, \
                                      ModelWeights<Accum<T>>&);
HM11_INSTANTIATE(double)
HM11_INSTANTIATE(float)
HM11_INSTANTIATE(Bf16)
#undef HM11_INSTANTIATE
template void EmbeddingsForward<float, Fp16>(Arena&, const ModelConfig&, const ModelWeights<Fp16>&,
                                             SequenceState<float>*, ModelSaved<float>*);

}  // namespace hm11
