// GpuMeter: what a GPU says of itself while it works: clock, power, temperature.
#ifndef HM11_TESTING_GPU_METER_H_
#define HM11_TESTING_GPU_METER_H_

#include <optional>

#include "core/device.h"

namespace hm11 {

struct GpuReading {
  double megahertz = 0;  // of the multiprocessors, at this moment
  double watts = 0;      // averaged by the driver over the last second or so
  double celsius = 0;
};

// Through the driver's own library (NVML), which is opened where it is found.
class GpuMeter {
 public:
  explicit GpuMeter(const Device& device);

  // Nothing for the CPU, or where the library or an answer is missing.
  std::optional<GpuReading> Read() const;

 private:
  using Query = int (*)(void* gpu, int kind, unsigned* value);  // 0: done
  using PowerQuery = int (*)(void* gpu, unsigned* milliwatts);

  void* gpu_ = nullptr;
  Query clock_ = nullptr, temperature_ = nullptr;
  PowerQuery power_ = nullptr;
};

}  // namespace hm11

#endif  // HM11_TESTING_GPU_METER_H_
