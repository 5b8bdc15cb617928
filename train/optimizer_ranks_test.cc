// The optimizer over three real ranks, each with its share of the weights, against the reference's steps.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <memory>
#include <string>

#include "core/arena.h"
#include "core/communicator.h"
#include "core/device.h"
#include "core/launch_ranks.h"
#include "core/rank_group.h"
#include "core/ranks.h"
#include "model/language_model.h"
#include "testing/devices.h"
#include "testing/matchers.h"
#include "testing/rank_processes.h"
#include "train/optimizer.h"
#include "train/optimizer_test_golden.h"

namespace hm11 {
namespace {

// Rows [rows * rank / ranks, rows * (rank + 1) / ranks).
HostTensor<int32_t> RowsOf(const HostTensor<int32_t>& ids, int rank, int ranks) {
  const int64_t rows = ids.shape[0], cols = ids.shape[1];
  const int64_t begin = rows * rank / ranks, end = rows * (rank + 1) / ranks;
  return {{end - begin, cols}, {ids.values.begin() + begin * cols, ids.values.begin() + end * cols}};
}

// One rank with all that its optimizer works on, weights and average only where they are owned.
class RankTraining {
 public:
  RankTraining(const Device& device, const ModelConfig& model, const OptimizerConfig& config,
               const Communicator& ranks)
      : model_(model), ranks_(ranks), arena_(TestArena(device, int64_t{1} << 29)), work_(TestArena(device)) {
    const WeightShare share(model, config, ranks.rank(), ranks.size());
    whole_ = NewFlatWeights(arena_, model);
    gradients_ = NewFlatWeights(arena_, model);
    weights_.flat = arena_.NewZero<float>({share.floats()});
    average_.flat = arena_.NewZero<float>({share.floats()});
    copy_ = arena_.NewZero<Bf16>({share.whole_floats()});
    optimizer_ =
        std::make_unique<Optimizer>(arena_, model, config, weights_, gradients_, average_, copy_, ranks);
  }

  void Import(const std::vector<NamedTensor>& tensors) {
    ASSERT_THAT(ImportWeights<float>(arena_, model_, tensors, &whole_.view), IsOk());
    optimizer_->share().Take(arena_.device(), whole_.flat, weights_.flat);
    optimizer_->share().Take(arena_.device(), whole_.flat, average_.flat);
  }
  std::vector<NamedTensor> Export(const FlatWeights& set) {
    optimizer_->share().Gather(arena_.device(), ranks_, set.flat, whole_.flat);
    return ExportWeights<float>(arena_, model_, whole_.view);
  }
  // On this rank's rows; the model reads what all ranks own.
  void Step(const HostTensor<int32_t>& ids, const HostTensor<int32_t>& targets, const StepScalars& scalars) {
    work_.Reset();
    optimizer_->share().Gather(arena_.device(), ranks_, weights_.flat, whole_.flat);
    const HostTensor<int32_t> own = RowsOf(ids, ranks_.rank(), ranks_.size()),
                              own_targets = RowsOf(targets, ranks_.rank(), ranks_.size());
    if (own.shape[0] > 0) {
      const float part = static_cast<float>(own.shape[0]) / static_cast<float>(ids.shape[0]);
      LossAndGradient<float>(work_, model_,
                             {.weights = whole_.view,
                              .ids = Upload(work_, own),
                              .targets = Upload(work_, own_targets),
                              .loss_scale = part,
                              .grad = gradients_.view,
                              .loss = work_.New<float>({1})});
    }
    optimizer_->Upload(scalars);
    optimizer_->Step(work_);
  }
  // The copy has every rank's weights, rounded.
  void ExpectCopyFollows() {
    optimizer_->share().Gather(arena_.device(), ranks_, weights_.flat, whole_.flat);
    const HostTensor<float> weights = Download(arena_, whole_.flat);
    const HostTensor<Bf16> copy = Download(arena_, copy_);
    for (int64_t i = 0; i < weights.size(); ++i) {
      ASSERT_EQ(copy[i].bits, Bf16(weights[i]).bits) << i << " on rank " << ranks_.rank();
    }
  }
  float norm() { return Download(arena_, optimizer_->gradient_norm())[0]; }

  const ModelConfig model_;
  const Communicator ranks_;
  Arena arena_, work_;
  FlatWeights whole_, gradients_, weights_, average_;
  Tensor<Bf16> copy_;
  std::unique_ptr<Optimizer> optimizer_;
};

TEST(RankBody, DISABLED_GoldenSteps) {
  const Ranks own = *RanksFromProcess();
  const absl::StatusOr<std::shared_ptr<RankGroup>> group = RankGroup::Join(own, 60);
  ASSERT_THAT(group, IsOk());
  const bool on_gpus = getenv("ON_GPUS") != nullptr;
  const absl::StatusOr<Device> device = on_gpus ? Device::Cuda(own.local_rank) : Device::Cpu();
  ASSERT_THAT(device, IsOk());
  const absl::StatusOr<Communicator> ranks = Communicator::Connect(*group, *device);
  ASSERT_THAT(ranks, IsOk());
  const GoldenSteps golden = ReadGoldenSteps();
  const OptimizerConfig config = GoldenConfig();
  RankTraining training(*device, golden.model, config, *ranks);
  EXPECT_LT(training.weights_.flat.size(), training.whole_.flat.size());
  training.Import(golden.Under("start."));
  for (int64_t step = 0; step < 3; ++step) {
    const std::string prefix = "step" + std::to_string(step);
    training.Step(golden.Ids(prefix + ".input_ids"), golden.Ids(prefix + ".target_ids"),
                  GoldenScalars(config, step));
    const float norm = golden.tensors.at("grad_norms").values[static_cast<size_t>(step)];
    EXPECT_NEAR(training.norm(), norm, 1e-4 * norm) << prefix;
    training.ExpectCopyFollows();
  }
  ExpectGolden(training.Export(training.weights_), golden.Under("end."));
  ExpectGolden(training.Export(training.average_), golden.Under("ema."));
  EXPECT_EQ((*group)->Finish(absl::OkStatus()), 0);
}

TEST(OptimizerRanksTest, ThreeStepsOfThreeRanksAreTheReferences) {
  // Under Bazel the engine's library is always there.
  if (getenv("TEST_SRCDIR") == nullptr && getenv("HM11_GLOO") == nullptr) {
    GTEST_SKIP() << "CPU ranks need the Gloo engine's library, which bundles do not carry";
  }
  EXPECT_TRUE(
      RankProcesses("RankBody.DISABLED_GoldenSteps", 3, {{"OPENBLAS_NUM_THREADS", "1"}}).AllPass(120));
}

TEST(OptimizerRanksTest, ThreeStepsOfThreeGpusAreTheReferences) {
  const int gpus = CountGpusApart();
  if (gpus < 3) GTEST_SKIP() << "needs three GPUs, this machine has " << gpus;
  EXPECT_TRUE(RankProcesses("RankBody.DISABLED_GoldenSteps", 3, {{"ON_GPUS", "1"}}).AllPass(120));
}

}  // namespace
}  // namespace hm11
