// Reading clock, power and temperature over NVML, opened at run time: programs do not depend on it.
#include "testing/gpu_meter.h"

#include <dlfcn.h>

#include <string>

namespace hm11 {
namespace {

// NVML's numbers for what is asked.
constexpr int kMultiprocessorClock = 1;
constexpr int kGpuTemperature = 0;

template <typename F>
bool Find(void* library, const char* name, F* function) {
  *function = reinterpret_cast<F>(dlsym(library, name));
  return *function != nullptr;
}

}  // namespace

GpuMeter::GpuMeter(const Device& device) {
  if (!device.is_cuda()) return;
  // Never closed: what it leaves behind ends with the process.
  void* const library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return;
  int (*begin)() = nullptr;
  int (*find)(const char* bus_id, void** gpu) = nullptr;
  if (!Find(library, "nvmlInit_v2", &begin) || !Find(library, "nvmlDeviceGetHandleByPciBusId_v2", &find) ||
      !Find(library, "nvmlDeviceGetClockInfo", &clock_) ||
      !Find(library, "nvmlDeviceGetTemperature", &temperature_) ||
      !Find(library, "nvmlDeviceGetPowerUsage", &power_)) {
    return;
  }
  if (begin() != 0 || find(device.bus_id().c_str(), &gpu_) != 0) gpu_ = nullptr;
}

std::optional<GpuReading> GpuMeter::Read() const {
  unsigned megahertz = 0, milliwatts = 0, celsius = 0;
  if (gpu_ == nullptr || clock_(gpu_, kMultiprocessorClock, &megahertz) != 0 ||
      power_(gpu_, &milliwatts) != 0 || temperature_(gpu_, kGpuTemperature, &celsius) != 0) {
    return std::nullopt;
  }
  return GpuReading{.megahertz = static_cast<double>(megahertz),
                    .watts = milliwatts / 1e3,
                    .celsius = static_cast<double>(celsius)};
}

}  // namespace hm11
