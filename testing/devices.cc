// The devices tests run on; a GPU is opened once a process.
#include "testing/devices.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

namespace hm11 {

std::vector<Device> TestGpus() {
  static const absl::StatusOr<Device>* const gpu = [] {
    // Tests take and free many arenas, which core/device.cu then has at hand.
    setenv("HM11_KEEP_FREED", "1", /*overwrite=*/0);
    return new absl::StatusOr<Device>(Device::Cuda(0));
  }();
  if (gpu->ok()) return {**gpu};
  if (CudaIsRequired()) ADD_FAILURE() << "HM11_REQUIRE_CUDA is set: " << gpu->status().message();
  return {};
}

std::vector<Device> TestDevices() {
  std::vector<Device> devices = {Device::Cpu()};
  for (const Device& gpu : TestGpus()) devices.push_back(gpu);
  return devices;
}

Arena TestArena(const Device& device, int64_t gpu_bytes) {
  return device.is_cuda() ? Arena(device, gpu_bytes) : Arena::Cpu();
}

bool CountersAreZero(const Device& device) {
  if (!device.is_cuda()) return true;
  std::vector<unsigned> counters(Device::kCounters);
  device.CopyToHost(counters.data(), device.counters(),
                    Device::kCounters * static_cast<int64_t>(sizeof(unsigned)));
  return std::count(counters.begin(), counters.end(), 0u) == Device::kCounters;
}

}  // namespace hm11
