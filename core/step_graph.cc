// StepGraph and Fence: the CPU side and the calls of CUDA's.
#include "core/step_graph.h"

#include <utility>

#include "core/step_graph_cuda.h"

namespace hm11 {

StepGraph::StepGraph(Device device, std::function<void()> work)
    : device_(std::move(device)), work_(std::move(work)) {
  if (device_.is_cuda()) graph_ = cuda::Capture(device_, work_);
}

StepGraph::~StepGraph() {
  if (graph_ != nullptr) cuda::DestroyGraph(graph_);
}

void StepGraph::Launch() {
  if (device_.is_cuda()) return cuda::LaunchGraph(device_, graph_);
  if (device_.is_cpu()) work_();
}

Fence::Fence(Device device) : device_(std::move(device)) {
  if (device_.is_cuda()) event_ = cuda::NewEvent();
}

Fence::~Fence() {
  if (event_ != nullptr) cuda::DestroyEvent(event_);
}

void Fence::Record() {
  if (device_.is_cuda()) cuda::RecordEvent(device_, event_);
}

void Fence::Hold(const Device& other) {
  if (device_.is_cuda()) cuda::HoldForEvent(other, event_);
}

void Fence::Wait() {
  if (device_.is_cuda()) cuda::WaitForEvent(event_);
}

Fork::Fork(const Device& device, const std::vector<void*>& cublaslt_workspaces) : queues_{device} {
  for (void* workspace : cublaslt_workspaces) queues_.push_back(device.NewQueue(workspace));
  for (const Device& queue : queues_) fences_.push_back(std::make_unique<Fence>(queue));
}

void Fork::Begin() {
  fences_[0]->Record();
  for (size_t i = 1; i < queues_.size(); ++i) fences_[0]->Hold(queues_[i]);
}

void Fork::End() {
  for (size_t i = 1; i < queues_.size(); ++i) {
    fences_[i]->Record();
    fences_[i]->Hold(queues_[0]);
  }
}

}  // namespace hm11
