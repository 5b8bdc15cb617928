// Batcher: arithmetic on spans of a TokenStream.
#include "data/batcher.h"

#include <vector>

#include "core/check.h"
#include "core/random.h"

namespace hm11 {

Batcher::Batcher(const TokenStream& stream, const BatchPlan& plan) : stream_(stream), plan_(plan) {
  HM_CHECK(plan.batch > 0 && plan.time > 0 && plan.micro_batches > 0 && plan.ranks > 0);
}

int64_t Batcher::Position(int64_t step, int64_t rank, int64_t micro_batch) const {
  HM_CHECK_GE(step, 0);
  HM_CHECK(rank >= 0 && rank < plan_.ranks);
  HM_CHECK(micro_batch >= 0 && micro_batch < plan_.micro_batches);
  const int64_t span = (step * plan_.micro_batches + micro_batch) * plan_.ranks + rank;
  return span * (plan_.batch * plan_.time + 1);
}

double Batcher::EpochsBefore(int64_t step) const {
  return static_cast<double>(Position(step, 0, 0)) / static_cast<double>(stream_.size());
}

void Batcher::Fill(int64_t step, int64_t rank, int64_t micro_batch, Tensor<int32_t> inputs,
                   Tensor<int32_t> targets) const {
  const Shape shape = {plan_.batch, plan_.time};
  HM_CHECK_EQ(inputs.shape(), shape);
  HM_CHECK_EQ(targets.shape(), shape);
  const std::vector<uint16_t> span = stream_.Read(Position(step, rank, micro_batch), shape.size() + 1);
  for (int64_t i = 0; i < shape.size(); ++i) {
    inputs[i] = span[static_cast<size_t>(i)];
    targets[i] = span[static_cast<size_t>(i) + 1];
  }
}

void MaskInputs(double probability, uint64_t seed, int64_t step, Tensor<int32_t> inputs) {
  if (probability <= 0) return;
  const uint64_t stream = MixBits(StreamOf("masked inputs") + static_cast<uint64_t>(step));
  for (int64_t i = 0; i < inputs.size(); ++i) {
    if (RandomUniform(seed, stream, static_cast<uint64_t>(i)) < probability) inputs[i] = 0;
  }
}

}  // namespace hm11
