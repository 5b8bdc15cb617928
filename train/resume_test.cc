// Resume: each thing that makes another run is named, and what may change is not.
#include "train/resume.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/fields.h"
#include "testing/matchers.h"

namespace hm11 {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

RunIdentity Facts() {
  return {.config = *Preset("tiny"), .train_text = "a", .val_text = "b", .device = "cpu"};
}

TEST(ResumeTest, EverySettingMakesAnotherRunUnlessItIsListed) {
  const RunIdentity before = Facts();
  const std::vector<std::string> listed = SettingsThatMayChange();
  int named = 0;
  RunConfig::ForEachField(before.config, [&](const char* name, const auto& value) {
    RunIdentity now = before;
    using V = std::decay_t<decltype(value)>;
    RunConfig::ForEachField(now.config, [&](const char* other, auto& field) {
      if (std::string(name) != other) return;
      if constexpr (std::is_same_v<std::decay_t<decltype(field)>, V>) {
        if constexpr (std::is_same_v<V, std::string>) {
          field += "x";
        } else if constexpr (std::is_same_v<V, bool>) {
          field = !field;
        } else {
          field += 1;
        }
      }
    });
    const std::vector<std::string> changes = ChangesOf(before, now);
    if (std::find(listed.begin(), listed.end(), name) != listed.end()) {
      EXPECT_THAT(changes, IsEmpty()) << name;
    } else {
      ++named;
      ASSERT_EQ(changes.size(), 1u) << name;
      EXPECT_THAT(changes[0], testing::StartsWith(absl::StrCat(name, ": ")));
    }
  });
  EXPECT_GT(named, 50);
}

TEST(ResumeTest, AChangeNamesBothValues) {
  RunIdentity before = Facts(), now = Facts();
  now.config.seed = before.config.seed + 1;
  now.config.optimizer.muon_lr = 0.5;
  EXPECT_THAT(ChangesOf(before, now), ElementsAre("seed: 1337 -> 1338", "muon_lr: 0.018 -> 0.5"));
}

TEST(ResumeTest, WhatDecidesWeightsIsNotListed) {
  const std::vector<std::string> listed = SettingsThatMayChange();
  for (const char* name : {"seed", "sequence", "batch_tokens", "micro_batch_tokens", "max_steps", "muon_lr",
                           "time_limit_seconds", "average_decay", "lawa_every", "calibration_seconds"}) {
    EXPECT_THAT(listed, testing::Not(testing::Contains(name)));
  }
}

TEST(ResumeTest, TextAndDeviceMakeAnotherRunWhereTheyAreKnown) {
  const RunIdentity before = Facts();
  EXPECT_THAT(ChangesOf(before, before), IsEmpty());
  RunIdentity now = before;
  now.train_text = "c";
  now.val_text = "d";
  now.device = "cuda";
  EXPECT_THAT(ChangesOf(before, now),
              ElementsAre("training text: a -> c", "validation text: b -> d", "device: cpu -> cuda"));
  now.train_text = now.val_text = now.device = "";
  EXPECT_THAT(ChangesOf(before, now), IsEmpty());
  EXPECT_THAT(ChangesOf(now, before), IsEmpty());
}

TEST(ResumeTest, TheErrorNamesFolderChangesAndTheWayOn) {
  EXPECT_THAT(CheckSameRun("runs/x", {}), IsOk());
  EXPECT_THAT(CheckSameRun("runs/x", {"seed: 1 -> 2", "device: cpu -> cuda"}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "runs/x would not go on as the run that was begun: seed: 1 -> 2; device: cpu -> "
                       "cuda; leave these out, or add --resume_anyway"));
}

}  // namespace
}  // namespace hm11
