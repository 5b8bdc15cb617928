// A disk that is full.
#ifndef HM11_TESTING_SMALL_DISK_H_
#define HM11_TESTING_SMALL_DISK_H_

#include <sys/resource.h>

#include <csignal>

namespace hm11 {

// While it lives no file may grow past `size_bytes`: writes fail as on a full disk, with another errno.
class SmallDisk {
 public:
  explicit SmallDisk(rlim_t size_bytes) {
    std::signal(SIGXFSZ, SIG_IGN);  // of which a process dies otherwise
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit small = before_;
    small.rlim_cur = size_bytes;
    setrlimit(RLIMIT_FSIZE, &small);
  }
  ~SmallDisk() { setrlimit(RLIMIT_FSIZE, &before_); }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

 private:
  rlimit before_;
};

}  // namespace hm11

#endif  // HM11_TESTING_SMALL_DISK_H_
