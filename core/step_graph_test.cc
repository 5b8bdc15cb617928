// StepGraph and Fence: recorded work runs when it is launched and as often, and queues wait for each other.
#include "core/step_graph.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/arena.h"
#include "testing/devices.h"

namespace hm11 {
namespace {

// numbers[i] = numbers[i - 1], from the last to the second: a launch moves all by one.
void Shift(const Device& device, Tensor<float> numbers) {
  for (int64_t i = numbers.size() - 1; i > 0; --i) {
    device.CopyOnDevice(numbers.data() + i, numbers.data() + i - 1, sizeof(float));
  }
}

std::vector<float> OnHost(const Device& device, Tensor<float> numbers) {
  std::vector<float> host(static_cast<size_t>(numbers.size()));
  device.CopyToHost(host.data(), numbers.data(), numbers.size_bytes());
  return host;
}

TEST(StepGraphTest, RecordedWorkRunsWhenItIsLaunchedAndAsOften) {
  for (const Device& device : TestDevices()) {
    Arena arena = TestArena(device);
    const Tensor<float> numbers = arena.New<float>({5});
    const std::vector<float> start = {1, 2, 3, 4, 5};
    device.CopyFromHost(numbers.data(), start.data(), numbers.size_bytes());
    StepGraph graph(device, [&] { Shift(device, numbers); });
    EXPECT_EQ(OnHost(device, numbers), start) << "recording runs nothing on " << device.name();
    graph.Launch();
    EXPECT_EQ(OnHost(device, numbers), (std::vector<float>{1, 1, 2, 3, 4})) << device.name();
    graph.Launch();
    graph.Launch();
    EXPECT_EQ(OnHost(device, numbers), (std::vector<float>{1, 1, 1, 1, 2})) << device.name();
  }
}

TEST(FenceTest, AnotherQueueBeginsBehindIt) {
  for (const Device& device : TestDevices()) {
    const Device other = device.is_cuda() ? *Device::FromName(device.name()) : device;
    Arena arena = TestArena(device);
    // Large, so that a queue that does not wait would read what is not there yet.
    const Tensor<float> first = arena.NewZero<float>({1 << 22}), second = arena.NewZero<float>({1 << 22}),
                        third = arena.NewZero<float>({1 << 22});
    device.Synchronize();
    Fence fence(device);
    fence.Wait();  // Nothing was recorded.
    for (int turn = 1; turn <= 5; ++turn) {
      const std::vector<float> values(1 << 22, static_cast<float>(turn));
      device.CopyFromHost(first.data(), values.data(), first.size_bytes());
      for (int i = 0; i < 20; ++i) device.CopyOnDevice(second.data(), first.data(), first.size_bytes());
      fence.Record();
      fence.Hold(other);
      other.CopyOnDevice(third.data(), second.data(), first.size_bytes());
      other.Synchronize();
      fence.Wait();
      EXPECT_EQ(OnHost(other, third.Slice(first.size() - 1, 1)), std::vector<float>{static_cast<float>(turn)})
          << device.name();
      device.Synchronize();
    }
  }
}

}  // namespace
}  // namespace hm11
