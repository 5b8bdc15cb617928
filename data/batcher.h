// Batcher: which tokens a rank trains on in a given step and micro-batch. Pure arithmetic: there is no state
// to save.
//
// Read in order, the stream is cut into spans of batch * time + 1 tokens. Span number
//   (step * micro_batches + micro_batch) * ranks + rank
// gives the inputs (all but its last token) and the targets (all but its first), both [batch, time] row by
// row. The end of the stream runs on into its beginning.
//
// Shuffled, the stream is cut into blocks of `shuffled_block` tokens, of block / time sequences each. Every
// epoch takes each block once, in an order and from a first token of its own. Row number
//   span * batch + row
// is sequence row % (block / time) of the block that comes (row / (block / time))-th.
//
// Properties:
//   1. In every row targets[i] is the token that follows inputs[i] in the stream.
//   2. Ranks and micro-batches are interchangeable: with ranks * micro_batches fixed, a step reads the same
//      spans.
//   3. In order: spans follow each other without gap or overlap.
//   4. Shuffled: an epoch reads every token once, but for the end of the stream that is shorter than a block.
//   5. Shuffled: the length of sequences may change from step to step (a multiple of it being the block);
//      with as many tokens a step the same blocks are read.
#ifndef HM11_DATA_BATCHER_H_
#define HM11_DATA_BATCHER_H_

#include <cstdint>

#include "core/tensor.h"
#include "data/token_stream.h"

namespace hm11 {

struct BatchPlan {
  int64_t batch = 1;          // sequences of one rank in one micro-batch
  int64_t time = 1;           // tokens of one sequence
  int64_t micro_batches = 1;  // of one rank in one step
  int64_t ranks = 1;
  int64_t shuffled_block = 0;  // tokens of the blocks that are shuffled, a multiple of time; 0: in order
  uint64_t seed = 0;           // of the order
};

class Batcher {
 public:
  // `stream` outlives the batcher.
  Batcher(const TokenStream& stream, const BatchPlan& plan);

  const BatchPlan& plan() const { return plan_; }
  // Targets that all ranks together train on in one step.
  int64_t tokens_per_step() const { return plan_.batch * plan_.time * plan_.micro_batches * plan_.ranks; }
  // Times the stream has been read through before `step`, as a fraction.
  double EpochsBefore(int64_t step) const;

  // Position in the stream (before wrapping) of the first input of a row.
  int64_t Position(int64_t step, int64_t rank, int64_t micro_batch, int64_t row = 0) const;
  // How many inputs of the step, of all ranks, come before the first of this rank's micro-batch.
  int64_t PlaceInStep(int64_t rank, int64_t micro_batch) const {
    return (micro_batch * plan_.ranks + rank) * plan_.batch * plan_.time;
  }
  // inputs, targets: [batch, time] on the host, overwritten.
  void Fill(int64_t step, int64_t rank, int64_t micro_batch, Tensor<int32_t> inputs,
            Tensor<int32_t> targets) const;

 private:
  int64_t Span(int64_t step, int64_t rank, int64_t micro_batch) const;

  const TokenStream& stream_;
  BatchPlan plan_;
};

// Where `index` goes in a pseudo-random permutation of {0, ..., size - 1} that the key chooses: four rounds
// of a Feistel network over the next power of four, walked until it is back inside (Black & Rogaway 2002,
// "Ciphers with arbitrary finite domains").
int64_t PermutedIndex(uint64_t key, int64_t index, int64_t size);

// Hides each input with the given probability: token 0, the padding that no text has, stands in its place,
// and the target stays. What text is read several times for cannot then be learned by heart from the tokens
// just before it. A function of seed and step, and of where an input stands in the step: `first` is the place
// of inputs[0] (Batcher::PlaceInStep), so who holds an input makes no difference.
void MaskInputs(double probability, uint64_t seed, int64_t step, int64_t first, Tensor<int32_t> inputs);

}  // namespace hm11

#endif  // HM11_DATA_BATCHER_H_
