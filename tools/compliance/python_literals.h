// The string literals of Python sources, where packed programs lie.
#ifndef HM11_TOOLS_COMPLIANCE_PYTHON_LITERALS_H_
#define HM11_TOOLS_COMPLIANCE_PYTHON_LITERALS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace hm11 {

// The values of the string literals of a Python source in order, escapes resolved, neighbours joined;
// comments and everything else left out. A literal that never ends goes to the end of the text.
std::vector<std::string> PythonLiterals(absl::string_view source);

}  // namespace hm11

#endif  // HM11_TOOLS_COMPLIANCE_PYTHON_LITERALS_H_
