// NamingRule: names are taken apart at slashes and by two regular expressions.
#include "tools/bench/naming_rule.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace hm11 {

absl::StatusOr<NamingRule> NamingRule::Create(const Patterns& patterns) {
  NamingRule rule;
  rule.patterns_ = patterns;
  const std::pair<const std::string*, std::regex*> expressions[] = {{&patterns.algorithm, &rule.algorithm_},
                                                                    {&patterns.ceiling, &rule.ceiling_}};
  for (const auto& [pattern, expression] : expressions) {
    try {
      *expression = std::regex(*pattern);
    } catch (const std::regex_error& error) {
      return absl::InvalidArgumentError(
          absl::StrCat("pattern '", *pattern, "' is not a regular expression: ", error.what()));
    }
  }
  if (rule.algorithm_.mark_count() < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("pattern '", patterns.algorithm, "' has no group (...) that holds the algorithm"));
  }
  return rule;
}

std::string NamingRule::Algorithm(const std::string& name) const {
  std::smatch match;
  return std::regex_search(name, match, algorithm_) ? match[1].str() : "";
}

std::string NamingRule::BaselineName(const std::string& name) const {
  std::smatch match;
  if (!std::regex_search(name, match, algorithm_) || !match[1].matched) return "";
  std::string baseline = name;
  baseline.replace(static_cast<size_t>(match.position(1)), static_cast<size_t>(match.length(1)),
                   patterns_.baseline);
  return baseline;
}

std::optional<double> NamingRule::Length(const std::string& name) const {
  for (absl::string_view part : absl::StrSplit(name, '/')) {
    double length = 0;
    if (absl::ConsumePrefix(&part, absl::StrCat(patterns_.length, ":")) && absl::SimpleAtod(part, &length)) {
      return length;
    }
  }
  return std::nullopt;
}

std::string NamingRule::Panel(const std::string& name, bool for_algorithms) const {
  std::string rest = name;
  std::smatch match;
  if (for_algorithms && std::regex_search(name, match, algorithm_) && match[1].matched) {
    rest.erase(static_cast<size_t>(match.position(1)), static_cast<size_t>(match.length(1)));
  }
  std::vector<std::string> parts;
  for (absl::string_view part : absl::StrSplit(rest, '/', absl::SkipEmpty())) {
    if (!absl::StartsWith(part, absl::StrCat(patterns_.length, ":"))) parts.emplace_back(part);
  }
  return absl::StrJoin(parts, "/");
}

bool NamingRule::IsCeilingOf(const std::string& copy, const std::string& name) const {
  if (!IsCeiling(copy)) return false;
  const std::vector<absl::string_view> words = absl::StrSplit(name, '/');
  const std::vector<absl::string_view> of_copy = absl::StrSplit(copy, '/');
  return std::all_of(of_copy.begin() + 1, of_copy.end(), [&](absl::string_view word) {
    return absl::StrContains(word, ":") || std::find(words.begin(), words.end(), word) != words.end();
  });
}

}  // namespace hm11
