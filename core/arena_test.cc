// Arenas: alignment, scopes, and the plan that predicts what a run takes.
#include "core/arena.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstdint>
#include <vector>

#include "core/device.h"

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
