// The NCCL engine. libnccl.so.2 is opened by name when ranks meet; its header gives types only.
#include "core/engines.h"

#if HM11_HAVE_CUDA && HM11_HAVE_NCCL

#include <cuda_runtime.h>
#include <dlfcn.h>
#include <nccl.h>

#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/status.h"

namespace hm11 {
namespace {

// The functions of NCCL that are used, under their own types.
struct Nccl {
  decltype(&ncclGetVersion) get_version;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRank) init_rank;
  decltype(&ncclAllReduce) all_reduce;
  decltype(&ncclReduceScatter) reduce_scatter;
  decltype(&ncclReduce) reduce;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclBroadcast) broadcast;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclGetErrorString) error_string;
  decltype(&ncclGetLastError) last_error;
};

template <typename F>
bool Find(void* library, const char* name, F* function) {
  *function = reinterpret_cast<F>(dlsym(library, name));
  return *function != nullptr;
}

absl::StatusOr<Nccl> OpenNccl() {
  const char* const named = std::getenv("HM11_NCCL");
  const std::vector<std::string> names = named != nullptr
                                             ? std::vector<std::string>{named}
                                             : std::vector<std::string>{"libnccl.so.2", "libnccl.so"};
  std::vector<std::string> tried;
  for (const std::string& name : names) {
    void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      tried.push_back(dlerror());
      continue;
    }
    Nccl nccl;
    if (Find(library, "ncclGetVersion", &nccl.get_version) &&
        Find(library, "ncclGetUniqueId", &nccl.get_unique_id) &&
        Find(library, "ncclCommInitRank", &nccl.init_rank) &&
        Find(library, "ncclAllReduce", &nccl.all_reduce) &&
        Find(library, "ncclReduceScatter", &nccl.reduce_scatter) &&
        Find(library, "ncclReduce", &nccl.reduce) && Find(library, "ncclAllGather", &nccl.all_gather) &&
        Find(library, "ncclBroadcast", &nccl.broadcast) &&
        Find(library, "ncclGroupStart", &nccl.group_start) &&
        Find(library, "ncclGroupEnd", &nccl.group_end) &&
        Find(library, "ncclGetErrorString", &nccl.error_string) &&
        Find(library, "ncclGetLastError", &nccl.last_error)) {
      return nccl;
    }
    tried.push_back(absl::StrCat(name, " is too old: ", dlerror()));
  }
  return absl::UnavailableError(absl::StrCat("more than one GPU needs NCCL (HM11_NCCL may name its file): ",
                                             absl::StrJoin(tried, "; ")));
}

// Its communicator ends with the process: to destroy it is to wait for ranks that may be gone.
class NcclEngine : public CollectiveEngine {
 public:
  NcclEngine(const Nccl& nccl, std::shared_ptr<RankGroup> group, const Device& device)
      : nccl_(nccl), group_(std::move(group)), device_(device) {}

  absl::Status Connect() {
    ncclUniqueId id = {};
    if (group_->rank() == 0) HM_RETURN_IF_ERROR(Told(nccl_.get_unique_id(&id), "ncclGetUniqueId"));
    const std::string bytes = group_->Broadcast(absl::string_view(id.internal, sizeof(id.internal)));
    std::memcpy(id.internal, bytes.data(), sizeof(id.internal));
    link_ = LinkOfAll();
    return Told(nccl_.init_rank(&communicator_, group_->size(), id, group_->rank()), "ncclCommInitRank");
  }

  std::string Name() const override {
    int version = 0;
    nccl_.get_version(&version);
    return absl::StrCat("NCCL ", version / 10000, ".", version / 100 % 100, ".", version % 100, " over ",
                        link_);
  }

  void AllReduce(float* data, int64_t count) override {
    Check(nccl_.all_reduce(data, data, static_cast<size_t>(count), ncclFloat, ncclSum, communicator_,
                           device_.stream()),
          "ncclAllReduce");
  }

  void ReduceScatter(float* data, const int64_t* cuts) override {
    if (const size_t share = EvenShare(cuts); share > 0) {
      return Check(nccl_.reduce_scatter(data, data + cuts[group_->rank()], share, ncclFloat, ncclSum,
                                        communicator_, device_.stream()),
                   "ncclReduceScatter");
    }
    Check(nccl_.group_start(), "ncclGroupStart");
    for (int r = 0; r < group_->size(); ++r) {
      const size_t count = static_cast<size_t>(cuts[r + 1] - cuts[r]);
      if (count == 0) continue;
      Check(nccl_.reduce(data + cuts[r], data + cuts[r], count, ncclFloat, ncclSum, r, communicator_,
                         device_.stream()),
            "ncclReduce");
    }
    Check(nccl_.group_end(), "ncclGroupEnd");
  }

