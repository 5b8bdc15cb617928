// Arena: a bump pointer over one block. CPU blocks are reserved address space, whose pages come when touched.
#include "core/arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace hm11 {

Arena::Arena(Device device, int64_t capacity_bytes) : device_(std::move(device)), capacity_(capacity_bytes) {
  if (device_.is_plan() || capacity_ == 0) return;
  if (device_.is_cuda()) {
    base_ = static_cast<char*>(device_.Allocate(capacity_));
    return;
  }
  void* block = mmap(nullptr, static_cast<size_t>(capacity_), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (block == MAP_FAILED) {
    check_internal::Fail(
        __FILE__, __LINE__,
        absl::StrCat("cannot reserve ", capacity_, " bytes of memory: ", std::strerror(errno)));
  }
  base_ = static_cast<char*>(block);
}

absl::StatusOr<Arena> Arena::Reserve(Device device, int64_t capacity_bytes, absl::string_view what) {
  const int64_t free_bytes = device.free_memory_bytes();
  if (capacity_bytes > free_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(what, " takes ", capacity_bytes,
                                                     " bytes of memory, and device ", device.name(), " has ",
                                                     free_bytes, " to give"));
  }
  return Arena(std::move(device), capacity_bytes);
}

Arena::~Arena() {
  if (base_ == nullptr) return;
  if (device_.is_cuda()) {
    device_.Free(base_, capacity_);
  } else {
    munmap(base_, static_cast<size_t>(capacity_));
  }
}

Arena::Arena(Arena&& other) noexcept
    : device_(other.device_),
      base_(std::exchange(other.base_, nullptr)),
      capacity_(std::exchange(other.capacity_, 0)),
      used_(std::exchange(other.used_, 0)),
      high_water_(other.high_water_) {}

void* Arena::Take(int64_t size_bytes) {
  const int64_t rounded = (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
  HM_CHECK_LE(used_ + rounded, capacity_);
  char* data = base_ == nullptr ? nullptr : base_ + used_;
  used_ += rounded;
  if (used_ > high_water_) high_water_ = used_;
#ifndef NDEBUG
  if (device_.is_cpu() && data != nullptr) std::memset(data, 0xff, static_cast<size_t>(size_bytes));
#endif
  return data;
}

}  // namespace hm11
