// Text form of a struct of plain values that lists its fields once:
//
//   struct TrainConfig {
//     int64_t batch_tokens = 131072;  // tokens a step
//     template <typename Self, typename F>
//     static void ForEachField(Self& self, F&& f) { f("batch_tokens", self.batch_tokens); ... }
//   };
//
// Field types: bool, int64_t, double, std::string (no line breaks, no spaces at its ends, and no commas if it
// is to be set by override). FormatFields prints one "key=value" line a field; numbers print so that they
// parse back to the same bits.
#ifndef HM11_CORE_FIELDS_H_
#define HM11_CORE_FIELDS_H_

#include <charconv>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/status.h"

namespace hm11 {

namespace fields_internal {

inline std::string Format(bool value) { return value ? "true" : "false"; }
inline std::string Format(int64_t value) { return absl::StrCat(value); }
inline std::string Format(const std::string& value) { return value; }
inline std::string Format(double value) {
  char text[32];
  const auto result = std::to_chars(text, text + sizeof(text), value);  // shortest that parses back
  return std::string(text, result.ptr);
}

inline bool Parse(absl::string_view text, bool* value) { return absl::SimpleAtob(text, value); }
inline bool Parse(absl::string_view text, int64_t* value) { return absl::SimpleAtoi(text, value); }
inline bool Parse(absl::string_view text, double* value) { return absl::SimpleAtod(text, value); }
inline bool Parse(absl::string_view text, std::string* value) {
  *value = std::string(text);
  return true;
}

inline const char* TypeName(bool) { return "true or false"; }
inline const char* TypeName(int64_t) { return "a whole number"; }
inline const char* TypeName(double) { return "a number"; }
inline const char* TypeName(const std::string&) { return "text"; }

}  // namespace fields_internal

template <typename Config>
std::string FormatFields(const Config& config) {
  std::string text;
  Config::ForEachField(config, [&](const char* key, const auto& value) {
    absl::StrAppend(&text, key, "=", fields_internal::Format(value), "\n");
  });
  return text;
}

template <typename Config>
std::vector<std::string> FieldNames(const Config& config) {
  std::vector<std::string> names;
  Config::ForEachField(config, [&](const char* key, const auto&) { names.push_back(key); });
  return names;
}

// NotFound: names the key and those of `known` that are spelled most like it.
absl::Status UnknownField(absl::string_view key, const std::vector<std::string>& known);

// Sets one field. NotFound as above; InvalidArgument names key and bad value.
template <typename Config>
absl::Status SetField(Config* config, absl::string_view key, absl::string_view value) {
  absl::Status status = absl::NotFoundError("");
  Config::ForEachField(*config, [&](const char* name, auto& field) {
    if (key != name) return;
    auto parsed = field;
    if (!fields_internal::Parse(value, &parsed)) {
      status = absl::InvalidArgumentError(
          absl::StrCat("setting '", key, "': '", value, "' is not ", fields_internal::TypeName(field)));
      return;
    }
    field = std::move(parsed);
    status = absl::OkStatus();
  });
  return absl::IsNotFound(status) ? UnknownField(key, FieldNames(*config)) : status;
}

// Lines of "key=value"; blank lines and lines that begin with # are skipped. Fields not named keep their
// values.
template <typename Config>
absl::Status ParseFields(absl::string_view text, Config* config) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(line, absl::MaxSplits('=', 1));
    if (line.find('=') == absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("setting '", line, "': expected key=value"));
    }
    HM_RETURN_IF_ERROR(SetField(config, absl::StripAsciiWhitespace(parts.first), parts.second));
  }
  return absl::OkStatus();
}

// A field and where it must lie, ends included.
struct FieldBounds {
  const char* field;
  double value, least, most;
};

// InvalidArgument names the first field that is outside, or not a number.
inline absl::Status CheckBounds(std::initializer_list<FieldBounds> fields) {
  for (const FieldBounds& f : fields) {
    if (f.value >= f.least && f.value <= f.most) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(f.field, "=", f.value, ": must lie between ", f.least, " and ", f.most));
  }
  return absl::OkStatus();
}

}  // namespace hm11

#endif  // HM11_CORE_FIELDS_H_