  void AllGather(char* data, const int64_t* cuts, int64_t element_bytes) override {
    if (const size_t share = EvenShare(cuts); share > 0) {
      return Check(nccl_.all_gather(data + cuts[group_->rank()] * element_bytes, data,
                                    share * static_cast<size_t>(element_bytes), ncclInt8, communicator_,
                                    device_.stream()),
                   "ncclAllGather");
    }
    Check(nccl_.group_start(), "ncclGroupStart");
    for (int r = 0; r < group_->size(); ++r) {
      const size_t bytes = static_cast<size_t>((cuts[r + 1] - cuts[r]) * element_bytes);
      if (bytes == 0) continue;
      char* const range = data + cuts[r] * element_bytes;
      Check(nccl_.broadcast(range, range, bytes, ncclInt8, r, communicator_, device_.stream()),
            "ncclBroadcast");
    }
    Check(nccl_.group_end(), "ncclGroupEnd");
  }

 private:
  // What is slowest between ranks, in a word: network, PCIe or NVLink, or unknown where a rank does not see
  // the other GPUs of its host.
  std::string LinkOfAll() const {
    const std::vector<std::string> ids = group_->AllGather(device_.bus_id()), &hosts = group_->hosts();
    const size_t rank = static_cast<size_t>(group_->rank());
    int own = 0, other = 0;
    cudaGetDevice(&own);
    std::string link = "NVLink";
    for (size_t r = 0; r < ids.size(); ++r) {
      if (r == rank || hosts[r] != hosts[rank]) continue;
      if (cudaDeviceGetByPCIBusId(&other, ids[r].c_str()) != cudaSuccess) {
        cudaGetLastError();
        link = "unknown";
        break;
      }
      // Atomics of the hardware's own pass NVLink and not PCIe.
      int access = 0, atomics = 0;
      cudaDeviceGetP2PAttribute(&access, cudaDevP2PAttrAccessSupported, own, other);
      cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, own, other);
      if (access == 0 || atomics == 0) link = "PCIe";
    }
    for (const std::string& words : group_->AllGather(link)) {
      if (words != "NVLink") link = words;
    }
    return std::set<std::string>(hosts.begin(), hosts.end()).size() > 1 ? "network" : link;
  }
  // What each rank owns where all own the same, else 0.
  size_t EvenShare(const int64_t* cuts) const {
    for (int r = 1; r < group_->size(); ++r) {
      if (cuts[r + 1] - cuts[r] != cuts[1] - cuts[0]) return 0;
    }
    return static_cast<size_t>(cuts[1] - cuts[0]);
  }
  absl::Status Told(ncclResult_t result, const char* call) const {
    if (result == ncclSuccess) return absl::OkStatus();
    const char* const more = nccl_.last_error(nullptr);
    return absl::InternalError(
        absl::StrCat(call, " on rank ", group_->rank(), ": ", nccl_.error_string(result),
                     more == nullptr || *more == '\0' ? "" : ": ", more == nullptr ? "" : more));
  }
  void Check(ncclResult_t result, const char* call) const {
    if (result != ncclSuccess) group_->Fail(Told(result, call).message());
  }

  const Nccl nccl_;
  const std::shared_ptr<RankGroup> group_;
  const Device device_;
  ncclComm_t communicator_ = nullptr;
  std::string link_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<CollectiveEngine>> NewNcclEngine(std::shared_ptr<RankGroup> group,
                                                                const Device& device) {
  HM_ASSIGN_OR_RETURN(const Nccl nccl, OpenNccl());
  auto engine = std::make_shared<NcclEngine>(nccl, std::move(group), device);
  HM_RETURN_IF_ERROR(engine->Connect());
  return engine;
}

}  // namespace hm11

#else

#include "absl/status/status.h"

namespace hm11 {

absl::StatusOr<std::shared_ptr<CollectiveEngine>> NewNcclEngine(std::shared_ptr<RankGroup>, const Device&) {
  return absl::UnimplementedError("more than one GPU: hm11 was built without NCCL's header nccl.h");
}

}  // namespace hm11

#endif
