// Reads golden safetensors files for tests of floors that may not see model/.
#ifndef HM11_TESTING_SAFETENSORS_READER_H_
#define HM11_TESTING_SAFETENSORS_READER_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "testing/devices.h"

namespace hm11 {

// All float32 tensors of the file by name; tensors of other types are left out. Errors name the file.
absl::StatusOr<std::map<std::string, HostTensor<float>>> ReadFloatTensors(const std::string& path);

}  // namespace hm11

#endif  // HM11_TESTING_SAFETENSORS_READER_H_
