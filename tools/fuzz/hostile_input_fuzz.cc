// libFuzzer's entry to one of the parsers, which the environment variable HM11_PARSER names:
//
//   tools/bazel build --config=fuzz //tools/fuzz:hostile_input_fuzz
//   HM11_PARSER=log bazel-bin/tools/fuzz/hostile_input_fuzz -max_total_time=3600 [FOLDER OF INPUTS]
//
// With HM11_EXAMPLES=FOLDER it writes the examples of all parsers to FOLDER/NAME/N instead, and ends.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/check.h"
#include "core/file.h"
#include "tools/fuzz/hostile_input.h"

namespace hm11 {
namespace {

void WriteExamples(const std::string& folder) {
  for (const ParserUnderTest& parser : ParsersUnderTest()) {
    const std::string own = absl::StrCat(folder, "/", parser.name);
    HM_CHECK(MakeFolders(own).ok());
    int count = 0;
    for (const std::string& example : parser.examples()) {
      HM_CHECK(WriteFile(absl::StrCat(own, "/", count++), example).ok());
    }
  }
}

const ParserUnderTest& NamedParser() {
  if (const char* folder = std::getenv("HM11_EXAMPLES"); folder != nullptr) {
    WriteExamples(folder);
    std::_Exit(0);  // libFuzzer takes exit for a crash
  }
  const char* name = std::getenv("HM11_PARSER");
  for (const ParserUnderTest& each : ParsersUnderTest()) {
    if (name != nullptr && absl::string_view(name) == each.name) return each;
  }
  std::fputs("HM11_PARSER must be one of:", stderr);
  for (const ParserUnderTest& each : ParsersUnderTest()) std::fprintf(stderr, " %s", each.name);
  std::fputs("\n", stderr);
  std::_Exit(2);
}

}  // namespace
}  // namespace hm11

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const hm11::ParserUnderTest& parser = hm11::NamedParser();
  parser.parse(absl::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
