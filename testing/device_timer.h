// DeviceMarks, DeviceTimer: seconds between points of a device's stream; wall-clock seconds on the CPU.
#ifndef HM11_TESTING_DEVICE_TIMER_H_
#define HM11_TESTING_DEVICE_TIMER_H_

#include <chrono>
#include <cstdint>
#include <vector>

#include "core/device.h"

namespace hm11 {

// Any number of points, put between parts of the work without waiting for these.
class DeviceMarks {
 public:
  explicit DeviceMarks(Device device) : device_(std::move(device)) {}
  ~DeviceMarks();
  DeviceMarks(const DeviceMarks&) = delete;
  DeviceMarks& operator=(const DeviceMarks&) = delete;

  int64_t Mark();                                         // The mark's number: 0, 1...
  double SecondsBetween(int64_t from, int64_t to) const;  // Waits for both.
  void Clear() { count_ = 0; }

 private:
  Device device_;
  int64_t count_ = 0;
  std::vector<void*> events_;  // on a GPU; kept for the marks after Clear
  std::vector<std::chrono::steady_clock::time_point> times_;
};

class DeviceTimer {
 public:
  explicit DeviceTimer(Device device) : marks_(std::move(device)) {}

  void Start() {
    marks_.Clear();
    marks_.Mark();
  }
  double StopSeconds() {  // Waits for the device.
    return marks_.SecondsBetween(0, marks_.Mark());
  }

 private:
  DeviceMarks marks_;
};

}  // namespace hm11

#endif  // HM11_TESTING_DEVICE_TIMER_H_
