// A hash by which the program in a log is known to be the one in the folder.
#ifndef HM11_TOOLS_COMPLIANCE_SOURCE_HASH_H_
#define HM11_TOOLS_COMPLIANCE_SOURCE_HASH_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace hm11 {

// Whether a line is one that a program's text begins with, below its comments: an import, or what executes a
// packed text.
bool BeginsProgram(absl::string_view line);

// Hashes what a program does, line by line, from its first import on: what stands above is comment, or a
// console's. Empty lines, lines of comment, blanks at the ends of lines and lines that name the seed do not
// count. 0 before it begins.
class SourceHasher {
 public:
  void AddLine(absl::string_view line);
  uint64_t hash() const { return begun_ ? hash_ : 0; }

 private:
  uint64_t hash_ = 14695981039346656037u;
  bool begun_ = false;
};

// The hash that a log's embedded program has, of a program's own file; 0 where it has no import.
uint64_t SourceHash(absl::string_view text);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_SOURCE_HASH_H_
