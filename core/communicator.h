// Communicator: collective operations of the ranks of a run on numbers that lie on their devices.
//
// A small value beside Device: copies share one connection. Calls queue on the device's stream, in call
// order, and are captured with it in a graph (once they have run for real); on the CPU they are done when
// they return; on the plan device nothing happens, and they take no memory of an arena. With one rank every
// call returns at once.
//
// Between GPUs NCCL, opened when the second rank is met (HM11_NCCL names the file, else the loader's
// libnccl.so.2), so that a program for one GPU runs without it. Between CPU ranks Gloo, PyTorch's engine: it
// needs no launcher of its own, where Open MPI's ranks must be mpirun's. Debian has Gloo as a shared library
// only, tied to InfiniBand's; it is used through a library of this program's own (core/gloo_engine.cc) that
// is loaded when CPU ranks meet and stays out of bundles, so that those depend on neither, and NCCL finds the
// machine's InfiniBand, not ours.
//
// Properties:
//   1. AllReduce gives every rank the same bits; ReduceScatter gives the owner of a range, and AllGather
//      gives everybody, what one rank's sum would be but for rounding. Empty ranges are fine.
//   2. The same bits every time for the same numbers and ranks.
#ifndef HM11_CORE_COMMUNICATOR_H_
#define HM11_CORE_COMMUNICATOR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/check.h"
#include "core/collective_engine.h"
#include "core/device.h"
#include "core/rank_group.h"
#include "core/tensor.h"

namespace hm11 {

class Communicator {
 public:
  Communicator() = default;  // one rank
  // Of rank `rank` of `size` ranks, for planning: no call may do anything but on the plan device.
  static Communicator Plan(int rank, int size);
  // Collective. All ranks' devices are CPUs, or GPUs that are all different.
  static absl::StatusOr<Communicator> Connect(std::shared_ptr<RankGroup> group, const Device& device);

  int rank() const { return rank_; }
  int size() const { return size_; }
  // The processes themselves; null where there is one, or none but planned.
  RankGroup* group() const { return group_.get(); }
  std::string engine() const { return engine_ == nullptr ? "none" : engine_->Name(); }

  // data: becomes the sum over ranks.
  void AllReduce(const Device& device, Tensor<float> data) const;
  // data [n], cuts [size + 1] from 0 to n: rank r keeps the sum of [cuts[r], cuts[r + 1]); the rest of data
  // is overwritten with anything.
  void ReduceScatter(const Device& device, Tensor<float> data, const std::vector<int64_t>& cuts) const;
  // data [n], cuts as above: [cuts[r], cuts[r + 1]) becomes rank r's, everywhere.
  template <typename T>
  void AllGather(const Device& device, Tensor<T> data, const std::vector<int64_t>& cuts) const {
    GatherBytes(device, reinterpret_cast<char*>(data.data()), data.size(), cuts, sizeof(T));
  }

 private:
  bool Runs(const Device& device) const;
  void GatherBytes(const Device& device, char* data, int64_t size, const std::vector<int64_t>& cuts,
                   int64_t element_bytes) const;

  int rank_ = 0;
  int size_ = 1;
  std::shared_ptr<RankGroup> group_;
  std::shared_ptr<CollectiveEngine> engine_;
};

}  // namespace hm11

#endif  // HM11_CORE_COMMUNICATOR_H_
