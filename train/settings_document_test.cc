// The tables of docs/training.md list every setting, in the code's order and with the code's default.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/fields.h"
#include "core/file.h"
#include "train/config.h"

namespace hm11 {
namespace {

// What stands between the marks of code in a cell; nothing in an empty one.
std::string Code(absl::string_view cell) {
  const std::vector<std::string> parts = absl::StrSplit(cell, '`');
  return parts.size() == 3 ? parts[1] : "";
}

TEST(SettingsDocumentTest, TheTablesAreTheCodesSettings) {
  const auto text = ReadFile("docs/training.md");
  ASSERT_TRUE(text.ok()) << text.status();
  std::vector<std::string> documented;
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    if (!absl::StartsWith(line, "| `")) continue;
    const std::vector<std::string> cells = absl::StrSplit(line, '|');
    documented.push_back(absl::StrCat(Code(cells[1]), "=", Code(cells[2])));
  }
  const std::vector<std::string> settings =
      absl::StrSplit(FormatFields(RunConfig()), '\n', absl::SkipEmpty());
  EXPECT_EQ(documented, settings);
}

}  // namespace
}  // namespace hm11
