// Settings: each has a meaning, and the page of the documents is the table that the program prints.
#include "train/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/fields.h"
#include "core/file.h"
#include "testing/matchers.h"
#include "train/config.h"

namespace hm11 {
namespace {

TEST(SettingsTest, EveryFieldHasAMeaningAndNothingElseHas) {
  std::vector<std::string> told;
  for (const auto& [name, meaning] : SettingMeanings()) {
    told.push_back(name);
    EXPECT_NE(meaning, "") << name;
  }
  EXPECT_EQ(told, FieldNames(RunConfig()));
}

TEST(SettingsTest, ThePageOfTheDocumentsIsTheTable) {
  const absl::StatusOr<std::string> page = ReadFile("docs/training.md");
  ASSERT_THAT(page.status(), IsOk());
  EXPECT_THAT(*page, testing::HasSubstr(SettingsTable()))
      << "docs/training.md: replace the tables by what //train:hm11 -- --list_settings prints";
}

}  // namespace
}  // namespace hm11
