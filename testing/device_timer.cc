// Marks of the CPU, and the choice of a device; events of a GPU are in device_timer.cu.
#include "testing/device_timer.h"

#include "core/check.h"
#include "core/dtype.h"

namespace hm11 {

namespace cuda {
// In device_timer.cu.
void* NewTimedEvent();
void DeleteTimedEvent(void* event);
void RecordTimedEvent(void* event, const Device& device);
double SecondsBetweenTimedEvents(void* from, void* to);
}  // namespace cuda

DeviceMarks::~DeviceMarks() {
  if constexpr (kHaveCuda) {
    for (void* event : events_) cuda::DeleteTimedEvent(event);
  }
}

int64_t DeviceMarks::Mark() {
  const size_t index = static_cast<size_t>(count_++);
  if constexpr (kHaveCuda) {
    if (device_.is_cuda()) {
      if (index == events_.size()) events_.push_back(cuda::NewTimedEvent());
      cuda::RecordTimedEvent(events_[index], device_);
      return count_ - 1;
    }
  }
  times_.resize(index);
  times_.push_back(std::chrono::steady_clock::now());
  return count_ - 1;
}

double DeviceMarks::SecondsBetween(int64_t from, int64_t to) const {
  HM_CHECK(from >= 0 && from < count_ && to >= 0 && to < count_);
  const size_t begin = static_cast<size_t>(from), end = static_cast<size_t>(to);
  if constexpr (kHaveCuda) {
    if (device_.is_cuda()) return cuda::SecondsBetweenTimedEvents(events_[begin], events_[end]);
  }
  return std::chrono::duration<double>(times_[end] - times_[begin]).count();
}

}  // namespace hm11
