// Batcher: arithmetic on spans of a TokenStream.
#include "data/batcher.h"

#include <algorithm>
#include <vector>

#include "core/check.h"
#include "core/random.h"

namespace hm11 {

Batcher::Batcher(const TokenStream& stream, const BatchPlan& plan) : stream_(stream), plan_(plan) {
  HM_CHECK(plan.batch > 0 && plan.time > 0 && plan.micro_batches > 0 && plan.ranks > 0);
  HM_CHECK_EQ(plan.shuffled_block % plan.time, 0);
  HM_CHECK_LE(plan.shuffled_block, stream.size());
}

int64_t Batcher::Span(int64_t step, int64_t rank, int64_t micro_batch) const {
  HM_CHECK_GE(step, 0);
  HM_CHECK(rank >= 0 && rank < plan_.ranks);
  HM_CHECK(micro_batch >= 0 && micro_batch < plan_.micro_batches);
  return (step * plan_.micro_batches + micro_batch) * plan_.ranks + rank;
}

int64_t Batcher::Position(int64_t step, int64_t rank, int64_t micro_batch, int64_t row) const {
  const int64_t span = Span(step, rank, micro_batch), block = plan_.shuffled_block;
  if (block == 0) return span * (plan_.batch * plan_.time + 1) + row * plan_.time;
  const int64_t sequence = span * plan_.batch + row, sequences = block / plan_.time;
  const int64_t blocks = stream_.size() / block, number = sequence / sequences;
  const uint64_t epoch = static_cast<uint64_t>(number / blocks), stream = StreamOf("order of blocks");
  const int64_t begin = RandomIndex(plan_.seed, stream, epoch, stream_.size());
  const int64_t place = PermutedIndex(RandomBits(plan_.seed, ~stream, epoch), number % blocks, blocks);
  return begin + place * block + sequence % sequences * plan_.time;
}

double Batcher::EpochsBefore(int64_t step) const {
  if (plan_.shuffled_block == 0) {
    return static_cast<double>(Position(step, 0, 0)) / static_cast<double>(stream_.size());
  }
  const int64_t epoch = stream_.size() / plan_.shuffled_block * plan_.shuffled_block;
  return static_cast<double>(step * tokens_per_step()) / static_cast<double>(epoch);
}

void Batcher::Fill(int64_t step, int64_t rank, int64_t micro_batch, Tensor<int32_t> inputs,
                   Tensor<int32_t> targets) const {
  const Shape shape = {plan_.batch, plan_.time};
  HM_CHECK_EQ(inputs.shape(), shape);
  HM_CHECK_EQ(targets.shape(), shape);
  std::vector<uint16_t> tokens(static_cast<size_t>(plan_.time) + 1);
  for (int64_t row = 0; row < plan_.batch; ++row) {
    stream_.Copy(Position(step, rank, micro_batch, row), tokens);
    std::copy_n(tokens.begin(), plan_.time, inputs.Slice(row, 1).data());
    std::copy_n(tokens.begin() + 1, plan_.time, targets.Slice(row, 1).data());
  }
}

int64_t PermutedIndex(uint64_t key, int64_t index, int64_t size) {
  HM_CHECK(index >= 0 && index < size);
  int half = 1;
  while (int64_t{1} << (2 * half) < size) ++half;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  uint64_t at = static_cast<uint64_t>(index);
  do {
    uint64_t left = at >> half, right = at & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t next = left ^ (RandomBits(key, round, right) & mask);
      left = right;
      right = next;
    }
    at = left << half | right;
  } while (at >= static_cast<uint64_t>(size));
  return static_cast<int64_t>(at);
}

void MaskInputs(double probability, uint64_t seed, int64_t step, int64_t first, Tensor<int32_t> inputs) {
  if (probability <= 0) return;
  const uint64_t stream = MixBits(StreamOf("masked inputs") + static_cast<uint64_t>(step));
  for (int64_t i = 0; i < inputs.size(); ++i) {
    if (RandomUniform(seed, stream, static_cast<uint64_t>(first + i)) < probability) inputs[i] = 0;
  }
}

}  // namespace hm11
