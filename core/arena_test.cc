// Arenas: alignment, scopes, and the plan that predicts what a run takes.
#include "core/arena.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <vector>

#include "core/device.h"
#include "core/host_memory.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

TEST(ArenaTest, TensorsAreAlignedAndDoNotOverlap) {
  Arena arena = Arena::Cpu();
  const Tensor<float> a = arena.New<float>({3, 5});
  const Tensor<double> b = arena.New<double>({7});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data()) % Arena::kAlignment, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(b.data()) % Arena::kAlignment, 0u);
  EXPECT_GE(reinterpret_cast<char*>(b.data()) - reinterpret_cast<char*>(a.data()), a.size_bytes());
}

TEST(ArenaTest, AScopeGivesBackWhatWasTakenInIt) {
  Arena arena = Arena::Cpu();
  const Tensor<float> kept = arena.New<float>({10});
  const int64_t before = arena.used_bytes();
  float* first = nullptr;
  {
    Arena::Scope scope(arena);
    first = arena.New<float>({1000}).data();
    EXPECT_GT(arena.used_bytes(), before);
  }
  EXPECT_EQ(arena.used_bytes(), before);
  EXPECT_EQ(arena.New<float>({5}).data(), first);
  EXPECT_GE(arena.high_water_bytes(), before + 4000);
  kept[9] = 1;
}

TEST(ArenaTest, NewZeroIsZeroEvenInUsedMemory) {
  Arena arena = Arena::Cpu();
  {
    Arena::Scope scope(arena);
    for (float& x : arena.New<float>({100})) x = 7;
  }
  for (float x : arena.NewZero<float>({100})) ASSERT_EQ(x, 0);
}

TEST(ArenaDeathTest, AFullArenaIsFatal) {
  Arena arena(Device::Cpu(), 1024);
  arena.New<float>({256});
  EXPECT_DEATH(arena.New<float>({1}), "check failed");
}

TEST(ArenaDeathTest, MemoryThatIsNotThereIsNamedInBytes) {
  EXPECT_DEATH(Arena(Device::Cpu(), int64_t{1} << 62), "cannot reserve 4611686018427387904 bytes");
  EXPECT_THAT(Arena::Reserve(Device::Cpu(), int64_t{1} << 62, "this test"),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       "this test takes 4611686018427387904 bytes of memory, and device cpu has "));
  EXPECT_THAT(Arena::Reserve(Device::Cpu(), 1024, "this test"), IsOk());
}

TEST(HostMemoryTest, ALimitOnAddressSpaceIsAnAnswer) {
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  constexpr rlim_t kLeft = rlim_t{1} << 28;
  const rlimit small = {.rlim_cur = static_cast<rlim_t>(pages * getpagesize()) + kLeft,
                        .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_AS, &small), 0);
  const int64_t left = FreeHostBytes();
  ASSERT_EQ(setrlimit(RLIMIT_AS, &before), 0);
  EXPECT_GT(left, 0);
  EXPECT_LE(left, static_cast<int64_t>(kLeft));
  EXPECT_GT(FreeHostBytes(), left);
}

TEST(ArenaTest, APlanIsForADevice) {
  EXPECT_TRUE(Device::Cpu().is_for_cpu());
  EXPECT_TRUE(Arena::Plan(Device::Cpu()).device().is_for_cpu());
  EXPECT_TRUE(Device::Plan(Device::Plan(Device::Cpu())).is_for_cpu());
  EXPECT_FALSE(Device::Plan().is_for_cpu());
  EXPECT_FALSE(Device::Plan(Device::Plan()).is_for_cpu());
}

RC_GTEST_PROP(ArenaProperty, PlanPredictsHowMuchARunTakes, ()) {
  Arena arena = Arena::Cpu();
  Arena plan = Arena::Plan();
  for (int64_t size : *rc::gen::container<std::vector<int64_t>>(rc::gen::inRange<int64_t>(0, 10000))) {
    const Tensor<float> real = arena.New<float>({size});
    const Tensor<float> planned = plan.New<float>({size});
    RC_ASSERT(planned.data() == nullptr);
    RC_ASSERT(planned.shape() == real.shape());
    RC_ASSERT(planned.empty() == real.empty());
  }
  RC_ASSERT(plan.high_water_bytes() == arena.high_water_bytes());
}

}  // namespace
}  // namespace hm11
