// Thousands, powers of a thousand, hours and minutes.
#include "core/number_text.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace hm11 {
namespace {

std::string WithThousands(std::string digits) {
  for (int place = static_cast<int>(digits.size()) - 3; place > 0; place -= 3)
    digits.insert(static_cast<size_t>(place), ",");
  return digits;
}

}  // namespace

std::string ShortNumber(double value) {
  const double size = std::abs(value);
  if (size >= 1000) {
    return absl::StrCat(value < 0 ? "-" : "", WithThousands(absl::StrFormat("%.0f", size)));
  }
  // Two digits behind the first, without zeros at the end.
  const int decimals = size == 0 || size >= 100 ? 0
                       : size >= 10             ? 1
                       : size >= 1              ? 2
                                                : 2 - static_cast<int>(std::floor(std::log10(size)));
  std::string text = absl::StrFormat("%.*f", std::min(decimals, 9), value);
  if (text.find('.') != std::string::npos) {
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
  }
  return text;
}

std::string WholeNumber(int64_t value) {
  return absl::StrCat(value < 0 ? "-" : "", WithThousands(absl::StrCat(value < 0 ? -value : value)));
}

std::string ScaledNumber(double value) {
  for (const auto& [scale, unit] : {std::pair(1e12, " T"), {1e9, " G"}, {1e6, " M"}, {1e3, " k"}}) {
    if (std::abs(value) >= scale) return absl::StrCat(ShortNumber(value / scale), unit);
  }
  return ShortNumber(value);
}

std::string ClockTime(double seconds) {
  const int64_t whole = std::llround(std::clamp(seconds, 0.0, 1e9));
  if (whole < 3600) return absl::StrFormat("%d:%02d", whole / 60, whole % 60);
  return absl::StrFormat("%d:%02d:%02d", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace hm11
