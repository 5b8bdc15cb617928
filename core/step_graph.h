// StepGraph: work recorded once and run many times; on a GPU one captured CUDA graph, on the CPU the work
// itself. Fence: a point in a device's queue that the host, or another queue, can wait for. Fork: queues for
// work at the same time.
//
//   work();  // once for real
//   StepGraph step(device, work);
//   Fence copied(device);
//   for (int64_t i = 0; i < steps; ++i) {
//     copied.Wait();  // The copy before has read `batch`; the step before may still run.
//     Fill(i, batch);
//     device.CopyFromHost(ids.data(), batch, ids.size_bytes());
//     copied.Record();
//     step.Launch();
//   }
#ifndef HM11_CORE_STEP_GRAPH_H_
#define HM11_CORE_STEP_GRAPH_H_

#include <functional>
#include <memory>
#include <vector>

#include "core/device.h"

struct CUgraphExec_st;  // What cudaGraphExec_t points to.
struct CUevent_st;      // What cudaEvent_t points to.

namespace hm11 {

class StepGraph {
 public:
  // On a GPU `work` is called once, now, while its launches are recorded, not run: it may not allocate, wait
  // or read results, and must have run once before for real, so that libraries have loaded what they need.
  StepGraph(Device device, std::function<void()> work);
  ~StepGraph();
  StepGraph(const StepGraph&) = delete;
  StepGraph& operator=(const StepGraph&) = delete;

  // Queues the recorded work on the device's stream (on the CPU: does it).
  void Launch();

 private:
  Device device_;
  std::function<void()> work_;
  CUgraphExec_st* graph_ = nullptr;
};

class Fence {
 public:
  explicit Fence(Device device);
  ~Fence();
  Fence(const Fence&) = delete;
  Fence& operator=(const Fence&) = delete;

  void Record();  // behind everything queued so far
  void Wait();    // until the device got there; at once when nothing was recorded
  // What is queued on `other`, another queue of the same device, from now on begins after it.
  void Hold(const Device& other);

 private:
  Device device_;
  CUevent_st* event_ = nullptr;
};

// Queues of one device between a fork and a join: what is queued on each runs beside what is queued on the
// others. For work that leaves most of a GPU idle. Can be recorded in a StepGraph. On the CPU and a plan one
// queue after the other, as they are called.
//
//   Fork queues(device, workspaces);
//   queues.Begin();
//   for (int i = 0; i < queues.size(); ++i) Work(i, queues[i]);
//   queues.End();
class Fork {
 public:
  // The device's own queue and one more for each of the workspaces (Device::NewQueue).
  Fork(const Device& device, const std::vector<void*>& cublaslt_workspaces);

  int size() const { return static_cast<int>(queues_.size()); }
  const Device& operator[](int i) const { return queues_[static_cast<size_t>(i)]; }
  void Begin();  // what is queued on them from now on begins after what is queued on the device
  void End();    // what is queued on the device from now on begins after all of theirs

 private:
  std::vector<Device> queues_;  // the device first
  std::vector<std::unique_ptr<Fence>> fences_;
};

}  // namespace hm11

#endif  // HM11_CORE_STEP_GRAPH_H_
