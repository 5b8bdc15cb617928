// Communicator: checks, and the way to the engine.
#include "core/communicator.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/engines.h"
#include "core/status.h"

namespace hm11 {
namespace {

void CheckCuts(const std::vector<int64_t>& cuts, int ranks, int64_t size) {
  HM_CHECK_EQ(cuts.size(), static_cast<size_t>(ranks) + 1);
  HM_CHECK(cuts.front() == 0 && cuts.back() == size);
  for (size_t r = 1; r < cuts.size(); ++r) HM_CHECK_LE(cuts[r - 1], cuts[r]);
}

// Every rank gives the same answer, so that one line says it.
absl::Status CheckDevices(RankGroup& group, const Device& device) {
  const std::vector<std::string> names =
      group.AllGather(device.is_cuda() ? absl::StrCat("GPU ", device.bus_id()) : device.name());
  std::map<std::string, size_t> seen;
  for (size_t rank = 0; rank < names.size(); ++rank) {
    if ((names[rank] == "cpu") != (names[0] == "cpu")) {
      return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " runs on ", names[rank], " of ",
                                                     group.hosts()[rank], ", rank 0 on ", names[0]));
    }
    if (names[rank] == "cpu") continue;
    const auto [other, is_new] =
        seen.try_emplace(absl::StrCat(names[rank], " of ", group.hosts()[rank]), rank);
    if (!is_new) {
      return absl::InvalidArgumentError(
          absl::StrCat("ranks ", other->second, " and ", rank, " both run on ", other->first));
    }
  }
  return absl::OkStatus();
}

}  // namespace

Communicator Communicator::Plan(int rank, int size) {
  HM_CHECK(rank >= 0 && rank < size);
  Communicator communicator;
  communicator.rank_ = rank;
  communicator.size_ = size;
  return communicator;
}

absl::StatusOr<Communicator> Communicator::Connect(std::shared_ptr<RankGroup> group, const Device& device) {
  if (group->size() == 1) return Communicator();
  HM_RETURN_IF_ERROR(CheckDevices(*group, device));
  Communicator communicator = Plan(group->rank(), group->size());
  if (device.is_cuda()) {
    HM_ASSIGN_OR_RETURN(communicator.engine_, NewNcclEngine(group, device));
  } else {
    HM_ASSIGN_OR_RETURN(communicator.engine_, NewGlooEngine(group));
  }
  communicator.group_ = std::move(group);
  return communicator;
}

bool Communicator::Runs(const Device& device) const {
  if (size_ == 1 || device.is_plan()) return false;
  HM_CHECK(engine_ != nullptr);
  return true;
}

void Communicator::AllReduce(const Device& device, Tensor<float> data) const {
  if (Runs(device) && data.size() > 0) engine_->AllReduce(data.data(), data.size());
}

void Communicator::ReduceScatter(const Device& device, Tensor<float> data,
                                 const std::vector<int64_t>& cuts) const {
  CheckCuts(cuts, size_, data.size());
  if (Runs(device)) engine_->ReduceScatter(data.data(), cuts.data());
}

void Communicator::GatherBytes(const Device& device, char* data, int64_t size,
                               const std::vector<int64_t>& cuts, int64_t element_bytes) const {
  CheckCuts(cuts, size_, size);
  if (Runs(device)) engine_->AllGather(data, cuts.data(), element_bytes);
}

}  // namespace hm11
