// Golden files: where the values computed by the reference implementation lie.
#ifndef HM11_TESTING_GOLDEN_H_
#define HM11_TESTING_GOLDEN_H_

#include <string>

#include "absl/strings/string_view.h"

namespace hm11 {

// The path of golden file `name`, such as "scan.safetensors": in the folder HM11_GOLDEN_DIR when that is set,
// so that other dumps of the same form can be checked; else in testing/golden, among the test's data or in
// the source tree.
std::string GoldenPath(absl::string_view name);

}  // namespace hm11

#endif  // HM11_TESTING_GOLDEN_H_
