// Finding and reading numbers in lines of logs.
#include "tools/compliance/log_numbers.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace hm11 {

// A number at the beginning of the text, digits grouped by commas or not; how many decimals it has.
std::optional<double> LeadingNumber(absl::string_view text, int* decimals) {
  text = absl::StripLeadingAsciiWhitespace(text);
  size_t end = 0;
  size_t point = absl::string_view::npos;
  for (; end < text.size(); ++end) {
    const char c = text[end];
    const bool sign = (c == '-' || c == '+') && (end == 0 || text[end - 1] == 'e');
    const bool comma = c == ',' && end > 0 && end + 3 < text.size() + 0 &&
                       absl::ascii_isdigit(text[end - 1]) && absl::ascii_isdigit(text[end + 1]) &&
                       absl::ascii_isdigit(text[end + 2]) && absl::ascii_isdigit(text[end + 3]);
    const bool exponent = c == 'e' && end > 0 && absl::ascii_isdigit(text[end - 1]);
    if (c == '.' && point == absl::string_view::npos) {
      point = end;
    } else if (!absl::ascii_isdigit(c) && !sign && !comma && !exponent) {
      break;
    }
  }
  double value = 0;
  const std::string digits = absl::StrReplaceAll(text.substr(0, end), {{",", ""}});
  if (!absl::SimpleAtod(digits, &value)) {
    if (!absl::SimpleAtod(absl::string_view(digits).substr(0, digits.find_first_of("e-+")), &value))
      return std::nullopt;
  }
  if (decimals != nullptr) {
    *decimals = point == absl::string_view::npos ? 0 : static_cast<int>(end - point - 1);
  }
  return value;
}

bool IsDigit(char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); }

bool IsNameCharacter(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }

// What follows "key:" or "key=" (blanks allowed), where the key is a whole word.
std::optional<absl::string_view> After(absl::string_view line, absl::string_view key) {
  for (size_t at = line.find(key); at != absl::string_view::npos; at = line.find(key, at + 1)) {
    if (at > 0 && IsNameCharacter(line[at - 1])) continue;
    const absl::string_view rest = absl::StripLeadingAsciiWhitespace(line.substr(at + key.size()));
    if (!rest.empty() && (rest[0] == ':' || rest[0] == '='))
      return absl::StripLeadingAsciiWhitespace(rest.substr(1));
  }
  return std::nullopt;
}

std::optional<double> NumberAfter(absl::string_view line, absl::string_view key, int* decimals) {
  const std::optional<absl::string_view> rest = After(line, key);
  return rest ? LeadingNumber(*rest, decimals) : std::nullopt;
}

std::optional<int64_t> WholeAfter(absl::string_view line, absl::string_view key) {
  const std::optional<double> value = NumberAfter(line, key);
  if (!value || *value < 0 || *value > 9e15) return std::nullopt;
  return static_cast<int64_t>(*value);
}

// "596137ms", "591.4s", "0.9m", "591.4 seconds"; a number without unit is in `bare` seconds.
std::optional<double> Seconds(absl::string_view text, double bare) {
  const std::optional<double> value = LeadingNumber(text);
  if (!value) return std::nullopt;
  text = absl::StripLeadingAsciiWhitespace(text);
  const absl::string_view unit = absl::StripLeadingAsciiWhitespace(
      text.substr(std::min(text.size(), text.find_first_not_of("0123456789.,+-e"))));
  if (absl::StartsWith(unit, "ms")) return *value * 1e-3;
  if (absl::StartsWith(unit, "s")) return *value;
  if (absl::StartsWith(unit, "m")) return *value * 60;
  return *value * bare;
}

std::optional<double> SecondsAfter(absl::string_view line, absl::string_view key, double bare) {
  const std::optional<absl::string_view> rest = After(line, key);
  return rest ? Seconds(*rest, bare) : std::nullopt;
}

std::optional<int64_t> StepOf(absl::string_view line) {
  absl::string_view rest = line;
  if (absl::StartsWith(line, "stopping_early")) {
    const auto after = After(line, "step");
    if (!after) return std::nullopt;
    rest = *after;
  } else if (absl::ConsumePrefix(&rest, "step")) {
    absl::ConsumePrefix(&rest, ":");
    rest = absl::StripLeadingAsciiWhitespace(rest);
  }
  const size_t slash = rest.substr(0, 10).find('/');
  int64_t step = 0;
  if (slash == absl::string_view::npos || slash == 0 || slash + 1 >= rest.size()) return std::nullopt;
  if (!absl::ascii_isdigit(rest[slash + 1]) || !absl::SimpleAtoi(rest.substr(0, slash), &step))
    return std::nullopt;
  return step;
}

bool IsBeforeQuantizing(absl::string_view lower) {
  return ContainsAny(lower, {"pre-quant", "prequant", "pre_quant", "post-ema", "post_ema"});
}

std::optional<int64_t> SeedAmongSettings(absl::string_view line) {
  const auto seed = WholeAfter(line, "seed");
  if (!seed) return std::nullopt;
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
  const auto settings = std::count_if(words.begin(), words.end(), [](absl::string_view word) {
    return word.find_first_of(":=") != absl::string_view::npos && word.back() != ':' && word.back() != '=';
  });
  return settings >= 3 && settings == static_cast<int64_t>(words.size()) ? seed : std::nullopt;
}

int DecimalsOf(double value) {
  const std::string text = absl::StrFormat("%.10g", value);
  const size_t point = text.find('.');
  return point == std::string::npos ? 0 : static_cast<int>(text.size() - point - 1);
}

bool ContainsAny(absl::string_view text, std::initializer_list<absl::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](absl::string_view part) { return absl::StrContains(text, part); });
}

std::string Short(absl::string_view text) {
  constexpr size_t kLongestValue = 200;
  return std::string(absl::StripAsciiWhitespace(text.substr(0, kLongestValue)));
}

}  // namespace hm11
