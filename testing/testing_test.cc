// What tests stand on: uploads, guards, generators and matchers do what they say.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstdlib>

#include "core/file.h"
#include "testing/devices.h"
#include "testing/generators.h"
#include "testing/golden.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

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

TEST(GoldenTest, TheFilesAreThere) {
  EXPECT_TRUE(FileExists(GoldenPath("scan.safetensors"))) << GoldenPath("scan.safetensors");
}

RC_GTEST_PROP(GeneratorsTest, SizesArePositive, ()) {
  RC_ASSERT(*SizeAroundTile(*rc::gen::inRange<int64_t>(1, 300)) >= 1);
  RC_ASSERT(*SmallSize() >= 1);
}

}  // namespace
}  // namespace hm11
