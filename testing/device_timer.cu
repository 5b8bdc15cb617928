// Two CUDA events and the time between them.
#include "core/launch.cuh"

namespace hm11::cuda {
namespace {

struct Events {
  cudaEvent_t start;
  cudaEvent_t stop;
};

}  // namespace

void* NewEvents() {
  auto* events = new Events;
  HM_CHECK_CUDA(cudaEventCreate(&events->start));
  HM_CHECK_CUDA(cudaEventCreate(&events->stop));
  return events;
}

void DeleteEvents(void* handle) {
  auto* events = static_cast<Events*>(handle);
  HM_CHECK_CUDA(cudaEventDestroy(events->start));
  HM_CHECK_CUDA(cudaEventDestroy(events->stop));
  delete events;
}

void RecordStart(void* handle, const Device& device) {
  HM_CHECK_CUDA(cudaEventRecord(static_cast<Events*>(handle)->start, device.stream()));
}

double RecordStopSeconds(void* handle, const Device& device) {
  auto* events = static_cast<Events*>(handle);
  HM_CHECK_CUDA(cudaEventRecord(events->stop, device.stream()));
  HM_CHECK_CUDA(cudaEventSynchronize(events->stop));
  float milliseconds = 0;
  HM_CHECK_CUDA(cudaEventElapsedTime(&milliseconds, events->start, events->stop));
  return 1e-3 * static_cast<double>(milliseconds);
}

}  // namespace hm11::cuda
