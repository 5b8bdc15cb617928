// The parsers that read what strangers wrote, each fed with any bytes: for fuzzing and for a short test of
// the same.
#ifndef HM11_TOOLS_COMPLIANCE_HOSTILE_INPUT_H_
#define HM11_TOOLS_COMPLIANCE_HOSTILE_INPUT_H_

#include "absl/strings/string_view.h"

namespace hm11 {

struct ParserUnderTest {
  const char* name;
  void (*parse)(absl::string_view bytes);
  const char* example;  // a text of its kind, to begin with
};
inline constexpr int kParsersUnderTest = 6;
extern const ParserUnderTest kParserUnderTest[kParsersUnderTest];

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_HOSTILE_INPUT_H_
