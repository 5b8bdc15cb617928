// HostMemory: how much memory of the host this process can still take.
#ifndef HM11_CORE_HOST_MEMORY_H_
#define HM11_CORE_HOST_MEMORY_H_

#include <cstdint>

namespace hm11 {

// The least of what the machine has available, what `ulimit -v` leaves of the address space, and, where the
// kernel hands out no more than there is (vm.overcommit_memory=2), what may still be promised.
int64_t FreeHostBytes();

}  // namespace hm11

#endif  // HM11_CORE_HOST_MEMORY_H_
