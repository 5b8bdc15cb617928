// The parsers that read what may come from strangers or be damaged on its way, each fed with any bytes: for
// fuzzing, and for a short test of the same.
#ifndef HM11_TOOLS_FUZZ_HOSTILE_INPUT_H_
#define HM11_TOOLS_FUZZ_HOSTILE_INPUT_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace hm11 {

// `parse` returns for any bytes, and checks what must hold of what it read.
struct ParserUnderTest {
  const char* name;
  void (*parse)(absl::string_view bytes);
  std::vector<std::string> (*examples)();  // inputs that it reads, to begin with
};

std::vector<ParserUnderTest> ModelParsers();  // artifacts, checkpoints, safetensors
std::vector<ParserUnderTest> TextParsers();  // shards, tokenizers, documents, metrics, settings, packed texts
std::vector<ParserUnderTest> AuditParsers();  // submissions

// All of them.
const std::vector<ParserUnderTest>& ParsersUnderTest();

// A file of these bytes for parsers that take a path, the same one for each call with that `ending`: in
// $TEST_TMPDIR or the system's folder for such files.
std::string ScratchFile(absl::string_view bytes, absl::string_view ending);

}  // namespace hm11

#endif  // HM11_TOOLS_FUZZ_HOSTILE_INPUT_H_
