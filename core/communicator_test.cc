// Ranks that meet, exchange, add up and end, as real processes on the CPU.
#include "core/communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <thread>

#include "absl/strings/str_cat.h"
#include "core/arena.h"
#include "core/rank_group.h"
#include "testing/matchers.h"
#include "testing/rank_processes.h"

namespace hm11 {
namespace {

using testing::HasSubstr;

std::shared_ptr<RankGroup> JoinGroup(double seconds = 20) {
  absl::StatusOr<std::shared_ptr<RankGroup>> group = RankGroup::Join(*RanksFromProcess(), seconds);
  EXPECT_THAT(group, IsOk());
  return group.ok() ? *group : nullptr;
}

// An integer valued function of rank and place: sums are exact, whatever their order.
float Number(int rank, int64_t i) { return static_cast<float>((rank + 1) * (i % 97) + rank); }

TEST(RankBody, DISABLED_Collectives) {
  const std::shared_ptr<RankGroup> group = JoinGroup();
  ASSERT_NE(group, nullptr);
  const Device device = Device::Cpu();
  const absl::StatusOr<Communicator> connected = Communicator::Connect(group, device);
  ASSERT_THAT(connected, IsOk());
  const Communicator& ranks = *connected;
  const int size = ranks.size(), rank = ranks.rank();
  Arena arena = Arena::Cpu();
  for (const int64_t count : {1, 5, 1000, 70001}) {
    const Tensor<float> data = arena.New<float>({count});
    const auto fill = [&] {
      for (int64_t i = 0; i < count; ++i) data[i] = Number(rank, i);
    };
    const auto sum = [&](int64_t i) {
      float total = 0;
      for (int r = 0; r < size; ++r) total += Number(r, i);
      return total;
    };
    fill();
    ranks.AllReduce(device, data);
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(data[i], sum(i)) << i;
    // The first owns nothing, the last what is left of an uneven share.
    std::vector<int64_t> cuts(static_cast<size_t>(size) + 1, 0);
    for (int r = 1; r < size; ++r) cuts[static_cast<size_t>(r)] = (count * (r - 1)) / size;
    cuts.back() = count;
    fill();
    ranks.ReduceScatter(device, data, cuts);
    const int64_t begin = cuts[static_cast<size_t>(rank)], end = cuts[static_cast<size_t>(rank) + 1];
    for (int64_t i = begin; i < end; ++i) ASSERT_EQ(data[i], sum(i)) << i;
    std::fill(data.begin(), data.begin() + begin, -1.0f);
    std::fill(data.begin() + end, data.end(), -1.0f);
    ranks.AllGather(device, data, cuts);
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(data[i], sum(i)) << i;
  }
  EXPECT_EQ(group->Finish(absl::OkStatus()), 0);
}

TEST(CommunicatorTest, SumsAndGathersWhatOneRankWouldHave) {
  for (const int ranks : {2, 3}) {
    EXPECT_TRUE(RankProcesses("RankBody.DISABLED_Collectives", ranks).AllPass()) << ranks;
  }
}

TEST(CommunicatorTest, OneRankAndThePlanDeviceDoNothing) {
  Tensor<float> nothing(nullptr, {6});
  Communicator().AllReduce(Device::Cpu(), nothing);
  Communicator().ReduceScatter(Device::Cpu(), nothing, {0, 6});
  Communicator::Plan(1, 2).ReduceScatter(Device::Plan(), nothing, {0, 2, 6});
  Communicator::Plan(1, 2).AllGather(Device::Plan(), nothing, {0, 2, 6});
}

TEST(RankBody, DISABLED_Exchanges) {
  const std::shared_ptr<RankGroup> group = JoinGroup();
  ASSERT_NE(group, nullptr);
  const std::string large(100000, 'x');
  for (int round = 0; round < 3; ++round) {
    const std::vector<std::string> all = group->AllGather(absl::StrCat(group->rank(), large));
    ASSERT_EQ(all.size(), static_cast<size_t>(group->size()));
    for (size_t r = 0; r < all.size(); ++r) EXPECT_EQ(all[r], absl::StrCat(r, large));
    EXPECT_EQ(group->Broadcast(group->rank() == 0 ? "zero's" : "mine"), "zero's");
  }
  EXPECT_EQ(group->Finish(absl::OkStatus()), 0);
}

TEST(RankGroupTest, EveryRankGetsEveryRanksWords) {
  EXPECT_TRUE(RankProcesses("RankBody.DISABLED_Exchanges", 4).AllPass());
}

// Waits for a rank that does not come.
TEST(RankBody, DISABLED_WaitsInACollective) {
  const std::shared_ptr<RankGroup> group = JoinGroup(3);
  ASSERT_NE(group, nullptr);
  const absl::StatusOr<Communicator> ranks = Communicator::Connect(group, Device::Cpu());
  ASSERT_THAT(ranks, IsOk());
  std::fprintf(stderr, "met\n");
  if (group->rank() == group->size() - 1) std::this_thread::sleep_for(std::chrono::seconds(60));
  Arena arena = Arena::Cpu();
  ranks->AllReduce(Device::Cpu(), arena.NewZero<float>({1000}));
  group->Finish(absl::OkStatus());
}

void WaitUntilMet(const RankProcesses& ranks, int count) {
  for (int rank = 0; rank < count; ++rank) {
    int waits = 12000;
    while (ranks.ErrorsOf(rank).find("met") == std::string::npos && --waits > 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    ASSERT_GT(waits, 0) << ranks.ErrorsOf(rank);
  }
}

TEST(RankGroupTest, TheDeathOfARankEndsTheOthersAndOneLineNamesIt) {
  for (const int victim : {2, 0}) {
    RankProcesses ranks("RankBody.DISABLED_WaitsInACollective", 3);
    WaitUntilMet(ranks, 3);
    kill(ranks.pid(victim), SIGKILL);
    std::string errors;
    for (int rank = 0; rank < 3; ++rank) {
      EXPECT_EQ(ranks.ExitOf(rank, 20), rank == victim ? -SIGKILL : 1) << rank;
      errors += ranks.ErrorsOf(rank);
    }
    const std::string line = absl::StrCat("error: rank ", victim, " on ");
    EXPECT_THAT(errors, HasSubstr(line));
    EXPECT_EQ(errors.find("error:"), errors.rfind("error:")) << errors;
  }
}

TEST(RankGroupTest, ASilentRankIsNoticed) {
  RankProcesses ranks("RankBody.DISABLED_WaitsInACollective", 3);
  WaitUntilMet(ranks, 3);
  kill(ranks.pid(1), SIGSTOP);
  EXPECT_EQ(ranks.ExitOf(0, 20), 1);
  EXPECT_EQ(ranks.ExitOf(2, 20), 1);
  EXPECT_THAT(ranks.ErrorsOf(0), HasSubstr("rank 1 on "));
  EXPECT_THAT(ranks.ErrorsOf(0), HasSubstr("gave no sign of life for 3 s"));
  kill(ranks.pid(1), SIGCONT);
  EXPECT_EQ(ranks.ExitOf(1, 20), 1);
}

TEST(RankBody, DISABLED_TheLastEndsWithAnError) {
  const std::shared_ptr<RankGroup> group = JoinGroup();
  ASSERT_NE(group, nullptr);
  const bool last = group->rank() == group->size() - 1;
  std::exit(group->Finish(last ? absl::DataLossError("the disk is gone") : absl::OkStatus()));
}

TEST(RankGroupTest, AllEndWithTheErrorOfOne) {
  RankProcesses ranks("RankBody.DISABLED_TheLastEndsWithAnError", 3);
  std::string errors;
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(ranks.ExitOf(rank, 20), 1) << rank;
    errors += ranks.ErrorsOf(rank);
  }
  EXPECT_THAT(errors, testing::ContainsRegex("error: rank 2 on .*: the disk is gone\n"));
  EXPECT_EQ(errors.find("error:"), errors.rfind("error:")) << errors;
}

TEST(RankGroupTest, BadInputIsNamed) {
  Ranks ranks = {.rank = 1, .size = 2, .local_rank = 1, .master_address = "127.0.0.1", .master_port = 1};
  EXPECT_THAT(RankGroup::Join(ranks, 0.1), StatusIs(absl::StatusCode::kUnavailable, "MASTER_ADDR=127.0.0.1"));
  ranks.rank = 0;
  ranks.size = 3;
  const Socket taken = *ListenOn(0);
  ranks.master_port = PortOf(taken);
  EXPECT_THAT(RankGroup::Join(ranks, 0.1),
              StatusIs(absl::StatusCode::kUnavailable, absl::StrCat("port ", ranks.master_port)));
  ranks.master_port = PortOf(*ListenOn(0));
  EXPECT_THAT(RankGroup::Join(ranks, 0.1),
              StatusIs(absl::StatusCode::kDeadlineExceeded, "within 0.1 s: 1, 2"));
  // Somebody answers and hangs up.
  ranks.rank = 1;
  const Socket other = *ListenOn(0);
  ranks.master_port = PortOf(other);
  std::thread hangs_up([&] { AcceptWithin(other, 10); });
  EXPECT_THAT(
      RankGroup::Join(ranks, 5),
      StatusIs(absl::StatusCode::kUnavailable, absl::StrCat("port ", ranks.master_port, ", is no rank 0")));
  hangs_up.join();
}

}  // namespace
}  // namespace hm11
