// What a Python source does to other files and to the network, read without running it: statements apart from
// strings and comments, so that prose and messages are not taken for deeds.
#ifndef HM11_TOOLS_COMPLIANCE_PYTHON_SOURCE_H_
#define HM11_TOOLS_COMPLIANCE_PYTHON_SOURCE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace hm11 {

// A statement, or a bracket's contents: its code with strings emptied, and the strings.
struct PythonStatement {
  std::string code = {};  // strings are "", comments are gone, blanks are single
  std::vector<std::string> strings = {};
  int64_t line = 0;  // where it begins, from 1
};

// In order; statements end at a line's end outside brackets, at ';' and behind "if x:". Broken sources give
// broken statements, never an error. Strings are kept to their first 300 characters, statements to 200,000.
std::vector<PythonStatement> PythonStatements(absl::string_view source);

// The modules that a statement imports, wherever on its line that stands: "if x:from a.b import c" gives a.b.
std::vector<std::string> ImportedModules(const PythonStatement& statement);

// Whether the code has the word, with no letter, digit or underscore around it.
bool HasWord(absl::string_view code, absl::string_view word);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_PYTHON_SOURCE_H_
