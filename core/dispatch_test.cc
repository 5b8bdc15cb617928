// Which function Dispatch calls: by the device, the type, and what a plan stands for; what observers of ops
// hear.
#include "core/dispatch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

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

using testing::ElementsAre;
using testing::IsEmpty;

// "op" where one begins, "." where it ends.
class Heard : public OpObserver {
 public:
  void Begin(const OpCall& call) override {
    log.push_back(call.work.op);
    last = call;
  }
  void End() override { log.push_back("."); }

  std::vector<std::string> log;
  OpCall last = {"", {}};
};

TEST(OpScopeTest, AnOpThatOnlyDispatchesIsToldByItsName) {
  for (const Device& device : {Device::Cpu(), Device::Plan()}) {
    Heard heard;
    const ObservedOps observed(&heard);
    Dispatched<float>(device);
    DispatchedWithPlan<float>(device);
    EXPECT_THAT(heard.log, ElementsAre("Op", ".", "Op", "."));
    EXPECT_THAT(heard.last.operands, IsEmpty());
  }
}

TEST(OpScopeTest, OperandsAreToldInOrderWithTheirBytes) {
  Heard heard;
  const ObservedOps observed(&heard);
  float numbers[12] = {};
  const Tensor<float> all(numbers, {3, 4});
  {
    const OpScope op({"Product", OpKind::kMatrixProduct, 24}, all, Columns<const float>(all).Range(1, 2),
                     Tensor<const uint8_t>(), Columns<float>(), Tensor<int32_t>(nullptr, {5}));
  }
  const OpCall& call = heard.last;
  EXPECT_EQ(call.work.kind, OpKind::kMatrixProduct);
  EXPECT_EQ(call.work.operations, 24);
  ASSERT_EQ(call.operands.size(), 5u);
  EXPECT_EQ(call.operands[0].shape, (Shape{3, 4}));
  EXPECT_EQ(call.operands[0].bytes, 48);
  EXPECT_EQ(call.operands[1].data, numbers + 1);
  EXPECT_EQ(call.operands[1].shape, (Shape{3, 2}));
  EXPECT_EQ(call.operands[1].bytes, 24);
  EXPECT_EQ(call.operands[2].shape.rank(), 0);
  EXPECT_EQ(call.operands[3].shape.rank(), 0);
  EXPECT_EQ(call.operands[4].bytes, 20);
  EXPECT_EQ(call.bytes(), 48 + 24 + 20);
}

TEST(OpScopeTest, OfAnOpThatIsMadeOfOpsOnlyItselfIsTold) {
  Heard heard;
  const ObservedOps observed(&heard);
  {
    const OpScope outer("Outer");
    const OpScope inner("Inner");
    Dispatched<float>(Device::Cpu());
  }
  Dispatched<float>(Device::Cpu());
  EXPECT_THAT(heard.log, ElementsAre("Outer", ".", "Op", "."));
}

TEST(OpScopeTest, AnObserverHearsWhileItIsTheLatest) {
  Heard first, second;
  Dispatched<float>(Device::Cpu());
  {
    const ObservedOps by_first(&first);
    {
      const ObservedOps by_second(&second);
      Dispatched<float>(Device::Cpu());
    }
    EXPECT_THAT(first.log, IsEmpty());
    Dispatched<float>(Device::Cpu());
  }
  Dispatched<float>(Device::Cpu());
  EXPECT_THAT(first.log, ElementsAre("Op", "."));
  EXPECT_THAT(second.log, ElementsAre("Op", "."));
}

}  // namespace
}  // namespace hm11
