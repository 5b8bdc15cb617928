// Kinds of files by name, patterns and seeds in names.
#include "tools/compliance/file_names.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace hm11 {
namespace {

constexpr size_t kMostExpansions = 1000;

}  // namespace

bool EndsWithAny(absl::string_view name, std::initializer_list<absl::string_view> endings) {
  return std::any_of(endings.begin(), endings.end(),
                     [&](absl::string_view ending) { return absl::EndsWithIgnoreCase(name, ending); });
}

bool IsSource(absl::string_view name) {
  return EndsWithAny(name, {".py", ".c", ".cc", ".cpp", ".cxx", ".cu", ".cuh", ".h", ".hpp"});
}

bool IsPackedProgram(absl::string_view name) {
  return EndsWithAny(name, {".so", ".tar", ".tar.xz", ".tar.gz", ".tgz", ".txz", ".xz", ".lzma", ".gz",
                            ".zlib", ".br", ".b85", ".b64", ".pyc", ".pyz", ".zip"});
}

bool IsLogName(absl::string_view name) {
  return EndsWithAny(name, {".log", ".txt", ".out"}) && !absl::StartsWith(BaseName(name), "requirements") &&
         !EndsWithAny(name, {"requirements.txt", "CMakeLists.txt"});
}

bool IsResultName(absl::string_view name) {
  const std::string lower = absl::AsciiStrToLower(BaseName(name));
  const bool says_so = absl::StrContains(lower, "log") || absl::StrContains(lower, "result");
  if (absl::EndsWith(lower, "config.json")) return false;  // what it was made with
  return IsLogName(name) || (says_so && absl::EndsWith(lower, ".md")) ||
         EndsWithAny(name, {".err", ".json", ".jsonl", ".csv", ".tsv", ".ipynb"});
}

bool IsArtifactName(absl::string_view name) {
  if (EndsWithAny(name, {".tar.xz", ".tar.br", ".tar.lzma"})) return false;
  return EndsWithAny(
      name, {".ptz", ".pt", ".pth", ".hm11", ".safetensors", ".npz", ".bin", ".lzma", ".xz", ".zst", ".br"});
}

std::string BaseName(absl::string_view name) { return std::string(name.substr(name.rfind('/') + 1)); }

bool FitsPattern(absl::string_view pattern, absl::string_view name) {
  size_t p = 0, n = 0, star = absl::string_view::npos, star_n = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_n = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != absl::string_view::npos) {
      // The last star takes one character more.
      p = star + 1;
      n = ++star_n;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == absl::string_view::npos;
}

std::optional<int64_t> SeedInName(absl::string_view name) {
  for (const absl::string_view word : {"seed", "_s", "-s"}) {
    for (size_t at = name.find(word); at != absl::string_view::npos; at = name.find(word, at + 1)) {
      absl::string_view rest = name.substr(at + word.size());
      if (!absl::ConsumePrefix(&rest, "_")) absl::ConsumePrefix(&rest, "-");
      const absl::string_view digits = rest.substr(0, rest.find_first_not_of("0123456789"));
      int64_t seed = 0;
      if (digits.size() <= 9 && absl::SimpleAtoi(digits, &seed)) return seed;
    }
  }
  // "log_42.txt"
  const absl::string_view stem = name.substr(0, name.rfind('.'));
  const absl::string_view digits =
      stem.substr(std::min(stem.size(), stem.find_last_not_of("0123456789") + 1));
  int64_t seed = 0;
  const bool apart = digits.size() < stem.size() && stem[stem.size() - digits.size() - 1] == '_';
  if (apart && digits.size() <= 5 && absl::SimpleAtoi(digits, &seed)) return seed;
  return std::nullopt;
}

std::vector<std::string> ExpandBraces(const std::string& text) {
  const size_t open = text.find('{');
  const size_t close = text.find('}', open == std::string::npos ? 0 : open);
  if (open == std::string::npos || close == std::string::npos) return {text};
  const std::vector<std::string> rests = ExpandBraces(text.substr(close + 1));
  std::vector<std::string> result;
  for (absl::string_view part :
       absl::StrSplit(absl::string_view(text).substr(open + 1, close - open - 1), ',')) {
    for (const std::string& rest : rests) {
      if (result.size() >= kMostExpansions) return result;
      result.push_back(absl::StrCat(text.substr(0, open), absl::StripAsciiWhitespace(part), rest));
    }
  }
  return result;
}

}  // namespace hm11
