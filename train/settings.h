// The settings of a run, told to people: what each means, its unit, its default and its values in the
// presets.
//
// Property: every field of RunConfig has a meaning here, and nothing else has.
#ifndef HM11_TRAIN_SETTINGS_H_
#define HM11_TRAIN_SETTINGS_H_

#include <string>
#include <utility>
#include <vector>

namespace hm11 {

// Field and meaning, with its unit where it has one; in the order of RunConfig's fields.
const std::vector<std::pair<std::string, std::string>>& SettingMeanings();

// Markdown tables under headings, a row a setting: RunConfig's default, what presets have instead, and the meaning.
std::string SettingsTable();

}  // namespace hm11

#endif  // HM11_TRAIN_SETTINGS_H_
