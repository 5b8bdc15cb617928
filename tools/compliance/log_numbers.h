// Numbers in lines of logs, as people print them: "key:1.5", "key = 15,950,000", "596137ms", "0.9m".
#ifndef HM11_TOOLS_COMPLIANCE_LOG_NUMBERS_H_
#define HM11_TOOLS_COMPLIANCE_LOG_NUMBERS_H_

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace hm11 {

// A number at the beginning of the text, digits grouped by commas or not; how many decimals it has.
std::optional<double> LeadingNumber(absl::string_view text, int* decimals = nullptr);

bool IsDigit(char c);
bool IsNameCharacter(char c);

// What follows "key:" or "key=" (blanks allowed), where the key is a whole word.
std::optional<absl::string_view> After(absl::string_view line, absl::string_view key);
std::optional<double> NumberAfter(absl::string_view line, absl::string_view key, int* decimals = nullptr);
std::optional<int64_t> WholeAfter(absl::string_view line, absl::string_view key);

// "596137ms", "591.4s", "0.9m", "591.4 seconds"; a number without unit is in `bare` seconds.
std::optional<double> Seconds(absl::string_view text, double bare);
std::optional<double> SecondsAfter(absl::string_view line, absl::string_view key, double bare);

// Steps of "step:100/20000 ...", "100/20000 ..." or "stopping_early: ... step: 100/20000".
std::optional<int64_t> StepOf(absl::string_view line);

// Whether a line, in small letters, is of the model before it was quantized.
bool IsBeforeQuantizing(absl::string_view lower);

// The seed of a line that lists settings: "lr:0.025 batch:786432 wall:600s seed:1337".
std::optional<int64_t> SeedAmongSettings(absl::string_view line);

// Digits behind the point that a number needs: its precision where only the number is left of a text.
int DecimalsOf(double value);

// Whether the text contains one of the parts.
bool ContainsAny(absl::string_view text, std::initializer_list<absl::string_view> parts);

// A setting, a name or a label: without blanks around it, at most 200 bytes.
std::string Short(absl::string_view text);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_LOG_NUMBERS_H_
