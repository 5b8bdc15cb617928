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
    const Device other = device.NewQueue();
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

// Each queue makes its tensor ready before the fork's last word, and reads what the device had before.
TEST(ForkTest, QueuesBeginAfterTheForkAndEndBeforeTheJoin) {
  for (const Device& device : TestDevices()) {
    const int64_t size = device.is_cpu() ? 1024 : 1 << 22;
    Arena arena = TestArena(device);
    const Tensor<float> start = arena.NewZero<float>({size}), end = arena.NewZero<float>({size});
    std::vector<Tensor<float>> rows;
    for (int i = 0; i < 3; ++i) rows.push_back(arena.NewZero<float>({size}));
    device.Synchronize();
    Fork queues(device, {nullptr, nullptr});
    ASSERT_EQ(queues.size(), 3);
    const auto work = [&] {
      // Long chains of copies, so that whoever does not wait reads what is not there yet.
      for (int i = 0; i < 20; ++i) device.CopyOnDevice(end.data(), start.data(), start.size_bytes());
      queues.Begin();
      for (int i = 0; i < queues.size(); ++i) {
        const Tensor<float>& row = rows[static_cast<size_t>(i)];
        for (int j = 0; j < 20; ++j) queues[i].CopyOnDevice(row.data(), end.data(), end.size_bytes());
      }
      queues.End();
      for (const Tensor<float>& row : rows) {
        device.CopyOnDevice(end.data(), row.data(), row.size_bytes() / 2);
        device.CopyOnDevice(start.data(), row.data(), row.size_bytes());
      }
    };
    work();
    StepGraph graph(device, work);
    for (int turn = 1; turn <= 5; ++turn) {
      const std::vector<float> values(static_cast<size_t>(size), static_cast<float>(turn));
      device.CopyFromHost(start.data(), values.data(), start.size_bytes());
      if (turn % 2 == 0) {
        work();
      } else {
        graph.Launch();
      }
      for (const Tensor<float>& tensor : {start, end, rows[1], rows[2]}) {
        EXPECT_EQ(OnHost(device, tensor.Slice(size - 1, 1)), std::vector<float>{static_cast<float>(turn)})
            << device.name() << ", turn " << turn;
      }
    }
  }
}

TEST(ForkTest, AnArenasOpsRunOnTheQueueThatItIsOn) {
  for (const Device& gpu : TestGpus()) {
    Arena arena = TestArena(gpu);
    const Device queue = gpu.NewQueue();
    {
      const Arena::OnQueue on(arena, queue);
      EXPECT_EQ(arena.device().stream(), queue.stream());
      EXPECT_NE(arena.device().stream(), gpu.stream());
      EXPECT_EQ(arena.device().cublaslt(), gpu.cublaslt());
    }
    EXPECT_EQ(arena.device().stream(), gpu.stream());
  }
}

}  // namespace
}  // namespace hm11
