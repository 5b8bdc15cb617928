// libFuzzer's entry to one of the audit's parsers, which the environment variable HM11_PARSER names:
//
//   tools/bazel build --config=fuzz //tools/compliance:hostile_input_fuzz
//   HM11_PARSER=log bazel-bin/tools/compliance/hostile_input_fuzz -max_total_time=3600
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "tools/compliance/hostile_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const hm11::ParserUnderTest* const parser = [] {
    const char* name = std::getenv("HM11_PARSER");
    for (const hm11::ParserUnderTest& each : hm11::kParserUnderTest) {
      if (name != nullptr && absl::string_view(name) == each.name) return &each;
    }
    std::fputs("HM11_PARSER must be one of:", stderr);
    for (const hm11::ParserUnderTest& each : hm11::kParserUnderTest) std::fprintf(stderr, " %s", each.name);
    std::fputs("\n", stderr);
    std::exit(2);
  }();
  parser->parse(absl::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
