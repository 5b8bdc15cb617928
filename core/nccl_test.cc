// Communicator on GPUs: a process each, called and captured in a graph. Skipped where there are fewer than
// two.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "core/arena.h"
#include "core/communicator.h"
#include "core/device.h"
#include "core/launch_ranks.h"
#include "core/rank_group.h"
#include "core/ranks.h"
#include "core/step_graph.h"
#include "testing/devices.h"
#include "testing/matchers.h"
#include "testing/rank_processes.h"

namespace hm11 {
namespace {

// Integers, so that sums are exact in any order.
float Number(int rank, int64_t i) { return static_cast<float>((rank + 1) * (i % 97) + rank); }

// Sums to owners, gathers again, and sums one number: what a step does.
void ExpectSumsEverywhere(const Communicator& ranks, const Device& device, int64_t count,
                          const std::vector<int64_t>& cuts, bool captured) {
  Arena arena(device, 1 << 24);
  HostTensor<float> host = ZeroHostTensor<float>({count}), total = host;
  for (int64_t i = 0; i < count; ++i) {
    host[i] = Number(ranks.rank(), i);
    for (int r = 0; r < ranks.size(); ++r) total[i] += Number(r, i);
  }
  const Tensor<float> data = Upload(arena, host), reduced = Upload(arena, host), input = Upload(arena, host);
  const auto work = [&] {
    for (const Tensor<float>& x : {data, reduced})
      device.CopyOnDevice(x.data(), input.data(), x.size_bytes());
    ranks.ReduceScatter(device, data, cuts);
    ranks.AllGather(device, data, cuts);
    ranks.AllReduce(device, reduced);
  };
  work();
  device.Synchronize();
  if (captured) {
    StepGraph graph(device, work);
    for (int i = 0; i < 3; ++i) graph.Launch();
    device.Synchronize();
  }
  EXPECT_EQ(Download(arena, data).values, total.values) << count << (captured ? " captured" : "");
  EXPECT_EQ(Download(arena, reduced).values, total.values) << count << (captured ? " captured" : "");
}

TEST(RankBody, DISABLED_CollectivesOnGpus) {
  const Ranks own = *RanksFromProcess();
  const absl::StatusOr<std::shared_ptr<RankGroup>> group = RankGroup::Join(own, 60);
  ASSERT_THAT(group, IsOk());
  const absl::StatusOr<Device> device = Device::Cuda(own.local_rank);
  ASSERT_THAT(device, IsOk());
  const absl::StatusOr<Communicator> ranks = Communicator::Connect(*group, *device);
  ASSERT_THAT(ranks, IsOk());
  EXPECT_THAT(ranks->engine(), testing::ContainsRegex("^NCCL [0-9.]+ over (NVLink|PCIe)$"));
  for (const bool captured : {false, true}) {
    for (const int64_t share : {1, 64, 70000}) {
      // An even share each; then all but nothing for rank 0, and the rest for the others.
      std::vector<int64_t> even(1, 0), uneven = {0, 1};
      for (int r = 1; r <= own.size; ++r) even.push_back(share * r);
      for (int r = 2; r <= own.size; ++r) uneven.push_back(1 + (even.back() - 1) * (r - 1) / (own.size - 1));
      ExpectSumsEverywhere(*ranks, *device, even.back(), even, captured);
      ExpectSumsEverywhere(*ranks, *device, even.back(), uneven, captured);
    }
  }
  EXPECT_EQ((*group)->Finish(absl::OkStatus()), 0);
}

TEST(NcclTest, SumsAndGathersCalledAndCaptured) {
  const int gpus = CountGpusApart();
  if (gpus < 2) GTEST_SKIP() << "needs two GPUs, this machine has " << gpus;
  for (int ranks = 2; ranks <= gpus; ranks *= 2) {
    EXPECT_TRUE(RankProcesses("RankBody.DISABLED_CollectivesOnGpus", ranks).AllPass(120)) << ranks;
  }
}

TEST(RankBody, DISABLED_TwoOnOneGpu) {
  const absl::StatusOr<std::shared_ptr<RankGroup>> group = RankGroup::Join(*RanksFromProcess(), 60);
  ASSERT_THAT(group, IsOk());
  const absl::StatusOr<Device> device = Device::Cuda(0);
  ASSERT_THAT(device, IsOk());
  EXPECT_THAT(Communicator::Connect(*group, *device),
              StatusIs(absl::StatusCode::kInvalidArgument, "ranks 0 and 1 both run on GPU"));
  EXPECT_EQ((*group)->Finish(absl::OkStatus()), 0);
}

TEST(NcclTest, TwoRanksOnOneGpuAreRefused) {
  if (CountGpusApart() < 1) GTEST_SKIP() << "needs a GPU";
  EXPECT_TRUE(RankProcesses("RankBody.DISABLED_TwoOnOneGpu", 2).AllPass(120));
}

}  // namespace
}  // namespace hm11
