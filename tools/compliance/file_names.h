// What the names of a submission's files say: their kind, their seed, and whether they fit a pattern.
#ifndef HM11_TOOLS_COMPLIANCE_FILE_NAMES_H_
#define HM11_TOOLS_COMPLIANCE_FILE_NAMES_H_

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace hm11 {

// In capital or small letters.
bool EndsWithAny(absl::string_view name, std::initializer_list<absl::string_view> endings);

bool IsSource(absl::string_view name);
// Machine code and packed sources: of no interest unless a program names them.
bool IsPackedProgram(absl::string_view name);
bool IsLogName(absl::string_view name);
// A log, or a file of another kind that may hold what a run printed: a table, a notebook.
bool IsResultName(absl::string_view name);
bool IsArtifactName(absl::string_view name);

// The last part of a path.
std::string BaseName(absl::string_view name);

// "train_seed{42,7}.log" -> "train_seed42.log", "train_seed7.log"
std::vector<std::string> ExpandBraces(const std::string& text);

// Whether a name fits a pattern in which * stands for any text; the time is at most their lengths' product.
bool FitsPattern(absl::string_view pattern, absl::string_view name);

// The seed in a log's name: "train_seed42.log", "run_s7.txt".
std::optional<int64_t> SeedInName(absl::string_view name);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_FILE_NAMES_H_
