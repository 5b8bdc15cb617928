// A checkpoint whose tensors are not those of the model is refused by the tensor's name.
#include "train/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "data/token_stream.h"
#include "testing/matchers.h"
#include "train/run_test_data.h"
#include "train/trainer.h"

namespace hm11 {
namespace {

class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = NewSmallDataFolder("hm11_checkpoint");
    config_ = SmallRun(folder_, "run").config;
    config_.micro_batch_tokens = config_.sequence;
    stream_ = *TokenStream::Open(folder_ + "/t_train_*.bin", config_.model.vocab);
    const auto plan = PlanMemory<float>(config_, Communicator(), Device::Cpu(), int64_t{1} << 40);
    ASSERT_THAT(plan, IsOk());
    trainer_.emplace(config_, *plan, Device::Cpu(), *stream_, Communicator());
  }

  // What loading says of `state`, written and read.
  absl::Status LoadWritten(const TrainingState& state) {
    const std::string path = folder_ + "/checkpoint.safetensors";
    const absl::Status written = WriteCheckpoint(
        path, {.config = "", .position = {}, .tokenizer_crc64 = "", .matmul_tuning = "", .state = state});
    if (!written.ok()) return written;
    const auto checkpoint = ReadCheckpoint(path);
    return checkpoint.ok() ? trainer_->Load(checkpoint->state) : checkpoint.status();
  }

  std::string folder_;
  RunConfig config_;
  std::optional<TokenStream> stream_;
  std::optional<Trainer<float>> trainer_;
};

TEST_F(CheckpointTest, AnUnknownWeightIsAnError) {
  TrainingState state = trainer_->Save();
  EXPECT_THAT(LoadWritten(state), IsOk());
  for (auto tensors : {&TrainingState::weights, &TrainingState::first_moment, &TrainingState::average}) {
    TrainingState more = state;
    (more.*tensors).push_back({"blocks.0.novelty", {2}, {1, 2}});
    EXPECT_THAT(LoadWritten(more), StatusIs(absl::StatusCode::kInvalidArgument, "tensor blocks.0.novelty"));
  }
}

TEST_F(CheckpointTest, AMissingWeightIsAnError) {
  TrainingState state = trainer_->Save();
  const std::string name = state.weights.back().name;
  state.weights.pop_back();
  EXPECT_THAT(LoadWritten(state), StatusIs(absl::StatusCode::kNotFound, "tensor " + name));
}

}  // namespace
}  // namespace hm11
