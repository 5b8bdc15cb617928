// Snapshots: means, which of them are kept, and going on from a saved state to the bit.
#include "train/snapshots.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <vector>

#include "core/random.h"
#include "testing/generators.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

std::vector<NamedTensor> Weights(uint64_t seed, uint64_t step, double size) {
  std::vector<NamedTensor> weights = {{"one", {3, 2}, std::vector<float>(6)},
                                      {"two", {5}, std::vector<float>(5)}};
  for (size_t t = 0; t < 2; ++t) {
    for (size_t i = 0; i < weights[t].values.size(); ++i) {
      weights[t].values[i] = static_cast<float>(size * (RandomUniform(seed, step * 2 + t, i) - 0.5));
    }
  }
  return weights;
}

RunConfig Lawa(int64_t kept) {
  RunConfig config;
  config.lawa_snapshots = kept;
  return config;
}

RunConfig Swa() {
  RunConfig config;
  config.swa_every = 10;
  return config;
}

TEST(SnapshotsTest, AreWantedWhereTheirSettingsSay) {
  RunConfig off;
  EXPECT_FALSE(Snapshots(off).Wanted(100, 0));
  RunConfig lawa = Lawa(3);
  lawa.lawa_every = 50;
  EXPECT_TRUE(Snapshots(lawa).Wanted(100, 1));
  EXPECT_FALSE(Snapshots(lawa).Wanted(101, 1));
  RunConfig swa = Swa();
  swa.swa_lr_scale = 0.2;
  EXPECT_TRUE(Snapshots(swa).Wanted(20, 0.1));
  EXPECT_FALSE(Snapshots(swa).Wanted(20, 0.2));
  EXPECT_FALSE(Snapshots(swa).Wanted(21, 0.1));
}

TEST(SnapshotsTest, TheMeanIsOfTheLastFewOrOfAll) {
  const RunConfig lawa = Lawa(2), swa = Swa();
  Snapshots last_two(lawa), all(swa);
  for (const float value : {1.0f, 2.0f, 6.0f}) {
    const std::vector<NamedTensor> weights = {{"one", {2}, {value, -value}}};
    last_two.Take(weights);
    all.Take(weights);
  }
  EXPECT_EQ(last_two.count(), 2);
  EXPECT_EQ(all.count(), 3);
  EXPECT_THAT(last_two.Mean()[0].values, testing::ElementsAre(4, -4));
  EXPECT_THAT(all.Mean()[0].values, testing::ElementsAre(3, -3));
  EXPECT_EQ(all.Mean()[0].name, "one");
  EXPECT_EQ(all.Mean()[0].shape, std::vector<int64_t>{2});
}

void ExpectToGoOn(const RunConfig& config, uint64_t seed, int64_t steps, int64_t saved_at) {
  Snapshots whole(config), before(config), after(config);
  for (int64_t step = 0; step < steps; ++step) {
    // Sizes far apart, so that a sum needs all of a double.
    const auto weights = Weights(seed, static_cast<uint64_t>(step), step % 3 == 0 ? 1e6 : 1e-4);
    whole.Take(weights);
    if (step < saved_at) before.Take(weights);
    if (step == saved_at) {
      after.Take(weights);  // forgotten
      RC_ASSERT(after.Load(before.Save()).ok());
    }
    if (step >= saved_at) after.Take(weights);
  }
  RC_ASSERT(after.count() == whole.count());
  const SnapshotState a = after.Save(), b = whole.Save();
  RC_ASSERT(a.taken == b.taken);
  RC_ASSERT(a.sets.size() == b.sets.size());
  for (size_t set = 0; set < a.sets.size(); ++set) {
    for (size_t t = 0; t < a.sets[set].size(); ++t) RC_ASSERT(a.sets[set][t].values == b.sets[set][t].values);
  }
  for (size_t t = 0; t < 2; ++t) RC_ASSERT(after.Mean()[t].values == whole.Mean()[t].values);
}

RC_GTEST_PROP(SnapshotsProperty, GoOnFromASavedStateToTheBit, ()) {
  const uint64_t seed = *Seed();
  for (const RunConfig& config : {Swa(), Lawa(1), Lawa(2), Lawa(4)}) {
    for (const int64_t steps : {1, 3, 8}) {
      for (int64_t saved_at = 0; saved_at < steps; ++saved_at) ExpectToGoOn(config, seed, steps, saved_at);
    }
  }
}

TEST(SnapshotsTest, AStateOfOtherSettingsIsRefused) {
  const RunConfig lawa = Lawa(2), swa = Swa(), off;
  Snapshots from(lawa);
  from.Take(Weights(1, 1, 1));
  Snapshots to_swa(swa), to_none(off);
  EXPECT_THAT(to_swa.Load(from.Save()), StatusIs(absl::StatusCode::kInvalidArgument, "lawa_snapshots"));
  EXPECT_THAT(to_none.Load(from.Save()), StatusIs(absl::StatusCode::kInvalidArgument, "lawa_snapshots"));
  EXPECT_THAT(to_none.Load(Snapshots(off).Save()), IsOk());
}

}  // namespace
}  // namespace hm11
