// What tests stand on: uploads, guards, generators and matchers do what they say.
#include <gmock/gmock.h>
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/dispatch.h"
#include "core/file.h"
#include "testing/devices.h"
#include "testing/generators.h"
#include "testing/golden.h"
#include "testing/matchers.h"
#include "testing/op_run.h"
#include "testing/op_table.h"

namespace hm11 {
namespace {

using testing::ElementsAre;
using testing::Not;

template <typename T>
void ExpectRoundTrip(const Device& device) {
  Arena arena = TestArena(device);
  const HostTensor<T> host = RandomHostTensor<T>({3, 5}, 7);
  const HostTensor<T> back = Download(arena, Upload(arena, host));
  EXPECT_EQ(back.shape, host.shape);
  EXPECT_THAT(back, IsNear(host, 0.0));
}

TEST(DevicesTest, DownloadGivesWhatUploadTook) {
  for (const Device& device : TestDevices()) {
    ExpectRoundTrip<double>(device);
    ExpectRoundTrip<float>(device);
    ExpectRoundTrip<Bf16>(device);
  }
}

TEST(DevicesTest, AnAbsentTensorStaysAbsent) {
  Arena arena = Arena::Cpu();
  EXPECT_TRUE(Upload(arena, HostTensor<float>()).empty());
  EXPECT_TRUE(Download(arena, Tensor<float>()).empty());
}

TEST(DevicesTest, GuardsTellWhatWasWritten) {
  Arena arena = Arena::Cpu();
  GuardedTensor<float> guarded(arena, {2, 3});
  EXPECT_FALSE(guarded.AllWritten(arena));
  EXPECT_TRUE(guarded.BandsIntact(arena));
  for (float& value : guarded.tensor()) value = 1;
  EXPECT_TRUE(guarded.AllWritten(arena));
  EXPECT_TRUE(guarded.BandsIntact(arena));
  guarded.tensor().data()[6] = 0;
  EXPECT_FALSE(guarded.BandsIntact(arena));
}

TEST(DevicesTest, RoundingToBf16ChangesAFloatAndOnlyOnce) {
  const HostTensor<float> host = RandomHostTensor<float>({100}, 3);
  const HostTensor<float> rounded = RoundedTo<Bf16>(host);
  EXPECT_THAT(rounded, IsNear(host, 4e-3));
  EXPECT_THAT(rounded, Not(IsNear(host, 1e-4)));
  EXPECT_THAT(RoundedTo<Bf16>(rounded), IsNear(rounded, 0.0));
}

TEST(MatchersTest, IsNearFailsOnNanShapeAndDistance) {
  const HostTensor<float> one = {{2}, {1, 1}};
  EXPECT_THAT((HostTensor<double>{{2}, {1, 1.01}}), IsNear(one, 0.01));
  EXPECT_THAT((HostTensor<double>{{2}, {1, 1.1}}), Not(IsNear(one, 0.01)));
  EXPECT_THAT((HostTensor<double>{{2}, {1, std::nan("")}}), Not(IsNear(one, 1e9)));
  EXPECT_THAT((HostTensor<double>{{1, 2}, {1, 1}}), Not(IsNear(one, 1e9)));
}

TEST(MatchersTest, StatusMatchersLookAtCodeAndMessage) {
  const absl::Status missing = absl::NotFoundError("file /nowhere");
  EXPECT_THAT(absl::OkStatus(), IsOk());
  EXPECT_THAT(missing, Not(IsOk()));
  EXPECT_THAT(missing, StatusIs(absl::StatusCode::kNotFound, "/nowhere"));
  EXPECT_THAT(missing, Not(StatusIs(absl::StatusCode::kNotFound, "/elsewhere")));
  EXPECT_THAT(missing, Not(StatusIs(absl::StatusCode::kInternal, "/nowhere")));
  EXPECT_THAT(absl::StatusOr<int>(missing), StatusIs(absl::StatusCode::kNotFound, ""));
  EXPECT_THAT(absl::StatusOr<int>(7), IsOkAndHolds(7));
  EXPECT_THAT(absl::StatusOr<int>(8), Not(IsOkAndHolds(7)));
}

// Two ops; the second is made of the first. `weight`: one operand, of as many floats as there are.
void ScaleForward(Tensor<const float> weight) {
  const OpScope op({"ScaleForward", OpKind::kScan, 3}, weight, Tensor<const float>());
}
void TwoScalesForward(Tensor<const float> weight) {
  const OpScope op("TwoScalesForward", weight, Tensor<const float>());
  ScaleForward(weight);
  ScaleForward(weight);
}

std::vector<std::string> Names(const std::vector<OpRow>& rows) {
  std::vector<std::string> names;
  for (const OpRow& row : rows) names.push_back(row.name);
  return names;
}

TEST(OpTableTest, RowsAreNamedByOpAndWhereThatIsNotEnoughByMemory) {
  const std::vector<float> numbers(10);
  const auto some = [&](int64_t begin, int64_t count) {
    return Tensor<const float>(numbers.data() + begin, {count});
  };
  OpTable table(Device::Cpu());
  table.NameMemory(numbers.data(), 4 * sizeof(float), "gate");
  table.NameMemory(numbers.data() + 4, 3 * sizeof(float), "head");
  table.Observe(
      [&] {
        TwoScalesForward(some(0, 4));
        ScaleForward(some(5, 2));
        ScaleForward(some(0, 2));
        ScaleForward(some(0, 3));
        ScaleForward(some(7, 1));
        Dispatch<float>(
            "NewOp", Device::Cpu(), []<typename>() {}, []<typename>() {});
      },
      2);
  const std::vector<OpRow> rows = table.Rows();
  EXPECT_THAT(Names(rows), ElementsAre("two scales forward", "scale forward: head, gate",
                                       "scale forward: gate", "scale forward", "new op"));
  EXPECT_EQ(rows[1].calls, 2);
  EXPECT_EQ(rows[1].bytes, 8);
  EXPECT_EQ(rows[1].operations, 3);
  EXPECT_EQ(KindName(rows[1].kind), "scan");
}

RC_GTEST_PROP(OpTableTest, EveryOpOfAPassIsInOneRowAndRowsHaveTheirOwnNames, ()) {
  const std::vector<float> numbers(6);
  // Which op, where its operand begins, and how many numbers this has.
  const auto calls = *rc::gen::container<std::vector<std::tuple<bool, int, int>>>(
      rc::gen::tuple(rc::gen::arbitrary<bool>(), rc::gen::inRange(0, 3), rc::gen::inRange(1, 4)));
  OpTable table(Device::Cpu());
  table.NameMemory(numbers.data(), 2 * sizeof(float), "low");
  const int64_t repeats = *rc::gen::inRange(1, 4);
  table.Observe(
      [&] {
        for (const auto& [two, begin, count] : calls) {
          (two ? TwoScalesForward : ScaleForward)(Tensor<const float>(numbers.data() + begin, {count}));
        }
      },
      repeats);
  std::map<std::pair<bool, int>, int64_t> expected;
  for (const auto& [two, begin, count] : calls) ++expected[{two, count}];
  const std::vector<OpRow> rows = table.Rows();
  RC_ASSERT(rows.size() == expected.size());
  std::set<std::string> names;
  for (const OpRow& row : rows) {
    const bool two = row.name.rfind("two", 0) == 0;
    RC_ASSERT(row.calls == (expected[{two, static_cast<int>(row.bytes) / 4}]));
    RC_ASSERT(row.seconds >= 0);
    RC_ASSERT(names.insert(row.name).second);
  }
}

TEST(DeviceMarksTest, MarksAreInOrderAndCountFromZeroAgainAfterClear) {
  for (const Device& device : TestDevices()) {
    DeviceMarks marks(device);
    for (int round = 0; round < 2; ++round) {
      for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(marks.Mark(), i);
      EXPECT_GE(marks.SecondsBetween(0, 1), 0);
      EXPECT_GE(marks.SecondsBetween(0, 2), marks.SecondsBetween(1, 2));
      marks.Clear();
    }
  }
}

// y = x[0] + x[1] in double on the CPU.
Results AddTwo(const HostTensor<double>& x) {
  OpRun<double> run(Device::Cpu());
  const Tensor<const double> in = run.In(x);
  const Tensor<double> y = run.Out("y", {1});
  y[0] = in[0] + in[1];
  return run.Finish();
}

void ExpectBf16OfSum(double got, const HostTensor<double>& x) {
  const auto exact = [&x] { return AddTwo(x); };
  ExpectNearButForRounding<Bf16>({{"y", {{1}, {got}}}}, exact, exact(), Tolerance<Bf16>(), "here");
}

// 1000 and -999 are each off by up to 4 where they are rounded to 8 bits, by 2.3 on average.
TEST(OpRunTest, OnlyWhatNearlyCancelsMayBeOffByTheRoundingOfItsTerms) {
  static const HostTensor<double> cancels = {{2}, {1000, -999}}, adds = {{2}, {1000, 999}};
  ExpectBf16OfSum(1, cancels);
  ExpectBf16OfSum(5, cancels);
  ExpectBf16OfSum(-3, cancels);
  EXPECT_NONFATAL_FAILURE(ExpectBf16OfSum(25, cancels), "its size is 1");
  EXPECT_NONFATAL_FAILURE(ExpectBf16OfSum(-23, cancels), "its size is 1");
  EXPECT_NONFATAL_FAILURE(ExpectBf16OfSum(NAN, cancels), "its size is 1");
  ExpectBf16OfSum(1990, adds);
  EXPECT_NONFATAL_FAILURE(ExpectBf16OfSum(1900, adds), "its size is 1999");
}

TEST(OpRunTest, OperandsAreShakenWhereThatIsAskedForOnly) {
  const HostTensor<double> x = {{2}, {1000, 1000}};
  EXPECT_EQ(AddTwo(x).at("y")[0], 2000);
  double first = 0;
  {
    const ShakenOperands shaken(0.01, 1);
    first = AddTwo(x).at("y")[0];
    EXPECT_NE(first, 2000);
    EXPECT_NEAR(first, 2000, 20);
    EXPECT_NE(AddTwo(x).at("y")[0], first);  // another operand
  }
  EXPECT_EQ(AddTwo(x).at("y")[0], 2000);
  const ShakenOperands again(0.01, 1);
  EXPECT_EQ(AddTwo(x).at("y")[0], first);
}

TEST(GoldenTest, TheFilesAreThere) {
  EXPECT_TRUE(FileExists(GoldenPath("scan.safetensors"))) << GoldenPath("scan.safetensors");
}

RC_GTEST_PROP(GeneratorsTest, SizesArePositive, ()) {
  RC_ASSERT(*SizeAroundTile(*rc::gen::inRange<int64_t>(1, 300)) >= 1);
  RC_ASSERT(*SmallSize() >= 1);
}

}  // namespace
}  // namespace hm11
