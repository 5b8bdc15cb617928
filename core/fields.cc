// UnknownField: the names nearest to one that was mistyped.
#include "core/fields.h"

#include <algorithm>
#include <cstddef>

namespace hm11 {
namespace {

constexpr size_t kMostNames = 5;  // in a message

// Letters that must be put in, taken out or replaced to make one of the other (Levenshtein).
size_t Edits(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);  // of a's beginning against each beginning of b
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

}  // namespace

absl::Status UnknownField(absl::string_view key, const std::vector<std::string>& known) {
  const std::string unknown = absl::StrCat("unknown setting '", key, "'; ");
  if (known.size() <= kMostNames) {
    return absl::NotFoundError(absl::StrCat(unknown, "known: ", absl::StrJoin(known, " ")));
  }
  std::vector<std::string> names = known;
  std::stable_sort(names.begin(), names.end(),
                   [&](const std::string& a, const std::string& b) { return Edits(key, a) < Edits(key, b); });
  names.resize(kMostNames);
  return absl::NotFoundError(absl::StrCat(unknown, "nearest: ", absl::StrJoin(names, " ")));
}

}  // namespace hm11
