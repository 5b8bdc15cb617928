// A hash by which the program in a log is known to be the one in the folder.
#ifndef HM11_TOOLS_COMPLIANCE_SOURCE_HASH_H_
#define HM11_TOOLS_COMPLIANCE_SOURCE_HASH_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace hm11 {

// Hashes lines without blanks at their ends; empty lines count only once another line follows.
class SourceHasher {
 public:
  void AddLine(absl::string_view line);
  uint64_t hash() const { return hash_; }

 private:
  uint64_t hash_ = 14695981039346656037u;
  int64_t empty_lines_ = 0;
};

// The hash that a log's embedded program has, of a program's own file: blanks at the ends of lines don't
// count.
uint64_t SourceHash(absl::string_view text);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_SOURCE_HASH_H_
