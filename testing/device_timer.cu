// CUDA events and the time between them.
#include "core/launch.cuh"

namespace hm11::cuda {

void* NewTimedEvent() {
  cudaEvent_t event;
  HM_CHECK_CUDA(cudaEventCreate(&event));
  return event;
}

void DeleteTimedEvent(void* event) { HM_CHECK_CUDA(cudaEventDestroy(static_cast<cudaEvent_t>(event))); }

void RecordTimedEvent(void* event, const Device& device) {
  HM_CHECK_CUDA(cudaEventRecord(static_cast<cudaEvent_t>(event), device.stream()));
}

double SecondsBetweenTimedEvents(void* from, void* to) {
  HM_CHECK_CUDA(cudaEventSynchronize(static_cast<cudaEvent_t>(from)));
  HM_CHECK_CUDA(cudaEventSynchronize(static_cast<cudaEvent_t>(to)));
  float milliseconds = 0;
  HM_CHECK_CUDA(
      cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(from), static_cast<cudaEvent_t>(to)));
  return 1e-3 * static_cast<double>(milliseconds);
}

}  // namespace hm11::cuda
