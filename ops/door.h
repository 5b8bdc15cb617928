// The end of an op's door: no half of it runs T on this device.
#ifndef HM11_OPS_DOOR_H_
#define HM11_OPS_DOOR_H_

#include "core/check.h"
#include "core/device.h"
#include "core/dtype.h"

namespace hm11 {

// Fatal: double on a GPU, or Bf16 on the CPU.
template <typename T>
[[noreturn]] void FailNoHalf(const char* op, const Device& device) {
  check_internal::Fail(op, 0, std::string(DtypeName<T>()) + " does not run on " + device.name());
}

}  // namespace hm11

#endif  // HM11_OPS_DOOR_H_
