// Looking for words in the statements of programs.
#include "tools/compliance/used_code.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tools/compliance/log_numbers.h"

namespace hm11 {

bool HasAnyWord(absl::string_view code, std::initializer_list<absl::string_view> words) {
  return std::any_of(words.begin(), words.end(), [&](absl::string_view word) { return HasWord(code, word); });
}

// Strings are put back where the statement has them emptied.
std::string Excerpt(const PythonStatement& statement) {
  std::string text;
  size_t next = 0;
  absl::string_view code = absl::StripAsciiWhitespace(statement.code);
  for (size_t at = code.find("\"\""); at != absl::string_view::npos && next < statement.strings.size();
       at = code.find("\"\"")) {
    absl::StrAppend(&text, code.substr(0, at + 1), statement.strings[next++].substr(0, 40), "\"");
    code.remove_prefix(at + 2);
  }
  absl::StrAppend(&text, code);
  return text.size() > 90 ? absl::StrCat(text.substr(0, 90), "...") : text;
}

void AddPlacesWith(const Case& subject, std::initializer_list<absl::string_view> words,
                   const std::string& what, Condition* condition) {
  const auto found = Statements(subject.folder, [&](const PythonStatement& statement) {
    const absl::string_view code = absl::StripLeadingAsciiWhitespace(statement.code);
    const bool declares = absl::StartsWith(code, "def ") || absl::StartsWith(code, "class ") ||
                          absl::StrContains(code, "environ");
    return !declares && ContainsAny(absl::AsciiStrToLower(code), words);
  });
  if (found.empty()) return;
  std::vector<Place> places;
  for (const Found& each : found) places.push_back(each.place());
  condition->Add(absl::StrCat("worth a look, ", what, ": ", Excerpt(*found[0].statement)), places,
                 Sureness::kSuspected);
}

namespace {

std::optional<bool> OwnAnswer(const SubmissionFolder& folder, const std::string& key) {
  if (!folder.claims) return std::nullopt;
  const auto found = folder.claims->compliance.find(key);
  return found == folder.claims->compliance.end() ? std::nullopt : std::optional<bool>(found->second);
}

}  // namespace

bool Disclaims(const SubmissionFolder& folder, const std::string& key) {
  return OwnAnswer(folder, key) == false;
}

bool Affirms(const SubmissionFolder& folder, const std::string& key) {
  return OwnAnswer(folder, key) == true;
}

Place DisclaimerPlace(const SubmissionFolder& folder) {
  return {folder.claims_file, folder.claims ? folder.claims->LineOf("compliance") : 0};
}

}  // namespace hm11
