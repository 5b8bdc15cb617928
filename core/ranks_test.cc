// Ranks from the variables of each launcher, and the bad input that there is.
#include "core/ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>

#include "absl/strings/str_cat.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

using Variables = std::map<std::string, std::string>;

absl::StatusOr<Ranks> Parse(const Variables& variables) {
  return RanksFrom([&](const char* name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  });
}

TEST(RanksTest, WithoutVariablesThereIsOneRank) {
  const Ranks ranks = *Parse({});
  EXPECT_EQ(ranks.rank, 0);
  EXPECT_EQ(ranks.size, 1);
  EXPECT_EQ(ranks.launcher, "");
  // A batch script of Slurm that starts a program without srun.
  EXPECT_EQ(Parse({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_LOCALID", "0"}})->size, 1);
}

RC_GTEST_PROP(RanksTest, EachLauncherSaysTheSame, ()) {
  const int size = *rc::gen::inRange(2, 600), rank = *rc::gen::inRange(0, size);
  const int local = *rc::gen::inRange(0, std::min(rank, 7) + 1);
  const auto text = [](int number) { return absl::StrCat(number); };
  Variables torchrun = {{"RANK", text(rank)}, {"WORLD_SIZE", text(size)}, {"LOCAL_RANK", text(local)}};
  Variables slurm = {
      {"SLURM_PROCID", text(rank)}, {"SLURM_STEP_NUM_TASKS", text(size)}, {"SLURM_LOCALID", text(local)}};
  Variables openmpi = {{"OMPI_COMM_WORLD_RANK", text(rank)},
                       {"OMPI_COMM_WORLD_SIZE", text(size)},
                       {"OMPI_COMM_WORLD_LOCAL_RANK", text(local)}};
  for (Variables variables : {torchrun, slurm, openmpi}) {
    variables["MASTER_ADDR"] = "host7";
    variables["MASTER_PORT"] = "1234";
    const absl::StatusOr<Ranks> ranks = Parse(variables);
    RC_ASSERT(ranks.ok());
    RC_ASSERT(ranks->rank == rank && ranks->size == size && ranks->local_rank == local);
    RC_ASSERT(ranks->master_address == "host7" && ranks->master_port == 1234);
    // Each variable taken away, or made nonsense, is named.
    for (const auto& [name, value] : variables) {
      if (name.starts_with("MASTER")) continue;
      Variables bad = variables;
      bad[name] = *rc::gen::elementOf(std::vector<std::string>{"", "-1", "many", text(size), "1e3"});
      if (value == bad[name] ||
          (name.find("SIZE") + name.find("TASKS") != 2 * std::string::npos && bad[name] == text(size))) {
        continue;
      }
      const absl::StatusOr<Ranks> refused = Parse(bad);
      RC_ASSERT(!refused.ok());
      RC_ASSERT(std::string(refused.status().message()).find(name) != std::string::npos);
    }
  }
}

TEST(RanksTest, BadInputIsNamed) {
  EXPECT_THAT(Parse({{"WORLD_SIZE", "2"}}), StatusIs(absl::StatusCode::kInvalidArgument, "RANK is not set"));
  EXPECT_THAT(Parse({{"RANK", "1"}}), StatusIs(absl::StatusCode::kInvalidArgument, "WORLD_SIZE is not set"));
  Variables two = {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "1"}};
  EXPECT_THAT(Parse(two), StatusIs(absl::StatusCode::kInvalidArgument, "MASTER_ADDR is not set"));
  two["MASTER_ADDR"] = "here";
  two["MASTER_PORT"] = "65536";
  EXPECT_THAT(Parse(two), StatusIs(absl::StatusCode::kInvalidArgument, "MASTER_PORT=65536"));
  two["MASTER_PORT"] = "400";
  two["RANK"] = "2";
  EXPECT_THAT(Parse(two), StatusIs(absl::StatusCode::kInvalidArgument, "RANK=2"));
}

TEST(RanksTest, BesideTorchrunsOwnStoreRankZeroAnswersOnePortOn) {
  Variables one = {{"RANK", "0"}, {"WORLD_SIZE", "1"}, {"LOCAL_RANK", "0"}, {"MASTER_PORT", "400"}};
  EXPECT_EQ(Parse(one)->master_port, 400);
  one["TORCHELASTIC_USE_AGENT_STORE"] = "True";
  EXPECT_EQ(Parse(one)->master_port, 401);
}

TEST(RanksTest, SlurmsFirstNodeAndOpenMpisOwnHostAnswer) {
  EXPECT_EQ(FirstNode("node[01-04,07],login"), "node01");
  EXPECT_EQ(FirstNode("gpu[7]"), "gpu7");
  EXPECT_EQ(FirstNode("a,b"), "a");
  EXPECT_EQ(FirstNode("alone"), "alone");
  EXPECT_EQ(Parse({{"SLURM_PROCID", "1"},
                   {"SLURM_STEP_NUM_TASKS", "2"},
                   {"SLURM_LOCALID", "0"},
                   {"SLURM_STEP_NODELIST", "n[3,4]"}})
                ->master_address,
            "n3");
  Variables mpi = {{"OMPI_COMM_WORLD_RANK", "1"},
                   {"OMPI_COMM_WORLD_SIZE", "2"},
                   {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                   {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
  EXPECT_EQ(Parse(mpi)->master_address, "127.0.0.1");
  mpi["OMPI_COMM_WORLD_LOCAL_SIZE"] = "1";
  EXPECT_THAT(Parse(mpi), StatusIs(absl::StatusCode::kInvalidArgument, "MASTER_ADDR"));
}

}  // namespace
}  // namespace hm11
