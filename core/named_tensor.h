// NamedTensor: one parameter on the host, as files hold it.
#ifndef HM11_CORE_NAMED_TENSOR_H_
#define HM11_CORE_NAMED_TENSOR_H_

#include <cstdint>
#include <string>
#include <vector>

namespace hm11 {

struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;  // empty for a scalar
  std::vector<float> values;   // row-major
};

}  // namespace hm11

#endif  // HM11_CORE_NAMED_TENSOR_H_
