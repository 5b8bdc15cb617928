// Which function Dispatch calls: by the device, the type, and what a plan stands for.
#include "core/dispatch.h"

#include <gtest/gtest.h>

namespace hm11 {
namespace {

struct Calls {
  int cpu = 0, cuda = 0;
};

template <typename T, typename W = T>
Calls Dispatched(const Device& device) {
  Calls calls;
  Dispatch<T, W>(
      "Op", device, [&]<typename U>() { ++calls.cpu; }, [&]<typename U>() { ++calls.cuda; });
  return calls;
}

template <typename T>
Calls DispatchedWithPlan(const Device& device) {
  Calls calls;
  DispatchWithPlan<T>(
      "Op", device, [&]<typename U>() { ++calls.cpu; }, [&]<typename U>() { ++calls.cuda; });
  return calls;
}

TEST(DispatchTest, TheCpuRunsFloatAndDouble) {
  EXPECT_EQ(Dispatched<float>(Device::Cpu()).cpu, 1);
  EXPECT_EQ(Dispatched<double>(Device::Cpu()).cpu, 1);
  EXPECT_EQ(Dispatched<float>(Device::Cpu()).cuda, 0);
  EXPECT_EQ((Dispatched<float, Fp16>(Device::Cpu()).cpu), 1);
}

TEST(DispatchTest, TypesThatDoNotRunAreNamedWithTheOp) {
  EXPECT_DEATH(Dispatched<Bf16>(Device::Cpu()), "Op: bfloat16 does not run on cpu");
}

TEST(DispatchTest, APlanRunsNothing) {
  for (const Device& plan : {Device::Plan(), Device::Plan(Device::Cpu())}) {
    EXPECT_EQ(Dispatched<float>(plan).cpu + Dispatched<float>(plan).cuda, 0);
    EXPECT_EQ(Dispatched<Bf16>(plan).cpu + Dispatched<Bf16>(plan).cuda, 0);
  }
}

TEST(DispatchTest, APlanIsOfWhatItPlansFor) {
  EXPECT_EQ(DispatchedWithPlan<float>(Device::Plan(Device::Cpu())).cpu, 1);
  EXPECT_EQ(DispatchedWithPlan<Bf16>(Device::Plan(Device::Cpu())).cpu, 0);
  EXPECT_EQ(DispatchedWithPlan<float>(Device::Plan()).cuda, kHaveCuda ? 1 : 0);
  EXPECT_EQ(DispatchedWithPlan<float>(Device::Plan()).cpu, kHaveCuda ? 0 : 1);
  EXPECT_EQ(DispatchedWithPlan<Bf16>(Device::Plan()).cuda, kHaveCuda ? 1 : 0);
}

}  // namespace
}  // namespace hm11
