// Comparing a folder with the files that it names.
#include "tools/compliance/absent_files.h"

#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tools/compliance/file_names.h"

namespace hm11 {
namespace {

constexpr size_t kMostNames = 2000;

// Names in backquotes of a README's list of its files: what it says is in the folder.
std::vector<std::string> FilesOfReadme(const std::string& readme) {
  std::vector<std::string> names;
  bool in_list = false;
  for (absl::string_view line : absl::StrSplit(readme, '\n')) {
    if (absl::StartsWith(line, "#")) {
      const std::string title = absl::AsciiStrToLower(line);
      in_list = absl::StrContains(title, "file") || absl::StrContains(title, "contents") ||
                absl::StrContains(title, "included");
    }
    const absl::string_view item = absl::StripLeadingAsciiWhitespace(line);
    const bool is_item =
        absl::StartsWith(item, "-") || absl::StartsWith(item, "*") || absl::StartsWith(item, "|");
    if (!in_list || !is_item) continue;
    const std::vector<absl::string_view> parts = absl::StrSplit(line, '`');
    for (size_t i = 1; i < parts.size(); i += 2) {
      const std::string name = absl::StrReplaceAll(parts[i], {{"\\_", "_"}});  // as Markdown has it
      if (LooksLikeFileName(name)) names.push_back(name);
      // What follows the first dash after the names explains them, and may name files elsewhere.
      if (i + 1 < parts.size() &&
          (absl::StrContains(parts[i + 1], "—") || absl::StrContains(parts[i + 1], " - ") ||
           absl::StrContains(parts[i + 1], ":") || absl::StrContains(parts[i + 1], "|"))) {
        break;
      }
    }
  }
  return names;
}

bool Matches(const std::string& name, const std::string& file) {
  return FitsPattern(name, file) || FitsPattern(absl::StrCat("*/", name), file);
}

}  // namespace

std::vector<std::string> AbsentFiles(const SubmissionFolder& folder) {
  std::vector<std::string> absent;
  std::set<std::string> named;
  for (const std::string& name : FilesOfReadme(folder.readme)) {
    for (const std::string& one : ExpandBraces(name)) {
      if (named.size() < kMostNames) named.insert(one);
    }
  }
  if (folder.claims) named.insert(folder.claims->files.begin(), folder.claims->files.end());
  for (absl::string_view name : named) {
    absl::ConsumePrefix(&name, "./");
    // Paths to other places are references, not contents.
    if (absl::StartsWith(name, "/") || absl::StrContains(name, "..") || absl::StartsWith(name, "data/") ||
        absl::StartsWith(name, "records/") || absl::StrContains(name, "@") || absl::StrContains(name, "#")) {
      continue;
    }
    const std::string wanted(name);
    const bool found = std::any_of(folder.files.begin(), folder.files.end(),
                                   [&](const FolderFile& file) { return Matches(wanted, file.name); });
    if (!found) absent.push_back(wanted);
  }
  return absent;
}

}  // namespace hm11
