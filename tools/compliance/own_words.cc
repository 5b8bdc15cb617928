// Reading READMEs a line at a time.
#include "tools/compliance/own_words.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "tools/compliance/log_numbers.h"

namespace hm11 {
namespace {

constexpr size_t kLongestLine = 4000;

// What stands before the word makes it one of another pull request, "#1234", or of what may be done yet.
bool IsOfAnother(absl::string_view before) {
  for (size_t at = before.find('#'); at != absl::string_view::npos; at = before.find('#', at + 1)) {
    if (at + 1 < before.size() && IsDigit(before[at + 1])) return true;
  }
  for (const char* word : {"prior ", "earlier ", "separate ", "treat ", "or submit "}) {
    if (absl::StrContains(before, word)) return true;
  }
  return false;
}

// Whether what ends here leaves the next word as the first of a sentence, or as one that is set off.
bool BeginsAfter(absl::string_view before) {
  const absl::string_view text = absl::StripTrailingAsciiWhitespace(before);
  if (text.empty()) return true;
  return absl::StrContains(".:;(*[#|>\"-_", absl::string_view(&text.back(), 1)) ||
         absl::EndsWith(text, "\xE2\x80\x94") || absl::EndsWith(text, "\xE2\x80\x93");  // dashes
}

// A line in small letters, with "non-record" spelt so.
bool LineCallsItselfNonRecord(const std::string& line) {
  const absl::string_view text = absl::StripLeadingAsciiWhitespace(line);
  for (size_t at = text.find("non-record"); at != absl::string_view::npos;
       at = text.find("non-record", at + 1)) {
    const absl::string_view before = text.substr(0, at);
    if (absl::EndsWith(before, "track_") || absl::EndsWith(before, "/")) continue;  // a path
    if (absl::StartsWith(text, "# ") || absl::StartsWith(text, "##")) return true;
    const size_t sentence = before.rfind(". ");
    if (absl::StartsWith(text, "|") ||
        IsOfAnother(before.substr(sentence == absl::string_view::npos ? 0 : sentence + 2))) {
      continue;
    }
    const size_t self = before.rfind("this ");
    const bool of_this = self != absl::string_view::npos && at - self <= 80;
    if (of_this || BeginsAfter(before) || absl::EndsWith(before, "as a ") || absl::EndsWith(before, "as "))
      return true;
  }
  return false;
}

std::vector<std::string> LinesOf(absl::string_view text) {
  std::vector<std::string> lines;
  for (absl::string_view line : absl::StrSplit(text, '\n'))
    lines.push_back(absl::AsciiStrToLower(line.substr(0, kLongestLine)));
  return lines;
}

// A number with three decimals at least, as scores have.
bool HoldsAScore(absl::string_view text) {
  for (size_t at = text.find('.'); at != absl::string_view::npos; at = text.find('.', at + 1)) {
    if (at > 0 && at + 3 < text.size() && IsDigit(text[at - 1]) && IsDigit(text[at + 1]) &&
        IsDigit(text[at + 2]) && IsDigit(text[at + 3])) {
      return true;
    }
  }
  return false;
}

// The whole number that a text begins with, or that follows its first word "seed".
void AddLeadingSeed(absl::string_view text, std::set<int64_t>* seeds) {
  while (!text.empty() && !IsDigit(text[0])) {
    const bool skipped = absl::StrContains("seds=: ", absl::string_view(text.data(), 1));
    if (!skipped) return;
    text.remove_prefix(1);
  }
  const size_t end = std::min(text.size(), text.find_first_not_of("0123456789"));
  int64_t seed = 0;
  const bool fraction = end + 1 < text.size() && text[end] == '.' && IsDigit(text[end + 1]);
  if (end > 0 && end <= 9 && !fraction && absl::SimpleAtoi(text.substr(0, end), &seed)) seeds->insert(seed);
}

}  // namespace

bool CallsItselfNonRecord(absl::string_view text) {
  for (const std::string& line : LinesOf(text)) {
    const std::string plain = absl::StrReplaceAll(
        line, {{"non_record", "non-record"}, {"nonrecord", "non-record"}, {"non record", "non-record"}});
    if (LineCallsItselfNonRecord(plain)) return true;
  }
  return false;
}

std::set<int64_t> SeedsWithScores(absl::string_view readme) {
  std::set<int64_t> seeds;
  bool in_table = false, of_seeds = false;
  for (const std::string& line : LinesOf(readme)) {
    const std::string plain = absl::StrReplaceAll(line, {{"*", ""}, {"`", ""}, {"~", ""}});
    const absl::string_view text = absl::StripAsciiWhitespace(plain);
    const bool row = absl::StartsWith(text, "|");
    if (row && !in_table) of_seeds = absl::StrContains(text, "seed");
    in_table = row;
    if (!HoldsAScore(text)) continue;
    if (row) {
      const absl::string_view cell = absl::StripLeadingAsciiWhitespace(text.substr(1));
      if (of_seeds || absl::StartsWith(cell, "seed")) AddLeadingSeed(cell, &seeds);
      continue;
    }
    for (size_t at = text.find("seed"); at != absl::string_view::npos; at = text.find("seed", at + 1))
      AddLeadingSeed(text.substr(at), &seeds);
  }
  return seeds;
}

bool SpeaksOfAMeanOfThree(absl::string_view text) {
  for (const std::string& line : LinesOf(text)) {
    if (absl::StrContains(line, "pending") || absl::StrContains(line, "tbd") ||
        absl::StrContains(line, "[ ]"))
      continue;
    for (const char* words :
         {"3-seed mean", "three-seed mean", "three_seed_mean", "mean of 3", "mean of three", "mean over 3",
          "mean over three", "3-run mean", "mean, 3 seeds", "(3 seeds", "ran 3 seeds", "three-seed sweep"}) {
      if (absl::StrContains(line, words)) return true;
    }
  }
  return false;
}

}  // namespace hm11
