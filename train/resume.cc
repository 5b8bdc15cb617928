// Resume: two lists of settings, line by line.
#include "train/resume.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/fields.h"

namespace hm11 {

std::vector<std::string> SettingsThatMayChange() {
  std::vector<std::string> names = {"warmup_steps",      "log_every",          "validation_seconds",
                                    "validation_tokens", "checkpoint_seconds", "sample_tokens"};
  for (const std::string& name : FieldNames(QuantConfig())) names.push_back(name);
  return names;
}

std::vector<std::string> ChangesOf(const RunIdentity& before, const RunIdentity& now) {
  std::vector<std::string> changes;
  const auto compare = [&](absl::string_view name, absl::string_view old_value, absl::string_view new_value) {
    if (old_value != new_value) changes.push_back(absl::StrCat(name, ": ", old_value, " -> ", new_value));
  };
  const std::vector<std::string> may_change = SettingsThatMayChange();
  const std::string from = FormatFields(before.config), to = FormatFields(now.config);
  const std::vector<std::string> old_lines = absl::StrSplit(from, '\n'), new_lines = absl::StrSplit(to, '\n');
  for (size_t i = 0; i < new_lines.size() && i < old_lines.size(); ++i) {
    const size_t equals = new_lines[i].find('=');
    const std::string name = new_lines[i].substr(0, equals);
    if (std::find(may_change.begin(), may_change.end(), name) != may_change.end()) continue;
    if (new_lines[i] != old_lines[i])
      compare(name, old_lines[i].substr(equals + 1), new_lines[i].substr(equals + 1));
  }
  const auto compare_known = [&](absl::string_view name, const std::string& old_value,
                                 const std::string& new_value) {
    if (!old_value.empty() && !new_value.empty()) compare(name, old_value, new_value);
  };
  compare_known("training text", before.train_text, now.train_text);
  compare_known("validation text", before.val_text, now.val_text);
  compare_known("device", before.device, now.device);
  return changes;
}

absl::Status CheckSameRun(const std::string& folder, const std::vector<std::string>& changes) {
  if (changes.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the run in ", folder, " would not go on as the run that was begun: ", absl::StrJoin(changes, "; "),
      "; leave these out, or add --resume_anyway, which writes them into its log"));
}

}  // namespace hm11
