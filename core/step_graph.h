// StepGraph: work recorded once and run many times; on a GPU one captured CUDA graph, on the CPU the work
// itself. Fence: a point in a device's queue that the host can wait for.
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

}  // namespace hm11

#endif  // HM11_CORE_STEP_GRAPH_H_
