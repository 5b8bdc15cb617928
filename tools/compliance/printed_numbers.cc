// Collecting all numbers of a folder's results.
#include "tools/compliance/printed_numbers.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "tools/compliance/file_names.h"
#include "tools/compliance/log_numbers.h"

namespace hm11 {
namespace {

constexpr size_t kLongestLine = 8192;
constexpr size_t kMostNumbers = 1000000;
constexpr size_t kMostWords = 50000;
constexpr size_t kWordsReach =
    400;  // before a number: a line of numbers alone must not be read again for each
constexpr size_t kMostOfWords = 24;  // of numbers behind the same words: more are of something that goes on

bool IsLetter(char c) { return absl::ascii_isalpha(static_cast<unsigned char>(c)); }

// Where the number ends that begins at `at`: digits, digits grouped by commas, a point and digits.
size_t EndOfNumber(absl::string_view line, size_t at) {
  size_t end = at;
  bool point = false;
  while (end < line.size()) {
    const bool more = end + 1 < line.size() && IsDigit(line[end + 1]);
    const bool group = !point && line[end] == ',' && end + 3 < line.size() && IsDigit(line[end + 1]) &&
                       IsDigit(line[end + 2]) && IsDigit(line[end + 3]) &&
                       (end + 4 == line.size() || !IsDigit(line[end + 4]));
    if (line[end] == '.' && more && !point) {
      point = true;
    } else if (!IsDigit(line[end]) && !group) {
      break;
    }
    ++end;
  }
  return end;
}

// The words before a number, as far as they tell one kind of number from another.
std::string WordsBefore(absl::string_view text) {
  std::string words;
  for (const char c : text) {
    if (IsLetter(c) || c == '_') words += absl::ascii_tolower(static_cast<unsigned char>(c));
  }
  return words.size() > 40 ? words.substr(words.size() - 40) : words;
}

std::string LastWord(absl::string_view text) {
  while (!text.empty() && !IsLetter(text.back())) text.remove_suffix(1);
  size_t begin = text.size();
  while (begin > 0 && IsNameCharacter(text[begin - 1])) --begin;
  return WordsBefore(text.substr(begin));
}

}  // namespace

void PrintedNumbers::AddFile(const std::string& name, absl::string_view text) {
  files_.push_back(name);
  AddSeeds(absl::AsciiStrToLower(name));
  if (const auto seed = SeedInName(name)) seeds_.insert(*seed);
  int64_t line_number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n'))
    AddLine(line.substr(0, kLongestLine), ++line_number);
  if (scores_.size() > kMostNumbers || wholes_.size() > kMostNumbers || by_words_.size() > kMostWords) {
    SetIncomplete();
  }
}

void PrintedNumbers::AddLine(absl::string_view line, int64_t line_number) {
  const std::string lower = absl::AsciiStrToLower(line);
  if (absl::StrContains(lower, "seed")) AddSeeds(lower);
  if (StepOf(absl::StripAsciiWhitespace(line))) return;
  // A loss and a score; with more on the line some of it is of the artifact.
  if (IsBeforeQuantizing(lower) && std::count(line.begin(), line.end(), '.') <= 2) return;
  for (size_t at = 0; at < line.size(); ++at) {
    if (!IsDigit(line[at])) continue;
    const size_t end = EndOfNumber(line, at);
    const bool is_part = at > 0 && (IsNameCharacter(line[at - 1]) || line[at - 1] == '.');
    const bool goes_on =
        end < line.size() && line[end] == '.' && end + 1 < line.size() && IsDigit(line[end + 1]);
    if (!is_part && !goes_on) {
      const size_t words = at - std::min(at, kWordsReach);
      AddNumber(line.substr(at, end - at), line.substr(words, at - words), line_number);
    }
    at = end;
  }
}

void PrintedNumbers::AddNumber(absl::string_view digits, absl::string_view before, int64_t line_number) {
  const std::string plain = absl::StrReplaceAll(digits, {{",", ""}});
  double value = 0;
  if (plain.size() > 30 || !absl::SimpleAtod(plain, &value)) return;
  const size_t point = plain.find('.');
  if (point == std::string::npos) {
    if (value >= 1000 && value < 9e15 && wholes_.size() <= kMostNumbers) wholes_.insert(std::llround(value));
    return;
  }
  if (value <= 0 || value > 100 || plain.size() - point < 3 || scores_.size() > kMostNumbers) return;
  scores_.try_emplace(std::llround(value * 1e6), files_.size() - 1, line_number);
  if (plain.size() - point < 4 || by_words_.size() > kMostWords) return;
  const std::string words = WordsBefore(before);
  // Under all words before it, and under the last one: "Submission: val_bpb" is val_bpb, too.
  for (const std::string& key : {words, absl::StrCat("last ", LastWord(before))}) {
    Printed& printed = by_words_[key];
    if (printed.all.size() <= kMostOfWords) printed.all.push_back(value);
    printed.last[files_.size() - 1] = value;
  }
}

// "seed: 42", "seed42", "seeds = [1, 2, 3]".
void PrintedNumbers::AddSeeds(absl::string_view text) {
  for (size_t at = text.find("seed"); at != absl::string_view::npos; at = text.find("seed", at + 1)) {
    absl::string_view rest = text.substr(at + 4, 200);
    for (int i = 0; i < 20; ++i) {
      const size_t begin = rest.find_first_not_of(" :=_-[]()\"'#s,/|`*&+\t");
      if (begin == absl::string_view::npos || !IsDigit(rest[begin])) break;
      rest.remove_prefix(begin);
      const size_t end = std::min(rest.size(), rest.find_first_not_of("0123456789"));
      int64_t seed = 0;
      if (absl::SimpleAtoi(rest.substr(0, end), &seed)) seeds_.insert(seed);
      rest.remove_prefix(end);
    }
  }
}

std::optional<Place> PrintedNumbers::FindScore(double value, double off) const {
  const auto micro = [](double x) { return std::llround(x * 1e6); };
  std::optional<Place> nearest;
  int64_t least = micro(off) + 1;
  for (auto at = scores_.lower_bound(micro(value - off));
       at != scores_.end() && at->first <= micro(value + off); ++at) {
    const int64_t away = std::abs(at->first - micro(value));
    if (away >= least) continue;
    least = away;
    nearest = Place{files_[at->second.first], at->second.second};
  }
  return nearest;
}

bool PrintedNumbers::IsMean(double value, double off, const std::set<int64_t>& seeds) const {
  const auto is_mean = [&](const std::vector<double>& numbers) {
    const double sum = std::accumulate(numbers.begin(), numbers.end(), 0.0);
    return numbers.size() >= 2 && std::abs(sum / static_cast<double>(numbers.size()) - value) <= off;
  };
  for (const auto& [words, printed] : by_words_) {
    if (printed.all.size() <= kMostOfWords && is_mean(printed.all)) return true;
    std::map<std::string, std::vector<double>> of_files;
    for (const auto& [file, last] : printed.last) {
      const std::string& name = files_[file];
      of_files["*"].push_back(last);
      of_files[WordsBefore(name)].push_back(last);
      const auto seed = SeedInName(name);
      if (seed && seeds.count(*seed) > 0) of_files["**"].push_back(last);
    }
    if (std::any_of(of_files.begin(), of_files.end(), [&](const auto& each) { return is_mean(each.second); }))
      return true;
  }
  return false;
}

bool NamesNumber(absl::string_view text, int64_t number) {
  const std::string digits = absl::StrCat(number);
  for (size_t at = text.find(digits); at != absl::string_view::npos; at = text.find(digits, at + 1)) {
    const size_t end = at + digits.size();
    const bool before =
        at == 0 || !(IsDigit(text[at - 1]) || (text[at - 1] == '.' && at > 1 && IsDigit(text[at - 2])));
    const bool decimals = end + 1 < text.size() && text[end] == '.' && IsDigit(text[end + 1]);
    if (before && (end == text.size() || !IsDigit(text[end])) && !decimals) return true;
  }
  return false;
}

}  // namespace hm11
