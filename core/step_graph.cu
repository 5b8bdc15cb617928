// The CUDA side of StepGraph and Fence.
#include <cuda_runtime.h>

#include "core/launch.cuh"
#include "core/step_graph_cuda.h"

namespace hm11::cuda {

CUgraphExec_st* Capture(const Device& device, const std::function<void()>& work) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  HM_CHECK_CUDA(cudaStreamBeginCapture(device.stream(), cudaStreamCaptureModeThreadLocal));
  work();
  HM_CHECK_CUDA(cudaStreamEndCapture(device.stream(), &graph));
  HM_CHECK_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  HM_CHECK_CUDA(cudaGraphDestroy(graph));
  return executable;
}

void LaunchGraph(const Device& device, CUgraphExec_st* graph) {
  HM_CHECK_CUDA(cudaGraphLaunch(graph, device.stream()));
}

void DestroyGraph(CUgraphExec_st* graph) { HM_CHECK_CUDA(cudaGraphExecDestroy(graph)); }

CUevent_st* NewEvent() {
  cudaEvent_t event = nullptr;
  HM_CHECK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync));
  return event;
}

void RecordEvent(const Device& device, CUevent_st* event) {
  HM_CHECK_CUDA(cudaEventRecord(event, device.stream()));
}

void HoldForEvent(const Device& device, CUevent_st* event) {
  HM_CHECK_CUDA(cudaStreamWaitEvent(device.stream(), event, 0));
}

void WaitForEvent(CUevent_st* event) { HM_CHECK_CUDA(cudaEventSynchronize(event)); }

void DestroyEvent(CUevent_st* event) { HM_CHECK_CUDA(cudaEventDestroy(event)); }

}  // namespace hm11::cuda
